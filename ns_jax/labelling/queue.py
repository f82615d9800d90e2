"""The label shards of a directory as work that workers share: what is there, what is left to do."""

import concurrent.futures
import fnmatch
import math
import os
import time
from collections.abc import Iterator

import pyarrow as pa

from ns_jax import files
from ns_jax import workdir as workdir_lib
from ns_jax.errors import InputError
from ns_jax.labelling import leases
from ns_jax.labelling import shards as shards_lib
from ns_jax.parallel import preemption
from ns_jax.progress import say

REFRESH_SECONDS = 10.0  # between two looks at what others have finished
THREADS = 16  # that wait for the disk or the network


class Work:
    """All shards of one labelling, by number. Each is there whole or not, whatever is stopped."""

    def __init__(self, directory, num_images: int, images_per_shard: int, made_of: dict):
        self._directory, self._made_of = os.fspath(directory), made_of
        self.ranges = shards_lib.shard_ranges(num_images, images_per_shard)
        self._names = [
            shards_lib.shard_name(number, len(self.ranges)) for number in range(len(self.ranges))
        ]
        self._there: set[str] = set()  # as far as is known
        self._mine: set[str] = set()  # claimed
        self._looked = -math.inf
        self.predicted = 0  # images, by this worker, whose shards may not be written yet

    def __len__(self) -> int:
        return len(self.ranges)

    def path(self, number: int) -> str:
        return f"{self._directory}/{self._names[number]}"

    def missing(self) -> list[int]:
        """Numbers of those that nobody has finished."""
        self._look(0.0)
        return [number for number, name in enumerate(self._names) if name not in self._there]

    def images_done(self) -> int:
        """Of all workers, as of a moment ago."""
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
        """Of a shard that was claimed. Raises OSError."""
        shards_lib.write_shard(self.path(number), columns, self._made_of)
        self._there.add(self._names[number])
        held.release(self._names[number])

    def tidy(self) -> None:
        """Removes what killed workers left half written, once all shards are there."""
        for directory in (self._directory, f"{self._directory}/leases"):
            files.tidy(directory)

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
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            there = [number for number, name in enumerate(self._names) if name in self._there]
            list(pool.map(self._check, there))

    def _check(self, number: int) -> None:
        path = self.path(number)
        try:
            metadata = shards_lib.shard_metadata(path)
        except FileNotFoundError:  # another worker was faster
            return
        except (pa.ArrowInvalid, KeyError, OSError) as error:
            self.drop(number, error)
            return
        workdir_lib.check_inputs(metadata, self._made_of, path)

    def is_sound(self, number: int) -> bool:
        """Whether a shard can be read and is what it should be; if not, it is dropped."""
        path = self.path(number)
        try:
            workdir_lib.check_inputs(shards_lib.shard_metadata(path), self._made_of, path)
            shards_lib.check_shard(path)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            self.drop(number, error)
            return False
        return True

    def read(self, number: int, columns: list[str]) -> dict | None:
        """Columns of a shard; None, and the shard is dropped, if it is damaged."""
        try:
            return shards_lib.read_shard(self.path(number), columns)
        except (pa.ArrowException, OSError) as error:
            self.drop(number, error)
            return None

    def drop(self, number: int, error: Exception) -> None:
        """Removes a damaged shard, so that it is computed again."""
        reason = str(error).splitlines()[0]
        say(f"{self.path(number)} is damaged and is computed again: {reason}")
        files.remove(self.path(number))
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
