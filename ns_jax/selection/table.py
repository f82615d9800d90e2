"""A selection on disk: a row for each training example, copies of an image side by side.

`selection.arrow` is an uncompressed Arrow file whose record batches all hold the same number of
rows, but the last. Equal batches lie at equal distances, so a column of all of them is one strided
array over the mapped file: opening costs the same for 10 rows and for a billion.
"""

import contextlib
import errno
import json
import mmap
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ns_jax import files
from ns_jax.digest import Digest
from ns_jax.errors import DamagedError, InputError, MissingFileError

NAME = "selection.arrow"
MAX_BATCH_ROWS = 1 << 18
MAX_BATCH_BYTES = 32 << 20  # of a record batch; wide rows make it shorter
DTYPES = {
    "index": np.int64,
    "label": np.int32,
    "confidence": np.float32,
    "classes": np.int32,
    "probs": np.uint16,
}
_WIDE = ("classes", "probs")  # k numbers a row


def row_bytes(k: int) -> int:
    return sum(np.dtype(kind).itemsize * (k if n in _WIDE else 1) for n, kind in DTYPES.items())


class Column:
    """A column of a selection: `[N]` or `[N, k]`, mapped, read where it is looked at.

    Takes an int or a slice, and turns into a NumPy array where one is asked for. It is pickled as
    the place of its file.
    """

    def __init__(self, directory: pathlib.Path, name: str, whole: np.ndarray, last: np.ndarray):
        """`whole [batches, rows of a batch, ...]` and `last [rows of the last batch, ...]`."""
        self._directory, self._name, self._whole, self._last = directory, name, whole, last
        self._size = whole.shape[1]
        self._in_whole = len(whole) * self._size
        self.shape = (self._in_whole + len(last), *last.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int | slice) -> np.ndarray:
        if isinstance(row, slice):
            return self._part(*row.indices(len(self)))
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a selection of {len(self):,} rows")
        row %= len(self)
        if row >= self._in_whole:
            return self._last[row - self._in_whole]
        return self._whole[row // self._size, row % self._size]

    def _part(self, start: int, stop: int, step: int) -> np.ndarray:
        if step != 1:
            return self._part(0, len(self), 1)[start:stop:step]
        parts, stop = [], max(start, stop)
        while start < min(stop, self._in_whole):
            batch, place = divmod(start, self._size)
            parts.append(self._whole[batch, place : place + stop - start])
            start += len(parts[-1])
        if start < stop or not parts:
            parts.append(self._last[start - self._in_whole : stop - self._in_whole])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __reduce__(self) -> tuple:
        return _open_column, (self._directory, self._name)


def _open_column(directory: pathlib.Path, name: str) -> Column:
    return getattr(Selection(directory), name)


class Selection:
    """`index`, `label`, `confidence` `[N]`, `classes`, `probs` `[N, k]` and `metadata` of one.

    Mapped, not read; pickled as its directory, and mapped again by each data worker.
    """

    def __init__(self, directory: str | pathlib.Path, in_order: bool = False):
        """`in_order`: it will be read from the first row to the last, not here and there.

        Raises FileNotFoundError without a selection, DamagedError if its file is cut off.
        """
        self._directory = files.as_path(directory)
        path = self._directory / NAME
        if not path.is_file():
            raise MissingFileError(f"there is no {path}; run the select program first")
        try:
            file = pa.ipc.open_file(_mapped(path, in_order))
            self.metadata = json.loads(file.schema.metadata[b"ns_jax"])
            columns = _columns(file)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise DamagedError(
                f"{path} is truncated, damaged or of another version of this program ({error}); "
                f"remove {self._directory} and run the select program again"
            ) from None
        opened = {name: Column(self._directory, name, *parts) for name, parts in columns.items()}
        self.index, self.label, self.confidence, self.classes, self.probs = (
            opened[name] for name in DTYPES
        )

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> tuple:
        return Selection, (self._directory,)

    def images(self, rows_at_once: int = MAX_BATCH_ROWS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Its images in order, each once: blocks of (index, number of copies), int64 `[n]`."""
        held = np.zeros((2, 0), np.int64)  # the last image so far, whose copies may go on
        for start in range(0, len(self), rows_at_once):
            index = self.index[start : start + rows_at_once]
            first = np.flatnonzero(np.diff(index, prepend=-1))
            found = np.stack([index[first], np.diff(first, append=len(index))])
            if held.size and held[0, 0] == found[0, 0]:
                found[1, 0] += held[1, 0]
            else:
                found = np.concatenate([held, found], 1)
            held = found[:, -1:]
            yield found[0, :-1], found[1, :-1]
        yield held[0], held[1]


def check(directory: str | pathlib.Path, digest: str) -> None:
    """Reads all of a selection. Raises DamagedError if it is gone, cut off, or has another digest
    than its `Writer` gave it.
    """
    path = files.as_path(directory) / NAME
    found = Digest()
    try:
        file = pa.ipc.open_file(_mapped(path, in_order=True))
        found.update(file.schema.metadata[b"ns_jax"])
        for number in range(file.num_record_batches):
            for array in _arrays(file.get_batch(number)).values():
                found.update(array)  # type: ignore[arg-type]  # whose buffer is bytes
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"{path} is missing or damaged: {error}") from None
    if str(found) != digest:
        raise DamagedError(f"{path} is damaged: its digest is {found}, and was {digest}")


def _mapped(path: pathlib.Path, in_order: bool) -> pa.Buffer:
    """The bytes of a file. Unless told, the kernel reads 128 kB around every row: of a file that is
    not in memory 1,000 random rows then take 2.7 s instead of 0.2 to 0.4 (measured).
    """
    with files.local(path).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_SEQUENTIAL if in_order else mmap.MADV_RANDOM)
    return pa.py_buffer(mapped)


def _columns(file: pa.RecordBatchFileReader) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each column's batches but the last, as one strided array, and its last one."""
    count = file.num_record_batches
    first, last = _arrays(file.get_batch(0)), _arrays(file.get_batch(count - 1))
    distance = (_address(last["index"]) - _address(first["index"])) // max(1, count - 1)
    looked_at = {b: _arrays(file.get_batch(b)) for b in {1, count - 2} if 0 < b < count - 1}
    columns = {}
    for name, array in first.items():
        for number, other in looked_at.items():
            start = _address(array) + number * distance
            if len(other[name]) != len(array) or _address(other[name]) != start:
                raise InputError("its record batches are not of one size")
        whole = np.lib.stride_tricks.as_strided(
            array, (count - 1, *array.shape), (distance, *array.strides), writeable=False
        )
        columns[name] = whole, last[name]
    return columns


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _arrays(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """The columns of a record batch, without a copy."""
    batch.validate()
    arrays = {}
    for name, kind in DTYPES.items():
        column = batch.column(name)
        shape: tuple[int, ...] = (len(column),)
        if name in _WIDE:
            shape, column = (len(column), column.type.list_size), column.flatten()
        array = column.to_numpy(zero_copy_only=True)
        if array.dtype != kind:
            raise InputError(f"column {name} is {array.dtype}, not {np.dtype(kind)}")
        arrays[name] = array.reshape(shape)
    return arrays


class Writer:
    """Writes a selection atomically: the file is there once its `with` ends without an error.

    `write` takes any number of rows; `on_batch` is called with each record batch, a dict of arrays,
    once it is written. `digest` is one of the content.
    """

    def __init__(
        self, directory: pathlib.Path, k: int, metadata: dict, on_batch: Callable[[dict], None]
    ):
        self._path = directory / NAME
        self._row_bytes, self._on_batch = row_bytes(k), on_batch
        self._size = 1
        while self._size * 2 <= min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // self._row_bytes):
            self._size *= 2
        self._schema = pa.schema(
            {
                name: pa.list_(pa.from_numpy_dtype(kind), k)
                if name in _WIDE
                else pa.from_numpy_dtype(kind)
                for name, kind in DTYPES.items()
            },
            metadata={"ns_jax": json.dumps(metadata)},
        )
        self._total = Digest(json.dumps(metadata).encode())
        self._buffers = {
            name: np.empty((self._size, k) if name in _WIDE else self._size, kind)
            for name, kind in DTYPES.items()
        }
        self._filled, self._rows, self._expected = 0, 0, 0

    def __enter__(self) -> "Writer":
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._explained())
            temporary = stack.enter_context(files.replacing(self._path))
            file = stack.enter_context(pa.OSFile(str(temporary), "wb"))
            self._writer = pa.ipc.new_file(file, self._schema)
            stack.push(self._finish)
            self._open = stack.pop_all()
        return self

    def check_room(self, rows: int) -> None:
        """Raises OSError if the disk has no room for `rows` rows."""
        self._expected = rows
        if files.free_bytes(self._path.parent) < rows * self._row_bytes:
            raise OSError(errno.ENOSPC, self._no_room())

    def write(self, columns: dict[str, np.ndarray], copies: np.ndarray) -> None:
        """Rows by column, `[n]` or `[n, k]`, in order of index, each `copies [n]` times."""
        ends = copies.cumsum()
        written, total = 0, int(ends[-1]) if len(ends) else 0
        while written < total:
            stop = min(total, written + self._size - self._filled)
            first = int(np.searchsorted(ends, written, side="right"))
            last = int(np.searchsorted(ends, stop, side="left"))
            part = np.minimum(ends[first : last + 1], stop)
            part = np.diff(part, prepend=written)
            rows = np.repeat(np.arange(first, last + 1), part)
            place = slice(self._filled, self._filled + stop - written)
            for name, buffer in self._buffers.items():
                np.take(columns[name], rows, axis=0, out=buffer[place], mode="clip")
            self._filled += stop - written
            written = stop
            if self._filled == self._size:
                self._flush()

    def digest(self) -> str:
        return str(self._total)

    def __exit__(self, *error: Any) -> bool | None:
        return self._open.__exit__(*error)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        """Writes what is left, unless there was an error."""
        if kind is None:
            self._flush()
            self._writer.close()

    def _flush(self) -> None:
        if not self._filled and self._rows:
            return
        arrays = {name: buffer[: self._filled] for name, buffer in self._buffers.items()}
        columns = []
        for name, array in arrays.items():
            self._total.update(array)  # type: ignore[arg-type]  # whose buffer is bytes
            column = pa.array(array.reshape(-1))
            if name in _WIDE:
                column = pa.FixedSizeListArray.from_arrays(
                    column, type=self._schema.field(name).type
                )
            columns.append(column)
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._on_batch(arrays)
        self._rows += self._filled
        self._filled = 0

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Says what to do where the disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise OSError(error.errno, self._no_room()) from error
            raise

    def _no_room(self) -> str:
        free = files.free_bytes(self._path.parent)
        return (
            f"no room for {self._path}: {self._expected:,} rows need "
            f"{self._expected * self._row_bytes:,} bytes, {free:,} are free. Free some, take a "
            "--workdir on another disk, or lower select.per_class"
        )
