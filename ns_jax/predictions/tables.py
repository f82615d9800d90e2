"""Files of predictions (Parquet, CSV, NumPy's) read in batches: keys, and scores in two forms."""

import contextlib
import csv
import dataclasses
import io
import json
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ns_jax import files
from ns_jax.errors import InputError
from ns_jax.predictions import arrays, layout

PARQUET = (".parquet", ".pq", ".parq")
TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
ENDINGS = (*PARQUET, *TEXT, *arrays.ENDINGS)
VALUES = 2**22  # scores of a batch, about
MOST_ROWS = 2**16
UINT16 = 65535  # a probability of 1 in label shards
METADATA = (b"class_names", b"ns_jax")  # JSON: a list of names, or an object that has one


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some rows. `classes`: of the k best, large_string `[n * k]`, null where there is none."""

    keys: pa.Array  # large_string [n]
    scores: np.ndarray  # float32 or float64 [n, classes], or [n, k] beside `classes`
    classes: pa.Array | None = None


class Table:
    """One file: what it holds is known once it is opened, rows come by `batches`."""

    def __init__(self, path: str, dropped: Collection[str] = ()):
        """`dropped`: columns that are none of a class. Raises InputError, and OSError."""
        self.path = path
        self._arrays = arrays.Arrays(path) if path.lower().endswith(arrays.ENDINGS) else None
        self.class_names: tuple[str, ...] = ()  # of the scores, in their order, where it says them
        if self._arrays:
            self.layout = self._arrays.layout
            self.class_names = self._arrays.class_names
            return
        with _readable(path):
            if path.lower().endswith(PARQUET):
                schema = self._parquet().schema_arrow
                lists = {field.name for field in schema if _is_list(field.type)}
                self.class_names = _names_of(schema.metadata or {})
                names = schema.names
            else:
                names, lists = self._header(), set()
        self.layout = layout.find(names, lists, dropped, path)
        if not self.layout.is_list and not self.layout.best_only:
            self.class_names = self.layout.scores

    @property
    def paths(self) -> list[str]:
        """The files that its content lies in."""
        return [self.path, *(self._arrays.others() if self._arrays else ())]

    def batches(self) -> Iterator[Batch]:
        """All rows that hold a prediction. Raises InputError for what cannot be read."""
        if self._arrays:
            for keys, scores, classes in self._arrays.batches(MOST_ROWS, VALUES):
                yield Batch(keys, scores, classes)
            return
        with _readable(self.path):
            for rows in self._record_batches(self.layout.columns):
                yield self._batch(rows)

    def keys(self) -> Iterator[pa.Array]:
        """The keys of all rows that `batches` has, large_string."""
        if self._arrays:
            yield from self._arrays.keys(MOST_ROWS)
            return
        columns = [self.layout.key, *[layout.STATUS] * self.layout.has_status]
        with _readable(self.path):
            for rows in self._record_batches(columns):
                yield _text(self._with_status(rows).column(self.layout.key))

    def _batch(self, rows: pa.RecordBatch) -> Batch:
        rows = self._with_status(rows)
        keys = _text(rows.column(self.layout.key))
        if self.layout.is_list:
            scores = _matrix(rows.column(self.layout.scores[0]), self.path)
            if not self.layout.best_only:
                return Batch(keys, scores)
            lists = rows.column(self.layout.classes[0])
            found = _text(lists.flatten())
            if len(found) != scores.size:
                raise InputError(f"{self.path}: lists of classes and of scores differ in length")
            return Batch(keys, scores, found)
        columns = [rows.column(name) for name in self.layout.scores]
        scores = np.stack([_floats(column) for column in columns], axis=1)
        if not self.layout.best_only:
            return Batch(keys, scores)
        words = [_text(rows.column(name)) for name in self.layout.classes]
        return Batch(keys, scores, _interleaved(words))

    def _with_status(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if not self.layout.has_status:
            return rows
        return rows.filter(pc.equal(_text(rows.column(layout.STATUS)), "ok"))

    def _record_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        rows = max(1, min(MOST_ROWS, VALUES // max(len(columns), len(self.class_names), 1)))
        if self.path.lower().endswith(PARQUET):
            yield from self._parquet().iter_batches(rows, columns=columns)
            return
        words = {self.layout.key, *self.layout.classes, layout.STATUS}
        kinds = {name: pa.string() if name in words else pa.float64() for name in columns}
        convert = pa.csv.ConvertOptions(column_types=kinds, include_columns=columns)
        parse = pa.csv.ParseOptions(delimiter=self._delimiter(), newlines_in_values=False)
        # A block must hold a row, however many classes there are.
        read = pa.csv.ReadOptions(block_size=max(2**22, 64 * len(self._header())))
        with self._text_stream() as stream:
            yield from pa.csv.open_csv(stream, read, parse, convert)

    def _parquet(self) -> pq.ParquetFile:
        return pq.ParquetFile(files.open_binary(self.path))

    def _text_stream(self) -> Any:
        compression = "gzip" if self.path.lower().endswith(".gz") else None
        return pa.input_stream(files.open_binary(self.path), compression=compression)

    def _header(self) -> list[str]:
        line = self._first_line()
        names = next(csv.reader([line], delimiter=self._delimiter()), [])
        if not names:
            raise InputError(f"{self.path} is empty; its first line has to name the columns")
        return names

    def _delimiter(self) -> str:
        line = self._first_line()
        return max(",;\t", key=line.count)  # of equally many the comma

    def _first_line(self) -> str:
        with io.TextIOWrapper(self._text_stream(), encoding="utf-8-sig", newline="") as stream:
            return stream.readline().rstrip("\r\n")


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Errors of reading a file are its own: InputError."""
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _names_of(metadata: dict) -> tuple[str, ...]:
    """Class names in a Parquet file's metadata, if they are there."""
    for key in METADATA:
        if key in metadata:
            try:
                found = json.loads(metadata[key])
            except ValueError:
                continue
            found = found.get("class_names") if isinstance(found, dict) else found
            if isinstance(found, list):
                return tuple(map(str, found))
    return ()


def _text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_string())


def _floats(column: pa.Array) -> np.ndarray:
    """float `[n]`, NaN where there is none; label shards' uint16 are probabilities."""
    if column.type == pa.uint16():
        return column.cast(pa.float32()).to_numpy(zero_copy_only=False) / np.float32(UINT16)
    kind = pa.float32() if column.type in (pa.float16(), pa.float32()) else pa.float64()
    return column.cast(kind).to_numpy(zero_copy_only=False)


def _matrix(lists: pa.Array, path: str) -> np.ndarray:
    """float `[n, length]` of lists that all have one length. Raises InputError."""
    lengths = pc.list_value_length(lists)
    found = pc.unique(lengths).to_pylist()
    if len(lists) and (len(found) > 1 or found[0] is None):
        some = ", ".join(map(str, found[:5]))
        raise InputError(f"{path}: its lists of scores have several lengths: {some}")
    return _floats(lists.flatten()).reshape(len(lists), found[0] if len(lists) else 0)


def _interleaved(columns: Sequence[pa.Array]) -> pa.Array:
    """Row by row what stands in columns of one length."""
    if len(columns) == 1:
        return columns[0]
    order = np.arange(len(columns) * len(columns[0])).reshape(len(columns), -1).T.ravel()
    return pa.concat_arrays(columns).take(pa.array(order))


def is_predictions(name: str) -> bool:
    """Whether a name, or a list of names, is of such files and not of checkpoints."""
    return bool(name) and os.fspath(name).rstrip('"]} ').lower().endswith(ENDINGS)
