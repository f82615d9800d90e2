"""The label shards of a directory as work that workers share: what is there, what is left to do."""

import concurrent.futures
import fnmatch
import math
import time
from collections.abc import Iterator

import numpy as np

from ns_jax import files
from ns_jax.errors import DamagedError, InputError
from ns_jax.labelling import shards as shards_lib
from ns_jax.parallel import leases, preemption
from ns_jax.progress import say

REFRESH_SECONDS = 10.0  # between two looks at what others have finished
THREADS = 16  # that wait for the disk or the network


class ShardQueue:
    """Which shards of a labelling are there, and which this worker makes, by number.

    Each shard is there whole or not, whatever is stopped.
    """

    def __init__(self, shards: shards_lib.Shards):
        self._shards, self._directory, self._names = shards, shards.directory, shards.names
        self.ranges = shards.ranges
        self._there: set[str] = set()  # as far as is known
        self._mine: set[str] = set()  # claimed
        self._looked = -math.inf
        self.predicted = 0  # images, by this worker, whose shards may not be written yet

    def __len__(self) -> int:
        return len(self.ranges)

    def missing(self) -> list[int]:
        """Numbers of those that nobody has finished."""
        self._look(0.0)
        return [number for number, name in enumerate(self._names) if name not in self._there]

    def images_done(self) -> int:
        """Images that all workers have finished, as of a moment ago."""
        self._look(REFRESH_SECONDS)
        return self._elsewhere + self.predicted

    def claims(self, held: leases.Leases, begin: int) -> Iterator[int]:
        """Numbers that are this worker's from then on, from `begin` on.

        Until nothing is free, or the machine is about to go. What another worker holds is passed
        over, and taken once that worker is gone.
        """
        while not preemption.noticed():
            self._look(REFRESH_SECONDS)
            order = (*range(begin, len(self)), *range(begin))
            taken = self._there | self._mine
            names = (self._names[number] for number in order)
            name = held.claim_first(name for name in names if name not in taken)
            if name is None:
                return
            if files.exists(f"{self._directory}/{name}"):  # finished since the last look
                self._there.add(name)
                held.release(name)
                continue
            self._mine.add(name)
            begin = self._names.index(name)
            yield begin

    def write(self, number: int, columns: dict, held: leases.Leases) -> None:
        """Writes a shard that was claimed. Raises OSError."""
        self._shards.write(number, columns)
        self._there.add(self._names[number])
        held.release(self._names[number])

    def tidy(self) -> None:
        """Removes what killed workers left, once all shards are there: half-written files, and the
        lease of a shard that was written just before its worker was killed.
        """
        leases_directory = f"{self._directory}/leases"
        for directory in (self._directory, leases_directory):
            files.tidy(directory)
        for name in files.names(leases_directory):
            files.remove(f"{leases_directory}/{name}")

    def check(self) -> None:
        """Removes shards that are cut off, which are then computed again, and says so.

        Raises InputError if one was made of something else, or is one of another number of shards.
        """
        self._look(0.0)
        others = sorted(fnmatch.filter(self._there - set(self._names), shards_lib.SHARDS))
        if others:
            raise InputError(
                f"{self._directory} holds {len(others)} shards of another labelling, {others[0]} "
                f"first, where this one makes {len(self)}: of another source or with another "
                "label.images_per_shard; take another workdir, or remove them"
            )
        there = [number for number, name in enumerate(self._names) if name in self._there]
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self.read, there))  # of no column: opening them is enough

    def is_sound(self, number: int) -> bool:
        """Whether a shard can be read and is what it should be; if not, it is dropped."""
        try:
            self._shards.open(number).check()
        except InputError as error:
            self._drop(number, error)
            return False
        return True

    def read(self, number: int, *names: str) -> dict[str, np.ndarray] | None:
        """Columns of a shard; None, and the shard is dropped, if it is damaged.

        Raises InputError if it was made of something else.
        """
        try:
            return self._shards.open(number).read(*names)
        except DamagedError as error:
            self._drop(number, error)
            return None

    def _drop(self, number: int, error: InputError) -> None:
        """Removes a shard, so that it is computed again."""
        say(f"a shard is computed again: {str(error).splitlines()[0]}")
        files.remove(self._shards.path(number))
        for names in (self._there, self._mine):
            names.discard(self._names[number])

    def _look(self, seconds: float) -> None:
        """Lists the directory, unless it was listed so little ago."""
        if time.monotonic() - self._looked >= seconds:
            self._there = set(files.names(self._directory))
            self._looked = time.monotonic()
            others = self._there - self._mine
            known = zip(self._names, self.ranges, strict=True)
            self._elsewhere = sum(len(rows) for name, rows in known if name in others)
