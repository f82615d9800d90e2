"""Decoding and the geometry of views, in OpenCV. Images are uint8 RGB arrays `[H, W, 3]`."""

import dataclasses
import math

import cv2
import numpy as np

cv2.setNumThreads(1)  # the readers' threads are the parallelism


class BadImageError(Exception):
    """An image that cannot be read; the message is the reason, as it stands in label shards."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From a decoded image to a network's input; it travels with the weights."""

    size: int  # pixels, square
    crop: str  # "padded": centre square of S / (S + 32) of the short side; "none": of all of it
    mean: tuple[float, float, float]  # on the scale 0..1
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __post_init__(self):
        for name, known in (("crop", ("padded", "none")), ("interpolation", ("bicubic",))):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Evaluation's and the teacher's view: centre crop, resize, nothing random."""
        height, width = image.shape[:2]
        fraction = self.size / (self.size + 32) if self.crop == "padded" else 1.0
        side = max(1, int(fraction * min(height, width)))
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        return resize(image[top : top + side, left : left + side], self.size)


def decode(data: bytes | np.ndarray) -> np.ndarray:
    """Bytes of an image file, or an array that is one already -> uint8 `[H, W, 3]`.

    Orientation marks of cameras are followed; transparency is dropped. Raises BadImageError.
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3 or not data.size:
            raise BadImageError(f"not an RGB image: {data.dtype}{list(data.shape)}")
        return data
    if not data:
        raise BadImageError("empty file")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise BadImageError("not an image")
    return image


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Bicubic without antialiasing, as the official code's; the same array if it fits already."""
    if image.shape[:2] == (size, size):
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)


def random_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A crop as TensorFlow's `sample_distorted_bounding_box` takes it, or None after ten tries.

    Aspect uniform in 3/4..4/3 and height uniform (so area is not), area 0.08 to 1 of the image but
    at least a tenth must show. The last possible offset is never drawn; nor is it there.
    """
    height, width = image.shape[:2]
    area = height * width
    for _ in range(10):
        aspect = rng.uniform(3 / 4, 4 / 3)
        highest = round(math.sqrt(area / aspect))
        if round(highest * aspect) > width:
            highest = int((width + 0.5 - 1e-7) / aspect)
            highest -= round(highest * aspect) > width
        highest = min(highest, height)
        lowest = min(round(math.sqrt(0.08 * area / aspect)), highest)
        crop_height = int(rng.integers(lowest, highest + 1))
        crop_width = round(crop_height * aspect)
        if crop_width > width or not 0.1 * area <= crop_height * crop_width <= area:
            continue
        top = int(rng.integers(max(1, height - crop_height)))
        left = int(rng.integers(max(1, width - crop_width)))
        return image[top : top + crop_height, left : left + crop_width]
    return None


def pad_and_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors an eighth of the image beyond each edge, then cuts the old size out of it."""
    height, width = image.shape[:2]
    pad = height // 8
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    top, left = rng.integers(0, 2 * pad + 1, 2)
    return padded[top : top + height, left : left + width]
