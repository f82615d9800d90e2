"""The shards of a source in a bucket, and one pass over them, for which whole shards are fetched.

Where an image is read here and there (a sample, a report's tiles), it costs a request of its own. A
pass over a source fetches whole shards, ahead, in a few large requests, and formats read the copies
(`copy_of`).
"""

import bisect
import concurrent.futures
import contextlib
import dataclasses
import errno
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ns_jax import files
from ns_jax.data import shard_cache, signatures
from ns_jax.data.shard_cache import Copy, NoRoomError, Shard, ShardCache
from ns_jax.errors import InputError

AHEAD = 4  # shards of a pass in order that are fetched ahead
RUN = 4096  # images on a disk that count as a shard where they are joined with others' shards
LET_GO_SECONDS = 5.0  # after which a copy that no batch needs any more is let go
RETRY_SECONDS = 1.0  # before room is looked for again for a shard that is not needed yet
APART = 16  # times as far apart as that, images do not lie together

_active = threading.local()


@dataclasses.dataclass(frozen=True)
class Shards:
    """Which images of a source lie in which shard, in the source's order."""

    files: tuple[Shard | None, ...]  # None: on a disk
    ends: np.ndarray  # int64: images up to and with each

    def of_images(self, indices: np.ndarray) -> list[int]:
        """The numbers of the shards of images, each once, ascending."""
        return np.unique(np.searchsorted(self.ends, indices, side="right")).tolist()

    def chosen(self, indices: Any) -> "Shards":
        """Those of a choice of images, whose indices ascend, that have any, numbered anew."""
        ends = np.asarray([bisect.bisect_left(indices, end) for end in self.ends.tolist()])
        there = np.flatnonzero(np.diff(ends, prepend=0))
        return Shards(tuple(self.files[number] for number in there), ends[there])

    def largest(self, count: int) -> int:
        """Bytes of so many shards, if they are the largest ones."""
        return sum(sorted((shard.size for shard in self.files if shard), reverse=True)[:count])


def in_bucket(paths: Sequence[str], ends: np.ndarray, signed: Sequence[bytes]) -> Shards | None:
    """What `paths` are, with the images up to and with each; None unless they are in a bucket."""
    if not files.is_remote(paths[0]):
        return None
    sizes = (about.size for about in signatures.about(paths))
    found = map(Shard, paths, sizes, signed)
    return Shards(tuple(found), np.asarray(ends, np.int64))


def joined(parts: Sequence[Shards | None], counts: Sequence[int]) -> Shards | None:
    """Those of several sources of so many images each; None if none has any."""
    if not any(parts):
        return None
    shards: list[Shard | None] = []
    ends: list[np.ndarray] = []
    start = 0
    for part, count in zip(parts, counts, strict=True):
        own = np.append(np.arange(RUN, count, RUN), count) if part is None else part.ends
        shards += [None] * len(own) if part is None else part.files
        ends.append(start + own)
        start += count
    return Shards(tuple(shards), np.concatenate(ends))


class Pass:
    """What one process holds of shards while it reads a source, or two.

    Pickled for data workers without what it holds: each has its own.
    """

    def __init__(self, cache: ShardCache, *sources: Shards | None):
        self._cache, self._sources = cache, sources
        self._shards = {one.path: one for part in sources if part for one in part.files if one}
        self._held: dict[str, concurrent.futures.Future[Copy]] = {}
        self._wanted: dict[str, float] = {}  # when it was wanted last, or could not be had
        self._lock = threading.Lock()
        # What nobody waits for any more is not begun, so that the program can end.
        weakref.finalize(self, _cancel, self._held)

    def __reduce__(self) -> tuple:
        return Pass, (self._cache, *self._sources)

    def __bool__(self) -> bool:
        return bool(self._shards)

    @contextlib.contextmanager
    def reading(
        self, now: Iterable[Shard | None] = (), soon: Iterable[Shard | None] = ()
    ) -> Iterator[None]:
        """In here images are read from copies: of shards that are needed `now`; `soon` others are
        needed, and fetched meanwhile. Those of batches long ago are let go.
        """
        with self._lock:
            at = time.monotonic()
            for shard in now:
                if shard:
                    self._wanted[shard.path] = at
                    self._ask(shard.path)
            for shard in soon:
                if shard and self._may_try(shard.path, at):
                    self._wanted[shard.path] = at
                    self._ask(shard.path)
            self._let_go(at - LET_GO_SECONDS)
        before, _active.reader = getattr(_active, "reader", None), self
        try:
            yield
        finally:
            _active.reader = before

    def copy(self, path: str) -> Copy | None:
        """The copy of a shard, when it is there; None of what is not in a bucket.

        Raises as `ShardCache.fetch`, and InputError where there is no room however long it waits.
        """
        if path not in self._shards:
            return None
        until = time.monotonic() + shard_cache.ROOM_SECONDS
        while True:
            with self._lock:
                asked = self._ask(path)
            try:
                return asked.result()
            except NoRoomError as error:
                if time.monotonic() > until:
                    if error.errno == errno.ENOSPC:
                        raise
                    raise InputError(str(error)) from None
                with self._lock:
                    if self._held.get(path) is asked:
                        del self._held[path]
                    self._let_go(time.monotonic() - RETRY_SECONDS)
                time.sleep(shard_cache.LOOK_SECONDS)

    def _ask(self, path: str) -> "concurrent.futures.Future[Copy]":
        if path not in self._held:
            pool = shard_cache.pool("fetch")
            self._held[path] = pool.submit(self._cache.fetch, self._shards[path])
        return self._held[path]

    def _may_try(self, path: str, at: float) -> bool:
        """Whether a shard that is needed later may be asked for; not again and again for room."""
        asked = self._held.get(path)
        if not (asked and asked.done() and isinstance(asked.exception(), NoRoomError)):
            return True
        if at - self._wanted.get(path, 0.0) < RETRY_SECONDS:
            return False
        del self._held[path]
        return True

    def _let_go(self, before: float) -> None:
        for path, asked in list(self._held.items()):
            if self._wanted.get(path, 0.0) < before and asked.done():
                del self._held[path]
                self._wanted.pop(path, None)


def _cancel(held: dict[str, concurrent.futures.Future[Copy]]) -> None:
    for asked in held.values():
        asked.cancel()


def copy_of(path: str) -> Copy | None:
    """The copy to read a shard from; None where it is read itself: on a disk, or here and there."""
    reader: Any = getattr(_active, "reader", None)
    return reader.copy(path) if reader else None


def in_order(shards: Shards, indices: np.ndarray) -> tuple[list, list]:
    """The shards of images, and those behind them, which are needed next."""
    numbers = shards.of_images(indices)
    behind = numbers[-1] + 1
    return [shards.files[n] for n in numbers], list(shards.files[behind : behind + AHEAD])


def lie_together(indices: np.ndarray) -> bool:
    """Whether images, by their indices, are so near to each other that whole shards pay."""
    return len(indices) > 1 and int(np.ptp(indices)) < APART * len(indices)
