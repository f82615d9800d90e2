"""Images of the test and robustness sources that stand in the unlabelled pool, nearly the same."""

import concurrent.futures
import csv
import pathlib
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np

from ns_jax.data import bad_images, decoding, perceptual
from ns_jax.data.source import Source
from ns_jax.progress import Progress, say

COLUMNS = ("index", "key", "guard_key", "distance")


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
    return example["key"], [perceptual.phash(pixels), perceptual.phash(cv2.flip(pixels, 1))]


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
    Raises ValueError for a distance outside 0..16.
    """
    guard_hashes, guard_keys = guard
    search = perceptual.NearDuplicates(guard_hashes, distance)
    leaked = [np.zeros(0, np.int64)]
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for index, keys, hashes in chunks:
            found = search.find(hashes)
            names = keys() if len(found[0]) else []
            for row, guarded, bits in zip(*(part.tolist() for part in found), strict=True):
                rows.writerow((index[row], names[row], guard_keys[guarded], bits))
            leaked.append(np.asarray(index)[found[0]])
    temporary.replace(path)
    return np.concatenate(leaked)
