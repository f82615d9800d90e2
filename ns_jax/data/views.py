"""What a network sees of an image in training: the noise on the input, and the teacher's view."""

import dataclasses

import cv2
import numpy as np

from ns_jax.data import crops, decoding, randaugment, resizing


@dataclasses.dataclass(frozen=True)
class TrainView:
    """The noise on the input: an image file or array, and a generator, to uint8 `[S, S, 3]`.

    The order is the official code's: crop, resize, mirror, RandAugment; small images: RandAugment,
    a box cut out, pad and crop back, mirror.
    """

    evaluation: crops.Preprocessing  # its size and interpolation are training's too
    # "crop": random crop and aspect; "pad": pad and crop back, for small images; "evaluation":
    # nothing random
    kind: str
    flip: bool
    randaugment: randaugment.RandAugment
    crop_sampler: str = "official"  # height uniform; or "area"
    final_cutout: int = 0
    teacher: crops.Preprocessing | None = None  # adds the image as a teacher sees it, un-noised

    def __call__(
        self, data: bytes | np.ndarray, rng: np.random.Generator, max_pixels: int
    ) -> dict[str, np.ndarray]:
        """`image` uint8 `[S, S, 3]` and, for a teacher of size T, `teacher_image` `[T, T, 3]`.

        Decodes once. Raises BadImageError.
        """
        picture = decoding.Picture(data, max_pixels)
        box = self._box(picture, rng)
        reduction = self._reduction(picture, box)
        pixels = picture.pixels(reduction, None if box is None or self.teacher else box[0] + box[2])
        # RandAugment is on integers, which the official code truncates to; without it, it rounds
        # nothing, and the nearest integers are what comes closest.
        truncate = self.kind != "evaluation" and self.randaugment.num_layers > 0
        if box is None:
            image = self.evaluation(pixels, truncate)
        else:
            size, interpolation = self.evaluation.size, self.evaluation.interpolation
            crop = crops.cut(pixels, _reduced(box, reduction, pixels.shape))
            image = resizing.resize(crop, size, interpolation, truncate)
        if self.kind == "crop":
            image = self._cut_out(self.randaugment(self._mirror(image, rng), rng), rng)
        elif self.kind == "pad":
            image = self._cut_out(self.randaugment(image, rng), rng)
            image = self._mirror(crops.pad_and_crop(image, rng), rng)
        views = {"image": np.ascontiguousarray(image)}
        if self.teacher:
            views["teacher_image"] = np.ascontiguousarray(self.teacher(pixels))
        return views

    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """The shape of each array that a call returns."""
        sizes = {"image": self.evaluation.size}
        if self.teacher:
            sizes["teacher_image"] = self.teacher.size
        return {name: (size, size, 3) for name, size in sizes.items()}

    def _box(self, picture: decoding.Picture, rng: np.random.Generator) -> crops.Box | None:
        """The random crop; None for evaluation's."""
        if self.kind != "crop":
            return None
        sampler = {"official": crops.official_crop, "area": crops.area_crop}[self.crop_sampler]
        return sampler(*picture.size, rng)

    def _reduction(self, picture: decoding.Picture, box: crops.Box | None) -> int:
        """How far a JPEG may be reduced while it is decoded: its crop still covers the view.

        Not for the teacher's view, and not with TensorFlow's interpolation, which promises the
        official code's pixels.
        """
        exact = self.teacher or self.evaluation.interpolation == "bicubic_tf"
        if exact or box is None or not picture.reducible:
            return 1
        fitting = (r for r in (8, 4, 2) if min(box[2:]) >= r * self.evaluation.size)
        return next(fitting, 1)

    def _mirror(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return cv2.flip(image, 1) if self.flip and rng.random() < 0.5 else image

    def _cut_out(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not self.final_cutout:
            return image
        return randaugment.cutout(image, self.final_cutout, rng.integers(image.shape[:2]))


def _reduced(box: crops.Box, reduction: int, shape: tuple[int, ...]) -> crops.Box:
    """The box in an image reduced to `shape`: the same size, rounded down, nearest place."""
    sides = [side // reduction for side in box[2:]]
    starts = [round(start / reduction) for start in box[:2]]
    fitting = [min(start, shape[axis] - sides[axis]) for axis, start in enumerate(starts)]
    return (*fitting, *sides)  # type: ignore[return-value]  # two and two
