"""array_record:GLOB: ArrayRecord files of `tf.train.Example`s, or of bare image files."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ns_jax import files
from ns_jax.data import class_names as class_names_lib
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
    labels: dict[str, int]  # features that may hold the label, and the number of the first class

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Record:
        record, key = self.data[index], f"record-{index:08d}"
        if record[:1] != EXAMPLE:
            return record, -1, key
        features = _features(record)
        image = next((features[name][0] for name in IMAGES if name in features), b"")
        key = next((features[name][0].decode() for name in KEYS if name in features), key)
        found = next((name for name in self.labels if name in features), None)
        if found is None or not self.names:
            return image, -1, key
        return image, self._number(features[found], found, key), key

    def _number(self, values: Sequence, feature: str, key: str) -> int:
        """The class that a label feature means: a whole number or a name. Raises InputError."""
        value, first = values[0], self.labels[feature]
        if len(values) == 1 and isinstance(value, int):
            return value - first
        word = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        number = class_names_lib.number(word)
        if len(values) == 1 and number is not None:
            return number - first
        place = int(class_names_lib.matching([word], self.names)[0])
        if len(values) > 1 or place < 0:
            raise InputError(
                f"{key}: its feature `{feature}` is {list(values)[:10]}; each record needs one "
                f"class, as a number or as a name in {class_names_lib.FILES[0]}"
            )
        return place


def _features(record: bytes) -> dict[str, Sequence]:
    """The values (bytes, int or float) of an example's features that have some; none if damaged."""
    from google.protobuf import message
    from tensorflow_datasets.proto import tf_example_pb2  # half a second to import

    try:
        features = tf_example_pb2.Example.FromString(record).features.feature
    except message.DecodeError:
        return {}
    kinds = {name: f.WhichOneof("kind") for name, f in features.items()}
    values = {name: getattr(features[name], kind).value for name, kind in kinds.items() if kind}
    return {name: value for name, value in values.items() if len(value)}


def open_source(pattern: str, column: str) -> Source:
    """All records of the files that match, in the order of their names.

    The feature `column` holds labels. They are numbers, so a labelled source needs class_names.txt
    beside the files (TensorFlow Datasets write a label.labels.txt, which is read too). gs:// is
    read by the library itself. Raises InputError.
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
    names = class_names_lib.beside(paths[0])
    return Source(
        name=f"array_record:{pattern}",
        class_names=names,
        fingerprint=digest(*names, *files.signatures(paths, shards=True)),
        records=_Records(data, names, LABELS if column == "label" else {column: 0}),
        labels=None if names else unlabelled(len(data)),
        no_labels="" if names else f"there is no {class_names_lib.FILES[0]} beside its files",
    )
