"""Writes of objects in buckets: whole or not at all, made again if need be, and with an end.

An answer may be lost on its way, after the bucket has acted. A write that replaces is then made
once more. But what only one may create is there by then, and an upload of several requests is
finished, so that the last of them is answered with 404: after an error the object is looked at.
"""

import functools
import io
import os
from typing import Any, BinaryIO

import fsspec

from ns_jax.buckets import reads

PIECE = 1 << 24  # bytes that are compared at once


def put(filesystem: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Writes an object. Raises as `reads.read`."""
    _write(filesystem, path, io.BytesIO(data), "pipe_file", (path, data))


def put_file(filesystem: fsspec.AbstractFileSystem, here: str, path: str) -> None:
    """Writes an object with the content of a file of this machine. Raises as `reads.read`."""
    with open(here, "rb") as file:
        _write(filesystem, path, file, "put_file", (here, path))


def create(filesystem: fsspec.AbstractFileSystem, path: str, data: bytes) -> bool:
    """Writes an object that is not there yet; whether this call, of many hosts', did.

    Calls with the same content at the same instant may all believe so. Raises as `reads.read`.
    """
    try:
        _write(filesystem, path, io.BytesIO(data), "pipe_file", (path, data), mode="create")
    except FileExistsError:
        return False
    return True


def _write(
    filesystem: fsspec.AbstractFileSystem,
    path: str,
    content: BinaryIO,
    method: str,
    arguments: tuple,
    **named: Any,
) -> None:
    is_done = functools.partial(_holds, filesystem, path, content)
    more = content.seek(0, os.SEEK_END) / reads.SLOWEST
    reads.whole_answer(
        filesystem, path, method, arguments, more_seconds=more, is_done=is_done, **named
    )


def _holds(filesystem: fsspec.AbstractFileSystem, path: str, content: BinaryIO) -> bool:
    """Whether an object has this content, and no other."""
    size = content.seek(0, os.SEEK_END)
    try:
        if reads.whole_answer(filesystem, path, "info")["size"] != size:
            return False
        content.seek(0)
        there = reads.ObjectFile(filesystem, path, size)
        return all(there.read(PIECE) == content.read(PIECE) for _ in range(0, size, PIECE))
    except FileNotFoundError:
        return False
