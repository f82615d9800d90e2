"""labels.csv: which files of a directory count, and their labels."""

import io
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from ns_jax import files
from ns_jax.errors import InputError
from ns_jax.progress import one_line

SHOWN = 10  # files in a message
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
    listed, labels = (table.column(name).combine_chunks() for name in ("file", column))
    if not len(table):
        raise InputError(f"{path} lists no files")
    places = _places(listed, there, root)
    unlisted = listed.filter(pa.array(places < 0)).to_pylist()
    # What the directory has counts, whatever it is called: a hidden file, a dead link.
    if others := [name for name in map(os.fsdecode, unlisted) if _is_below(root, name)]:
        there = [*there, *dict.fromkeys(others)]
        places = _places(listed, there, root)
    absent = sorted(set(listed.filter(pa.array(places < 0)).to_pylist()))
    counts = np.bincount(places[places >= 0], minlength=len(there))
    twice = [there[place] for place in np.flatnonzero(counts > 1).tolist()]
    for found, problem in (
        (list(map(os.fsdecode, absent)), "do not exist"),
        (twice, "are listed twice"),
    ):
        if found:
            shown = ", ".join(map(one_line, found[:SHOWN]))
            raise InputError(f"{len(found)} files of {path} {problem}: {shown}")
    return [there[place] for place in places.tolist()], labels.to_pylist()


def _is_below(root: str, name: str) -> bool:
    """Whether the directory has it, if only as a dead link or in a locked folder."""
    outside = posixpath.normpath(name).split("/")[0] in ("..", "", ".")
    return not outside and files.is_named(f"{root}/{name}")


def _table(path: str) -> pa.Table:
    """All columns as text, but bytes of files; names of columns without blanks around."""
    try:
        data = files.read(path)
        names = csv.open_csv(io.BytesIO(data)).schema.names
        kinds = {
            name: pa.large_binary() if name.strip() == "file" else pa.large_string()
            for name in names
        }
        convert = csv.ConvertOptions(column_types=kinds, strings_can_be_null=False)
        table = csv.read_csv(io.BytesIO(data), convert_options=convert)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a table of commas: {error}") from None
    names = [name.strip() for name in names]
    if len(set(names)) < len(names):
        raise InputError(f"{path} has two columns of one name: {', '.join(names)}")
    return table.rename_columns(names)


def _places(listed: pa.Array, there: Sequence[str], root: str) -> np.ndarray:
    """int64 `[N]`: of each listed file its place in `there`, -1 if it is not there."""
    # Bytes: names need not be UTF-8.
    names = pa.array(map(os.fsencode, there), pa.large_binary())
    places = _looked_up(listed, names)
    prefixes = {f"{place.rstrip('/')}/" for place in (root, *_absolute(root))}
    # The commonest spellings at once; a million of them one by one take half a minute.
    for plain in (r"^[ \t]+|[ \t]+$", f"^({'|'.join(map(re.escape, ('./', *prefixes)))})"):
        rows = np.flatnonzero(places < 0)
        rest = pc.replace_substring_regex(listed.take(pa.array(rows)), plain, "")
        places[rows] = _looked_up(rest, names)
    rows = np.flatnonzero(places < 0)
    composed = {_composed(key): place for place, key in enumerate(there)} if len(rows) else {}
    for row, name in zip(rows, listed.take(pa.array(rows)).to_pylist(), strict=True):
        spellings = _spellings(os.fsdecode(name), prefixes)
        places[row] = next((composed[name] for name in spellings if name in composed), -1)
    return places


def _looked_up(wanted: pa.Array, names: pa.Array) -> np.ndarray:
    """int64 `[len(wanted)]`: the place of each in `names`, or -1."""
    found = pc.fill_null(pc.index_in(wanted, value_set=names), -1)
    return found.to_numpy().astype(np.int64)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _absolute(root: str) -> list[str]:
    return [] if files.is_remote(root) else [os.path.abspath(root), os.path.realpath(root)]


def _spellings(listed: str, prefixes: set[str]) -> Iterator[str]:
    """What a file that is listed so may be called below the directory of these `prefixes`."""
    name = _composed(listed)
    for spelled in (name, name.strip(), name.replace("\\", "/"), name.strip().replace("\\", "/")):
        yield spelled
        plain = posixpath.normpath(spelled)
        yield plain
        yield from (n[len(p) :] for n in (spelled, plain) for p in prefixes if n.startswith(p))
