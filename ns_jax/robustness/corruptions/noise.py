"""The four noises of ImageNet-C, of each value by itself, so that grey images become coloured.

Functions take a uint8 image [H, W, 3] and return floats on the scale of 0 to 255, not yet clipped.
"""

import functools

import numpy as np
from scipy import special

_BUCKETS = 1024  # of a uniform value
_CHUNK = 8192  # values whose arrays stay in the processor's cache


def gaussian_noise(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Adds a normal value; `sigma` on the scale of 0 to 1."""
    return image + _normal(rng, image.shape) * np.float32(255 * sigma)


def shot_noise(image: np.ndarray, rng: np.random.Generator, photons: float) -> np.ndarray:
    """Counts photons, a Poisson number, of which white sends `photons` on average.

    The number is the quantile at a uniform value. An image has 256 levels, so there are tables: of
    each level's distribution, and of where in it to begin, by the first bits of the uniform value.
    """
    values = image.ravel()
    counts = [
        _poisson(values[start : start + _CHUNK], rng, photons)
        for start in range(0, values.size, _CHUNK)
    ]
    return np.concatenate(counts).reshape(image.shape) * np.float32(255 / photons)


def _poisson(levels: np.ndarray, rng: np.random.Generator, photons: float) -> np.ndarray:
    """float32 [n] from uint8 [n]."""
    distributions, begin = _poisson_tables(photons)
    uniform = rng.random(levels.size)
    level = levels.astype(np.intp)
    first = level * distributions.shape[1]
    place = first + begin.take(level * _BUCKETS + (uniform * _BUCKETS).astype(np.intp))
    behind = np.flatnonzero(distributions.take(place) < uniform)
    while len(behind):
        place[behind] += 1
        behind = behind[distributions.take(place[behind]) < uniform[behind]]
    return (place - first).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _poisson_tables(photons: float) -> tuple[np.ndarray, np.ndarray]:
    """P(number <= k) float64 [256, k], and the number where each bucket begins [256, buckets]."""
    most = int(photons + 12 * photons**0.5 + 20)
    means = np.arange(256) * (photons / 255)
    distributions = special.pdtr(np.arange(most), means[:, None])
    distributions[:, -1] = 1  # what lies beyond is rarer than a uniform value can tell
    edges = np.arange(_BUCKETS) / _BUCKETS
    begin = [np.searchsorted(distribution, edges) for distribution in distributions]
    return distributions, np.asarray(begin, np.uint16)


def impulse_noise(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Turns the share `amount` of the values to 0 or to 255."""
    changed = rng.random(image.shape, np.float32) < amount
    high = rng.random(image.shape, np.float32) < 0.5
    return np.where(changed, np.where(high, np.uint8(255), np.uint8(0)), image)


def speckle_noise(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Adds a normal value that is proportional to the pixel's own."""
    return image + image * _normal(rng, image.shape) * np.float32(sigma)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)
