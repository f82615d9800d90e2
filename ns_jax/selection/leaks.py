"""Images of the test and robustness sources that stand in the unlabelled pool, nearly the same."""

import concurrent.futures
import csv
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np

from ns_jax import files
from ns_jax.data import bad_images, decoding, perceptual
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.progress import Progress, say

COLUMNS = ("index", "key", "guard_key", "distance")
MAX_DISTANCE = 16  # bits; with more the bands of the search are too short to leave anything out
_MAX_BAND_BITS = 22  # a table of places of 16 MB
_ROWS_AT_ONCE = 1 << 16
_PAIRS_AT_ONCE = 1 << 18
_FAR = np.iinfo(np.int64).max


def hash_source(source: Source, threads: int) -> tuple[np.ndarray, list[str]]:
    """(hashes uint64 `[M]`, their keys): of each image of a source, and of its mirror image.

    Images that cannot be read, or that have no content to compare, are left out; it says how many.
    """
    hashes, keys, blank = [], [], 0
    bad = bad_images.BadImages(source, 1.0)
    with (
        concurrent.futures.ThreadPoolExecutor(threads) as pool,
        Progress(f"hashing {source.name}", len(source)) as progress,
    ):
        found = pool.map(lambda index: _hash(source, index), range(len(source)))
        for index, (key, pair) in enumerate(found):
            progress.advance(1)
            if pair is None:
                bad.add([index])
            elif perceptual.NOTHING in pair:
                blank += 1
            else:
                hashes += pair
                keys += [key, key]
    if len(bad) or blank:
        say(
            f"{source.name}: of {len(source):,} images {len(bad):,} cannot be read and {blank:,} "
            "have no content to compare; they are not guarded"
        )
        for line in bad.lines():
            say(line)
    return np.array(hashes, np.uint64), keys


def _hash(source: Source, index: int) -> tuple[str, list[int] | None]:
    """The key of an image, with the hashes of it and its mirror image if it can be read."""
    example = source[index]
    try:
        pixels = decoding.decode(example["image"], source.max_pixels)
    except decoding.BadImageError:
        return example["key"], None
    return example["key"], hash_both(pixels)


def hash_both(pixels: np.ndarray) -> list[int]:
    """The hashes of an image, uint8 RGB `[H, W, 3]`, and of its mirror image."""
    return [perceptual.phash(pixels), perceptual.phash(cv2.flip(pixels, 1))]


