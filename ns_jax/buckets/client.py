"""Buckets (`gs://`, `s3://`): their libraries, how long these wait, and what errors mean.

`files` has what programs do with files, on a disk and in a bucket alike.
"""

import atexit
import contextlib
import errno
import functools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import fsspec
from etils import epath

from ns_jax.buckets import reads
from ns_jax.buckets.reads import SILENT_SECONDS
from ns_jax.errors import InputError, MissingPackageError

SCHEMES = ("gs", "s3")

for _name in ("gs", "gcs"):  # imported when one is needed
    fsspec.register_implementation(_name, "ns_jax.buckets.gcs.FileSystem", clobber=True)
# TensorStore else waits for long.
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(SILENT_SECONDS))
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")


def filesystem(path: str) -> fsspec.AbstractFileSystem:
    """What reads and writes a path in a bucket. Raises as `check_address`."""
    scheme = path.partition("://")[0]
    _check_library(scheme)
    return fsspec.filesystem(scheme)


def check_address(path: str) -> None:
    """Raises InputError for an address without a bucket, ImportError without its library."""
    scheme, _, rest = path.partition("://")
    if scheme in SCHEMES and not rest.partition("/")[0]:
        raise InputError(f"{path} names no bucket; write {scheme}://BUCKET/DIRECTORY")
    _check_library(scheme)


@contextlib.contextmanager
def of_the_user(path: str) -> Iterator[None]:
    """In here what a bucket refuses is an InputError that says what to do."""
    bucket = "/".join(path.split("/")[:3])
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the libraries have errors of their own
        if isinstance(error, FileNotFoundError):
            raise InputError(
                f"there is no bucket {bucket}; make it, or name another --workdir"
            ) from error
        if isinstance(error, PermissionError) or reads.is_refusal(error):
            raise reads.refusal(bucket, error) from error
        raise


def remote(path: str) -> epath.Path:
    """A path in a bucket. Raises as `check_address`."""
    _check_library(path.partition("://")[0])
    return epath.Path(path)


@functools.cache
def _check_library(scheme: str) -> None:
    """Raises InputError or ImportError, saying what to do, where a bucket cannot be read."""
    if scheme not in SCHEMES:
        raise InputError(f"{scheme}:// cannot be read; name a path on disk, gs:// or s3://")
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        library = {"gs": "gcsfs", "s3": "s3fs"}[scheme]
        raise MissingPackageError(
            f"{scheme}:// is read with {library}, which is not there: pip install {library}, or "
            "mount the bucket (Cloud Storage FUSE) and name its directory"
        ) from None


def fetched(path: str) -> pathlib.Path:
    """A copy of an object on this machine's disk, until the process ends.

    One that was written anew meanwhile is fetched anew. Raises OSError.
    """
    about = remote(path).stat()
    return _copy(path, about.length, about.mtime)


@functools.lru_cache(maxsize=64)
def _copy(path: str, length: int, changed: int) -> pathlib.Path:
    copy = pathlib.Path(_copies(), f"{len(os.listdir(_copies()))}-{os.path.basename(path)}")
    more, arguments = length / reads.SLOWEST, (path, os.fspath(copy))
    reads.whole_answer(filesystem(path), path, "get_file", arguments, more_seconds=more)
    if copy.stat().st_size != length:
        raise OSError(errno.EIO, f"{copy.stat().st_size:,} of {length:,} bytes arrived", path)
    return copy


@functools.cache
def _copies() -> str:
    directory = tempfile.mkdtemp(prefix="ns_jax.")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory
