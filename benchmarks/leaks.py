"""The guard against leaks: what a hash costs, how fast the search is, how far copies move.

python -m benchmarks.leaks        (two minutes; --folder=DIR takes one's own images instead)
"""

import argparse
import collections
import itertools
import math
import statistics
import time

import cv2
import imagehash
import numpy as np
from PIL import Image

from benchmarks.sides import machine, row
from ns_jax.data import decoding, perceptual
from ns_jax.data import open as open_lib
from ns_jax.selection import leaks

SIZES = ((500, 375), (333, 250), (4000, 3000))  # width and height
POOL = 1_000_000
GUARDS = 60_000
RANDOM_PIECES = 4000  # of each photograph
BINS = (0, 2, 4, 6, 8, 10, 12)
PIECES = ((427, 427), (213, 213), (142, 160), (106, 106), (71, 80))  # height and width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="of images that are all different")
    options = parser.parse_args()
    print(f"{machine()}\n")
    sets = [read(options.folder)] if options.folder else [pieces(*size) for size in PIECES]
    _hashing(sets[0][0])
    _search()
    _distances(sets)
    if not options.folder:
        _chance()


def read(folder: str) -> list[np.ndarray]:
    source = open_lib.open_source(f"folder:{folder}", labels_per_class=1, seed=0)
    return [decoding.decode(source[index]["image"]) for index in range(len(source))]


def pieces(height: int, width: int) -> list[np.ndarray]:
    """Of the two photographs that scikit-learn ships, none of which overlap."""
    from sklearn import datasets

    return [
        np.ascontiguousarray(photo[top : top + height, left : left + width])
        for photo in datasets.load_sample_images().images
        for top in range(0, photo.shape[0] - height + 1, height)
        for left in range(0, photo.shape[1] - width + 1, width)
    ]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


def scaled(image: np.ndarray, height: float, width: float | None = None) -> np.ndarray:
    size = round(image.shape[1] * (width or height)), round(image.shape[0] * height)
    smaller = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def cropped(image: np.ndarray, share: float, centre: bool = True) -> np.ndarray:
    """Without a share of each side: half of it at both ends, or all of it at one."""
    height, width = (round(side * (1 - share)) for side in image.shape[:2])
    top, left = (
        (whole - kept) // (2 if centre else 1)
        for whole, kept in zip(image.shape, (height, width), strict=False)
    )
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def brightened(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(image * factor, 0, 255).astype(np.uint8)


def rotated(image: np.ndarray, degrees: float) -> np.ndarray:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT)


