"""Files on disks and, through `etils.epath`, in buckets (`gs://`): lists, bytes, fingerprints."""

import concurrent.futures
import contextlib
import errno
import functools
import glob
import hashlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import fsspec
from etils import epath

from ns_jax.errors import InputError, MissingFileError, MissingPackageError

SAMPLE = 4096  # bytes that a fingerprint reads at one place of a file ...
SAMPLES = 64  # ... and at this many places of a shard, all of a small one
THREADS = 16  # that wait for the disk or the network


def is_remote(path: str) -> bool:
    return "://" in path


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """What a user names, with pathlib's methods, in a bucket too; `~` is the home directory."""
    name = os.fspath(path)
    return epath.Path(name) if is_remote(name) else pathlib.Path(os.path.expanduser(name))


def expand(pattern: str) -> list[str]:
    """The files that a pattern (`*`, `?`, `[...]`, `**`) or a plain path matches, in order.

    A file, or the directory that files are looked for in, that is there by the very name counts as
    that, whatever brackets it has. Raises FileNotFoundError if there are none.
    """
    if _is_file(pattern):
        return [pattern]
    directory, name = os.path.split(pattern)
    if "[" in directory and _is_directory(directory):
        pattern = os.path.join(glob.escape(directory), name)
    if is_remote(pattern):
        scheme, _, rest = pattern.partition("://")
        bucket, _, inside = rest.partition("/")
        found = [os.fspath(path) for path in _remote(f"{scheme}://{bucket}").glob(inside)]
    else:
        found = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    if not found:
        hint = "; a [ that is part of a name is written [[]" if "[" in pattern else ""
        raise MissingFileError(f"no file matches {pattern}{hint}")
    return sorted(found)


def listing(root: str) -> tuple[list[str], list[str]]:
    """The names of a directory's sub-directories and, relative to it, all files below it, sorted.

    Names that start with a dot are left out. Raises FileNotFoundError if it is no directory.
    """
    if not _is_directory(root):
        raise MissingFileError(f"{root} is not a directory")
    # Links to directories are followed: data sets are often made of them.
    walk = _remote(root).walk() if is_remote(root) else os.walk(root, followlinks=True)
    top: list[str] = []
    found: list[str] = []
    base = None  # the root as the walk spells it
    for directory, folders, names in walk:
        folders[:] = [name for name in folders if not name.startswith(".")]
        if base is None:
            base, top = os.fspath(directory), sorted(folders)
        inside = os.fspath(directory)[len(base) :].strip("/")
        prefix = f"{inside}/" if inside else ""
        found.extend(prefix + name for name in names if not name.startswith("."))
    return top, sorted(found, key=lambda key: key.split("/"))


def size(path: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    return _remote(path).stat().length if is_remote(path) else os.path.getsize(path)


def read(path: str) -> bytes:
    """The whole of a file. Raises OSError."""
    if is_remote(path):
        return _remote(path).read_bytes()
    descriptor = os.open(path, os.O_RDONLY)  # half the time of a file object
    try:
        data = os.read(descriptor, os.fstat(descriptor).st_size)
        while more := os.read(descriptor, 1 << 20):  # a read may stop early
            data += more
        return data
    finally:
        os.close(descriptor)


def open_binary(path: str, buffering: int = -1) -> BinaryIO:
    """A file object to read from."""
    return _remote(path).open("rb") if is_remote(path) else open(path, "rb", buffering)


def write(path: str, data: bytes) -> None:
    """Writes a file whole or not at all, and the directories it lies in. Raises OSError."""
    if is_remote(path):
        _remote(path).write_bytes(data)  # an object is there whole or not at all
        return
    with _written(path, data) as temporary:
        os.replace(temporary, path)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """The path of a temporary file to write to, which atomically becomes `path` at the end.

    After an error it is removed instead. For large files with one writer: what a killed one left
    has the same name and is overwritten by the next. Makes the directory. Raises OSError.
    """
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def create(path: str, data: bytes) -> bool:
    """Like `write`, but only where no file is yet: whether this call, of many hosts', made it.

    On a file system without hard links (some mounts of buckets) two calls at the same instant may
    both believe that they did; the file is whole all the same. Raises OSError.
    """
    if is_remote(path):
        if _remote(path).exists():
            return False
        try:
            _filesystem(path).pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True
    with _written(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if not os.path.exists(temporary) and os.path.exists(path):
                return False  # all is there, and somebody has tidied up
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            if os.path.exists(path):
                return False
            os.replace(temporary, path)
    return True


@contextlib.contextmanager
def _written(path: str, data: bytes) -> Iterator[str]:
    """A new file beside `path`, gone afterwards. Raises OSError, of a full disk with what to do."""
    directory = os.path.dirname(path) or "."
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{os.path.basename(path)}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        yield temporary
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(directory).free
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno)}: {path} needs {len(data):,} bytes, {free:,} are free. "
                "What was finished is kept: make room and start the same command again",
            ) from None
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def tidy(directory: str) -> None:
    """Removes what was half written when its writer was killed.

    Only where every file is there that anybody may still be writing: see `create`.
    """
    for name in names(directory):
        if name.startswith(".") and name.endswith(".tmp"):
            remove(f"{directory}/{name}")


