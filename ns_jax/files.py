"""Files on disks and, through `etils.epath`, in buckets (`gs://`): patterns, bytes, signatures."""

import concurrent.futures
import contextlib
import errno
import functools
import glob
import math
import os
import pathlib
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from etils import epath

from ns_jax.buckets import reads, writes
from ns_jax.buckets.client import fetched, filesystem, remote
from ns_jax.errors import WRONG_PATH, MissingFileError

BEGINNING = 4096  # bytes that tell what a file is
THREADS = 16  # that wait for the disk ...
REQUESTS = 64  # ... and for a bucket, which answers late and many at once


def is_remote(path: str) -> bool:
    return "://" in path


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """What a user names, with pathlib's methods, in a bucket too; `~` is the home directory."""
    name = os.fspath(path)
    return epath.Path(name) if is_remote(name) else pathlib.Path(os.path.expanduser(name))


def absolute(path: str | os.PathLike) -> pathlib.Path:
    """As `as_path`, whatever directory is the current one; in a bucket all paths are."""
    found = as_path(path)
    return found if is_remote(os.fspath(found)) else found.absolute()


def expand(pattern: str) -> list[str]:
    """The files that a pattern (`*`, `?`, `[...]`, `**`) or a plain path matches, in order.

    A file, or the directory that files are looked for in, that is there by the very name counts as
    that, whatever brackets it has. A link that leads nowhere is a file: whoever opens it says so.
    Raises FileNotFoundError if there are none.
    """
    if is_file(pattern):
        return [pattern]
    directory, name = os.path.split(pattern)
    if "[" in directory and is_directory(directory):
        pattern = os.path.join(glob.escape(directory), name)
    if is_remote(pattern):
        scheme, _, rest = pattern.partition("://")
        bucket, _, inside = rest.partition("/")
        found = [os.fspath(path) for path in remote(f"{scheme}://{bucket}").glob(inside)]
    else:
        found = [path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)]
    if not found:
        hint = "; a [ that is part of a name is written [[]" if "[" in pattern else ""
        raise MissingFileError(f"no file matches {pattern}{hint}")
    return sorted(found)


