"""Predictions in NumPy's files, read row by row: FILE.npz, or FILE.npy with keys in FILE.txt."""

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ns_jax import files
from ns_jax.errors import InputError, MissingFileError
from ns_jax.predictions import layout

ENDINGS = (".npz", ".npy")
NAMES = "class_names"  # an array of the file
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Arrays:
    """`keys` str `[N]`, `probs` or `logits` `[N, classes]`, or beside `classes` `[N, k]`."""

    def __init__(self, path: str):
        """Raises InputError for a file that lacks one of them, or that holds a pickle."""
        self.path = path
        self._alone = path.lower().endswith(".npy")
        names = ["scores"] if self._alone else self._names()
        key = next((name for name in ("keys", *layout.KEYS) if name in names), None)
        scores = next((name for name in layout.LISTS if name in names), None)
        if self._alone:
            key = "keys"
            if not files.is_file(self._keys_path()):
                raise MissingFileError(
                    f"{path} has no list of keys beside it: {self._keys_path()}, a key a line"
                )
        if key is None or scores is None:
            missing = "scores (`probs` or `logits`)" if key else "`keys`"
            raise InputError(f"{path} has no array of {missing}, only {', '.join(names) or 'none'}")
        classes = (layout.LIST_OF_CLASSES,) if layout.LIST_OF_CLASSES in names else ()
        self.layout = layout.Layout(key, (scores,), classes, is_list=True)
        self.class_names: tuple[str, ...] = ()
        if NAMES in names:
            self.class_names = tuple(
                _words(np.concatenate(list(self._rows(NAMES, 2**16)))).tolist()
            )
        for name in (*[key] * (not self._alone), scores, *classes):
            with self._open(name) as stream:
                shape, _, _ = self._shape(stream, name)
            if len(shape) != (1 if name == key else 2):
                form = "[images]" if name == key else "[images, classes]"
                raise InputError(f"{path}: `{name}` is {list(shape)}; it must be {form}")

    def others(self) -> list[str]:
        """The file with the keys, if it is another one."""
        return [self._keys_path()] if self._alone else []

    def keys(self, rows: int) -> Iterator[pa.Array]:
        """large_string, `rows` at a time."""
        if not self._alone:
            for part in self._rows(self.layout.key, rows):
                yield pa.array(_words(part)).cast(pa.large_string())
            return
        with io.TextIOWrapper(files.open_binary(self._keys_path()), encoding="utf-8") as lines:
            held: list[str] = []
            for line in lines:
                held.append(line.rstrip("\r\n"))
                if len(held) == rows:
                    yield pa.array(held, pa.large_string())
                    held = []
            if held:
                yield pa.array(held, pa.large_string())

    def batches(
        self, most_rows: int, values: int
    ) -> Iterator[tuple[pa.Array, np.ndarray, pa.Array | None]]:
        """Keys, scores and maybe the classes (row by row), a few rows at a time."""
        with self._open(self.layout.scores[0]) as stream:
            shape, _, _ = self._shape(stream, self.layout.scores[0])
        rows = max(1, min(most_rows, values // max(shape[1], 1)))
        parts: list[Iterator] = [self.keys(rows), self._rows(self.layout.scores[0], rows)]
        parts += [self._rows(name, rows) for name in self.layout.classes]
        while True:
            found: list[Any] = [next(part, None) for part in parts]
            lengths = [0 if one is None else len(one) for one in found]
            if len(set(lengths)) > 1:
                raise InputError(
                    f"{self.path}: there are not as many keys as rows of scores; a key for each row"
                )
            if not lengths[0]:
                return
            keys, scores, *classes = found
            scores = scores if scores.dtype == np.float32 else scores.astype(np.float64)
            words = [pa.array(_words(one.ravel())).cast(pa.large_string()) for one in classes]
            yield keys, scores, next(iter(words), None)

    def _names(self) -> list[str]:
        try:
            with files.open_binary(self.path) as stream, zipfile.ZipFile(stream) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]
        except zipfile.BadZipFile as error:
            raise InputError(f"{self.path} cannot be read: {error}") from None

    def _keys_path(self) -> str:
        return os.path.splitext(self.path)[0] + ".txt"

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        with files.open_binary(self.path) as stream:
            if self._alone:
                yield stream
                return
            with zipfile.ZipFile(stream) as archive, archive.open(f"{name}.npy") as member:
                yield member

    def _shape(self, stream: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
        """Shape, whether columns come first, and dtype. Raises InputError for a pickle."""
        try:
            shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        except (ValueError, KeyError) as error:
            raise InputError(f"{self.path}: `{name}` is no array: {error}") from None
        if dtype.hasobject:
            raise InputError(
                f"{self.path}: `{name}` holds a pickle, which could run anything and is never "
                "read; save strings as np.array(keys, dtype=str)"
            )
        return shape, by_columns, dtype

    def _rows(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """An array `[N, ...]`, `rows` of them at a time."""
        with self._open(name) as stream:
            shape, by_columns, dtype = self._shape(stream, name)
            if not shape:
                raise InputError(f"{self.path}: `{name}` is a single number")
            if by_columns and len(shape) > 1:  # a row lies all over the file
                whole = self._read(stream, dtype, shape[::-1], name).T
                yield from (whole[start : start + rows] for start in range(0, shape[0], rows))
                return
            for start in range(0, shape[0], rows):
                count = min(rows, shape[0] - start)
                yield self._read(stream, dtype, (count, *shape[1:]), name)

    def _read(self, stream: Any, dtype: np.dtype, shape: tuple[int, ...], name: str) -> np.ndarray:
        size = int(np.prod(shape)) * dtype.itemsize
        try:
            data = stream.read(size)
        except (zipfile.BadZipFile, EOFError) as error:
            raise InputError(f"{self.path}: `{name}` is damaged: {error}") from None
        if len(data) < size:
            raise InputError(f"{self.path}: `{name}` breaks off; write the file again")
        return np.frombuffer(data, dtype).reshape(shape)


def _words(array: np.ndarray) -> np.ndarray:
    """As strings; of bytes as UTF-8."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
