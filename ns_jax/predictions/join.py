"""Rows of tables and images of sources, joined by their keys: by 64 bits of each, not the text."""

import collections
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ns_jax.data.source import Source

BLOCK = 2**16  # keys at a time
LONGEST = 2048  # bytes of a key that count, each in its place
SAMPLES = 64  # keys of each batch in which a common directory is looked for

# Simple tabulation (Zobrist): two keys of 10 million have one number with a chance of 3e-6.
_TABLE = np.random.default_rng(20261127).integers(0, 2**64, (LONGEST, 256), np.uint64)


def numbers(keys: pa.Array) -> np.ndarray:
    """uint64 `[n]` that stand for keys, large_string, none of which is null or empty."""
    if not len(keys):
        return np.zeros(0, np.uint64)
    _, offsets, data = keys.buffers()
    starts = np.frombuffer(offsets, np.int64)[keys.offset : keys.offset + len(keys) + 1]
    text = np.frombuffer(data, np.uint8)[starts[0] : starts[-1]]
    starts = starts - starts[0]
    place = np.arange(len(text)) - np.repeat(starts[:-1], np.diff(starts))
    return np.add.reduceat(_TABLE[place % LONGEST, text], starts[:-1])


class Index:
    """The rows of a table by their keys' numbers."""

    def __init__(self, found: np.ndarray):
        """`found`: uint64 `[rows]`."""
        self._found = found
        self._order: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._found)

    def rows_of(self, wanted: np.ndarray) -> np.ndarray:
        """int64 `[n]`: the row of each of some numbers, -1 of one that is not there."""
        if np.array_equal(self._found, wanted):
            return np.arange(len(wanted))
        if not len(self):
            return np.full(len(wanted), -1)
        order, ordered = self._sorted()
        places = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(ordered[places] == wanted, order[places], -1)

    def repeated(self) -> np.ndarray:
        """Rows whose key an earlier row has, int64 ascending."""
        order, ordered = self._sorted()
        return np.sort(order[1:][ordered[1:] == ordered[:-1]])

    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        if self._order is None:
            self._order = np.argsort(self._found, kind="stable")
        return self._order, self._found[self._order]


def rows_of(source: Source, index: Index, keys: Callable[[], Iterable[pa.Array]]) -> np.ndarray:
    """The row of each image, int64 `[len(source)]`; -1 of one that has none.

    `keys()`: all keys of the table whose `index` this is. If none of them is a key of the source,
    paths are taken to begin with a directory that the source's keys lack; or else all images to
    have names of their own, whatever directories they lie in.
    """
    wanted = source_numbers(source)
    rows = index.rows_of(wanted)
    if (rows >= 0).any():
        return rows
    prefix = _common_directory(keys(), Index(wanted))
    if prefix:
        own = (numbers(_without(part, prefix)) for part in keys())
        return Index(np.concatenate(list(own))).rows_of(wanted)
    named = Index(np.concatenate([numbers(_base(part)) for part in keys()] or [wanted[:0]]))
    bases = source_numbers(source, _base)
    if len(named.repeated()) or len(Index(bases).repeated()):
        return rows
    return named.rows_of(bases)


def source_numbers(
    source: Source, part: Callable[[pa.Array], pa.Array] | None = None
) -> np.ndarray:
    """uint64 `[len(source)]` of its keys, or of a part of each."""
    found = np.empty(len(source), np.uint64)
    for start, keys in source_keys(source):
        found[start : start + len(keys)] = numbers(part(keys) if part else keys)
    return found


def source_keys(source: Source) -> Iterator[tuple[int, pa.Array]]:
    """(index of the first, keys) of all images, some at a time."""
    for start in range(0, len(source), BLOCK):
        yield start, source.keys(np.arange(start, min(start + BLOCK, len(source))))


def _common_directory(parts: Iterable[pa.Array], there: Index) -> str:
    """What stands before the source's keys in the most of some keys, with a slash at the end."""
    counts: collections.Counter[str] = collections.Counter()
    for part in parts:
        for key in part.slice(0, SAMPLES).to_pylist():
            ends = [place + 1 for place, letter in enumerate(key[:-1]) if letter == "/"]
            rests = pa.array([key[end:] for end in ends], pa.large_string())
            found = np.flatnonzero(there.rows_of(numbers(rests)) >= 0)
            if len(found):
                counts[key[: ends[int(found[0])]]] += 1
    return counts.most_common(1)[0][0] if counts else ""


def _without(keys: pa.Array, prefix: str) -> pa.Array:
    """Keys less the prefix, where they begin with it and it is not all."""
    longer = pc.greater(pc.binary_length(keys), len(prefix.encode()))
    begins = pc.and_(pc.starts_with(keys, prefix), longer)
    return pc.if_else(begins, pc.utf8_slice_codeunits(keys, len(prefix)), keys)


def _base(keys: pa.Array) -> pa.Array:
    """What stands behind the last slash; the key itself if that is nothing."""
    found = pc.replace_substring_regex(keys, r"^.*/([^/]+)$", r"\1")
    return found.cast(pa.large_string())
