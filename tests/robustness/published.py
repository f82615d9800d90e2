"""What the tests of corruptions compare with: the authors' code, run by make_oracle.py."""

import pathlib

import cv2
import numpy as np

from ns_jax.robustness.corruptions.frost import PHOTOGRAPHS
from tests.robustness.made_images import ice

HERE = pathlib.Path(__file__).parent
STRIDE, FIRST = 8, 3  # of the pixels that oracle.npz has, in both directions


class LegacyDraws:
    """The generator that the authors' code draws from, under the names of today's."""

    def __init__(self, seed: int):
        self._state = np.random.RandomState(seed)
        self.uniform, self.normal = self._state.uniform, self._state.normal
        self.integers = self._state.randint

    def standard_normal(self, shape, dtype=float):
        return self._state.standard_normal(shape).astype(dtype)

    def random(self, shape, dtype=float):
        return self._state.random_sample(shape).astype(dtype)


def write_photographs(directory: pathlib.Path) -> None:
    """What make_oracle.py gave the authors' code in place of its photographs of frost."""
    for number, name in enumerate(PHOTOGRAPHS, 1):
        # The name's kind is not the content's: a JPEG would not have the same pixels.
        coded = cv2.imencode(".png", ice(number)[..., ::-1])[1]
        (directory / name).write_bytes(coded.tobytes())
