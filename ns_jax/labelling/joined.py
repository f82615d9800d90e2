"""Shards of predictions as one table for people and other programs: CSV, Parquet, JSON lines."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ns_jax import files
from ns_jax.errors import InputError
from ns_jax.labelling.shards import SCALE

COLUMNS = ("key", "status", "classes", "probs")  # of a shard, that a table is made of
Write = Callable[[pa.Table], None]


def write(path: pathlib.Path, shards: Iterable[dict], class_names: Sequence[str], k: int) -> None:
    """Writes a file whole or not at all, in the format that its ending says.

    `shards`: their `COLUMNS`, as `Shard.read` gives them. Rows `key`, `status`, and of each of the
    k best classes its name and its probability; none of images whose status is not `ok`. Raises
    OSError, and InputError for another ending.
    """
    begin = _format(path)
    schema = _schema(k).with_metadata({"class_names": json.dumps(list(class_names))})
    names = pa.array(class_names, pa.string())
    with (
        files.replacing(path) as temporary,
        temporary.open("wb") as stream,
        begin(stream, schema) as write_rows,
    ):
        for columns in shards:
            write_rows(_table(columns, names, schema, k))


def check_ending(path: str | pathlib.Path) -> None:
    """Raises InputError for a file whose ending names no format."""
    _format(pathlib.Path(path))


def _format(path: pathlib.Path) -> Callable:
    formats = {".csv": _csv, ".parquet": _parquet, ".jsonl": _json_lines, ".ndjson": _json_lines}
    found = formats.get(path.suffix.lower())
    if not found:
        raise InputError(f"predict.target={path}: known endings are {', '.join(formats)}")
    return found


def _schema(k: int) -> pa.Schema:
    best = [
        field
        for place in range(1, k + 1)
        for field in ((f"class_{place}", pa.string()), (f"probability_{place}", pa.float32()))
    ]
    return pa.schema([("key", pa.string()), ("status", pa.string()), *best])


def _table(columns: dict, names: pa.Array, schema: pa.Schema, k: int) -> pa.Table:
    nothing = np.asarray(columns["status"]) != "ok"
    arrays = [pa.array(columns["key"], pa.string()), pa.array(columns["status"], pa.string())]
    for place in range(k):
        found = pa.array(columns["classes"][:, place], pa.int32(), mask=nothing)
        probs = columns["probs"][:, place].astype(np.float32) / np.float32(SCALE)
        arrays += [names.take(found), pa.array(np.round(probs, 5), pa.float32(), mask=nothing)]
    return pa.table(arrays, schema=schema)


@contextlib.contextmanager
def _csv(stream: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    with pa.csv.CSVWriter(stream, schema) as writer:
        yield writer.write_table


@contextlib.contextmanager
def _parquet(stream: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        yield writer.write_table


@contextlib.contextmanager
def _json_lines(stream: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    """A line an image: key, status, and `predictions`, a list of `class` and `probability`."""
    k = (len(schema) - 2) // 2

    def write_rows(table: pa.Table) -> None:
        for row in table.to_pylist():
            best = [
                {"class": row[f"class_{n}"], "probability": round(row[f"probability_{n}"], 5)}
                for n in range(1, k + 1)
                if row[f"class_{n}"] is not None
            ]
            line = {"key": row["key"], "status": row["status"], "predictions": best}
            stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    yield write_rows
