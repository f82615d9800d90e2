"""The geometry of views: evaluation's crop, random crops, padding. Images are uint8 `[H, W, 3]`."""

import dataclasses
import math

import cv2
import numpy as np

from ns_jax.data import resizing
from ns_jax.errors import InputError

SAMPLERS = ("official", "area")
Box = tuple[int, int, int, int]  # top, left, height, width


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From a decoded image to a network's input; it travels with the weights."""

    size: int  # pixels, square
    # The centre square's share of the short side: "padded" S / (S + 32), "none" all of it, or a
    # number such as "0.875".
    crop: str
    mean: tuple[float, float, float]  # on the scale 0..1
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        self.fraction()
        if self.size < 1:
            raise InputError(f"the image size is {self.size}; set it to at least 1 pixel")
        if self.interpolation not in resizing.INTERPOLATIONS:
            known = ", ".join(resizing.INTERPOLATIONS)
            raise InputError(f"unknown interpolation {self.interpolation!r}; known: {known}")

    def __call__(self, image: np.ndarray, truncate: bool = False) -> np.ndarray:
        """Evaluation's and the teacher's view: centre crop, resize, nothing random.

        `truncate`: as `resizing.resize` has it.
        """
        height, width = image.shape[:2]
        side = max(1, int(self.fraction() * min(height, width)))
        box = ((height - side + 1) // 2, (width - side + 1) // 2, side, side)
        return resizing.resize(cut(image, box), self.size, self.interpolation, truncate)

    def fraction(self) -> float:
        """The share of the short side that evaluation's crop takes. Raises InputError."""
        named = {"padded": self.size / (self.size + 32), "none": 1.0}
        try:
            fraction = named.get(self.crop) or float(self.crop)
        except ValueError:
            fraction = math.nan
        if not 0 < fraction <= 1:
            raise InputError(
                f"unknown crop {self.crop!r}; known: padded, none, or a share like 0.875"
            )
        return fraction


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def official_crop(height: int, width: int, rng: np.random.Generator) -> Box | None:
    """A crop as TensorFlow's `sample_distorted_bounding_box` takes it.

    None, for evaluation's crop, after ten tries or if it is the whole image, as official.

    Aspect uniform in 3/4..4/3 and height uniform (so area is not), area 0.08 to 1 of the image but
    at least a tenth must show. The last possible offset is never drawn; nor is it there.
    """
    area = height * width
    for _ in range(10):
        draws = rng.random(4)  # at once: a call costs more than a number
        aspect = 3 / 4 + (4 / 3 - 3 / 4) * draws[0]
        highest = round(math.sqrt(area / aspect))
        if round(highest * aspect) > width:
            highest = int((width + 0.5 - 1e-7) / aspect)
            highest -= round(highest * aspect) > width
        highest = min(highest, height)
        lowest = min(round(math.sqrt(0.08 * area / aspect)), highest)
        crop_height = lowest + int((highest + 1 - lowest) * draws[1])
        crop_width = round(crop_height * aspect)
        if crop_width > width or not 0.1 * area <= crop_height * crop_width <= area:
            continue
        top = int(max(1, height - crop_height) * draws[2])
        left = int(max(1, width - crop_width) * draws[3])
        whole = (crop_height, crop_width) == (height, width)
        return None if whole else (top, left, crop_height, crop_width)
    return None


def area_crop(height: int, width: int, rng: np.random.Generator) -> Box:
    """A crop as most other code takes it: area uniform in 0.08..1, log of the aspect uniform.

    After ten tries that do not fit, the largest centred crop with an aspect in 3/4..4/3.
    """
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_height, crop_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height = min(height, max(1, round(width / (3 / 4))))
    crop_width = min(width, max(1, round(height * (4 / 3))))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def pad_and_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors an eighth of the image beyond each edge, then cuts the old size out of it."""
    height, width = image.shape[:2]
    pad = height // 8
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    top, left = rng.integers(0, 2 * pad + 1, 2)
    return cut(padded, (top, left, height, width))
