"""The columns of a training batch, and which of its rows are labelled: the one place that knows."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """A step's rows are `groups` equal parts, one for each BatchNorm group, and each part has its
    labelled images first: so every group sees labelled and unlabelled images in the same ratio.
    """

    labelled: int  # rows a step, of all hosts together
    unlabelled: int
    groups: int
    images: dict[str, tuple[int, int, int]]  # columns of pixels: shape of a row
    places: int = 1  # classes that a target names, k

    @property
    def rows(self) -> int:
        return self.labelled + self.unlabelled

    @property
    def device_columns(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Name -> (shape of a row, dtype) of what goes to the devices.

        `image` (and `teacher_image`) uint8 `[S, S, 3]`; `target_classes` int32 and `target_probs`
        float32 `[k]`; `weight` float32, 0 for an image that cannot be read, which is `bad`, a bool
        (a step does without that column where no row is); where there are unlabelled rows
        `is_labelled` bool.
        """
        columns: dict[str, tuple[tuple[int, ...], type]] = {
            name: (shape, np.uint8) for name, shape in self.images.items()
        }
        columns["target_classes"] = ((self.places,), np.int32)
        columns["target_probs"] = ((self.places,), np.float32)
        columns["weight"] = ((), np.float32)
        columns["bad"] = ((), np.bool_)
        if self.unlabelled:
            columns["is_labelled"] = ((), np.bool_)
        return columns

    @property
    def columns(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """As `device_columns`, and for the host `index` int64, a row's image in its source."""
        return {**self.device_columns, "index": ((), np.int64)}

    def empty(self, rows: int, make: Callable = np.empty) -> dict[str, np.ndarray]:
        """Arrays for so many rows, from a function like `np.empty`."""
        return {
            name: make((rows, *shape), np.dtype(dtype))
            for name, (shape, dtype) in self.columns.items()
        }

    def num_bytes(self, rows: int, alignment: int) -> int:
        """What `empty` takes, each array from an aligned place on."""
        sizes = (
            rows * math.prod(shape) * np.dtype(dtype).itemsize
            for shape, dtype in self.columns.values()
        )
        return sum(size + -size % alignment for size in sizes)

    def is_labelled(self, row: np.ndarray | int) -> np.ndarray | bool:
        """Whether rows of a step, by number, are labelled."""
        return row % (self.rows // self.groups) < self.labelled // self.groups

    def number_in_stream(self, step: int, row: int) -> int:
        """Which of the endless stream of labelled, or of unlabelled, examples a row shows."""
        group, place = divmod(row, self.rows // self.groups)
        labelled = self.labelled // self.groups
        if place < labelled:
            return step * self.labelled + group * labelled + place
        unlabelled = self.unlabelled // self.groups
        return step * self.unlabelled + group * unlabelled + place - labelled
