"""parquet:GLOB: a column `image` (bytes, or a struct of `bytes` and `path`), maybe `label`."""

import dataclasses
import functools
import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ns_jax.data import class_names, files
from ns_jax.data.source import Source, digest

GROUPS_KEPT = 4  # row groups in memory, of each data worker

_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True)
class _Rows:
    paths: tuple[str, ...]
    groups: np.ndarray  # int64 [G, 3]: file, row group in it, rows up to and with it
    labels: np.ndarray  # int32 [N]
    version: str  # of what the files hold

    def __len__(self) -> int:
        return int(self.groups[-1, 2])

    def __getitem__(self, index: int):
        group = int(np.searchsorted(self.groups[:, 2], index, side="right"))
        file, number, _ = (int(value) for value in self.groups[group])
        start = int(self.groups[group - 1, 2]) if group else 0
        image = _images(self.paths[file], number, self.version)[index - start].as_py()
        key = f"row-{index:08d}"
        if isinstance(image, dict):
            image, key = image["bytes"], image.get("path") or key
        return image or b"", self.labels[index], key


@functools.lru_cache(maxsize=GROUPS_KEPT)
def _images(path: str, group: int, version: str) -> pa.Array:
    """The images of a row group. Parquet compresses it as one: nothing smaller can be read."""
    with _LOCK:  # a ParquetFile is not made for threads
        column = (
            _open(path, version).read_row_group(group, ["image"], use_threads=False).column("image")
        )
    return column.combine_chunks()


@functools.lru_cache(maxsize=64)
def _open(path: str, version: str) -> pq.ParquetFile:
    return pq.ParquetFile(files.open_binary(path))


def open_source(pattern: str) -> Source:
    """All rows of the files that match, in the order of the files' names.

    `label` holds numbers or names; numbers are named by the files' Hugging Face metadata, by
    class_names.txt beside them, or by themselves. Raises FileNotFoundError or ValueError.
    """
    paths = files.expand(pattern)
    groups, labels, rows = [], [], 0
    for number, path in enumerate(paths):
        try:
            file = pq.ParquetFile(files.open_binary(path))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: {error}") from None
        schema = file.schema_arrow
        if "image" not in schema.names:
            raise ValueError(f"{path} has no column `image`, only {', '.join(schema.names)}")
        for group in range(file.num_row_groups):
            rows += file.metadata.row_group(group).num_rows
            groups.append((number, group, rows))
        if "label" in schema.names:
            labels += file.read(columns=["label"]).column("label").chunks
        else:
            labels.append(pa.nulls(file.metadata.num_rows, pa.int32()))
    if not rows:
        raise ValueError(f"parquet:{pattern} has no rows")
    if len({chunk.type for chunk in labels}) > 1:
        kinds = ", ".join(sorted({str(chunk.type) for chunk in labels}))
        raise ValueError(f"parquet:{pattern}: the files have labels of several types: {kinds}")
    names = _hugging_face_names(schema) or class_names.beside(paths[0])
    numbers, names = class_names.of_labels(
        pa.chunked_array(labels).combine_chunks(), names, f"parquet:{pattern}"
    )
    fingerprint = digest(*names, *files.signatures(paths, shards=True))
    return Source(
        name=f"parquet:{pattern}",
        class_names=names,
        fingerprint=fingerprint,
        records=_Rows(tuple(paths), np.asarray(groups, np.int64), numbers, fingerprint),
        labels=numbers,
    )


def _hugging_face_names(schema: pa.Schema) -> tuple[str, ...]:
    """The names that the `datasets` library keeps in a file's metadata."""
    text = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(text)["info"]["features"] if text else {}
    return tuple(features.get("label", {}).get("names", ()))
