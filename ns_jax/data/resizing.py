"""Resizing uint8 RGB images to squares, by the interpolations that published weights expect."""

import functools

import cv2
import numpy as np
from PIL import Image

INTERPOLATIONS = ("bicubic", "bicubic_antialias", "bicubic_tf", "bilinear")


def resize(image: np.ndarray, size: int, interpolation: str, truncate: bool = False) -> np.ndarray:
    """uint8 `[H, W, 3]` -> uint8 `[size, size, 3]`; the same array if it fits already.

    - `bicubic`, `bilinear`: OpenCV's, without antialiasing; bicubic has a = -0.75.
    - `bicubic_antialias`: Pillow's bicubic (a = -0.5), as timm evaluates.
    - `bicubic_tf`: TensorFlow 1's `resize_bicubic`, as the official code trains and evaluates. Its
      result is a float there and may leave 0..255. Here it is clipped and rounded, or, with
      `truncate`, truncated, as the official code does before RandAugment.
    """
    if image.shape[:2] == (size, size):
        return image
    if interpolation == "bicubic_tf":
        values = _bicubic_tf(image, size)
        np.clip(values, 0, 255, out=values)
        return (values if truncate else np.rint(values)).astype(np.uint8)
    if interpolation == "bicubic_antialias":
        resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(resized)
    kind = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}[interpolation]
    return cv2.resize(image, (size, size), interpolation=kind)


def _bicubic_tf(image: np.ndarray, size: int) -> np.ndarray:
    """float32 `[size, size, 3]`, summed in the order of TensorFlow's kernel: columns first."""
    rows, row_weights = _taps(image.shape[0], size)
    columns, column_weights = _taps(image.shape[1], size)
    image = np.asarray(image, np.float32)
    values = np.zeros((size, *image.shape[1:]), np.float32)
    for places, weights in zip(rows, row_weights, strict=True):
        values += image[places] * weights[:, None, None]
    output = np.zeros((size, size, 3), np.float32)
    y = np.repeat(np.arange(size, dtype=np.float32)[:, None], size, axis=1)
    for places, weights in zip(columns, column_weights, strict=True):
        x = np.repeat(np.asarray(places, np.float32)[None], size, axis=0)
        # values[:, places], which NumPy copies pixel by pixel
        output += cv2.remap(values, x, y, cv2.INTER_NEAREST) * np.repeat(weights, 3).reshape(-1, 3)
    return output


@functools.lru_cache(maxsize=256)
def _taps(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The four input places of each output place and their weights: int `[4, size]`, float32.

    TensorFlow 1: an output place x lies at x * length / size (no half-pixel shift), the cubic has
    a = -0.75 and comes from a table of 1024 steps, places beyond the edge are the edge.
    """
    position = np.arange(size, dtype=np.float32) * (np.float32(length) / np.float32(size))
    first = np.floor(position).astype(int)
    step = np.rint((position - np.floor(position)) * np.float32(1024)).astype(int)
    x = np.arange(1025) / np.float32(1024)
    a = np.float32(-0.75)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    x = x + np.float32(1)
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    weights = np.stack([far[step], near[step], near[1024 - step], far[1024 - step]])
    places = np.clip(first + np.arange(-1, 3)[:, None], 0, length - 1)
    return places, weights.astype(np.float32)
