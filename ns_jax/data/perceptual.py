"""What an image looks like in 64 bits (pHash), and the search for hashes that are nearly equal."""

from collections.abc import Iterator

import cv2
import imagehash
import numpy as np
from PIL import Image

# Instead of a hash, where there is none: of an image without content, or one that cannot be read.
# It is near nothing, not even itself. No image has it as a hash: the bit of the mean is always 1.
NOTHING = 0
SIDE = 32  # pixels of the square that pHash transforms
# An orthonormal cosine coefficient below one grey level is noise: rounding the pixels alone moves
# each by 0.29. Of the 64 lowest at most 8 are above it in what varies along one side only (stripes,
# gradients), 15 in the sum of two such, 16 in what is symmetric both ways; the other bits are ties
# that fall the same way in all such images. Of 4,000 pieces of photographs 6 had fewer than 24.
NOISE = 1.0
FEWEST_COEFFICIENTS = 24
MOST_DISTANCE = 16  # bits; with more the bands of the search are too short to leave anything out
_MOST_BAND_BITS = 22  # a table of places of 16 MB
_ROWS_AT_ONCE = 1 << 16
_PAIRS_AT_ONCE = 1 << 18
_FAR = np.iinfo(np.int64).max


def phash(pixels: np.ndarray) -> int:
    """uint8 RGB `[H, W, 3]` of any size -> 64 bits: imagehash's pHash of the reduced grey image.

    A bit says whether one of the 8 x 8 lowest cosine coefficients is above their median: 32 are
    set, and distances are even. `NOTHING` where fewer than 24 coefficients stand out of the noise.
    """
    grey = _reduced(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    # As imagehash enlarges what is smaller.
    square = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    lowest = cv2.dct(np.asarray(square, np.float32))[:8, :8]
    if np.count_nonzero(np.abs(lowest) > NOISE) < FEWEST_COEFFICIENTS:
        return NOTHING
    return int.from_bytes(np.packbits(imagehash.phash(square).hash).tobytes(), "big")


def _reduced(grey: np.ndarray) -> np.ndarray:
    """uint8 `[H, W]` -> both sides at most `SIDE`, by averages over areas.

    Sides are halved first while that leaves enough of them: at a half bilinear is the area's
    average, and 500 x 375 takes 80 us instead of 240, 12 megapixels 0.9 ms instead of 27. Down to
    64 pixels it would save 35 us more, but moves the hashes of fine textures.
    """
    height, width = grey.shape
    while max(height, width) >= 8 * SIDE:
        height, width = (-(-n // 2) if n >= 8 * SIDE else n for n in (height, width))
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR)
    smallest = (min(width, SIDE), min(height, SIDE))
    return cv2.resize(grey, smallest, interpolation=cv2.INTER_AREA)


class NearDuplicates:
    """Finds hashes within a distance of any of M given ones, exactly.

    Two hashes within D bits of each other differ in less than (D + 1) / B bits in one of B disjoint
    bands (pigeonhole). With B = D + 1 that one is equal, but short. Here bands are few and long,
    and differ by up to two bits: given hashes also stand in a band's table under its values with a
    bit changed, and a row looks there with a bit changed too. At distance 4 and 120,000 given
    hashes that leaves 3 pairs a row to compare, where 5 bands of equal values leave 73.
    """

    def __init__(self, hashes: np.ndarray, distance: int):
        """Raises ValueError for a distance outside 0..16. hashes: uint64 `[M]`."""
        if not 0 <= distance <= MOST_DISTANCE:
            raise ValueError(
                f"select.guard_distance is {distance} bits; it can be 0 (the same hash) to "
                f"{MOST_DISTANCE}. Copies move by up to 6, unrelated images are about 32 apart"
            )
        self._distance = distance
        hashes, first = np.unique(np.asarray(hashes, np.uint64), return_index=True)
        self._hashes, self._first = hashes[hashes != NOTHING], first[hashes != NOTHING]
        # A band that may differ in R bits accounts for R + 1 of the distance + 1 bits to place.
        num_bands = max(min(distance + 1, 3), -(-(distance + 1) // 3))
        bits = min(64 // num_bands, _MOST_BAND_BITS)
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
        return tuple(np.concatenate(part) for part in zip(*found, strict=True))

    def _nearest(self, hashes: np.ndarray) -> np.ndarray:
        """int64 `[N]`: distance << 32 | number of the nearest given hash, or `_FAR`."""
        nearest = np.full(len(hashes), _FAR)
        for band in self._bands:
            for rows, given in band.pairs(hashes):
                distances = np.bitwise_count(hashes[rows] ^ given)
                near = np.flatnonzero(distances <= self._distance)
                number = self._first[np.searchsorted(self._hashes, given[near])]
                np.minimum.at(nearest, rows[near], distances[near].astype(np.int64) << 32 | number)
        nearest[hashes == NOTHING] = _FAR
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
