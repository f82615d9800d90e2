"""Frost of ImageNet-C: a photograph of ice laid over the image.

The photographs are the benchmark's own and not part of this package. Without them a procedural
stand-in takes their place, of like brightness, whose errors are not comparable with published ones.
"""

import functools
import pathlib

import cv2
import numpy as np

from ns_jax.errors import InputError
from ns_jax.robustness.corruptions.weather import plasma

# The benchmark's script chooses among the first five of its six; frost2 and frost3 are the same.
PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
STAND_IN_NOTE = "frost is a procedural stand-in, not comparable with ImageNet-C"


def frost(
    image: np.ndarray,
    rng: np.random.Generator,
    image_weight: float,
    frost_weight: float,
    directory: str = "",
    scale: float = 1.0,
) -> np.ndarray:
    """`directory` has the photographs, made smaller by `scale`; "" is the stand-in.

    Floats, not yet clipped.
    """
    height, width = image.shape[:2]
    if directory:
        chosen = photographs(directory, scale)[rng.integers(len(PHOTOGRAPHS))]
        ice = _crop(chosen, height, width, rng)
    else:
        ice = stand_in(height, width, rng)
    return cv2.addWeighted(
        image.astype(np.float32), image_weight, np.asarray(ice, np.float32), frost_weight, 0
    )


@functools.lru_cache(maxsize=1)
def photographs(directory: str, scale: float = 1.0) -> tuple[np.ndarray, ...]:
    """uint8 RGB, sides times `scale`. Raises InputError for one missing or that cannot be read."""
    found = []
    for name in PHOTOGRAPHS:
        photograph = cv2.imread(str(pathlib.Path(directory, name)), cv2.IMREAD_COLOR_RGB)
        if photograph is None:
            raise InputError(
                f"{name} is missing in {directory}, or is no image. Frost takes "
                f"{', '.join(PHOTOGRAPHS)} as they stand in hendrycks/robustness; without a "
                "directory a stand-in is used"
            )
        if scale != 1:
            photograph = cv2.resize(
                photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
            )
        found.append(photograph)
    return tuple(found)


def _crop(photograph: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random part at its own scale, enlarged only if the image is larger than the photograph."""
    rows, columns = photograph.shape[:2]
    if rows <= height or columns <= width:
        scale = max((height + 1) / rows, (width + 1) / columns)
        size = int(np.ceil(columns * scale)), int(np.ceil(rows * scale))
        photograph = cv2.resize(photograph, size, interpolation=cv2.INTER_CUBIC)
        rows, columns = photograph.shape[:2]
    top, left = rng.integers(0, rows - height), rng.integers(0, columns - width)
    return photograph[top : top + height, left : left + width]


def stand_in(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Bluish ice with bright ridges, float32 [H, W, 3] on the scale of 0 to 255."""
    side = max(height, width)
    cloud, ridged = (plasma(side, rng, decay)[:height, :width] for decay in (1.7, 1.5))
    ridges = (1 - np.abs(2 * ridged - 1)) ** 4
    brightness = (0.25 + 0.45 * cloud + 0.5 * ridges).astype(np.float32)
    return cv2.merge([brightness * tint for tint in (205, 225, 245)])
