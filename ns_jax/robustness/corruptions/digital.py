"""Brightness, contrast, saturate, elastic transform, pixelate and JPEG of ImageNet-C.

Functions take a uint8 image [H, W, 3] and return bytes, or floats on the scale of 0 to 255 that are
not yet clipped.
"""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image
from scipy import fft


def brightness(image: np.ndarray, rng: np.random.Generator, added: float) -> np.ndarray:
    """Adds to the value of HSV, the largest of the channels; hue and saturation stay."""
    channels = cv2.split(image)
    value = _largest(channels)
    levels = np.arange(256) / 255
    factors = np.clip(levels + added, 0, 1) / np.maximum(levels, 1 / 255)
    factor = factors.astype(np.float32)[value]
    black = (value == 0) * np.float32(255 * np.clip(added, 0, 1))  # becomes grey
    return cv2.merge([channel * factor + black for channel in channels])


def contrast(image: np.ndarray, rng: np.random.Generator, factor: float) -> np.ndarray:
    """Each channel about its own mean over the image."""
    means = np.asarray(cv2.mean(image)[:3])[:, None] / 255
    tables = np.clip((np.arange(256) / 255 - means) * factor + means, 0, 1) * 255  # [3, 256]
    return cv2.LUT(image, tables.astype(np.uint8).T[None])


def saturate(
    image: np.ndarray, rng: np.random.Generator, factor: float, added: float
) -> np.ndarray:
    """Changes the saturation of HSV. Grey has the hue 0, so that `added` makes it red."""
    channels = cv2.split(image.astype(np.float32))
    value = _largest(channels)
    spread = value - cv2.min(cv2.min(channels[0], channels[1]), channels[2])
    saturation = np.clip(spread / np.maximum(value, 1) * factor + added, 0, 1)
    is_grey = spread == 0
    stretch = np.where(is_grey, 0, saturation * value / np.maximum(spread, 1))
    red, green, blue = (value - (value - channel) * stretch for channel in channels)
    tint = np.where(is_grey, saturation * value, 0)
    return cv2.merge([red, green - tint, blue - tint])


def _largest(channels: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(cv2.max(cv2.max(channels[0], channels[1]), channels[2]))


def elastic_transform(
    image: np.ndarray, rng: np.random.Generator, alpha: float, sigma: float, jitter: float
) -> np.ndarray:
    """An affine map through three moved points, then a smooth field of moves of single pixels."""
    height, width = image.shape[:2]
    reach = min(height, width) // 3
    corners = np.asarray([[1, 1], [1, -1], [-1, -1]], np.float32)
    points = np.asarray([width // 2, height // 2], np.float32) + reach * corners
    moved = points + rng.uniform(-jitter, jitter, points.shape).astype(np.float32)
    warped = cv2.warpAffine(
        image.astype(np.float32),
        cv2.getAffineTransform(points, moved),
        (width, height),
        borderMode=cv2.BORDER_REFLECT_101,
    )
    uniform = rng.random((2, height, width), np.float32)
    right, down = (moves * (2 * alpha) - alpha for moves in _smooth(uniform, sigma))
    right += np.arange(width, dtype=np.float32)
    down += np.arange(height, dtype=np.float32)[:, None]
    return cv2.remap(warped, right, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _smooth(fields: np.ndarray, sigma: float) -> Sequence[np.ndarray]:
    """A Gaussian cut at three sigma of float32 [n, H, W], mirrored at the edges.

    A filter with mirrored edges is a factor for each cosine wave, however long the filter is; one
    that is short is quicker as it stands.
    """
    reach = int(3 * sigma + 0.5)
    if reach < 16:
        size, mirrored = (2 * reach + 1, 2 * reach + 1), cv2.BORDER_REFLECT
        return [cv2.GaussianBlur(field, size, sigma, borderType=mirrored) for field in fields]
    rows, columns = (_transfer(size, reach, sigma) for size in fields.shape[1:])
    waves = fft.dctn(fields, axes=(1, 2))
    waves *= rows[:, None] * columns
    return fft.idctn(waves, axes=(1, 2), overwrite_x=True)


@functools.lru_cache(maxsize=64)
def _transfer(size: int, reach: int, sigma: float) -> np.ndarray:
    steps = np.arange(-reach, reach + 1)
    kernel = np.exp(-(steps**2) / (2 * sigma**2))
    waves = np.cos(np.pi / size * np.outer(np.arange(size), steps))
    return np.asarray(waves @ kernel / kernel.sum(), np.float32)


def pixelate(image: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize(
        (max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX
    )
    return np.array(small.resize((width, height), Image.Resampling.NEAREST))


def jpeg_compression(image: np.ndarray, rng: np.random.Generator, quality: int) -> np.ndarray:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB))
