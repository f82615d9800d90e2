"""Directories of any name for Orbax: without this it loses what it saves below `run[1]`.

Orbax looks for the parts of a save with `Path.glob` of etils, which takes the brackets of the
directory's own name for a pattern too. It then finds no parts, says nothing, and leaves a
checkpoint that cannot be read.
"""

import glob
import os
import pathlib
from collections.abc import Iterator

from etils import epath

from ns_jax import files
from ns_jax.errors import InputError

_Path = type(epath.Path("."))
_as_pattern = _Path.glob


def _glob(path: epath.Path, pattern: str) -> Iterator[epath.Path]:
    name = os.fspath(path)
    return _as_pattern(path if files.is_remote(name) else epath.Path(glob.escape(name)), pattern)


_Path.glob = _glob


def directory(path: str | os.PathLike) -> pathlib.Path:
    """The absolute path of a directory that Orbax can save to.

    Raises InputError for one with a backslash, which etils takes for a slash.
    """
    absolute = files.absolute(path)
    if "\\" in os.fspath(absolute):
        raise InputError(f"{absolute}: checkpoints cannot be saved below a name with a backslash")
    return absolute
