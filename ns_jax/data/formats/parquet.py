"""parquet:GLOB: a column `image` (bytes, or a struct of `bytes` and `path`), maybe `label`."""

import dataclasses
import functools
import json
import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ns_jax import files
from ns_jax.data import class_names, label_column, patterns
from ns_jax.data import shards as shards_lib
from ns_jax.data import signatures as signatures_lib
from ns_jax.data.source import (
    Record,
    Source,
    as_text,
    digest,
    keys_of_parts,
    numbered_keys,
    unlabelled,
)
from ns_jax.errors import InputError

GROUPS_KEPT = 4  # row groups in memory, of each data worker

_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True)
class _Rows:
    paths: tuple[str, ...]
    ends: np.ndarray  # int64: rows up to and with each file
    # int32 [N]; None of a source without labels, which may be hundreds of times larger than a
    # labelled one: each data worker has a copy.
    labels: np.ndarray | None
    version: str  # of what the files hold

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Record:
        file = int(np.searchsorted(self.ends, index, side="right"))
        row = index - (int(self.ends[file - 1]) if file else 0)
        path = self.paths[file]
        ends = _groups(path, self.version)
        group = int(np.searchsorted(ends, row, side="right"))
        row -= int(ends[group - 1]) if group else 0
        image, key = b"", f"row-{index:08d}"
        try:
            image, name = _split(_images(path, group, self.version)[row])
            key = name or key
        except MemoryError:
            raise
        except (OSError, pa.ArrowException) as error:  # gone, or damaged: reported as empty files
            if isinstance(error, OSError) and files.is_of_the_machine(error, path):
                raise
        return image, -1 if self.labels is None else self.labels[index], key

    def keys(self, indices: np.ndarray) -> pa.Array:
        starts = np.concatenate([[0], self.ends[:-1]])

        def of(file: int, own: np.ndarray) -> pa.Array:
            numbers = numbered_keys("row", own)
            names = _names(self.paths[file], self.version)
            if names is None:
                return numbers
            names = names.take(pa.array(own - starts[file]))
            is_there = pc.greater(pc.fill_null(pc.binary_length(names), 0), 0)
            return pc.if_else(is_there, names, numbers)

        return keys_of_parts(self.ends, indices, of)


def _split(value: pa.Scalar) -> tuple[bytes, str]:
    """The bytes of an image, and its name; empty ones where there are none."""
    if not isinstance(value, pa.StructScalar):
        return value.as_py() or b"", ""
    if not value.is_valid:
        return b"", ""
    image = value["bytes"].as_py() if "bytes" in value else None
    path = ""
    if "path" in value and value["path"].is_valid:
        path = as_text(value["path"].as_buffer().to_pybytes())  # which may not be UTF-8
    return image or b"", path


@functools.lru_cache(maxsize=1)
def _names(path: str, version: str) -> pa.Array | None:
    """The column `image.path` of a file, large_string; None if it has none."""
    try:
        with _LOCK:
            file = _open(path, version)
            kind = file.schema_arrow.field("image").type
            if not pa.types.is_struct(kind) or "path" not in kind.names:
                return None
            table = file.read(columns=["image.path"], use_threads=False)
    except (OSError, pa.ArrowException) as error:  # as of its images
        if isinstance(error, OSError) and files.is_of_the_machine(error, path):
            raise
        return None
    column = table.column("image").combine_chunks()
    found = pc.if_else(column.is_valid(), pc.struct_field(column, "path"), None)
    try:
        return found.cast(pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:  # some are not UTF-8
        names = found.cast(pa.large_binary()).to_pylist()
        return pa.array([name and as_text(name) for name in names], pa.large_string())


@functools.lru_cache(maxsize=GROUPS_KEPT)
def _images(path: str, group: int, version: str) -> pa.Array:
    """The images of a row group. Parquet compresses it as one: nothing smaller can be read."""
    copy = shards_lib.copy_of(path)
    with _LOCK:  # a ParquetFile is not made for threads
        file = copy.opened(pq.ParquetFile) if copy else _open(path, version)
        table = file.read_row_group(group, ["image"], use_threads=False)
    return table.column("image").combine_chunks()


@functools.lru_cache(maxsize=64)
def _open(path: str, version: str) -> pq.ParquetFile:
    return pq.ParquetFile(files.open_binary(path))


@functools.lru_cache(maxsize=64)
def _groups(path: str, version: str) -> np.ndarray:
    """The rows of a file up to and with each of its row groups, int64."""
    copy = shards_lib.copy_of(path)
    file = copy.opened(pq.ParquetFile) if copy else _open(path, version)
    groups = range(file.num_row_groups)
    return np.cumsum([file.metadata.row_group(group).num_rows for group in groups])


def open_source(pattern: str, column: str = "label") -> Source:
    """All rows of the files that match, in the order of the files' names.

    `column` holds labels, numbers of any type or names; numbers are named by the files' Hugging
    Face metadata, by class_names.txt beside them, or by themselves. Raises InputError.
    """
    paths = patterns.shards("parquet", pattern, (".parquet", ".pq", ".parq"))
    name, counts, labels, flaws, given = f"parquet:{pattern}", [], [], [], {}
    no_labels = f"the column `{column}` is empty"
    for path in paths:
        try:
            file = pq.ParquetFile(files.open_binary(path))
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and files.is_of_the_machine(error, path):
                raise
            flaws.append(f"{path}: {error}")
            counts.append(0)
            continue
        schema = file.schema_arrow
        if "image" not in schema.names:
            raise InputError(f"{path} has no column `image`, only {', '.join(schema.names)}")
        counts.append(file.metadata.num_rows)
        if column in schema.names:
            labels += file.read(columns=[column]).column(column).chunks
            if names := _hugging_face_names(schema, column):
                given[names] = path
        else:
            labels.append(pa.nulls(file.metadata.num_rows))
            no_labels = (
                f"{path} has no column `{column}`, only {', '.join(schema.names)} "
                "(data.label_column names another)"
            )
    ends = np.cumsum(counts)
    if not ends[-1]:
        reasons = "".join(f"; {flaw}" for flaw in flaws[: patterns.SHOWN])
        raise InputError(f"{name} has no rows{reasons}")
    patterns.say_flaws(name, flaws)
    if len(given) > 1:
        first, second = list(given.values())[:2]
        raise InputError(
            f"{name}: {first} and {second} name classes in their metadata, but not the same ones "
            "in the same order; join them as two sources with +, which matches classes by name"
        )
    found = class_names.of_labels(
        label_column.plain(labels, f"{name}: column `{column}`"),
        next(iter(given), ()) or class_names.beside(paths[0]),
        name,
    )
    signatures = signatures_lib.of(paths, shards=True)
    fingerprint = digest(*found.spelled, *signatures)
    numbers = found.numbers if found.names else None
    return Source(
        name=name,
        class_names=found.names,
        fingerprint=fingerprint,
        records=_Rows(tuple(paths), ends, numbers, fingerprint),
        labels=unlabelled(len(found.numbers)) if numbers is None else numbers,
        shards=shards_lib.in_bucket(paths, ends, signatures),
        no_labels=no_labels if numbers is None else "",
    )


def _hugging_face_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """The names that the `datasets` library keeps in a file's metadata."""
    text = (schema.metadata or {}).get(b"huggingface")
    feature: Any = json.loads(text)["info"]["features"].get(column) if text else None
    return tuple(feature.get("names") or ()) if isinstance(feature, dict) else ()
