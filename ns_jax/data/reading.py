"""Who decodes and augments, ahead of the device: processes of their own, or threads."""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ns_jax.data import workers

# An image that takes less is mostly Python's work: two threads then hand its lock to and fro at
# each call of OpenCV, and make 3,200 images of 28 pixels a second where one makes 7,400. At 0.4 ms
# (224 pixels without decoding) they are level, at 1 ms (a JPEG of 500 x 375) two are 1.7 times as
# fast.
SLOW_IMAGE_SECONDS = 0.0005


@dataclasses.dataclass(frozen=True)
class Reading:
    """Who decodes and augments: processes of their own, or threads of this one."""

    workers: int | None = None  # processes; 0: none, None: as many as pay
    threads: int = 2  # of this process, without workers; one where images are quickly made
    prefetch: int = 8  # batches made ahead, over all workers

    def __post_init__(self):
        for name, least in (("workers", 0), ("threads", 1), ("prefetch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"data.{name} is {value}; set it to {least} or more")

    def iterate(self, make: Callable, parts: Iterable, num_bytes: int) -> Iterator[dict]:
        """`make(part, empty)` of each of `parts` in order, ahead; see `workers.Workers`.

        `num_bytes` is what a batch's arrays may take. `parts` is read as batches are asked for, no
        more than `prefetch` ahead of them. Close the iterator to end the workers.
        """
        count = default_workers() if self.workers is None else self.workers
        if not count:
            return self._threaded(make, parts)
        return workers.Workers(make, parts, count, -(-self.prefetch // count), num_bytes)

    def _threaded(self, make: Callable, parts: Iterable) -> Iterator[dict]:
        parts, seconds = iter(parts), 0.0
        for part in itertools.islice(parts, 2):  # the second one tells: caches are full
            began = time.perf_counter()
            batch = make(part, np.empty)
            seconds = (time.perf_counter() - began) / len(batch["index"])
            yield batch
        threads = self.threads if seconds > SLOW_IMAGE_SECONDS else 1
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            owed = collections.deque()

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
    cores = getattr(os, "process_cpu_count", os.cpu_count)()
    return min(cores - 1, 64) if cores > 4 else 0
