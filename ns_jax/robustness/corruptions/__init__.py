"""The 19 corruptions of ImageNet-C (arXiv 1903.12261) for images of any size from 16 pixels up."""

import functools
import zlib
from collections.abc import Callable

import numpy as np

from ns_jax.errors import InputError
from ns_jax.robustness.corruptions import blurs, digital, frost, noise, weather
from ns_jax.robustness.corruptions.severities import SEVERITIES
from ns_jax.robustness.corruptions.severities import nearest as nearest

LEAST_SIDE = 16  # pixels

_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    function.__name__: function
    for function in (
        *(noise.gaussian_noise, noise.shot_noise, noise.impulse_noise),
        *(blurs.defocus_blur, blurs.glass_blur, blurs.motion_blur, blurs.zoom_blur),
        *(weather.snow, frost.frost, weather.fog, digital.brightness),
        *(digital.contrast, digital.elastic_transform, digital.pixelate, digital.jpeg_compression),
        *(noise.speckle_noise, blurs.gaussian_blur, weather.spatter, digital.saturate),
    )
}
CORRUPTIONS = tuple(_FUNCTIONS)[:15]  # those of the mean corruption error, in the benchmark's order
EXTRA = tuple(_FUNCTIONS)[15:]


def corrupt(
    image: np.ndarray,
    name: str,
    severity: int,
    seed: int,
    index: int,
    variant: str = "224",
    frost_directory: str = "",
) -> np.ndarray:
    """Corrupts uint8 RGB [H, W, 3]; the same arguments always give the same bytes.

    `severity` is 1 to 5, with the constants of `variant`: those published for images of "32", "64",
    "224" or "299" pixels (`nearest` names the one for a size). They are lengths in pixels whatever
    the size is, but for `elastic_transform`, whose lengths grow with the shorter side. `index` is
    the image's in its source. `frost_directory` has the benchmark's photographs of frost; without
    it the result of `frost` is not comparable (`frost.STAND_IN_NOTE`). Raises InputError for what
    is none of these.
    """
    check_image(image)
    rng = generator(name, severity, seed, index)
    return apply(image, name, severity, rng, variant, frost_directory)


def apply(
    image: np.ndarray,
    name: str,
    severity: int,
    rng: np.random.Generator,
    variant: str = "224",
    frost_directory: str = "",
) -> np.ndarray:
    """As `corrupt`, with the random values of `rng`, taken in the order of the benchmark's code."""
    row = _row(name, severity, variant)
    function = _FUNCTIONS[name]
    if name == "elastic_transform":
        row = tuple(length * min(image.shape[:2]) / int(variant) for length in row)
    elif name == "frost":
        # Small images see as much of a photograph as those of 224 pixels.
        scale = min(1.0, int(variant) / 224)
        function = functools.partial(function, directory=frost_directory, scale=scale)
    return to_bytes(function(image, rng, *row))


def generator(name: str, *numbers: int) -> np.random.Generator:
    """Random values that depend on the name and the numbers, all from 0 up, and nothing else."""
    return np.random.default_rng([zlib.crc32(name.encode()), *numbers])


def check_image(image: np.ndarray) -> None:
    """Raises InputError unless it is uint8 [H, W, 3] with sides of 16 pixels at least."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"a corruption takes RGB, uint8 [H, W, 3], not {image.dtype}{image.shape}")
    if min(image.shape[:2]) < LEAST_SIDE:
        height, width = image.shape[:2]
        raise InputError(f"an image of {width} x {height} pixels: {LEAST_SIDE} a side are needed")


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Clips to 0 and 255 and truncates, as the benchmark does; bytes stay as they are."""
    return pixels if pixels.dtype == np.uint8 else np.clip(pixels, 0, 255).astype(np.uint8)


def _row(name: str, severity: int, variant: str) -> tuple[float, ...]:
    if variant not in SEVERITIES:
        raise InputError(f"variant={variant!r}: there are {', '.join(SEVERITIES)}")
    if name not in _FUNCTIONS:
        raise InputError(f"no corruption is called {name!r}: there are {', '.join(_FUNCTIONS)}")
    if severity not in range(1, 6):
        raise InputError(f"severity={severity}: it is a whole number from 1 to 5")
    return SEVERITIES[variant][name][severity - 1]
