"""What a file of another format holds: a function of images, and what the file says of itself."""

import dataclasses
from collections.abc import Callable

import numpy as np

from ns_jax.data import crops
from ns_jax.model_card import ModelCard


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """The images that a network in a file takes. None: as many, or as large, as you like."""

    dtype: np.dtype  # uint8: as decoded; a float: normalised
    channels_first: bool
    batch: int | None
    size: int | None

    def of(self, pixels: np.ndarray, view: crops.Preprocessing) -> np.ndarray:
        """uint8 `[n, S, S, 3]` in this form, normalised by the view's mean and std if floats."""
        images = pixels
        if self.dtype != np.uint8:
            mean, std = (np.asarray(values, np.float32) for values in (view.mean, view.std))
            # One multiply-add a value: half the time of dividing twice.
            images = (pixels * (1 / (255 * std)) - mean / std).astype(self.dtype, copy=False)
        if self.channels_first:
            images = images.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(images)


@dataclasses.dataclass(frozen=True)
class Network:
    """What a file holds: `call` takes images as `images` says and returns `[n, classes]`."""

    call: Callable[[np.ndarray], np.ndarray]
    images: ImageInput
    engine: str  # what runs it, with its version: results differ by rounding
    card: ModelCard | None = None  # None: the file does not say
    class_names: tuple[str, ...] = ()  # where there is no card; () where it does not say
    calls: int = 1  # from as many threads, side by side; 0: one, which shares its images out


CORE_PIXELS = 2**17  # of the images that a core takes at once


def rows_for_a_core(at_once: int, size: int, cores: int) -> int:
    """How many of `at_once` images of `size` pixels each of several cores takes at a time."""
    return min(-(-at_once // cores), max(1, CORE_PIXELS // size**2))