def write(
    path: pathlib.Path,
    chunks: Iterable[tuple[np.ndarray, Callable[[], Sequence[str]], np.ndarray]],
    guard: tuple[np.ndarray, Sequence[str]],
    distance: int,
) -> np.ndarray:
    """Writes the pool's images within `distance` bits of a guarded one; returns their indices.

    `chunks`: (index int64 `[n]`, a function that gives the keys `[n]`, hashes uint64 `[n]`) of the
    pool, in order of index, one at a time in memory. `guard`: as `hash_source` gives it. The CSV
    file (RFC 4180) names the nearest guarded image of each, the first of equally near ones; it is
    there whole or not at all.
    Raises InputError for a distance outside 0..16.
    """
    guard_hashes, guard_keys = guard
    search = NearDuplicates(guard_hashes, distance)
    leaked = [np.zeros(0, np.int64)]
    with (
        files.replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for index, keys, hashes in chunks:
            found = search.find(hashes)
            names = keys() if len(found[0]) else []
            for row, guarded, bits in zip(*(part.tolist() for part in found), strict=True):
                rows.writerow((index[row], names[row], guard_keys[guarded], bits))
            leaked.append(np.asarray(index)[found[0]])
    return np.concatenate(leaked)


class NearDuplicates:
    """Finds hashes within a distance of any of M given ones, exactly.

    Two hashes within D bits of each other differ in less than (D + 1) / B bits in one of B disjoint
    bands (pigeonhole). With B = D + 1 that one is equal, but short. Here bands are few and long,
    and differ by up to two bits: given hashes also stand in a band's table under its values with a
    bit changed, and a row looks there with a bit changed too. At distance 4 and 120,000 given
    hashes that leaves 3 pairs a row to compare, where 5 bands of equal values leave 73.
    """

    def __init__(self, hashes: np.ndarray, distance: int):
        """Raises InputError for a distance outside 0..16. hashes: uint64 `[M]`."""
        if not 0 <= distance <= MAX_DISTANCE:
            raise InputError(
                f"select.guard_distance is {distance} bits; it can be 0 (the same hash) to "
                f"{MAX_DISTANCE}. Copies move by up to 6, unrelated images are about 32 apart"
            )
        self._distance = distance
        hashes, first = np.unique(np.asarray(hashes, np.uint64), return_index=True)
        known = hashes != perceptual.NOTHING
        self._hashes, self._first = hashes[known], first[known]
        # A band that may differ in R bits accounts for R + 1 of the distance + 1 bits to place.
        num_bands = max(min(distance + 1, 3), -(-(distance + 1) // 3))
        bits = min(64 // num_bands, _MAX_BAND_BITS)
        self._bands = [
            _Band(self._hashes, bits, band * bits, len(share) - 1)
            for band, share in enumerate(np.array_split(range(distance + 1), num_bands))
        ]

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """uint64 `[N]` -> (rows int64 `[K]` ascending, given int64 `[K]`, distances int64 `[K]`).

        `given` is the number of the nearest given hash, of equally near ones the lowest. Besides
        the result it takes some 20 MB and 60 bytes a given hash, whatever the hashes.
        """
        hashes = np.asarray(hashes, np.uint64)
        found = [(np.zeros(0, np.int64),) * 3]
        for start in range(0, len(hashes), _ROWS_AT_ONCE):
            nearest = self._nearest(hashes[start : start + _ROWS_AT_ONCE])
            rows = np.flatnonzero(nearest != _FAR)
            found.append((start + rows, nearest[rows] & 0xFFFFFFFF, nearest[rows] >> 32))
        rows, given, distances = (np.concatenate(part) for part in zip(*found, strict=True))
        return rows, given, distances

    def _nearest(self, hashes: np.ndarray) -> np.ndarray:
        """int64 `[N]`: distance << 32 | number of the nearest given hash, or `_FAR`."""
        nearest = np.full(len(hashes), _FAR)
        for band in self._bands:
            for rows, given in band.pairs(hashes):
                distances = np.bitwise_count(hashes[rows] ^ given)
                near = np.flatnonzero(distances <= self._distance)
                number = self._first[np.searchsorted(self._hashes, given[near])]
                np.minimum.at(nearest, rows[near], distances[near].astype(np.int64) << 32 | number)
        nearest[hashes == perceptual.NOTHING] = _FAR
        return nearest


class _Band:
    """Finds hashes by some of their bits, of which `radius` (0, 1 or 2) may differ."""

    def __init__(self, hashes: np.ndarray, bits: int, shift: int, radius: int):
        self._shift, self._mask = np.uint64(shift), np.uint64((1 << bits) - 1)
        changes = np.array([0, *(1 << bit for bit in range(bits))])
        self._changes = changes[: None if radius == 2 else 1]  # that a row looks for
        stored = changes[: None if radius else 1]
        values = (self._values(hashes)[:, None] ^ stored).ravel()
        order = np.argsort(values, kind="stable")
        self._hashes = hashes[order // len(stored)]  # in order of value
        # Of each value the place of its first hash, and one place more: int32.
        counts = np.bincount(values, minlength=1 << bits)
        self._places = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def _values(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> self._shift & self._mask).astype(np.int64)

    def pairs(self, hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(row numbers, hashes of this band) that agree so far, in parts; some more than once.

        A part has at most `_PAIRS_AT_ONCE` pairs, and those of one more row.
        """
        values = self._values(hashes)
        for change in self._changes:
            yield from self._equal(values ^ change)

    def _equal(self, values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first = self._places[values]
        counts = self._places[values + 1] - first
        rows = np.flatnonzero(counts)
        first, counts = first[rows], counts[rows]
        ends = np.cumsum(counts, dtype=np.int64)
        start = done = 0
        while start < len(rows):
            stop = max(int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, "right")), start + 1)
            part = slice(start, stop)
            # Of each pair its row, and the place where its hash stands.
            before = ends[part] - counts[part] - done
            places = np.repeat(first[part] - before, counts[part])
            places += np.arange(len(places))
            yield np.repeat(rows[part], counts[part]), self._hashes[places]
            start, done = stop, int(ends[stop - 1])
