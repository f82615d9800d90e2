"""RandAugment (arXiv 1909.13719) as the official Noisy Student code applies it.

Owns the sixteen operators on uint8 RGB images [H, W, 3] and the table from magnitude to their
arguments. Floats are float32 in the order of the official TensorFlow code, truncated to uint8.
"""

import dataclasses
import math
from collections.abc import Callable

import cv2
import numpy as np

GREY = 128  # what an operator puts where the image has nothing to show

_LEVELS = np.arange(256)  # every value a pixel can have: the input of a lookup table
_HALF = np.nextafter(np.float32(0.5), np.float32(0))  # 0.5 itself would round 0.49999997 up


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel to [0, 255]; a channel of a single value stays as it is."""
    low, high = np.float32([cv2.minMaxLoc(channel)[:2] for channel in cv2.split(image)]).T
    levels = np.float32(_LEVELS)[:, None]
    scale = 255 / np.maximum(high - low, 1)
    return _look_up(image, np.where(high > low, levels * scale - low * scale, levels))


def equalize(image: np.ndarray) -> np.ndarray:
    """Flattens the histogram of each channel."""
    tables = [_equalize_table(channel) for channel in cv2.split(image)]
    return _look_up(image, np.stack(tables, axis=1))


def invert(image: np.ndarray) -> np.ndarray:
    return cv2.bitwise_not(image)


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates about the image centre, counter-clockwise for positive `degrees`."""
    angle = np.float32(degrees) * np.float32(math.pi / 180)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    bottom, right = np.float32(image.shape[0] - 1), np.float32(image.shape[1] - 1)
    x_offset = (right - (cos * right - sin * bottom)) / 2
    y_offset = (bottom - (sin * right + cos * bottom)) / 2
    return _warp(image, ((cos, -sin, x_offset), (sin, cos, y_offset)))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the `bits` most significant bits of every value."""
    return _look_up(image, _LEVELS >> (8 - bits) << (8 - bits))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts the values at or above `threshold`; 256 inverts none."""
    return _look_up(image, np.concatenate([_LEVELS[:threshold], 255 - _LEVELS[threshold:]]))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Saturation: 0 is the grey image, 1 the image itself."""
    return _blend(_greyscale(image), image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Contrast about one grey level: 0 is that level everywhere, 1 the image itself."""
    # The official code means the mean grey, but averages the 256 histogram *counts*: the level
    # depends on the image size alone (4 at 32 pixels, 196 at 224, 255 from 256 on).
    height, width = image.shape[:2]
    return _look_up(image, _blend(min(height * width // 256, 255), _LEVELS, factor))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Brightness: 0 is black, 1 the image itself."""
    return _look_up(image, _blend(0, _LEVELS, factor))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Sharpness: 0 is a smoothed image, 1 the image itself, whose 1-pixel border always stays."""
    output = image.copy()
    output[1:-1, 1:-1] = _blend(_smooth(image), image[1:-1, 1:-1], factor)
    return output


def shear_x(image: np.ndarray, slope: float) -> np.ndarray:
    """Moves the content of row y left by `slope` * y; the top row stays."""
    return _warp(image, ((1, slope, 0), (0, 1, 0)))


def shear_y(image: np.ndarray, slope: float) -> np.ndarray:
    """Moves the content of column x up by `slope` * x; the left column stays."""
    return _warp(image, ((1, 0, 0), (slope, 1, 0)))


def translate_x(image: np.ndarray, pixels: float) -> np.ndarray:
    """Moves the content left by `pixels`."""
    return _warp(image, ((1, 0, pixels), (0, 1, 0)))


def translate_y(image: np.ndarray, pixels: float) -> np.ndarray:
    """Moves the content up by `pixels`."""
    return _warp(image, ((1, 0, 0), (0, 1, pixels)))


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
    """Brightens the values below 128 by `addition`."""
    return _look_up(image, _LEVELS + addition * (_LEVELS < 128))


def cutout(image: np.ndarray, half_size: int, centre: tuple[int, int]) -> np.ndarray:
    """Greys the square of side 2 * `half_size` about `centre` (row, column), as far as it fits."""
    row, column = centre
    top, left = max(row - half_size, 0), max(column - half_size, 0)
    output = image.copy()
    output[top : row + half_size, left : column + half_size] = GREY
    return output


# In the order of the paper; an argument other than the image comes from the magnitude.
OPERATORS: dict[str, Callable[..., np.ndarray]] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "SolarizeAdd": solarize_add,
    "Cutout": cutout,
}
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")  # negated half of the time


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """`num_layers` operators in a row, each drawn from all sixteen and always applied."""

    num_layers: int = 2
    magnitude: float = 10.0  # M of the paper; may exceed 10
    translate_pixels: float = 100.0  # at magnitude 10, as for the next
    cutout_pixels: float = 40.0  # half the side of the square
    overflow: str = "official"  # wraps as a uint8; "saturate" stops at the identity instead

    def __post_init__(self):
        if self.num_layers < 0:
            raise ValueError(f"num_layers is {self.num_layers}; set it to an integer >= 0")
        if not 0 <= self.magnitude < math.inf:
            raise ValueError(f"magnitude is {self.magnitude}; set it to a finite number >= 0")
        if self.overflow not in ("official", "saturate"):
            raise ValueError(f"overflow is {self.overflow!r}; set it to 'official' or 'saturate'")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A new image. Each layer draws its operator, then the sign or the (row, column) of it."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image is {image.dtype} {image.shape}; pass uint8 RGB [H, W, 3]")
        output = image.copy()
        for _ in range(self.num_layers):
            name = list(OPERATORS)[rng.integers(len(OPERATORS))]
            argument = self.arguments()[name]
            if name in SIGNED and rng.random() < 0.5:
                argument = tuple(-value for value in argument)
            if name == "Cutout":
                argument += (rng.integers(output.shape[:2]),)
            output = OPERATORS[name](output, *argument)
        return output

    def arguments(self) -> dict[str, tuple[float, ...]]:
        """What each operator is given at this magnitude, before the sign and the centre."""
        level = self.magnitude / 10
        shift, threshold = 8 - int(level * 4), int(level * 256)
        if self.overflow == "official":
            # Constants of a uint8 graph: a negative shift or a threshold above 255 wraps, that is
            # Posterize from magnitude 22.5 and Solarize from 10 on.
            shift, threshold = shift % 256, threshold % 256
        bits = 8 - min(max(shift, 0), 7)  # TensorFlow shifts a uint8 by at most 7: one bit stays
        return {
            **dict.fromkeys(("AutoContrast", "Equalize", "Invert"), ()),
            "Rotate": (level * 30,),
            "Posterize": (bits,),
            "Solarize": (min(threshold, 256),),
            **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), (level * 1.8 + 0.1,)),
            **dict.fromkeys(("ShearX", "ShearY"), (level * 0.3,)),
            **dict.fromkeys(("TranslateX", "TranslateY"), (level * self.translate_pixels,)),
            "SolarizeAdd": (int(level * 110),),
            "Cutout": (int(level * self.cutout_pixels),),
        }


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Maps the values through `table`: [256], or [256, 3] for one table per channel."""
    return cv2.LUT(image, _to_uint8(table).reshape(1, 256, -1))


def _equalize_table(channel: np.ndarray) -> np.ndarray:
    histogram = cv2.calcHist([channel], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    step = (histogram.sum() - histogram[histogram > 0][-1]) // 255
    if step == 0:
        return _LEVELS
    table = (np.cumsum(histogram) + step // 2) // step
    return np.concatenate([[0], table[:-1]])


def _blend(degenerate: np.ndarray | int, image: np.ndarray, factor: float) -> np.ndarray:
    """degenerate + factor * (image - degenerate); a factor above 1 extrapolates and clips."""
    degenerate, image = np.float32(degenerate), np.float32(image)
    return _to_uint8(degenerate + np.float32(factor) * (image - degenerate))


def _greyscale(image: np.ndarray) -> np.ndarray:
    """Luma as TensorFlow computes it, in all three channels."""
    red, green, blue = (np.float32(channel) * np.float32(1 / 255) for channel in cv2.split(image))
    luma = red * np.float32(0.2989) + green * np.float32(0.5870) + blue * np.float32(0.1140)
    return cv2.cvtColor(_to_uint8(luma * np.float32(255.5)), cv2.COLOR_GRAY2RGB)


def _smooth(image: np.ndarray) -> np.ndarray:
    """The mean of each 3x3 window with its centre counted five times: [H-2, W-2, 3] uint8."""
    # Summed in the order of TensorFlow's kernel. Where the true mean is an integer, float32
    # rounding decides whether truncation takes one off; cv2.filter2D differs on 0.4% of values.
    outer, centre = (np.float32(image) * (np.float32(tap) / np.float32(13)) for tap in (1, 5))
    total = np.zeros_like(outer[2:, 2:])
    height, width = total.shape[:2]
    for row, column in np.ndindex(3, 3):
        window = centre if (row, column) == (1, 1) else outer
        total += window[row : row + height, column : column + width]
    return _to_uint8(total)


def _warp(image: np.ndarray, matrix: tuple) -> np.ndarray:
    """Nearest neighbour; output (x, y) shows input `matrix` @ (x, y, 1), grey where outside."""
    # Halves round away from zero, as in TensorFlow. OpenCV rounds them to even, and a shear of
    # 0.15 meets many: cv2.warpAffine differs on 2-3% of pixels, so OpenCV is given integers.
    height, width = image.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    sources = np.empty((height, width, 2), np.int16)
    for axis, (x_step, y_step, offset) in enumerate(np.float32(matrix)):
        position = x_step * x + y_step * y + offset
        sources[..., axis] = position + np.copysign(_HALF, position)  # the cast truncates
    return cv2.remap(image, sources, None, cv2.INTER_NEAREST, None, cv2.BORDER_CONSTANT, 3 * [GREY])
