"""The sequences of ImageNet-P (arXiv 1903.12261): an image and small, growing changes of it.

Constants: hendrycks/robustness (Apache-2.0), ImageNet-P/create_p/make_imagenet_p.py, and
make_imagenet_p_inception.py for "299". The released sequences went through a video coder, which
changes noise above all: flip rates of these frames are not comparable with published ones.
"""

import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from ns_jax.errors import InputError
from ns_jax.robustness import corruptions
from ns_jax.robustness.corruptions import blurs, digital, noise, weather

# Those of the mean flip rate, in the benchmark's order, and those to choose with.
PERTURBATIONS = (
    *("gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "snow", "brightness"),
    *("translate", "rotate", "tilt", "scale"),
)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "shear")

Frames = Iterator[np.ndarray]


def sequence(
    image: np.ndarray, name: str, seed: int, index: int, crop: int = 224, variant: str = "224"
) -> np.ndarray:
    """uint8 `[num_frames(name), crop, crop, 3]`; the same arguments always give the same bytes.

    `image` is uint8 RGB [H, W, 3] before the central crop (the benchmark's has 256 pixels on its
    shorter side): moves show what lies beyond the crop, and black beyond the image. `variant` has
    the constants published for "224" or "299" pixels; "32" and "64" have those of 224, and lengths
    in proportion to the crop. Raises InputError for what is none of these.
    """
    corruptions.check_image(image)
    if not corruptions.LEAST_SIDE <= crop <= min(image.shape[:2]):
        height, width = image.shape[:2]
        raise InputError(
            f"crop={crop} of an image of {width} x {height} pixels: it is at least "
            f"{corruptions.LEAST_SIDE} and at most the shorter side"
        )
    if variant not in corruptions.SEVERITIES:
        raise InputError(f"variant={variant!r}: there are {', '.join(corruptions.SEVERITIES)}")
    num_frames(name)
    rng = corruptions.generator(f"sequence of {name}", seed, index)
    # No constants of small sequences are published: those of 224 pixels, lengths in proportion.
    scale = crop / 224 if variant in ("32", "64") else 1.0
    changed: Frames
    if name == "translate":
        changed = (_cropped(frame, crop) for frame in _translate(image, scale))
    elif name in _MOVES:
        changed = (_cropped(frame, crop) for frame in _MOVES[name](image))
        changed = _running_means(changed) if name == "zoom_blur" else changed
    else:
        constants = _CONSTANTS["299" if variant == "299" else "224"].get(name, ())
        lengths = {"scale": scale} if name in _WITH_LENGTHS else {}
        changed = _CHANGES[name](_cropped(image, crop), rng, *constants, **lengths)
    return np.stack([corruptions.to_bytes(frame) for frame in changed])


def num_frames(name: str) -> int:
    """The length of its sequences. Raises InputError for a name that is none."""
    if name not in PERTURBATIONS + EXTRA:
        known = ", ".join(PERTURBATIONS + EXTRA)
        raise InputError(f"no perturbation is called {name!r}: there are {known}")
    return 41 if name == "translate" else 31


# Noises by standard deviation or photons, motion by radius, Gaussian blur by the first sigma,
# spatter by the standard deviation and the smoothing of the liquid.
_CONSTANTS: dict[str, dict[str, tuple[float, ...]]] = {
    "224": {
        "gaussian_noise": (0.03,),
        "shot_noise": (300,),
        "speckle_noise": (0.05,),
        "motion_blur": (10,),
        "gaussian_blur": (0.25,),
        "spatter": (0.27, 3.7),
    },
    "299": {
        "gaussian_noise": (0.035,),
        "shot_noise": (250,),
        "speckle_noise": (0.06,),
        "motion_blur": (13,),
        "gaussian_blur": (0.35,),
        "spatter": (0.3, 4),
    },
}


