"""Labelling and training from tar, ArrayRecord and Parquet files in a bucket, against a disk.

make bench-bucket                  (reading alone, which a network only slows; some minutes)
make bench-bucket ARGS=--programs  (`train` and `label` as users start them; half an hour)

The bucket is fake-gcs-server on this machine, behind a proxy that puts 30 ms before each answer and
counts; all of it shares the machine's cores. Images are JPEGs of 160 x 120 pixels, 8 kB, seen at 64
pixels, in training with RandAugment; of programs the network is the digits', at 16 pixels.
"""

import argparse
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import photos
from benchmarks.sides import machine, row
from ns_jax.data import crops, pipeline, randaugment, views
from ns_jax.data.batch import BatchSpec
from ns_jax.data.open import open_source
from ns_jax.data.shard_cache import ShardCache
from ns_jax.data.source import Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.training import examples as examples_lib
from tests.buckets import server
from tests.buckets.proxy import Behaviour

DELAY = 0.03  # seconds
DISTINCT = 1024  # images; their names differ, or equal shards would share a copy
BATCH = 64
CLASSES = ("temple", "flower")
EVALUATION = crops.Preprocessing(64, "0.875", (0.485,) * 3, (0.229,) * 3)
UNIT = 8e6  # bytes, for each of which one request is allowed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", default=f"{tempfile.gettempdir()}/ns_jax_photos")
    parser.add_argument("--formats", default="wds,array_record,parquet")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--images", type=int, default=640, help="of a shard")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of disk and bucket in turn")
    parser.add_argument("--programs", action="store_true")
    options = parser.parse_args()
    print(f"{machine()}; {options.shards} shards of {options.images} images\n")
    row(["", "disk, images/s", "bucket", "ratio", "GB read", "requests", "allowed"])
    row(["---"] * 7)
    images = _images(pathlib.Path(options.files))
    for kind in options.formats.split(","):
        with tempfile.TemporaryDirectory() as directory, server.running("gs") as cloud:
            os.environ.update(cloud.environment, XDG_CACHE_HOME=f"{directory}/own")
            measure = _programs if options.programs else _reading
            measure(kind, pathlib.Path(directory), cloud, images, options)


def _reading(kind: str, directory: pathlib.Path, cloud: server.Cloud, images, options) -> None:
    sides = _made(kind, directory, cloud, images, options)
    sources = [open_source(name, labels_per_class=1, seed=0) for name in sides]
    size = sources[1].shards.largest(options.shards)
    passes = {"labelling": [], "training, first epoch": [], "second epoch, `data.cache`": []}
    counts = {}
    for number in range(options.rounds):
        for source in sources:
            kept = ShardCache(str(directory / f"cache_{number}_labelling"))
            cloud.behave(Behaviour(delay=DELAY))
            passes["labelling"].append(_pass_in_order(source, kept))
            counts["labelling"] = cloud.counts()
            kept = ShardCache(str(directory / f"cache_{number}_training"))
            cloud.behave(Behaviour(delay=DELAY))
            first, second = _epochs(source, kept)
            passes["training, first epoch"].append(first)
            passes["second epoch, `data.cache`"].append(second)
            counts["training, first epoch"] = cloud.counts()
        shutil.rmtree(directory / f"cache_{number}_labelling", ignore_errors=True)
        shutil.rmtree(directory / f"cache_{number}_training", ignore_errors=True)
    for name, speeds in passes.items():
        disk, bucket = (statistics.median(speeds[side::2]) for side in (0, 1))
        _row(f"{kind}: {name}", disk, bucket, counts.get(name), size, options)


def _pass_in_order(source: Source, kept: ShardCache) -> float:
    """Images a second."""
    starts = range(0, len(source), BATCH)
    parts = [np.arange(start, min(start + BATCH, len(source))) for start in starts]
    reading = LoaderSettings(workers=0, cache=kept)
    began = time.perf_counter()
    for _ in pipeline.evaluation_batches(
        source, parts, [EVALUATION], batch_size=BATCH, reading=reading
    ):
        pass
    return len(source) / (time.perf_counter() - began)


def _epochs(source: Source, kept: ShardCache) -> list[float]:
    """Images a second in the first and in the second epoch."""
    view = views.TrainView(EVALUATION, "crop", True, randaugment.RandAugment(2, 9))
    steps = len(source) // BATCH
    batches = pipeline.train_batches(
        examples_lib.labelled_examples(source, 0.1, 1),
        None,
        view,
        spec=BatchSpec(BATCH, 0, 1, view.shapes()),
        steps=2 * steps,
        start_step=0,
        seed=0,
        reading=LoaderSettings(workers=0, cache=kept),
    )
    times = [time.perf_counter()]
    for number, _ in enumerate(batches, 1):
        if number % steps == 0:
            times.append(time.perf_counter())
    return [steps * BATCH / (end - start) for start, end in itertools.pairwise(times)]


