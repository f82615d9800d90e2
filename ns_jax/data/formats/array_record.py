"""array_record:GLOB: ArrayRecord files of `tf.train.Example`s, or of bare image files."""

import dataclasses
from typing import Any

from ns_jax import files
from ns_jax.data import class_names
from ns_jax.data.source import Record, Source, digest, unlabelled
from ns_jax.errors import InputError

IMAGES = ("image", "image/encoded")  # the names of an example's features that we know
# TensorFlow Datasets count labels from 0; `image/class/label` is of the old ImageNet files, from 1.
LABELS = {"label": 0, "image/class/label": 1}
EXAMPLE = b"\n"  # a serialised example's first byte, which no image file shares
KEYS = ("file_name", "image/filename", "key", "id")


@dataclasses.dataclass(frozen=True)
class _Records:
    data: Any  # array_record's data source; it pickles without its open files
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Record:
        record, key = self.data[index], f"record-{index:08d}"
        if record[:1] != EXAMPLE:
            return record, -1, key
        features = _features(record)
        image = next((features[name] for name in IMAGES if name in features), b"")
        labels = (features[name] - first for name, first in LABELS.items() if name in features)
        keys = (features[name].decode() for name in KEYS if name in features)
        return image, next(labels, -1) if self.names else -1, next(keys, key)


def _features(record: bytes) -> dict[str, Any]:
    """The first value (bytes or int) of each feature of a serialised example; none if damaged."""
    from google.protobuf import message
    from tensorflow_datasets.proto import tf_example_pb2  # half a second to import

    try:
        features = tf_example_pb2.Example.FromString(record).features.feature
    except message.DecodeError:
        return {}
    values = {name: getattr(f, f.WhichOneof("kind")).value for name, f in features.items()}
    return {name: value[0] for name, value in values.items() if value}


def open_source(pattern: str) -> Source:
    """All records of the files that match, in the order of their names.

    Labels are numbers, so a labelled source needs class_names.txt beside the files (TensorFlow
    Datasets write a label.labels.txt, which is read too). gs:// is read by the library itself.
    Raises InputError.
    """
    from array_record.python import array_record_data_source

    if pattern.startswith("s3://"):
        raise InputError(
            f"array_record:{pattern}: the library array_record reads gs:// but no s3://; mount the "
            "bucket and name its directory"
        )
    paths = files.expand(pattern)
    try:
        data = array_record_data_source.ArrayRecordDataSource(paths)
    except RuntimeError as error:
        remedy = "; gs:// needs array_record >= 0.8.3" if files.is_remote(pattern) else ""
        raise InputError(f"array_record:{pattern}: {error}{remedy}") from None
    names = class_names.beside(paths[0])
    return Source(
        name=f"array_record:{pattern}",
        class_names=names,
        fingerprint=digest(*names, *files.signatures(paths, shards=True)),
        records=_Records(data, names),
        labels=None if names else unlabelled(len(data)),
    )