def _is_file(path: str) -> bool:
    return _remote(path).is_file() if is_remote(path) else os.path.isfile(path)


def _is_directory(path: str) -> bool:
    return _remote(path).is_dir() if is_remote(path) else os.path.isdir(path)


def exists(path: str) -> bool:
    return _remote(path).exists() if is_remote(path) else os.path.exists(path)


def remove(path: str) -> None:
    """Removes a file, if it is there. Raises OSError."""
    if is_remote(path):
        _remote(path).unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def names(directory: str) -> list[str]:
    """The names of all entries of a directory, sorted; none if it is not there."""
    if is_remote(directory):
        if not _remote(directory).exists():
            return []
        return sorted(path.name for path in _remote(directory).iterdir())
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def read_range(path: str, offset: int, length: int, version: str) -> bytes:
    """`length` bytes from `offset`: one read of a local file, which stays open. Raises OSError.

    With another `version`, any string, the file is opened again.
    """
    if is_remote(path):
        with _remote(path).open("rb") as file:
            file.seek(offset)
            return file.read(length)
    file = _opened(path, version)
    return os.pread(file.fileno(), length, offset)


@functools.lru_cache(maxsize=256)  # beyond these, the least used one is closed
def _opened(path: str, version: str) -> BinaryIO:
    return open(path, "rb", buffering=0)  # noqa: SIM115 (closed when the cache lets go of it)


def signatures(paths: Sequence[str], shards: bool = False) -> list[bytes]:
    """A digest of each file's size and of a little of its content, whatever its name and time.

    What a fingerprint needs to notice a file that was written anew, at the price of one short read
    for an image (one compressed anew differs in its length or its end) and of `SAMPLES` for a shard
    of many images. Bytes changed in place elsewhere go unnoticed. Times are left out on
    purpose: a copy on another machine is the same data. Raises OSError.
    """
    chunks = [paths[start::THREADS] for start in range(min(THREADS, len(paths)))]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        done = list(pool.map(lambda chunk: [_signature(path, shards) for path in chunk], chunks))
    result = [b""] * len(paths)
    for start, found in enumerate(done):
        result[start::THREADS] = found
    return result


def _signature(path: str, shard: bool) -> bytes:
    with open_binary(path, buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        end = max(0, length - SAMPLE)
        step = max(SAMPLE, end // SAMPLES)  # all of a file that is small
        sample = hashlib.sha256(b"%d" % length)
        for offset in (*range(0, end, step), end) if shard else (end,):
            file.seek(offset)
            sample.update(file.read(SAMPLE))
    return sample.digest()


def _filesystem(path: str) -> fsspec.AbstractFileSystem:
    scheme = path.partition("://")[0]
    _check_library(scheme)
    return fsspec.filesystem(scheme)


def _remote(path: str) -> epath.Path:
    _check_library(path.partition("://")[0])
    return epath.Path(path)


@functools.cache
def _check_library(scheme: str) -> None:
    """Raises InputError or ImportError, saying what to do, where a bucket cannot be read."""
    if scheme not in ("gs", "s3"):
        raise InputError(f"{scheme}:// cannot be read; name a path on disk, gs:// or s3://")
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        library = {"gs": "gcsfs", "s3": "s3fs"}[scheme]
        raise MissingPackageError(
            f"{scheme}:// is read with {library}, which is not there: pip install {library}, or "
            "mount the bucket (Cloud Storage FUSE) and name its directory"
        ) from None
