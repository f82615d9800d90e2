"""RandAugment (arXiv 1909.13719) as the official Noisy Student code applies it.

Owns the sixteen operators on uint8 RGB images [H, W, 3] and the table from magnitude to their
arguments. Floats are float32 in the order of the official TensorFlow code, truncated to uint8.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from ns_jax.errors import InputError

GREY = 128  # what an operator puts where the image has nothing to show

_LEVELS = np.arange(256)  # every value a pixel can have: the input of a lookup table
_HALF = np.nextafter(np.float32(0.5), np.float32(0))  # 0.5 itself would round 0.49999997 up


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel to [0, 255]; a channel of a single value stays as it is."""
    planes = cv2.split(image)
    low, high = np.asarray([cv2.minMaxLoc(plane)[:2] for plane in planes], np.float32).T[:, :, None]
    levels = np.asarray(_LEVELS, np.float32)
    scale = 255 / np.maximum(high - low, 1)
    return _look_up_each(planes, np.where(high > low, levels * scale - low * scale, levels))


def equalize(image: np.ndarray) -> np.ndarray:
    """Flattens the histogram of each channel."""
    planes = cv2.split(image)
    counts = [cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel() for plane in planes]
    histogram = np.asarray(counts, np.int64)  # [3, 256]
    highest = 255 - np.argmax(histogram[:, ::-1] > 0, axis=1)
    step = (planes[0].size - histogram[(0, 1, 2), highest])[:, None] // 255
    below = np.cumsum(histogram, axis=1) - histogram
    tables = (below + step // 2) // np.maximum(step, 1)
    return _look_up_each(planes, np.where(step > 0, tables, _LEVELS))


def invert(image: np.ndarray) -> np.ndarray:
    return cv2.bitwise_not(image)


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates about the image centre, counter-clockwise for positive `degrees`."""
    angle = np.float32(degrees) * np.float32(math.pi / 180)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    bottom, right = np.float32(image.shape[0] - 1), np.float32(image.shape[1] - 1)
    x_offset = (right - (cos * right - sin * bottom)) / 2
    y_offset = (bottom - (sin * right + cos * bottom)) / 2
    x = _nearest(image.shape, cos, -sin, x_offset)
    return _gather(image, x, _nearest(image.shape, sin, cos, y_offset))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the `bits` most significant bits of every value."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts the values at or above `threshold`; 256 inverts none."""
    return image ^ _mask(image >= threshold)


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Saturation: 0 is the grey image, 1 the image itself."""
    channels = [np.asarray(plane, np.float32) for plane in cv2.split(image)]
    grey = _luma(*channels)
    return cv2.merge([_blend(grey, channel, factor) for channel in channels])


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Contrast about one grey level: 0 is that level everywhere, 1 the image itself."""
    # The official code means the mean grey, but averages the 256 histogram *counts*: the level
    # depends on the image size alone (4 at 32 pixels, 196 at 224, 255 from 256 on).
    height, width = image.shape[:2]
    return cv2.LUT(image, _blend_table(min(height * width // 256, 255), factor))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Brightness: 0 is black, 1 the image itself."""
    return cv2.LUT(image, _blend_table(0, factor))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Sharpness: 0 is a smoothed image, 1 the image itself, whose 1-pixel border always stays."""
    output = image.copy()
    if min(image.shape[:2]) > 2:
        output[1:-1, 1:-1] = _blend(_smooth(image), image[1:-1, 1:-1], factor)
    return output


def shear_x(image: np.ndarray, slope: float) -> np.ndarray:
    """Moves the content of row y left by `slope` * y; the top row stays."""
    return _gather(image, _nearest(image.shape, 1, slope, 0), _nearest(image.shape, 0, 1, 0))


def shear_y(image: np.ndarray, slope: float) -> np.ndarray:
    """Moves the content of column x up by `slope` * x; the left column stays."""
    return _gather(image, _nearest(image.shape, 1, 0, 0), _nearest(image.shape, slope, 1, 0))


def translate_x(image: np.ndarray, pixels: float) -> np.ndarray:
    """Moves the content left by `pixels`."""
    return _translate(image, pixels, axis=1)


def translate_y(image: np.ndarray, pixels: float) -> np.ndarray:
    """Moves the content up by `pixels`."""
    return _translate(image, pixels, axis=0)


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
    """Brightens the values below 128 by `addition`."""
    brighter = cv2.add(image, np.full_like(image, min(addition, 255)))
    return image ^ ((image ^ brighter) & _mask(image < 128))


def cutout(image: np.ndarray, half_size: int, centre: Sequence[int] | np.ndarray) -> np.ndarray:
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
_NAMES = tuple(OPERATORS)
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")  # negated half of the time


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """`num_layers` operators in a row, each drawn from all sixteen and always applied."""

    num_layers: int = 2
    magnitude: float = 10.0  # M of the paper; may exceed 10
    translate_pixels: float = 100.0  # at magnitude 10, as for the next
    cutout_pixels: float = 40.0  # half the side of the square
    overflow: str = "official"  # wraps as a uint8; "saturate" stops at the identity instead

    def __post_init__(self) -> None:
        if self.num_layers < 0:
            raise InputError(f"num_layers is {self.num_layers}; set it to an integer >= 0")
        if not 0 <= self.magnitude < math.inf:
            raise InputError(f"magnitude is {self.magnitude}; set it to a finite number >= 0")
        if self.overflow not in ("official", "saturate"):
            raise InputError(f"overflow is {self.overflow!r}; set it to 'official' or 'saturate'")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A new image. Each layer draws its operator, then the sign or the (row, column) of it."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"image is {image.dtype} {image.shape}; pass uint8 RGB [H, W, 3]")
        output = image if self.num_layers else image.copy()
        for _ in range(self.num_layers):
            name = _NAMES[rng.integers(len(_NAMES))]
            argument: tuple = self._arguments[name]
            if name in SIGNED and rng.random() < 0.5:
                argument = tuple(-value for value in argument)
            if name == "Cutout":
                argument += (rng.integers(output.shape[:2]),)
            output = OPERATORS[name](output, *argument)
        return output

    @functools.cached_property
    def _arguments(self) -> dict[str, tuple[float, ...]]:
        return self.arguments()

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


@functools.lru_cache(maxsize=8)
def _blend_table(level: int, factor: float) -> np.ndarray:
    return _blend(level, _LEVELS, factor)


def _look_up_each(planes: Sequence[np.ndarray], tables: np.ndarray) -> np.ndarray:
    """Each channel [H, W] through its own table of [3, 256]; twice as fast as interleaved."""
    pairs = zip(planes, tables, strict=True)
    return cv2.merge([cv2.LUT(plane, _to_uint8(table)) for plane, table in pairs])


def _mask(chosen: np.ndarray) -> np.ndarray:
    """All bits where `chosen`, none elsewhere: uint8."""
    return -chosen.view(np.uint8)


def _blend(degenerate: np.ndarray | float, image: np.ndarray, factor: float) -> np.ndarray:
    """degenerate + factor * (image - degenerate); a factor above 1 extrapolates and clips."""
    degenerate = np.asarray(degenerate, np.float32)
    values = np.asarray(image, np.float32) - degenerate
    values *= np.float32(factor)
    values += degenerate
    return _to_uint8(values)


def _luma(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """As TensorFlow computes it, of float32 channels: whole float32 numbers."""
    shares = [
        channel * np.float32(1 / 255) * np.float32(share)
        for channel, share in ((red, 0.2989), (green, 0.5870), (blue, 0.1140))
    ]
    return np.floor((shares[0] + shares[1] + shares[2]) * np.float32(255.5))


def _smooth(image: np.ndarray) -> np.ndarray:
    """The mean of each 3x3 window with its centre counted five times: whole floats [H-2, W-2, 3].

    Summed in the order of TensorFlow's kernel. Where the true mean is an integer, float32 rounding
    decides whether truncation takes one off; cv2.filter2D differs on 0.4% of values.
    """
    height, width = image.shape[0] - 2, image.shape[1] - 2
    outer, centre = (
        np.asarray(image, np.float32) * (np.float32(tap) / np.float32(13)) for tap in (1, 5)
    )
    total = np.zeros((height, width, 3), np.float32)
    for row, column in np.ndindex(3, 3):
        window = centre if (row, column) == (1, 1) else outer
        cv2.add(total, window[row : row + height, column : column + width], dst=total)
    return np.floor(total, out=total)


@functools.lru_cache(maxsize=16)  # images of one size and a fixed magnitude: always the same few
def _nearest(shape: tuple[int, ...], x_step: float, y_step: float, offset: float) -> np.ndarray:
    """x_step * x + y_step * y + offset of every pixel (x, y), rounded: float32 [H, W].

    Halves round away from zero, as in TensorFlow: upwards, that is, as what is below zero lies
    outside of the image either way. OpenCV rounds them to even, and a shear of 0.15 meets many:
    cv2.warpAffine differs on 2-3% of pixels, so OpenCV is given whole numbers.
    """
    height, width = shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    position = np.float32(x_step) * x + (np.float32(y_step) * y)[:, None]
    position += np.float32(offset)
    position += _HALF
    return np.floor(position, out=position)


def _gather(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Output pixels show the input pixels (x, y), grey where these lie outside."""
    return cv2.remap(image, x, y, cv2.INTER_NEAREST, None, cv2.BORDER_CONSTANT, 3 * [GREY])


def _translate(image: np.ndarray, pixels: float, axis: int) -> np.ndarray:
    """`_gather` for a shift along one axis, whose pixels move together: ten times as fast."""
    size = image.shape[axis]
    places = np.arange(size, dtype=np.float32) + np.float32(pixels) + _HALF
    places = np.floor(places).astype(int)
    (shown,) = np.nonzero((places >= 0) & (places < size))
    output = np.full_like(image, GREY)
    if len(shown):
        places = places[shown]
        if (np.diff(places) == 1).all():  # unless float32 rounds a near-half up far out
            places = slice(places[0], places[-1] + 1)  # which copies whole blocks
        index = (slice(None),) * axis
        output[(*index, slice(shown[0], shown[-1] + 1))] = image[(*index, places)]
    return output
