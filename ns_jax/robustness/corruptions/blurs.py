"""The five blurs of ImageNet-C.

Functions take a uint8 image [H, W, 3] and return bytes, or floats on the scale of 0 to 255 that are
not yet clipped.
"""

import functools

import cv2
import numpy as np
from scipy import ndimage

ROUNDING = 0.5 / 257  # ImageMagick rounds to 16 bits before it cuts to 8


def gaussian_blur(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    return gaussian(image.astype(np.float32), sigma)


def gaussian(pixels: np.ndarray, sigma: float, truncate: float = 4) -> np.ndarray:
    """Floats [H, W] or [H, W, C], each channel by itself; beyond the edge is the nearest pixel."""
    size = 2 * int(truncate * sigma + 0.5) + 1
    return cv2.GaussianBlur(pixels, (size, size), sigma, borderType=cv2.BORDER_REPLICATE)


def defocus_blur(
    image: np.ndarray, rng: np.random.Generator, radius: float, edge_sigma: float
) -> np.ndarray:
    return cv2.filter2D(image.astype(np.float32), -1, disk(radius, edge_sigma))


@functools.cache
def disk(radius: float, edge_sigma: float) -> np.ndarray:
    """The kernel float32 [k, k] of a lens out of focus: a disk with a softened edge.

    Where the disk touches the edge of its grid, the softening counts the mirrored disk as well: the
    sum is then above 1, by 1 % at the radii of 8 and 10, and the images of ImageNet-C are brighter.
    """
    reach, softening = (8, 3) if radius <= 8 else (int(radius), 5)
    squares = np.arange(-reach, reach + 1) ** 2
    kernel = np.asarray(squares[:, None] + squares <= radius**2, np.float32)
    kernel = cv2.GaussianBlur(kernel / kernel.sum(), (softening, softening), edge_sigma)
    zeros = int(np.flatnonzero(kernel[reach])[0])  # around a small disk: left out, for speed
    return np.ascontiguousarray(
        kernel[zeros : 2 * reach + 1 - zeros, zeros : 2 * reach + 1 - zeros]
    )


def glass_blur(
    image: np.ndarray, rng: np.random.Generator, sigma: float, max_delta: int, passes: int
) -> np.ndarray:
    smooth = _smoothed(image, sigma)
    source = np.arange(image.shape[0] * image.shape[1])
    for _ in range(passes):
        source = source[_moved(image.shape[:2], rng, max_delta)]
    moved = smooth.reshape(-1, 3)[source].reshape(image.shape)
    return _smoothed(moved, sigma)


def _smoothed(image: np.ndarray, sigma: float) -> np.ndarray:
    """Bytes, cut twice in a row, so that the last bit of the sums shows: hence SciPy's order."""
    filtered = ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest")
    return (np.clip(filtered, 0, 1) * 255).astype(np.uint8)


def _moved(size: tuple[int, int], rng: np.random.Generator, max_delta: int) -> np.ndarray:
    """For each pixel [H * W] the one whose value it has after a pass over the image.

    The pass goes from the lower right to the upper left. Each pixel takes the value that a random
    neighbour has at that time: published as an exchange, the code copies, and neighbours keep their
    value. So a pixel whose neighbour lies behind, in the pass, has the *new* value of that one.
    Following those chains, doubling the stride each time, takes the place of the pass.
    """
    height, width = size
    rows = np.arange(height - max_delta, max_delta, -1)
    columns = np.arange(width - max_delta, max_delta, -1)
    pixels = (rows[:, None] * width + columns).ravel()
    offsets = rng.integers(-max_delta, max_delta, (len(pixels), 2))
    neighbours = pixels + offsets[:, 1] * width + offsets[:, 0]
    visited = np.zeros(size, bool)
    visited[max_delta + 1 : height - max_delta + 1, max_delta + 1 : width - max_delta + 1] = True
    has_new_value = (neighbours > pixels) & visited.ravel()[neighbours]
    num_pixels = height * width  # from this place on stand the values before the pass
    source = np.tile(np.arange(num_pixels, 2 * num_pixels), 2)
    source[pixels] = np.where(has_new_value, neighbours, neighbours + num_pixels)
    while (source[:num_pixels] < num_pixels).any():
        source[:num_pixels] = source[source[:num_pixels]]
    return source[:num_pixels] - num_pixels


def motion_blur(
    image: np.ndarray, rng: np.random.Generator, radius: int, sigma: float
) -> np.ndarray:
    return motion(image, radius, sigma, rng.uniform(-45, 45))


def motion(image: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """ImageMagick's motion blur of uint8 [H, W] or [H, W, 3]; the result is floored.

    Half a Gaussian of `2 * radius + 1` pixels, from each pixel in one direction, so that the image
    also moves. Beyond the edge is the nearest pixel.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = np.deg2rad(degrees)
    right = np.ceil(steps * np.cos(angle) - 0.5).astype(int)
    down = np.ceil(steps * np.sin(angle) - 0.5).astype(int)
    top, bottom = max(0, -down.min()), max(0, down.max())
    left, beyond = max(0, -right.min()), max(0, right.max())
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(
        image.astype(np.float32), top, bottom, left, beyond, cv2.BORDER_REPLICATE
    )
    total = np.zeros(image.shape, np.float32)
    for weight, y, x in zip(weights, down + top, right + left, strict=True):
        cv2.scaleAdd(padded[y : y + height, x : x + width], weight, total, total)
    return np.minimum(total + ROUNDING, 255).astype(np.uint8)


def zoom_blur(image: np.ndarray, rng: np.random.Generator, stop: float, step: float) -> np.ndarray:
    """The mean of the image and of its zooms; the first zoom is 1, so the image counts twice."""
    pixels = image.astype(np.float32)
    factors = np.arange(1, stop, step)  # rounding makes 12, 16, 11, 13 and 11 factors of them
    return (pixels + sum(zoom(pixels, factor) for factor in factors)) / (len(factors) + 1)


def zoom(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Enlarges the centre of floats [H, W, C] to their size, linearly between pixels."""
    for axis in (0, 1):
        pixels = _zoom_axis(pixels, factor, axis)
    return pixels


def _zoom_axis(pixels: np.ndarray, factor: float, axis: int) -> np.ndarray:
    size = pixels.shape[axis]
    low, position = _zoom_positions(size, float(factor))
    shape = [1, 1, 1]
    shape[axis] = size
    lower, upper = (pixels.take(low + step, axis) for step in (0, 1))
    return lower + (upper - lower) * position.reshape(shape)


@functools.lru_cache(maxsize=512)
def _zoom_positions(size: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """For each place along a side the pixel below it, and how far it is to the next, from 0 to 1.

    First and last pixel of the centre stay first and last; what is too much is cut at both ends.
    """
    centre = int(np.ceil(size / factor))
    first = (size - centre) // 2
    enlarged = round(centre * factor)
    trimmed = (enlarged - size) // 2
    places = np.arange(trimmed, trimmed + size) * ((centre - 1) / (enlarged - 1))
    low = np.minimum(places.astype(np.int64), centre - 2)
    return low + first, (places - low).astype(np.float32)
