"""Copies of a bucket's shards on a disk of this host, which all its processes share.

A copy is there whole or not at all, under the name of what it holds. It is written under a name
that ends in `.part`, whose lock its writer has; whoever reads it holds a shared lock, and of those
that nobody holds the ones used longest ago make room for new ones. The kernel gives the locks of a
process that was killed back.
"""

import atexit
import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import functools
import multiprocessing
import os
import pathlib
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from ns_jax import files
from ns_jax.buckets import reads
from ns_jax.data import signatures
from ns_jax.digest import Digest
from ns_jax.errors import DamagedError, InputError

RANGE = 16 << 20  # bytes that are asked for at once
IN_FLIGHT = 8  # requests of a process for ranges: with their bytes in memory, 128 MB
COPY, PART, LOCK = ".shard", ".part", "lock"
LOOK_SECONDS = 0.02  # between two looks whether another process has finished a copy
ROOM_SECONDS = 120.0  # that a pass waits for others to let copies go

_pools: dict[str, concurrent.futures.ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of a bucket with many images in it."""

    path: str
    size: int  # bytes
    signature: bytes  # see `signatures.of`


class NoRoomError(OSError):
    """All copies that there is room for are in use."""


class Copy:
    """A shard's copy, which is not removed while this object lives."""

    def __init__(self, path: pathlib.Path, descriptor: int):
        self.path, self._descriptor = os.fspath(path), descriptor
        self._opened: Any = None
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def opened(self, opener: Callable[[str], Any]) -> Any:
        """`opener(path)`, which is kept with the copy."""
        with self._lock:
            if self._opened is None:
                self._opened = opener(self.path)
            return self._opened

    def __del__(self) -> None:
        os.close(self._descriptor)  # and its lock with it


@dataclasses.dataclass(frozen=True)
class ShardCache:
    """A directory of copies, of `limit` bytes at most. "": one of this user's below `TMPDIR`, which
    `empty` clears.
    """

    directory: str = ""
    limit: int = 16 << 30

    @property
    def root(self) -> pathlib.Path:
        if self.directory:
            return pathlib.Path(os.path.expanduser(self.directory))
        return pathlib.Path(tempfile.gettempdir()) / f"ns_jax-{os.getuid()}" / "shards"

    def check(self) -> None:
        """Raises InputError for a directory that cannot be made, written or locked."""
        if files.is_remote(self.directory):
            raise InputError(f"data.cache={self.directory} is no directory on a disk of this host")
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.directory and self.root.parent.stat().st_uid != os.getuid():
                raise PermissionError(f"{self.root.parent} belongs to somebody else")
            trial = self.root / f"{uuid.uuid4().hex}{PART}"
            try:
                with self._locked(), open(trial, "wb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.posix_fallocate(file.fileno(), 0, 4096)
            finally:
                trial.unlink(missing_ok=True)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            what = f"data.cache={self.directory}" if self.directory else f"TMPDIR ({self.root})"
            raise InputError(
                f"{what} cannot keep copies of shards: {error.strerror or error}; name a "
                "directory on a disk with room as data.cache"
            ) from None

        if not self.directory:
            _empty_at_end(self)

    def check_room(self, needed: int, why: str) -> None:
        """Raises InputError unless `needed` bytes of copies fit."""
        room = min(self.limit, _free(self.root) + sum(size for _, size, _ in self._there()))
        if needed > room:
            remedy = "raise data.cache_gb" if room == self.limit else "make room there"
            raise InputError(
                f"{why} takes {_gb(needed)} GB of copies of shards, and {self.root} has "
                f"room for {_gb(room)} (data.cache_gb is {_gb(self.limit)}): {remedy}, lower "
                "data.shuffle_shards, or write smaller shards"
            )

    def find(self, shard: Shard) -> Copy | None:
        """The shard's copy, held, if there is one."""
        path = self._path(shard)
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            copy = Copy(path, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.fstat(descriptor).st_nlink:  # else it was removed a moment ago
                with contextlib.suppress(OSError):
                    os.utime(path)
                return copy

    def fetch(self, shard: Shard) -> Copy:
        """The shard's copy, held, which this process or another one makes if there is none.

        Raises NoRoomError, UnansweredError, DamagedError for a shard that is another one by now,
        and OSError.
        """
        part = self._path(shard).with_suffix(PART)
        while True:
            if copy := self.find(shard):
                return copy
            with _own(part) as descriptor:
                if descriptor is not None and not self._path(shard).exists():
                    self._fill(shard, part, descriptor)
            if descriptor is None:
                time.sleep(LOOK_SECONDS)

    def _fill(self, shard: Shard, part: pathlib.Path, descriptor: int) -> None:
        """Writes the copy whole, or leaves nothing."""
        try:
            with self._locked():
                self._make_room(shard.size)
                os.posix_fallocate(descriptor, 0, max(1, shard.size))
            os.ftruncate(descriptor, shard.size)
            client = files.filesystem(shard.path)

            def bring(start: int) -> None:
                end = min(start + RANGE, shard.size)
                _write_all(descriptor, reads.read(client, shard.path, start, end), start)

            asked = [pool("ranges").submit(bring, at) for at in range(0, shard.size, RANGE)]
            try:
                for one in asked:
                    one.result()
            finally:
                for one in asked:
                    one.cancel()
                concurrent.futures.wait(asked)
            if signatures.of([os.fspath(part)], shards=True) != [shard.signature]:
                raise DamagedError(
                    f"{shard.path} has changed since it was opened; start the same command again"
                )
            part.replace(self._path(shard))
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, FileNotFoundError):
                raise DamagedError(f"{shard.path} is gone from its bucket") from None
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(error.errno, f"{os.strerror(error.errno)}: {self.root}") from None
            raise

    def _make_room(self, size: int) -> None:
        """Removes copies that nobody holds until another one of `size` fits. Raises NoRoomError."""
        there = self._there()
        used = sum(one for _, one, _ in there)
        for path, one, _ in sorted(there, key=lambda found: found[2]):
            if used + size <= self.limit and _free(self.root) > size:
                return
            if _remove_unheld(path):
                used -= one
        if used + size > self.limit:
            raise NoRoomError(
                f"{self.root}: {_gb(used)} GB of copies are in use, and data.cache_gb is "
                f"{_gb(self.limit)}; raise it, or lower data.shuffle_shards"
            )

    def empty(self) -> None:
        """Removes all copies that nobody holds."""
        with contextlib.suppress(OSError), self._locked():
            for path, _, _ in self._there():
                _remove_unheld(path)

    def _there(self) -> list[tuple[pathlib.Path, int, float]]:
        """All copies, finished or not: path, bytes, and when they were used last."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.root):
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.endswith((COPY, PART)):
                        about = entry.stat()
                        found.append((pathlib.Path(entry.path), about.st_size, about.st_mtime))
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else makes room meanwhile."""
        with open(self.root / LOCK, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, shard: Shard) -> pathlib.Path:
        return self.root / f"{Digest(b'%d ' % shard.size + shard.signature)}{COPY}"


@contextlib.contextmanager
def _own(part: pathlib.Path) -> Iterator[int | None]:
    """A descriptor of a file to write, made if it is not there; None while another process has it.

    One that a killed process left is taken over.
    """
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        try:
            is_there = os.path.samestat(os.fstat(descriptor), os.stat(part))
        except FileNotFoundError:  # finished, or given up, between the two
            is_there = False
        yield descriptor if is_there else None
        with contextlib.suppress(FileNotFoundError):
            if is_there and os.path.samestat(os.fstat(descriptor), os.stat(part)):
                part.unlink()  # somebody had finished it
    finally:
        os.close(descriptor)


@functools.cache
def _empty_at_end(kept: ShardCache) -> None:
    if multiprocessing.parent_process() is None:  # a data worker is not the last
        atexit.register(kept.empty)


def _remove_unheld(path: pathlib.Path) -> bool:
    """Whether nobody holds a copy, which is then gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _free(directory: pathlib.Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def _gb(size: float) -> str:
    return f"{size / (1 << 30):.3g}"


def pool(name: str, threads: int = IN_FLIGHT) -> concurrent.futures.ThreadPoolExecutor:
    """Threads of this process, which all passes share."""
    with _pools_lock:
        if name not in _pools:
            _pools[name] = concurrent.futures.ThreadPoolExecutor(threads, f"bucket-{name}")
        return _pools[name]