def _made(
    kind: str, directory: pathlib.Path, cloud: server.Cloud, images: list[bytes], options
) -> tuple[str, str]:
    """The same images on the disk and in a bucket: names of the two sources."""
    pool = directory / "pool"
    pool.mkdir()
    for number in range(options.shards):
        start = number * options.images
        WRITERS[kind](pool / f"part-{number:03d}.{ENDINGS[kind]}", images, start, options.images)
    (pool / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
    bucket = cloud.make_bucket()
    fsspec.filesystem("gs", skip_instance_cache=True).put(f"{pool}/", f"{bucket}/pool/", True)
    pattern = f"{kind}:{{}}/pool/part-*.{ENDINGS[kind]}"
    return pattern.format(directory), pattern.format(bucket)


def _programs(kind: str, directory: pathlib.Path, cloud: server.Cloud, images, options) -> None:
    here, there = _made(kind, directory, cloud, images, options)
    written = (directory / "pool").iterdir()
    size = sum(path.stat().st_size for path in written if path.suffix != ".arrow")
    _child(directory, cloud, "open", here, there)  # tar files are indexed, signatures remembered

    epochs = {}
    for side, name in (("disk", here), ("bucket", there)):
        cloud.behave(Behaviour(delay=DELAY))
        found = _train(directory, cloud, f"train_{side}", name, options.epochs, directory / "cache")
        epochs[side], counts = found, cloud.counts()
    disk = epochs["disk"]
    _row(f"{kind}: training, first epoch", disk[0], epochs["bucket"][0], counts, size, options)
    _row(f"{kind}: second epoch, `data.cache`", disk[1], epochs["bucket"][1])

    speeds = {}
    for side, name in (("disk", here), ("bucket", there)):
        cloud.behave(Behaviour(delay=DELAY))
        speeds[side] = _label(directory, cloud, f"label_{side}", name)
        counts = cloud.counts()
    _row(f"{kind}: labelling", speeds["disk"], speeds["bucket"], counts, size, options)


def _row(name, disk, bucket, counts=None, size=0, options=None) -> None:
    cells = [name, f"{disk:,.0f}", f"{bucket:,.0f}", f"{bucket / disk:.2f}"]
    if counts:
        read = counts["bytes_down"]
        cells += [f"{read / 1e9:.3f}", counts["requests"], f"{size / UNIT + options.shards:.0f}"]
    row([*cells, *[""] * (7 - len(cells))])


def _train(directory, cloud, workdir, source, epochs, cache) -> list[float]:
    """Images a second in each epoch."""
    flags = {
        "data.labelled": source,
        "data.test": "",
        "data.image_size": 16,
        "data.cache": cache,
        "train.epochs": epochs,
        "train.batch_size": BATCH,
        "train.log_every_steps": 1,
        "train.save_every_steps": 100_000,
        "optim.warmup_epochs": 0.1,
        "optim.learning_rate_per_256": 0.01,
    }
    _child(directory, cloud, "train", workdir, "configs/digits.py:role=teacher", flags)
    lines = (directory / workdir / "metrics.jsonl").read_text().splitlines()
    times = {one["step"]: one["time"] for one in map(json.loads, lines)}
    steps = max(times) // epochs
    ends = [min(times), *(steps * (epoch + 1) for epoch in range(epochs))]
    pairs = zip(ends[:-1], ends[1:], strict=True)
    return [(end - start) * BATCH / (times[end] - times[start]) for start, end in pairs]


def _label(directory, cloud, workdir, source) -> float:
    flags = {
        "data.unlabelled": source,
        "label.checkpoint": directory / "train_disk",
        "label.images_per_shard": 2048,
    }
    said = _child(directory, cloud, "label", workdir, "configs/digits.py:role=teacher", flags)
    return float(re.search(r"labelling went at ([\d,]+) images/s", said)[1].replace(",", ""))


def _child(directory: pathlib.Path, cloud: server.Cloud, program: str, *arguments) -> str:
    """What a process of its own says."""
    if program == "open":
        script = (
            "import sys\nfrom ns_jax.data.open import open_source\n"
            "for name in sys.argv[1:]: open_source(name, labels_per_class=1, seed=0)"
        )
        command = [sys.executable, "-c", script, *arguments]
    else:
        workdir, config, flags = arguments
        shutil.rmtree(directory / workdir, ignore_errors=True)
        command = [sys.executable, "-m", "ns_jax", program, f"--config={config}"]
        command += [f"--workdir={directory / workdir}"]
        command += [f"--config.{name}={value}" for name, value in flags.items()]
    environment = {
        **os.environ,
        **cloud.environment,
        "XDG_CACHE_HOME": str(directory / "own"),
        "TMPDIR": str(directory),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return done.stdout + done.stderr


def _images(directory: pathlib.Path) -> list[bytes]:
    photos.write(directory, DISTINCT)
    found = []
    for path in sorted(directory.glob("*/*.jpg"), key=lambda path: path.name):
        small = cv2.resize(cv2.imread(str(path)), (160, 120), interpolation=cv2.INTER_AREA)
        found.append(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return found


def _tar(path: pathlib.Path, images: list[bytes], start: int, count: int) -> None:
    with tarfile.open(path, "w") as archive:
        for number in range(start, start + count):
            label = str(number % len(CLASSES)).encode()
            for ending, data in (("jpg", images[number % DISTINCT]), ("cls", label)):
                member = tarfile.TarInfo(f"{number:07d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def _array_record(path: pathlib.Path, images: list[bytes], start: int, count: int) -> None:
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for number in range(start, start + count):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(images[number % DISTINCT])
        example.features.feature["label"].int64_list.value.append(number % len(CLASSES))
        example.features.feature["key"].bytes_list.value.append(b"%07d" % number)
        writer.write(example.SerializeToString())
    writer.close()


def _parquet(path: pathlib.Path, images: list[bytes], start: int, count: int) -> None:
    numbers = np.arange(start, start + count)
    rows = [{"bytes": images[n % DISTINCT], "path": f"{n:07d}.jpg"} for n in numbers]
    table = pa.table({"image": rows, "label": numbers % len(CLASSES)})
    pq.write_table(table, path, row_group_size=8, compression="none")


WRITERS = {"wds": _tar, "array_record": _array_record, "parquet": _parquet}
ENDINGS = {"wds": "tar", "array_record": "array_record", "parquet": "parquet"}

if __name__ == "__main__":
    main()
