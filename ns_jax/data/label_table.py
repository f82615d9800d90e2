"""labels.csv: which files of a directory count, and their labels."""

import io
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from ns_jax import files
from ns_jax.errors import InputError
from ns_jax.progress import one_line

NAME = "labels.csv"  # columns `file` (relative to the directory) and `label` (empty: unknown)


def read(root: str, there: Sequence[str], column: str) -> tuple[list[str], list[str]]:
    """The files that the table lists, of those that are `there` below `root`, and their labels.

    Labels stand in `column`, as they are written there. Raises InputError.
    """
    path = f"{root}/{NAME}"
    table = _table(path)
    missing = {"file", column} - set(table.column_names)
    if missing:
        raise InputError(
            f"{path} has the columns {', '.join(table.column_names)}; it needs `file` (relative to "
            f"{root}) and `{column}` (a class name, or nothing where it is unknown; "
            "data.label_column names another)"
        )
    listed, labels = (table.column(name) for name in ("file", column))
    if not len(table):
        raise InputError(f"{path} lists no files")
    keys, absent = _found(listed, there, root)
    counts = pc.value_counts(_as_bytes(keys))
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    twice = list(map(os.fsdecode, several.to_pylist()))
    for found, problem in ((absent, "do not exist"), (twice, "are listed twice")):
        if found:
            shown = ", ".join(map(one_line, found[:10]))
            raise InputError(f"{len(found)} files of {path} {problem}: {shown}")
    return keys, labels.to_pylist()


def _table(path: str) -> pa.Table:
    """All columns as text, `file` as bytes, their names without blanks around."""
    try:
        data = files.read(path)
        names = csv.open_csv(io.BytesIO(data)).schema.names
        # Names of files need not be UTF-8.
        types = {name: pa.binary() if name.strip() == "file" else pa.string() for name in names}
        convert = csv.ConvertOptions(column_types=types, strings_can_be_null=False)
        table = csv.read_csv(io.BytesIO(data), convert_options=convert)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a table of commas: {error}") from None
    names = [name.strip() for name in names]
    if len(set(names)) < len(names):
        raise InputError(f"{path} has two columns of one name: {', '.join(names)}")
    return table.rename_columns(names)


def _found(listed: pa.ChunkedArray, there: Sequence[str], root: str) -> tuple[list[str], list[str]]:
    """The files as they are named below `root`, and those listed that are not there."""
    exact = pc.is_in(listed.cast(pa.large_binary()), value_set=_as_bytes(there)).to_numpy()
    keys, absent = list(map(os.fsdecode, listed.to_pylist())), []
    others = np.flatnonzero(~exact)
    composed = {_composed(key): key for key in there} if len(others) else {}
    places = {f"{place.rstrip('/')}/" for place in (root, *_absolute(root))}
    for row in others.tolist():
        spellings = _spellings(keys[row], places)
        found = next((composed[name] for name in spellings if name in composed), None)
        if found is not None:
            keys[row] = found
        elif not _is_below(root, keys[row]):
            absent.append(keys[row])
    return keys, sorted(set(absent))


def _is_below(root: str, name: str) -> bool:
    """Whether the directory has it, if only as a dead link, a hidden file or in a locked folder."""
    outside = posixpath.normpath(name).split("/")[0] in ("..", "")
    return not outside and files.is_named(f"{root}/{name}")


def _as_bytes(names: Sequence[str]) -> pa.Array:
    return pa.array(map(os.fsencode, names), pa.large_binary())


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _absolute(root: str) -> list[str]:
    return [] if files.is_remote(root) else [os.path.abspath(root), os.path.realpath(root)]


def _spellings(listed: str, places: set[str]) -> Iterator[str]:
    """What a file that is listed so may be called below the directory, whose paths `places` are."""
    name = _composed(listed)
    for spelled in (name, name.strip(), name.replace("\\", "/"), name.strip().replace("\\", "/")):
        yield spelled
        plain = posixpath.normpath(spelled)
        yield plain
        yield from (n[len(p) :] for n in (spelled, plain) for p in places if n.startswith(p))
