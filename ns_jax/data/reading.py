"""Who decodes and augments, ahead of the device: processes of their own, or threads."""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ns_jax.data import workers


@dataclasses.dataclass(frozen=True)
class Reading:
    """Who decodes and augments: processes of their own, or threads of this one."""

    workers: int | None = None  # processes; 0: none, None: as many as pay
    threads: int = 2  # of this process, without workers
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
        parts = iter(parts)
        with concurrent.futures.ThreadPoolExecutor(self.threads) as pool:
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
