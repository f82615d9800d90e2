"""What the suites show: corrupted images, frames of sequences and videos, as records of a source.

A record is made when it is asked for, by whichever reader or worker it falls to, and is a function
of the seed and its index alone.
"""

import collections
import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ns_jax.data import crops, decoding
from ns_jax.data.source import Indices, Record, Records, Source
from ns_jax.digest import Digest
from ns_jax.errors import InputError
from ns_jax.robustness import corruptions, imagenet, perturbations, video

SEQUENCES_KEPT = 4  # latest ones, of which a frame after the other is asked for


@dataclasses.dataclass(frozen=True)
class Making:
    """How corrupted images and sequences are made."""

    view: crops.Preprocessing  # of the images that are corrupted
    seed: int
    variant: str  # of the severities, a key of `corruptions.SEVERITIES`
    frost: str  # directory of the six photographs; "": the stand-in

    def uncropped(self, image: np.ndarray) -> np.ndarray:
        """The largest square of an image, so large that its centre is what the view would show.

        Moves of ImageNet-P show what lies beyond the crop, and black beyond the image.
        """
        size = round(self.view.size / self.view.fraction())
        return dataclasses.replace(self.view, size=size, crop="none")(image)

    def inputs(self) -> dict:
        """All that results depend on, for JSON."""
        return dataclasses.asdict(self)


class Recent:
    """The latest few values of a function of an index, made once each, by whichever thread."""

    def __init__(self, make: Callable[[int], Any]):
        self._make = make
        self._values: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, index: int) -> Any:
        with self._lock:
            if index not in self._values:
                self._values[index] = self._make(index)
                while len(self._values) > SEQUENCES_KEPT:
                    self._values.popitem(last=False)
            return self._values[index]

    def __reduce__(self) -> tuple:
        return Recent, (self._make,)  # a worker begins with none


@dataclasses.dataclass(frozen=True)
class _Corrupted:
    source: Source
    corruption: str
    severity: int
    making: Making

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        example = self.source[index]
        try:
            image = self.making.view(decoding.decode(example["image"], self.source.max_pixels))
        except decoding.BadImageError:
            return example["image"], example["label"], example["key"]  # reported with its reason
        making = self.making
        image = corruptions.corrupt(
            image,
            self.corruption,
            self.severity,
            making.seed,
            index,
            making.variant,
            making.frost,
        )
        return image, example["label"], example["key"]


def corrupted(source: Source, corruption: str, severity: int, making: Making) -> Source:
    """A source's images as `making.view` sees them, corrupted."""
    return dataclasses.replace(
        source,
        name=f"{source.name}, {corruption} {severity}",
        records=_Corrupted(source, corruption, severity, making),
    )


@dataclasses.dataclass(frozen=True)
class _Frames:
    """All frames of the sequences of the chosen images, one sequence after the other."""

    sequence: Recent  # of an image's number in `chosen`: frames, label and key
    count: int
    frames: int

    def __len__(self) -> int:
        return self.count * self.frames

    def __getitem__(self, index: int) -> Record:
        number, frame = divmod(index, self.frames)
        frames, label, key = self.sequence(number)
        image = frames[frame] if isinstance(frames, np.ndarray) else frames
        return image, label, f"{key}[{frame}]"


def _sequence(
    source: Source, chosen: Indices, perturbation: str, making: Making, number: int
) -> tuple:
    index = int(chosen[number])
    example = source[index]
    try:
        image = decoding.decode(example["image"], source.max_pixels)
    except decoding.BadImageError:
        return example["image"], example["label"], example["key"]
    image = making.uncropped(image)
    frames = perturbations.sequence(
        image, perturbation, making.seed, index, making.view.size, making.variant
    )
    return frames, example["label"], example["key"]


def sequences(
    source: Source, chosen: Indices, perturbation: str, making: Making, frames: int
) -> Source:
    """The frames of a perturbation of the chosen images, `frames` of each, as a source."""
    make = functools.partial(_sequence, source, chosen, perturbation, making)
    records = _Frames(Recent(make), len(chosen), frames)
    return dataclasses.replace(
        source, name=f"{source.name}, {perturbation}", records=records, labels=None, truth=None
    )


def _video(paths: Sequence[str], labels: Sequence[int], frames: int, number: int) -> tuple:
    path = paths[number]
    try:
        return video.read_frames(path, frames), labels[number], path
    except decoding.BadImageError:
        return b"", labels[number], path


def videos(
    name: str, paths: Sequence[str], labels: Sequence[int], class_names: Sequence[str], frames: int
) -> Source:
    """The frames of video files, `frames` of each, as a source."""
    total = Digest()
    for path in paths:
        total.update(path.encode())
    make = functools.partial(_video, paths, labels, frames)
    records: Records = _Frames(Recent(make), len(paths), frames)
    return Source(name, tuple(class_names), str(total), records)


@dataclasses.dataclass(frozen=True)
class _Numbered:
    source: Source
    count: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        image, _, key = self.source.records[index]
        number = imagenet.image_number(key, self.source)
        if number >= self.count:
            raise InputError(f"{self.source.name}: {key} has no labels; there are {self.count:,}")
        return image, number, key


def numbered(source: Source, count: int) -> Source:
    """Images of ImageNet's validation set whose label is their number there, below `count`."""
    return dataclasses.replace(
        source,
        class_names=tuple(map(str, range(count))),
        records=_Numbered(source, count),
        labels=None,
        truth=None,
    )
