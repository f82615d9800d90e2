"""How many times each labelled image is taken: as many as its class lacks, from the best on."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from ns_jax.labelling.shards import Shard, Shards
from ns_jax.selection import ranking
from ns_jax.selection import table as table_lib
from ns_jax.selection.rules import Rules

COUNTED_ROWS = 1 << 21  # of labels that are counted in one go, at most ...
COUNTED_BYTES = 48  # ... with this much memory for each
COPIED_ROWS = 1 << 17  # that are read with all of their columns in one go, at most


@dataclasses.dataclass(frozen=True)
class Balance:
    """What a class of n candidates becomes."""

    per_class: int  # rows of a class; 0: as many as the largest class has candidates
    max_copies: int | None  # times that an image may be taken; None: no limit

    def copies_per_class(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 `[C]` candidates -> int64 `[C]` each: a rank, copies within it, copies beyond it.

        A scarce class is filled up in rounds through its ranking, so the best of it get one more.
        """
        wanted = self.per_class or int(counts.max(initial=0))
        times = wanted if self.max_copies is None else min(self.max_copies, wanted)
        rows = np.minimum(wanted, counts * times)
        rounds, more = rows // np.maximum(counts, 1), rows % np.maximum(counts, 1)
        return more, rounds + 1, rounds


@dataclasses.dataclass(frozen=True)
class SelectionPlan:
    """The copies of every candidate, by the key at which a class's ranking is cut."""

    rules: Rules
    candidates: np.ndarray  # int64 [C]
    rows: int  # all copies of all images
    cuts: np.ndarray  # uint64 [C]
    within: np.ndarray  # int64 [C]: copies of an image whose key reaches the cut ...
    beyond: np.ndarray  # ... and of another

    def rows_of(self, shards: Iterator[Shard]) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
        """(columns `[n, ...]`, copies int64 `[n]`) of each shard's selected rows, if it has any.

        Raises DamagedError.
        """
        parts = []
        for shard in shards:
            index = np.arange(shard.rows.start, shard.rows.stop)
            label, confidence = shard.predictions()
            of_class, key, rows = self.rules.candidates(label, confidence, index)
            within = key >= self.cuts[of_class]
            copies = np.where(within, self.within[of_class], self.beyond[of_class])
            rows, copies = rows[copies > 0], copies[copies > 0]
            if not len(rows):
                continue
            columns = shard.columns(label, confidence, index)
            selected = {name: array[rows] for name, array in columns.items()}
            if self.rules.corrections is not None:
                selected = self.rules.corrections.rewrite(selected)
            parts.append((selected, copies))
        return parts


def plan_selection(
    shards: Shards, rules: Rules, balance: Balance, num_classes: int, num_bytes: int
) -> SelectionPlan:
    """Counts the candidates of each class and finds where to cut its ranking.

    `num_bytes`: of memory that the counting may take. Raises DamagedError.
    """
    rows = min(COUNTED_ROWS, num_bytes // 2 // shards.in_flight // COUNTED_BYTES)
    counts, cuts = ranking.find_cuts(
        functools.partial(_pass, shards, rules, rows),
        ranks=lambda counts: balance.copies_per_class(counts)[0],
        num_classes=num_classes,
        key_range=rules.key_range(),
        num_bytes=num_bytes // 2,
        in_flight=shards.in_flight,
    )
    rank, within, beyond = balance.copies_per_class(counts)
    total = int((rank * within + (counts - rank) * beyond).sum())
    return SelectionPlan(rules, counts, total, cuts, within, beyond)


def _pass(shards: Shards, rules: Rules, rows: int, function: Callable) -> Iterator:
    """`function` of the labels and keys of all candidates, in parts of about `rows` rows."""

    def blocks(opened: Iterator[Shard]) -> ranking.Blocks:
        for shard in opened:
            index = np.arange(shard.rows.start, shard.rows.stop)
            label, key, _ = rules.candidates(*shard.predictions(), index)
            yield label, key

    return shards.map(lambda opened: function(blocks(opened)), shards.runs(rows))


def copied_bytes(k: int) -> int:
    """Bytes of memory that a row takes when all its columns are read, selected and written."""
    return 3 * table_lib.row_bytes(k) + COUNTED_BYTES
