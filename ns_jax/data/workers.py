"""Processes that make batches ahead of the trainer and hand them over in shared memory.

Each worker is told in turn what its next batch is of, as soon as it has a free slot for it in the
ring that it shares with the trainer. The slots are used again and again: memory that is new for
every batch costs more in page faults (0.19 ms an image of 224 pixels, measured) than copying a
batch out of a slot (0.01 ms).
"""

import collections
import concurrent.futures
import contextlib
import ctypes
import dataclasses
import gc
import itertools
import math
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Protocol

import cloudpickle
import numpy as np
import numpy.typing as npt

from ns_jax import cores
from ns_jax.data.shard_cache import ShardCache
from ns_jax.errors import InputError

ALIGNMENT = 64
LONELY_SECONDS = 5.0  # after which a waiting worker looks whether its trainer still lives

_context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork


class Batches(Iterator[dict], Protocol):
    """Batches in order. Close it to end what makes them."""

    def close(self) -> None: ...


class Workers:
    """Batches in order, made ahead. An iterator; close it to end its processes."""

    def __init__(self, make: Callable, parts: Iterable, count: int, ahead: int, batch_bytes: int):
        """`make(part, empty)` -> the batch of each of `parts`: a dict of arrays and lists.

        Its arrays come from `empty(shape, dtype)`, a function like `np.empty`, and are filled row
        by row, while a row is still in the processor's cache. `count` processes make up to `ahead`
        batches each, early, in shared memory; `parts` is read no further ahead than that.
        `batch_bytes` is what the arrays of a batch may take.
        """
        self._parts = iter(parts)
        # The workers that owe a batch, in order.
        self._asked: collections.deque[_Worker] = collections.deque()
        work = cloudpickle.dumps(make)
        slot_bytes = batch_bytes + -batch_bytes % ALIGNMENT
        self._workers = [_Worker(work, number, ahead, slot_bytes) for number in range(count)]
        self._finalizer = weakref.finalize(self, _stop, self._workers)
        for worker in self._workers * ahead:
            self._ask(worker)

    def __iter__(self) -> "Workers":
        return self

    def __next__(self) -> dict:
        """Raises what the worker raised, or ChildProcessError if it was killed."""
        if not self._asked:
            self.close()
            raise StopIteration
        worker = self._asked.popleft()
        batch = worker.receive()
        self._ask(worker)
        return batch

    def _ask(self, worker: "_Worker") -> None:
        for part in itertools.islice(self._parts, 1):
            worker.ask(part)
            self._asked.append(worker)

    def processes(self) -> list:
        return [worker.process for worker in self._workers]

    def close(self) -> None:
        self._finalizer()


class _Slot:
    """One batch's share of the memory; `empty` gives arrays in it."""

    def __init__(self, memory: np.ndarray):
        self._memory, self._used = memory, 0
        self._places: dict[int, _Place] = {}

    def empty(self, shape: tuple, dtype: npt.DTypeLike) -> np.ndarray:
        place = _Place(self._used, shape, np.dtype(dtype))
        if place.end > len(self._memory):
            return np.empty(shape, dtype)  # goes through the pipe
        self._used = place.end + -place.end % ALIGNMENT
        array = place.of(self._memory)
        self._places[id(array)] = place
        return array

    def pack(self, batch: dict) -> dict:
        """With the place of an array of this slot instead of the array."""
        return {name: self._places.get(id(value), value) for name, value in batch.items()}


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where in a slot an array lies."""

    start: int
    shape: tuple
    dtype: np.dtype

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize

    def of(self, memory: np.ndarray) -> np.ndarray:
        return memory[self.start : self.end].view(self.dtype).reshape(self.shape)


class _Worker:
    """The trainer's end of one process."""

    def __init__(self, work: bytes, number: int, ahead: int, slot_bytes: int):
        memory = _context.RawArray(ctypes.c_ubyte, ahead * slot_bytes)
        self._slots = _slots(memory, ahead)
        self._received = 0
        self._pipe, theirs = _context.Pipe()
        self.process = _context.Process(
            target=_work,
            args=(work, memory, ahead, theirs, os.getpid()),
            name=f"data-worker-{number}",
            daemon=True,
        )
        self.process.start()
        theirs.close()

    def ask(self, part: Any) -> None:
        """For a batch; at most as many as there are slots may be owed."""
        with contextlib.suppress(BrokenPipeError):  # `receive` says why
            self._pipe.send(part)

    def receive(self) -> dict:
        try:
            batch, error, trace = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise ChildProcessError(
                f"{self.process.name} ended with exit code {self.process.exitcode}; -9 is most "
                "often a lack of memory: lower data.workers or data.prefetch"
            ) from None
        if error is not None:
            error.add_note(f"in {self.process.name}:\n{trace}")
            raise error
        memory = self._slots[self._received % len(self._slots)]
        self._received += 1
        return {name: _copy(value, memory) for name, value in batch.items()}

    def stop(self) -> None:
        self.process.kill()  # it writes nothing but its slots, and SIGTERM is not for it
        self.process.join()
        self._pipe.close()


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.stop()


