"""array_record:GLOB: ArrayRecord files of `tf.train.Example`s, or of bare image files."""

import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ns_jax import files
from ns_jax.data import class_names as class_names_lib
from ns_jax.data import patterns
from ns_jax.data import shards as shards_lib
from ns_jax.data import signatures as signatures_lib
from ns_jax.data.source import Record, Source, as_text, digest, unlabelled
from ns_jax.errors import InputError

IMAGES = ("image", "image/encoded")  # the names of an example's features that we know
# TensorFlow Datasets count labels from 0; `image/class/label` is of the old ImageNet files, from 1.
LABELS = {"label": 0, "image/class/label": 1}
EXAMPLE = b"\n"  # a serialised example's first byte, which no image file shares
# In the library's errors, of which that of a file that breaks off has no text at all: the file is
# damaged, or gone. Those of networks are others.
BAD = ("Corrupted", "at least 64KB", "open() failed")
AT_RANDOM = "readahead_buffer_size:0,max_parallelism:0"
END = 1 << 20  # bytes of a file that hold the places of some 200,000 records
KEYS = ("file_name", "image/filename", "key", "id")


@dataclasses.dataclass(frozen=True)
class _Records:
    data: Any  # array_record's data source; it pickles without its open files
    names: tuple[str, ...]
    labels: dict[str, int]  # features that may hold the label, and the number of the first class

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Record:
        record, key = read(self.data, index) or b"", f"record-{index:08d}"
        if record[:1] != EXAMPLE:
            return record, -1, key
        features = _features(record)
        image = next((features[name][0] for name in IMAGES if name in features), b"")
        key = next((_text(features[name][0]) for name in KEYS if name in features), key)
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


def read(data: Any, index: int) -> Any:
    """A record of one of the library's data sources; None of a part of a file that is damaged."""
    try:
        return data[index]
    except RuntimeError as error:
        if not str(error) or any(reason in str(error) for reason in BAD):
            return None
        raise


class _File(NamedTuple):
    """As the library wants a file named whose records have been counted."""

    filename: str
    take: int
    examples_in_shard: int
    skip: int = 0


class InBucket:
    """The records of files in a bucket, by their number.

    In a pass over whole files they are read from copies; one here and there of gs:// is read by the
    library's own client.
    """

    def __init__(self, paths: Sequence[str], counts: Sequence[int]):
        self._paths, self._counts = tuple(paths), tuple(counts)
        self.ends = np.cumsum(counts)  # int64: records up to and with each file

    def __reduce__(self) -> tuple:
        return InBucket, (self._paths, self._counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> bytes:
        file = int(np.searchsorted(self.ends, index, side="right"))
        copy = shards_lib.copy_of(self._paths[file])
        if copy is None:
            return self._library[index]
        return copy.opened(_reader).read([index - int(self.ends[file]) + self._counts[file]])[0]

    @functools.cached_property
    def _library(self) -> Any:
        from array_record.python import array_record_data_source

        there = zip(self._paths, self._counts, strict=True)
        named = [_File(path, count, count) for path, count in there if count]
        return array_record_data_source.ArrayRecordDataSource(named)


def _reader(path: str) -> Any:
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(path, AT_RANDOM)


def _counts(pattern: str, paths: Sequence[str]) -> list[int]:
    """The records of each file in a bucket, from its end alone; 0 of a file that is damaged.

    Raises InputError if all are.
    """
    flaws = {}

    sizes = dict(zip(paths, signatures_lib.about(paths), strict=True))

    def count(path: str) -> int:
        try:
            return _count(path, sizes[path].size)
        except RuntimeError as error:
            flaws[path] = str(error).partition("; ")[0] or "it breaks off"
            return 0

    found = files.in_threads(count, paths)
    listed = [f"{path}: {flaw}" for path, flaw in sorted(flaws.items())]
    if not any(found):
        reasons = "; ".join(listed[: patterns.SHOWN]) or "no records"
        raise InputError(f"array_record:{pattern}: {reasons}")
    patterns.say_flaws(f"array_record:{pattern}", listed)
    return found


def _count(path: str, size: int) -> int:
    """The library finds the number at a file's end, so that is read, into a file with nothing else
    in it; as much of it as the library needs. Raises RuntimeError of a file that is damaged.
    """
    length = END
    while True:
        length = min(size, length)
        with tempfile.NamedTemporaryFile(suffix=".array_record") as file:
            file.truncate(size)
            file.seek(size - length)
            file.write(files.read_range(path, size - length, length, ""))
            file.flush()
            try:
                reader = _reader(file.name)
                if reader.ok():
                    return reader.num_records()
                reader.close()  # which says what is wrong
            except RuntimeError:
                if length == size:
                    raise
        length *= 8


def _text(value: Any) -> str:
    return as_text(value) if isinstance(value, bytes) else str(value)


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


def open_source(pattern: str, column: str = "label") -> Source:
    """All records of the files that match, in the order of their names.

    The feature `column` holds labels. They are numbers, so a labelled source needs class_names.txt
    beside the files (TensorFlow Datasets write a label.labels.txt, which is read too).
    Raises InputError.
    """
    from array_record.python import array_record_data_source

    if pattern.startswith("s3://"):
        raise InputError(
            f"array_record:{pattern}: the library array_record reads gs:// but no s3://; mount the "
            "bucket and name its directory"
        )
    paths = patterns.shards("array_record", pattern, (".array_record", ".arrayrecord"))
    signatures = signatures_lib.of(paths, shards=True)
    is_remote = files.is_remote(pattern)
    if is_remote:
        data: Any = InBucket(paths, _counts(pattern, paths))
    else:
        data = _whole(array_record_data_source.ArrayRecordDataSource, pattern, paths, signatures)
    names = class_names_lib.beside(paths[0])
    return Source(
        name=f"array_record:{pattern}",
        class_names=names,
        fingerprint=digest(*names, *signatures),
        records=_Records(data, names, LABELS if column == "label" else {column: 0}),
        labels=None if names else unlabelled(len(data)),
        shards=shards_lib.in_bucket(paths, data.ends, signatures) if is_remote else None,
        no_labels="" if names else f"there is no {class_names_lib.FILES[0]} beside its files",
    )


def _whole(source: Any, pattern: str, paths: list[str], signatures: list[bytes]) -> Any:
    """The library's data source of the files that it can open; the others are said.

    Raises InputError if there are none.
    """
    signed = zip(paths, signatures, strict=True)
    locked = [path for path, sign in signed if sign == signatures_lib.UNREADABLE]
    flaws = {path: files.why_unreadable(path) for path in locked}  # the library waits for a pipe
    whole = [path for path in paths if path not in flaws]
    try:
        data = source(whole) if whole else None
    except RuntimeError:
        for path in whole:
            try:
                source([path])
            except RuntimeError as error:
                flaws[path] = str(error) or "it breaks off"
        whole = [path for path in whole if path not in flaws]
        data = source(whole) if whole else None
    listed = [f"{path}: {flaw}" for path, flaw in flaws.items()]
    if not whole:
        reasons = "; ".join(listed[: patterns.SHOWN])
        raise InputError(f"array_record:{pattern}: {reasons}")
    patterns.say_flaws(f"array_record:{pattern}", listed)
    return data
