"""The cut of every class's ranking at a rank, found by counting: nothing is sorted but a few rows.

A row's key is a whole number, the higher the better the row ranks and the same for no two rows:
its score, then its index from the end. A class's cut is the key of its row of a rank. Each pass
over the rows counts them by class and by equal parts of an interval of keys, and the cut of a class
lies in the one part where its rank is reached; that part is the interval of the next pass. So
memory does not grow with the rows, and equal scores cost nothing but passes.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np

SCORE_BITS = 30  # of a confidence's float32, which is below 2
MAX_IMAGES = 1 << 33  # score and index fill 63 bits; differences of keys then wrap to above them
UNREACHED = np.uint64(2**64 - 1)  # a cut that no key reaches
PARTS = 1024  # of an interval, at most: 1,000 classes then count in 8 MB
COLLECTED = 8_000_000  # rows, at most, that are sorted instead of counted once more: a pass's time
COLLECTED_BYTES = 48  # of memory for each of them while they are sorted

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]  # (label int [n], key uint64 [n])


def splitmix64(values: np.ndarray) -> np.ndarray:
    """The generator's outputs for states uint64 `[n]`: one to one, and the same for ever."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def random_bits(seed: int, stream: int, index: np.ndarray) -> np.ndarray:
    """uint64 `[n]`, evenly spread, of indices `[n]`; another `stream` is another draw."""
    start = splitmix64(splitmix64(np.asarray([seed % 2**64], np.uint64)) + np.uint64(stream))
    return splitmix64(splitmix64(index.astype(np.uint64)) ^ start)


def confidence_score(confidence: np.ndarray) -> np.ndarray:
    """uint32 `[n]` in the order of float32 `[n]` in [0, 2)."""
    return (confidence + np.float32(0)).view(np.uint32)  # + 0: of -0.0 too


def keys(score: np.ndarray, index: np.ndarray, num_images: int) -> np.ndarray:
    """uint64 `[n]`: the higher the score, and among equal scores the lower the index, the higher.

    `score` is below 2 ** SCORE_BITS, `index` below `num_images`.
    """
    last = np.uint64(2 ** index_bits(num_images) - 1)
    high = score.astype(np.uint64) << np.uint64(index_bits(num_images))
    return high | (last - index.astype(np.uint64))


def index_bits(num_images: int) -> int:
    return max(1, (num_images - 1).bit_length())


def find_cuts(
    map_blocks: Callable[[Callable[[Blocks], np.ndarray]], Iterator[np.ndarray]],
    ranks: Callable[[np.ndarray], np.ndarray],
    num_classes: int,
    key_range: tuple[int, int],
    num_bytes: int,
    in_flight: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each class, int64 `[C]`, and the keys, uint64 `[C]`, that exactly so many reach.

    `map_blocks(function)` passes over the rows: it yields `function(blocks)` of each part of them,
    with `in_flight` of the results there at once. `ranks(rows of each class)` -> int64 `[C]`, each
    at most the rows. `key_range`: the lowest and the highest key. All that is held fits
    `num_bytes`, or two parts of an interval for each class.
    """
    parts = _parts(num_classes, num_bytes // 2, in_flight)
    low = np.full(num_classes, key_range[0], np.uint64)
    width = (key_range[1] - key_range[0]).bit_length()  # of the interval that is known, in bits
    rows: np.ndarray | None = None
    cuts: np.ndarray
    left: np.ndarray
    searched = np.ones(num_classes, bool)
    while True:
        width = max(0, width - (parts.bit_length() - 1))
        count = functools.partial(_count, low, width, parts, searched)
        counts = np.zeros((num_classes, parts), np.int64)
        for found in map_blocks(count):
            counts += found
        if rows is None:
            rows = counts.sum(1)
            left = ranks(rows)
            cuts = np.where(left == 0, UNREACHED, np.uint64(0))
            searched = (left > 0) & (left < rows)
        best_first = counts[:, ::-1]
        reached = best_first.cumsum(1)
        place = (reached >= left[:, None]).argmax(1)
        size = np.take_along_axis(best_first, place[:, None], 1)[:, 0]
        left = left - (np.take_along_axis(reached, place[:, None], 1)[:, 0] - size)
        low = low + ((parts - 1 - place).astype(np.uint64) << np.uint64(width))
        ended = searched & (left == size)  # all of the part are within
        cuts[ended] = low[ended]
        searched = searched & ~ended
        remaining = int(size[searched].sum())
        if not remaining:
            return rows, cuts
        if remaining <= min(COLLECTED, num_bytes // 2 // COLLECTED_BYTES):
            _collect(map_blocks, low, width, searched, left, cuts)
            return rows, cuts


def _parts(num_classes: int, num_bytes: int, in_flight: int) -> int:
    """A power of two; the sum of all counts, its running sum and the results in flight fit."""
    most = max(2, num_bytes // (8 * num_classes * (in_flight + 3)))
    return min(PARTS, 1 << (most.bit_length() - 1))


def _count(
    low: np.ndarray, width: int, parts: int, searched: np.ndarray, blocks: Blocks
) -> np.ndarray:
    """Rows of each class in each part of its interval, int64 `[C, parts]`."""
    places = [np.zeros(0, np.int64)]
    for label, key in blocks:
        part = (key - low[label]) >> np.uint64(width)
        inside = part < parts
        inside &= searched[label]
        places.append((label * np.int64(parts) + part.view(np.int64))[inside])
    found = np.bincount(np.concatenate(places), minlength=len(low) * parts)
    return found.reshape(len(low), parts)


def _collect(
    map_blocks: Callable,
    low: np.ndarray,
    width: int,
    searched: np.ndarray,
    left: np.ndarray,
    cuts: np.ndarray,
) -> None:
    """Writes the cuts of the classes `searched` by sorting the rows of their intervals."""

    def inside(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
        labels, found = [np.zeros(0, np.int32)], [np.zeros(0, np.uint64)]
        for label, key in blocks:
            rows = ((key - low[label]) >> np.uint64(width) == 0) & searched[label]
            labels.append(label[rows])
            found.append(key[rows])
        return np.concatenate(labels), np.concatenate(found)

    labels, found = (np.concatenate(part) for part in zip(*map_blocks(inside), strict=True))
    order = np.lexsort((found, labels))
    labels, found = labels[order], found[order]
    classes = np.flatnonzero(searched)
    cuts[classes] = found[np.searchsorted(labels, classes, side="right") - left[classes]]