def _slots(memory: Any, count: int) -> np.ndarray:
    return np.frombuffer(memory, np.uint8).reshape(count, -1)


def _copy(value: Any, memory: np.ndarray) -> Any:
    return value.of(memory).copy() if isinstance(value, _Place) else value


def _work(work: bytes, memory: Any, ahead: int, pipe: Connection, trainer: int) -> None:
    """The life of a worker process: it waits for a part, makes its batch in a slot, and says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's, which ends its workers
    asked: queue.SimpleQueue = queue.SimpleQueue()

    def listen() -> None:
        """Reads what is asked while a batch is made or sent, so that the trainer never waits."""
        while True:
            try:
                asked.put(pipe.recv())
            except (EOFError, OSError):
                return

    def parts() -> Iterator[Any]:
        """What is asked for, until the trainer is gone."""
        while True:
            try:
                yield asked.get(timeout=LONELY_SECONDS)
            except queue.Empty:
                if os.getppid() != trainer:
                    return

    try:
        slots = _slots(memory, ahead)
        make = cloudpickle.loads(work)
        gc.freeze()  # nothing imported so far is garbage: not to be looked through again
        threading.Thread(target=listen, daemon=True).start()
        for made, part in enumerate(parts()):
            slot = _Slot(slots[made % ahead])
            pipe.send((slot.pack(make(part, slot.empty)), None, None))
    except BrokenPipeError:
        return
    except Exception as error:
        try:
            cloudpickle.loads(cloudpickle.dumps(error))
        except Exception:
            error = RuntimeError(repr(error))
        pipe.send((None, error, traceback.format_exc()))


# An image that takes less is mostly Python's work: two threads then hand its lock to and fro at
# each call of OpenCV, and make 3,200 images of 28 pixels a second where one makes 7,400. At 0.4 ms
# (224 pixels without decoding) they are level, at 1 ms (a JPEG of 500 x 375) two are 1.7 times as
# fast.
SLOW_IMAGE_SECONDS = 0.0005


@dataclasses.dataclass(frozen=True)
class LoaderSettings:
    """Who decodes and augments: processes of their own, or threads of this one."""

    workers: int | None = None  # processes; 0: none, None: as many as pay
    threads: int | None = None  # of this process, without workers; one if images are quickly made
    prefetch: int = 8  # batches made ahead, over all workers
    cache: ShardCache = ShardCache()  # where shards of a bucket are kept  # noqa: RUF009  (frozen)
    shuffle_shards: int = 16  # of a bucket that a training reads, and mixes, at once

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("threads", 1), ("prefetch", 1), ("shuffle_shards", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"data.{name} is {value}; set it to {least} or more")

    @property
    def num_threads(self) -> int:
        return self.threads or min(2, cores.count())

    def iterate(self, make: Callable, parts: Iterable, num_bytes: int) -> Batches:
        """`make(part, empty)` of each of `parts` in order, ahead; see `workers.Workers`.

        `num_bytes` is what a batch's arrays may take. `parts` is read as batches are asked for, no
        more than `prefetch` ahead of them. Close the iterator to end the workers.
        """
        count = default_workers() if self.workers is None else self.workers
        if not count:
            return self._threaded(make, parts)
        return Workers(make, parts, count, -(-self.prefetch // count), num_bytes)

    def _threaded(self, make: Callable, parts: Iterable) -> Generator[dict, None, None]:
        parts, seconds = iter(parts), 0.0
        for part in itertools.islice(parts, 2):  # the second one tells: caches are full
            began = time.perf_counter()
            batch = make(part, np.empty)
            seconds = (time.perf_counter() - began) / len(batch["index"])
            yield batch
        threads = self.num_threads if seconds > SLOW_IMAGE_SECONDS else 1
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            owed: collections.deque[concurrent.futures.Future] = collections.deque()

            def ask(count: int) -> None:
                for part in itertools.islice(parts, count):
                    owed.append(pool.submit(make, part, np.empty))

            try:
                ask(self.prefetch)
                while owed:
                    batch = owed.popleft().result()
                    ask(1)
                    yield batch
            finally:
                for batch in owed:
                    batch.cancel()


def default_workers() -> int:
    """All cores but one, if there are more than four: few cores are better shared by threads."""
    return min(cores.count() - 1, 64) if cores.count() > 4 else 0
