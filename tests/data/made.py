"""The same few labelled images in every format that sources read."""

import gzip
import io
import struct
import tarfile

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ("ant", "bee", "cat")


def image(number: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3], each of its own size."""
    rng = np.random.default_rng([number, seed])
    coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(coarse, (40 + number, 36 + number // 2))


def encoded(number: int, seed: int = 0) -> bytes:
    kind = (".jpg", ".png")[number % 2]
    return cv2.imencode(kind, image(number, seed)[..., ::-1])[1].tobytes()


def folder(root, count, seed=0) -> str:
    for number in range(count):
        path = root / NAMES[number % 3] / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, seed))
    return f"folder:{root}"


def table(root, count, seed=0) -> str:
    root.mkdir(parents=True, exist_ok=True)
    lines = ["file,label"]
    for number in range(count):
        (root / f"{number:03d}.jpg").write_bytes(encoded(number, seed))
        lines.append(f"{number:03d}.jpg,{NAMES[number % 3]}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return f"folder:{root}"


def tfds(root, count, seed=0) -> str:
    """Built by TensorFlow Datasets itself; TFDS_DATA_DIR must be `root`."""
    import tensorflow_datasets

    class Insects(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            features = tensorflow_datasets.features
            return tensorflow_datasets.core.DatasetInfo(
                builder=self,
                features=features.FeaturesDict(
                    {
                        "image": features.Image(encoding_format="jpeg"),
                        "label": features.ClassLabel(names=NAMES),
                        "file_name": features.Text(),
                    }
                ),
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(count):
                yield (
                    number,
                    {
                        "image": io.BytesIO(encoded(number, seed)),
                        "label": number % 3,
                        "file_name": f"{number:03d}.jpg",
                    },
                )

    Insects(data_dir=root, file_format="array_record").download_and_prepare()
    return "tfds:insects:train"


def array_record(root, count, seed=0, labelled=True) -> str:
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    root.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        path = root / f"part-{part}.array_record"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for number in range(part * count // 2, (part + 1) * count // 2):
            example = tf_example_pb2.Example()
            feature = example.features.feature
            feature["image"].bytes_list.value.append(encoded(number, seed))
            if labelled:
                feature["label"].int64_list.value.append(number % 3)
            feature["file_name"].bytes_list.value.append(f"{number:03d}.jpg".encode())
            writer.write(example.SerializeToString())
        writer.close()
    if labelled:
        (root / "class_names.txt").write_text("\n".join(NAMES) + "\n")
    return f"array_record:{root}/part-*.array_record"


def parquet(root, count, seed=0, labelled=True) -> str:
    """As Hugging Face's `datasets` write it: a struct of bytes and path, names in the metadata."""
    root.mkdir(parents=True, exist_ok=True)
    names = ", ".join(f'"{name}"' for name in NAMES)
    metadata = f'{{"info": {{"features": {{"label": {{"names": [{names}]}}}}}}}}'
    for part in range(2):
        numbers = range(part * count // 2, (part + 1) * count // 2)
        rows = [{"bytes": encoded(n, seed), "path": f"{n:03d}.jpg"} for n in numbers]
        columns = {"image": rows}
        if labelled:
            columns["label"] = pa.array([n % 3 for n in numbers], pa.int64())
        written = pa.table(columns).replace_schema_metadata({"huggingface": metadata})
        pq.write_table(written, root / f"part-{part}.parquet", row_group_size=5)
    return f"parquet:{root}/*.parquet"


def wds(root, count, seed=0, labelled=True) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        with tarfile.open(root / f"part-{part}.tar", "w") as archive:
            for number in range(part * count // 2, (part + 1) * count // 2):
                members = {"jpg": encoded(number, seed), "json": b"{}"}
                if labelled:
                    members["cls"] = NAMES[number % 3].encode()
                for extension, data in members.items():
                    member = tarfile.TarInfo(f"{number:03d}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return f"wds:{root}/*.tar"


def grey(count, seed=0) -> np.ndarray:
    """uint8 [count, 6, 5]: the pixels of `idx`."""
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 5), np.uint8)


def idx(
    root, count, seed=0, *, prefix="train", packed=False, classes=3, first=0, labels=None
) -> str:
    """A pair of IDX files; labels count from `first`."""
    root.mkdir(parents=True, exist_ok=True)
    if labels is None:
        labels = (np.arange(count) % classes + first).astype(np.uint8)
    for kind, array in (("images-idx3", grey(count, seed)), ("labels-idx1", labels)):
        data = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        data += array.tobytes()
        path = root / f"{prefix}-{kind}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
    return f"idx:{root}:{prefix}"


FORMATS = {
    "folder": folder,
    "table": table,
    "tfds": tfds,
    "array_record": array_record,
    "parquet": parquet,
    "wds": wds,
}
