"""An order of examples that a bucket can serve: few shards at once, each read whole, once an epoch.

The rows of a batch are split into lanes, each of which goes through shards of its own, one after
the other. So a batch mixes images of as many shards as there are lanes, and a host that holds a
part of the rows needs the shards of these lanes alone.
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Sequence

import grain
import numpy as np

from ns_jax.data.shard_cache import Shard
from ns_jax.data.shards import Shards


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a number of the endless stream of examples leads."""

    example: int  # its position among the examples
    shard: int


class Lanes:
    """Which example each number of a stream is: a function of (seed, epoch) and the batch's rows.

    In each epoch the shards, in an order drawn anew, make one line, in which the images of each are
    shuffled. Each lane has a piece of the line, of as many images as it has places in that epoch.
    """

    def __init__(self, ends: np.ndarray, batch: int, lanes: int, seed: int):
        """`ends` int64 `[shards]`: examples up to and with each; `batch`: of them, in a step."""
        self._ends = ends.tolist()
        self._counts = np.diff(ends, prepend=0)
        self.batch, self._seed = batch, seed
        self.count = min(lanes, batch)
        # The first place of each lane in a batch, and behind the last one.
        self._edges = [-(-lane * batch // self.count) for lane in range(self.count + 1)]

    def __len__(self) -> int:
        return self._ends[-1]

    def lane(self, number: int) -> int:
        """Which lane a number in the stream belongs to."""
        return bisect.bisect_right(self._edges, number % self.batch) - 1

    def place(self, number: int) -> Place:
        """Where a number in the stream leads."""
        epoch, lane = number // len(self), self.lane(number)
        line = _line(self, epoch)
        at = line.pieces[lane] + self.before(number, lane) - line.first[lane]
        turn = bisect.bisect_right(line.ends, at)
        shard = line.shards[turn]
        count = int(self._counts[shard])
        shuffled = _shuffled(count, self._seed, epoch, shard)
        start = self._ends[shard] - count
        return Place(start + int(shuffled[at - line.ends[turn] + count]), shard)

    def following(self, number: int) -> int:
        """The shard that the number's lane reads after that of the number."""
        epoch, lane = number // len(self), self.lane(number)
        line = _line(self, epoch)
        at = line.pieces[lane] + self.before(number, lane) - line.first[lane]
        turn = bisect.bisect_right(line.ends, at)
        if line.ends[turn] < line.pieces[lane + 1]:
            return line.shards[turn + 1]
        line = _line(self, epoch + 1)
        turn = bisect.bisect_right(line.ends, line.pieces[lane])
        return line.shards[min(turn, len(line.shards) - 1)]

    def before(self, number: int, lane: int) -> int:
        """How many of the numbers below `number` a lane has."""
        batches, rest = divmod(number, self.batch)
        start, end = self._edges[lane], self._edges[lane + 1]
        return batches * (end - start) + min(max(rest, start), end) - start

    def line(self, epoch: int) -> "_Line":
        shards = np.random.default_rng([self._seed, epoch]).permutation(len(self._ends))
        begin, end = epoch * len(self), (epoch + 1) * len(self)
        first = [self.before(begin, lane) for lane in range(self.count)]
        shares = [self.before(end, lane) - first[lane] for lane in range(self.count)]
        ends = np.cumsum(self._counts[shards]).tolist()
        return _Line(shards.tolist(), ends, [0, *itertools.accumulate(shares)], first)


@dataclasses.dataclass(frozen=True)
class _Line:
    """An epoch's images, shard after shard."""

    shards: list[int]  # in their order
    ends: list[int]  # the images up to and with each
    pieces: list[int]  # where each lane's begins, and the end of the last one
    first: list[int]  # images that each lane has read before this epoch


@functools.lru_cache(maxsize=8)  # of each stream the epochs that a few batches touch
def _line(lanes: Lanes, epoch: int) -> _Line:
    return lanes.line(epoch)


@functools.lru_cache(maxsize=256)
def _shuffled(count: int, seed: int, epoch: int, shard: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, shard]).permutation(count).astype(np.int32)


class ShardPlan:
    """Which shards a step needs, of the rows that one host has."""

    def __init__(self, shards: Shards, lanes: Lanes, numbers: Sequence[int]):
        """`shards` of the examples; `numbers` of the stream that are the host's rows in step 0."""
        self.shards, self.lanes = shards, lanes
        own: dict[int, list[int]] = {}
        for number in sorted(numbers):
            own.setdefault(lanes.lane(number), []).append(number)
        self._ends = [(one[0], one[-1]) for one in own.values()]  # of each lane
        self._batch = lanes.batch

    @property
    def at_once(self) -> int:
        """Shards that are read at once, unless some are so small that a step sees their end."""
        return len(self._ends)

    def needed(self, step: int) -> tuple[list[Shard | None], list[Shard | None]]:
        """Those that the rows of a step are in, and those that their lanes read next."""
        start = step * self._batch
        now = {self.lanes.place(start + number).shard for ends in self._ends for number in ends}
        soon = {self.lanes.following(start + last) for _, last in self._ends} - now
        return [self.shards.files[n] for n in now], [self.shards.files[n] for n in soon]


class ShardShuffled(grain.MapDataset):
    """Positions of examples in the order of `Lanes`, by their numbers in the endless stream."""

    def __init__(self, lanes: Lanes):
        super().__init__(grain.MapDataset.range(len(lanes)))
        self._lanes = lanes

    def __len__(self) -> int:
        return len(self._lanes)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return self.slice(index)
        return self._lanes.place(index).example