def captioned(image: np.ndarray) -> np.ndarray:
    """With white letters over the lower left corner."""
    height, width = image.shape[:2]
    letters = np.zeros((375, 500), np.uint8)
    cv2.putText(letters, "(c) Photo", (8, 365), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
    cover = cv2.resize(letters, (width, height), interpolation=cv2.INTER_AREA)[..., None] / 255
    return np.rint(image * (1 - cover) + 255 * cover).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


# What becomes of an image on its way through the web.
VARIANTS = {
    "JPEG, quality 95": lambda image: jpeg(image, 95),
    "JPEG, quality 60": lambda image: jpeg(image, 60),
    "JPEG, quality 30": lambda image: jpeg(image, 30),
    "half the size": lambda image: scaled(image, 0.5),
    "0.7 of the size": lambda image: scaled(image, 0.7),
    "twice the size": lambda image: scaled(image, 2),
    "squeezed to 0.75 of the width": lambda image: scaled(image, 1, 0.75),
    "grey": grey,
    "0.7 as bright": lambda image: brightened(image, 0.7),
    "1.3 as bright, clipped": lambda image: brightened(image, 1.3),
    "half the size, JPEG 50, 0.8 as bright": lambda image: brightened(
        jpeg(scaled(image, 0.5), 50), 0.8
    ),
    "a caption in a corner": captioned,
    "2 % of each side cut off, centred": lambda image: cropped(image, 0.02),
    "3 % of each side cut off, centred": lambda image: cropped(image, 0.03),
    "2 % of each side cut off at one end": lambda image: cropped(image, 0.02, centre=False),
    "3 % of each side cut off at one end": lambda image: cropped(image, 0.03, centre=False),
    "5 % of each side cut off, centred": lambda image: cropped(image, 0.05),
    "10 % of each side cut off, centred": lambda image: cropped(image, 0.1),
    "centre square at 7/8 (an evaluation view)": lambda image: cropped(image, 0.125),
    "turned by 2 degrees": lambda image: rotated(image, 2),
    "mirrored (guard's mirror hash)": lambda image: np.ascontiguousarray(image[:, ::-1]),
}


def _hashing(photo: np.ndarray) -> None:
    """Microseconds an image and bits of difference, ours and imagehash's on the whole image."""
    row(["image", "ours, us", "imagehash on the whole image, us", "ratio"])
    row(["---"] * 4)
    for size in SIZES:
        image, times = cv2.resize(photo, size), collections.defaultdict(list)
        repeats = max(2, 20_000_000 // image.size)
        for _ in range(7):  # in turn
            for name, hashed in (("ours", perceptual.phash), ("whole", _whole)):
                began = time.process_time()
                for _ in range(repeats):
                    hashed(image)
                times[name].append((time.process_time() - began) / repeats * 1e6)
        ours, whole = (statistics.median(times[name]) for name in ("ours", "whole"))
        row([f"{size[0]} x {size[1]}", f"{ours:,.0f}", f"{whole:,.0f}", f"{whole / ours:.1f}"])


def _whole(image: np.ndarray) -> int:
    return int(str(imagehash.phash(Image.fromarray(image))), 16)


def _search() -> None:
    """Pool hashes/s of one core; all have 32 bits set, as real ones."""
    rng = np.random.default_rng(0)
    pool = _random_hashes(rng, POOL)
    print()
    row(["guard hashes", "distance", "built, s", "million pool hashes/s", "found"])
    row(["---"] * 5)
    for count, distance in itertools.product((GUARDS, 2 * GUARDS), (0, 2, 4, 6, 8)):
        guard = _random_hashes(rng, count)
        began = time.process_time()
        search = leaks.NearDuplicates(guard, distance)
        built = time.process_time() - began
        hashes = pool if distance <= 4 else pool[: POOL // 10]
        hashes = np.concatenate([hashes, guard[:100]])
        times = []
        for _ in range(5):
            began = time.process_time()
            for start in range(0, len(hashes), 16_384):  # a label shard
                search.find(hashes[start : start + 16_384])
            times.append(time.process_time() - began)
        speed = len(hashes) / statistics.median(times)
        found = search.find(hashes)[0]
        row([f"{count:,}", distance, f"{built:.1f}", f"{speed / 1e6:.2f}", len(found)])


def _random_hashes(rng, count: int) -> np.ndarray:
    """uint64 `[count]`: the first bit and 31 others."""
    order = np.argsort(rng.random((count, 63), np.float32), axis=1) < 31
    bits = np.concatenate([np.ones((count, 1), bool), order], axis=1)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def _distances(sets: list[list[np.ndarray]]) -> None:
    """How many copies stay, and how many pairs of different images come, within so many bits.

    Images are compared with those of their own set.
    """
    images = [image for images in sets for image in images]
    hashes = _hashes(images)
    print()
    row([f"{len(images)} images", *(f"<= {most}" for most in BINS)])
    row(["---"] * (len(BINS) + 1))
    row(["imagehash on the whole image", *_shares(hashes, list(map(_whole, images)))])
    mirrored = _hashes([cv2.flip(image, 1) for image in images])
    for name, vary in VARIANTS.items():
        guard = mirrored if name.startswith("mirrored") else hashes
        row([name, *_shares(guard, _hashes([vary(image) for image in images]))])
    apart, start = [], 0
    for stop in np.cumsum([len(images) for images in sets]):
        for number in range(start + 1, stop):
            apart.append(_apart(hashes[number], hashes[start:number]))
        start = stop
    apart = np.concatenate(apart)
    row([f"{len(apart):,} pairs of images", *(int((apart <= most).sum()) for most in BINS)])
    nothing = int((hashes == perceptual.NOTHING).sum())
    print(
        f"\nnearest pair {apart.min()} bits, median {np.median(apart):.0f}; {nothing} without hash"
    )


def _chance() -> None:
    """Pairs of a piece of one photograph and a piece of the other, beside random hashes."""
    from sklearn import datasets

    rng, hashes = np.random.default_rng(0), []
    for photo in datasets.load_sample_images().images:
        pieces_of_it = []
        for _ in range(RANDOM_PIECES):
            height = int(rng.integers(48, photo.shape[0]))
            width = int(height * rng.uniform(0.75, 1.4))
            top = rng.integers(photo.shape[0] - height + 1)
            left = rng.integers(photo.shape[1] - width + 1)
            piece = np.ascontiguousarray(photo[top : top + height, left : left + width])
            pieces_of_it.append(perceptual.phash(piece))
        pieces_of_it = np.array(pieces_of_it, np.uint64)
        hashes.append(pieces_of_it[pieces_of_it != perceptual.NOTHING])
    counts = sum(np.bincount(_apart(one, hashes[1]), minlength=65) for one in hashes[0])
    # Of 63 bits 31 are set: i of them lie elsewhere.
    ways = [math.comb(31, i) * math.comb(32, i) / math.comb(63, 31) for i in range(7)]
    print()
    row([f"{counts.sum():,} pairs", *(f"<= {most}" for most in BINS)])
    row(["---"] * (len(BINS) + 1))
    row(["pieces of two photographs", *(f"{counts[: most + 1].sum():,}" for most in BINS)])
    row(["a pair, of random hashes", *(f"{sum(ways[: most // 2 + 1]):.1e}" for most in BINS)])


def _shares(one, other) -> list[str]:
    apart = _apart(one, other)
    return [f"{np.mean(apart <= most):.1%}" for most in BINS]


def _apart(one, other) -> np.ndarray:
    """Bits; 64 where there is no hash."""
    one, other = (np.asarray(hashes, np.uint64) for hashes in (one, other))
    known = (one != perceptual.NOTHING) & (other != perceptual.NOTHING)
    return np.where(known, np.bitwise_count(one ^ other), 64)


def _hashes(images: list[np.ndarray]) -> np.ndarray:
    return np.array([perceptual.phash(image) for image in images], np.uint64)


if __name__ == "__main__":
    main()