def size(path: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    return _about(path)["size"] if is_remote(path) else os.path.getsize(path)


def _about(path: str) -> dict:
    """What a bucket says of an object: `size` in bytes, and more. Raises as `read`."""
    about = reads.whole_answer(filesystem(path), path, "info")
    if about["type"] == "directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return about


def _kind(path: str) -> str | None:
    """`file` or `directory`, of what is there in a bucket; fsspec takes refusals for nothing."""
    if "*" in path:  # no object's name has one
        return None
    try:
        return reads.whole_answer(filesystem(path), path, "info")["type"]
    except FileNotFoundError:
        return None


def read(path: str) -> bytes:
    """The whole of a file. Raises OSError."""
    if is_remote(path):
        return reads.read(filesystem(path), path)
    descriptor = _open_regular(path)  # half the time of a file object
    try:
        data = os.read(descriptor, os.fstat(descriptor).st_size)
        while more := os.read(descriptor, 1 << 20):  # a read may stop early
            data += more
        return data
    finally:
        os.close(descriptor)


def open_binary(path: str, buffering: int = -1) -> BinaryIO:
    """A file object to read from. Raises OSError."""
    if is_remote(path):
        return cast(BinaryIO, reads.ObjectFile(filesystem(path), path, size(path)))
    return open(path, "rb", buffering, opener=_open_regular)


def _open_regular(path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor. Raises OSError for a pipe or a device too, which may never end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "Not a regular file", path)


def write(path: str, data: bytes) -> None:
    """Writes a file whole or not at all, and the directories it lies in. Raises OSError."""
    if is_remote(path):
        writes.put(filesystem(path), path, data)
        return
    with _written(path, data) as temporary:
        os.replace(temporary, path)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """The path of a temporary file to write to, which atomically becomes `path` at the end.

    After an error it is removed instead. For large files with one writer: what a killed one left
    has the same name and is overwritten by the next. Makes the directory. What is for a bucket is
    written on this machine first. Raises OSError.
    """
    path = as_path(path)
    if is_remote(os.fspath(path)):
        with tempfile.TemporaryDirectory(prefix="ns_jax.") as here:
            yield (temporary := pathlib.Path(here, path.name))
            store = filesystem(os.fspath(path))
            writes.put_file(store, os.fspath(temporary), os.fspath(path))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Appender:
    """A text file that grows. In a bucket, where nothing does, it is written anew by `flush`."""

    def __init__(self, path: str | os.PathLike):
        """Makes the directory. Raises OSError."""
        self._path, self._file = as_path(path), None
        self._kept: bytes | None = None
        if is_remote(os.fspath(path)):
            self._kept = read(os.fspath(path)) if exists(os.fspath(path)) else b""
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", buffering=1, encoding="utf-8")
        self._changed = False

    def write(self, text: str) -> None:
        """Whole lines, which are on the disk at once. Raises OSError."""
        if self._file:
            self._file.write(text)
        else:
            self._kept, self._changed = (self._kept or b"") + text.encode(), True

    def flush(self) -> None:
        """All that was written is in the bucket, too. Raises OSError."""
        if self._changed and self._kept is not None:
            write(os.fspath(self._path), self._kept)
            self._changed = False

    def close(self) -> None:
        self.flush()
        if self._file:
            self._file.close()


def local(path: str | os.PathLike) -> pathlib.Path:
    """A file on this machine's disk with the content of `path`: itself, or a copy of an object.

    A copy lasts as long as this process, which fetches it again if the object was written anew.
    Raises OSError.
    """
    if not is_remote(name := os.fspath(path)):
        return pathlib.Path(name)
    return fetched(name)


def free_bytes(directory: str | os.PathLike) -> float:
    """Room on the disk of a directory; a bucket has no end."""
    name = os.fspath(directory)
    return math.inf if is_remote(name) else shutil.disk_usage(name).free


def move_directory(here: pathlib.Path, there: pathlib.Path) -> None:
    """Moves all of a directory, over what is there; of a bucket object by object. OSError."""
    if is_remote(os.fspath(here)):
        store = filesystem(os.fspath(here))
        for name in store.find(os.fspath(here)):
            inside = name.partition(f"/{here.name}/")[2]
            store.copy(name, os.fspath(there / inside))
            store.rm_file(name)
        return
    remove_directory(there)
    there.parent.mkdir(parents=True, exist_ok=True)
    here.rename(there)


def remove_directory(directory: pathlib.Path) -> None:
    """Removes it with all that is there, if it is there; of a disk as far as it can be."""
    if not is_remote(name := os.fspath(directory)):
        shutil.rmtree(name, ignore_errors=True)
    elif directory.exists():
        filesystem(name).rm(name, recursive=True)


def create(path: str, data: bytes) -> bool:
    """Like `write`, but only where no file is yet: whether this call, of many hosts', made it.

    On a file system without hard links (some mounts of buckets) two calls at the same instant may
    both believe that they did, and in a bucket if they write the same; the file is whole all the
    same. Raises OSError.
    """
    if is_remote(path):
        return not exists(path) and writes.create(filesystem(path), path, data)
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


def is_file(path: str) -> bool:
    if is_remote(path):
        return _kind(path) == "file"
    return os.path.isfile(path)


def is_directory(path: str) -> bool:
    if is_remote(path):
        return _kind(path) == "directory"
    return os.path.isdir(path)


def exists(path: str) -> bool:
    return _kind(path) is not None if is_remote(path) else os.path.exists(path)


def is_named(path: str) -> bool:
    """Whether there is such a name, if only of a link that leads nowhere or in a locked folder."""
    if is_remote(path):
        return exists(path)
    try:
        os.lstat(path)
    except OSError as error:
        return not isinstance(error, FileNotFoundError | NotADirectoryError)
    return True


def remove(path: str) -> None:
    """Removes a file, if it is there. Raises OSError."""
    if is_remote(path):
        remote(path).unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def names(directory: str) -> list[str]:
    """The names of all entries of a directory, sorted; none if it is not there."""
    if is_remote(directory):
        if not remote(directory).exists():
            return []
        return sorted(path.name for path in remote(directory).iterdir())
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def read_range(path: str, offset: int, length: int, version: str) -> bytes:
    """`length` bytes from `offset`: one read of a local file, which stays open. Raises OSError.

    With another `version`, any string, the file is opened again.
    """
    if is_remote(path):
        return reads.read(filesystem(path), path, offset, offset + length)
    file = _opened(path, version)
    return os.pread(file.fileno(), length, offset)


@functools.lru_cache(maxsize=256)  # beyond these, the least used one is closed
def _opened(path: str, version: str) -> BinaryIO:
    return open(path, "rb", buffering=0)  # noqa: SIM115 (closed when the cache lets go of it)


def in_threads(function: Callable[[str], Any], paths: Sequence[str]) -> list:
    """`function(path)` of each path, in order."""
    threads = REQUESTS if paths and is_remote(paths[0]) else THREADS
    chunks = [paths[start::threads] for start in range(min(threads, len(paths)))]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda chunk: [function(path) for path in chunk], chunks))
    result = [None] * len(paths)
    for start, found in enumerate(done):
        result[start::threads] = found
    return result


def why_unreadable(path: str) -> str:
    """Why a file could not be opened, as far as it can be told afterwards."""
    try:
        open_binary(path).close()
    except OSError as error:
        return error.strerror or str(error)
    return "it can now"


def own_cache() -> pathlib.Path:
    """Where this program keeps what it can make again."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "ns_jax"


def is_of_the_machine(error: OSError, path: str) -> bool:
    """Whether another time, or another machine, the same file may well be opened."""
    if is_remote(path):
        return not isinstance(error, WRONG_PATH)
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def beginning(path: str) -> bytes | None:
    """The first `BEGINNING` bytes; None where the file cannot be opened.

    Raises OSError for what this machine lacks, as memory.
    """
    try:
        if is_remote(path):
            return reads.read(filesystem(path), path, end=BEGINNING)
        with open_binary(path, buffering=0) as file:
            return file.read(BEGINNING)
    except OSError as error:
        if is_of_the_machine(error, path):
            raise
        return None