def _cropped(image: np.ndarray, side: int) -> np.ndarray:
    top, left = (round((length - side) / 2) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _noisy(corruption: Callable[..., np.ndarray]) -> Callable[..., Frames]:
    def noisy(image: np.ndarray, rng: np.random.Generator, strength: float) -> Frames:
        yield image
        for _ in range(30):
            yield corruption(image, rng, strength)

    return noisy


def _motion_blur(image: np.ndarray, rng: np.random.Generator, radius: int, scale: float) -> Frames:
    radius = math.ceil(radius * scale)
    return (blurs.motion(image, radius, 3 * scale, 4 * (i - 30)) for i in range(31))


def _snow(image: np.ndarray, rng: np.random.Generator, scale: float) -> Frames:
    """The same flakes in all frames, falling in other directions."""
    flakes = weather.snow_flakes(image.shape[:2], rng, 0.05, 0.3, 3, 0.5)
    for i in range(31):
        fallen = blurs.motion(flakes, math.ceil(14 * scale), 4 * scale, 4 * i - 150)
        yield weather.with_snow(image, fallen, 0.85)


def _brightness(image: np.ndarray, rng: np.random.Generator) -> Frames:
    return (digital.brightness(image, rng, 0.02 * (i - 15)) for i in range(31))


def _gaussian_blur(
    image: np.ndarray, rng: np.random.Generator, sigma: float, scale: float
) -> Frames:
    pixels = image.astype(np.float32)
    return (blurs.gaussian(pixels, (sigma + 0.035 * i) * scale, truncate=6) for i in range(31))


def _spatter(
    image: np.ndarray, rng: np.random.Generator, sigma: float, smoothing: float, scale: float
) -> Frames:
    """Water that runs down the image."""
    layer = weather.liquid(image.shape[:2], rng, 0.65, sigma, smoothing * scale, 0.69)
    for _ in range(31):
        yield weather.with_water(image, layer, 0.6)
        layer = ndimage.convolve1d(layer, [0.05, 0.1, 0.15, 0.7], 0, mode="constant", origin=-1)


def _translate(image: np.ndarray, scale: float = 1.0) -> Frames:
    kind = Image.Resampling.NEAREST if scale == 1 else Image.Resampling.BILINEAR
    return (_affine(image, 1, 0, 0, 1, right=scale * (i - 20), resample=kind) for i in range(41))


def _rotate(image: np.ndarray) -> Frames:
    for angle in np.deg2rad(np.arange(-15, 16)):
        cos, sin = math.cos(angle), math.sin(angle)
        yield _affine(image, cos, sin, -sin, cos)


def _shear(image: np.ndarray) -> Frames:
    for angle in np.deg2rad(np.arange(-15, 16)):
        yield _affine(image, 1, math.tan(angle), 0, 1 / math.cos(angle))


def _scale(image: np.ndarray) -> Frames:
    return (_scaled(image, 0.4 + 0.025 * i) for i in range(31))


def _zooms(image: np.ndarray) -> Frames:
    yield image
    for i in range(1, 31):
        yield _scaled(image, 1 + 0.004 * i)


def _running_means(images: Frames) -> Frames:
    total = np.zeros((), np.int64)
    for count, image in enumerate(images, 1):
        total = total + np.asarray(image, np.int64)
        yield total // count


def _scaled(image: np.ndarray, factor: float) -> np.ndarray:
    return _affine(image, 1 / factor, 0, 0, 1 / factor)


def _affine(
    image: np.ndarray,
    x_of_x: float,
    x_of_y: float,
    y_of_x: float,
    y_of_y: float,
    right: float = 0,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Each pixel from where the matrix leads it, about the centre; then moves to the `right`.

    The centre is half a pixel to the lower right of the middle, as it was in torchvision 0.2.
    """
    height, width = image.shape[:2]
    x, y = width / 2 + 0.5, height / 2 + 0.5
    first = (x_of_x, x_of_y, x - x_of_x * (x + right) - x_of_y * y)
    second = (y_of_x, y_of_y, y - y_of_x * (x + right) - y_of_y * y)
    picture = Image.fromarray(image)
    matrix = (*first, *second)
    return np.asarray(picture.transform((width, height), Image.Transform.AFFINE, matrix, resample))


def _tilt(image: np.ndarray) -> Frames:
    """Turned about both axes at once, seen from as far as the diagonal is long."""
    height, width = image.shape[:2]
    distance = math.hypot(height, width)
    to_space = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1], [0, 0, 1]])
    away = np.eye(4)
    away[2, 3] = distance
    to_plane = np.array([[distance, 0, width / 2, 0], [0, distance, height / 2, 0], [0, 0, 1, 0]])
    for angle in np.deg2rad(np.arange(-15, 16)):
        cos, sin = math.cos(angle), math.sin(angle)
        about_x = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])
        about_y = np.array([[cos, 0, -sin, 0], [0, 1, 0, 0], [sin, 0, cos, 0], [0, 0, 0, 1]])
        matrix = to_plane @ away @ about_x @ about_y @ to_space
        yield cv2.warpPerspective(image, matrix, (width, height))


# Of the whole image, before the crop; and of the crop.
_MOVES: dict[str, Callable[[np.ndarray], Frames]] = {
    **{"translate": _translate, "rotate": _rotate, "tilt": _tilt, "scale": _scale},
    **{"shear": _shear, "zoom_blur": _zooms},
}
_CHANGES: dict[str, Callable[..., Frames]] = {
    "gaussian_noise": _noisy(noise.gaussian_noise),
    "shot_noise": _noisy(noise.shot_noise),
    "speckle_noise": _noisy(noise.speckle_noise),
    **{"motion_blur": _motion_blur, "snow": _snow, "brightness": _brightness},
    **{"gaussian_blur": _gaussian_blur, "spatter": _spatter},
}
_WITH_LENGTHS = ("motion_blur", "snow", "gaussian_blur", "spatter")
