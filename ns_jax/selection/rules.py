"""Which labelled images may be selected, and the order in which those of a class are taken."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from ns_jax.errors import InputError, MissingFileError
from ns_jax.selection import ranking
from ns_jax.selection.corrections import Corrections

_FRACTION, _ORDER = 0, 1  # streams of the hash


@dataclasses.dataclass(frozen=True)
class Rules:
    """Functions of a row alone: no random state, and no row depends on another one."""

    num_images: int  # of the source
    threshold: float  # an image counts if its confidence is above this, as a float32 ...
    max_confidence: float | None  # ... and not above this
    order: str  # of a class: "confidence" or "random"
    fraction: float  # of the images that count at all
    seed: int  # of the fraction and the random order
    excluded: np.ndarray | None  # a bit for each image, uint8: those left out
    corrections: Corrections | None = None  # what people said of single labels

    def candidates(
        self, label: np.ndarray, confidence: np.ndarray, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """label int32, confidence float32, index int64 `[n]` -> those rows that are candidates:

        their labels int32, ranking keys uint64 and places among the n, int64 `[m]`. The indices of
        a block are a range. Labels are the corrected ones; what was corrected, or found right,
        comes first in its class.
        """
        chosen = self._counts(label, confidence, index)
        first = np.zeros(len(index), bool)  # in its class's ranking
        if self.corrections is not None:
            effect = self.corrections.effect(label, index)
            label, first = effect.label, effect.kept
            chosen = (chosen | first) & ~effect.dropped
        if self.excluded is not None:
            chosen &= ~self._is_excluded(self.excluded, index)
        rows = np.flatnonzero(chosen)
        label, confidence, index = label[rows], confidence[rows], index[rows]
        if self.order == "random":
            score = ranking.random_bits(self.seed, _ORDER, index)
            score >>= np.uint64(64 - ranking.SCORE_BITS)
        else:
            score = ranking.confidence_score(confidence)
        score[first[rows]] = (1 << ranking.SCORE_BITS) - 1
        return label, ranking.keys(score, index, self.num_images), rows

    def key_range(self) -> tuple[int, int]:
        """The lowest and the highest key that `candidates` gives."""
        bits = ranking.index_bits(self.num_images)
        lowest = 0
        if self.order == "confidence":
            lowest = int(ranking.confidence_score(np.asarray([self.threshold], np.float32))[0])
        return lowest << bits, (1 << (ranking.SCORE_BITS + bits)) - 1

    def _counts(self, label: np.ndarray, confidence: np.ndarray, index: np.ndarray) -> np.ndarray:
        """bool `[n]`: labelled, within the fraction, and confident enough."""
        chosen = label >= 0  # -1: a bad image
        if self.fraction < 1:
            limit = np.uint64(int(self.fraction * 2**64))
            chosen &= ranking.random_bits(self.seed, _FRACTION, index) < limit
        chosen &= confidence > np.float32(self.threshold)
        if self.max_confidence is not None:
            chosen &= confidence <= np.float32(self.max_confidence)
        return chosen

    def _is_excluded(self, excluded: np.ndarray, index: np.ndarray) -> np.ndarray:
        first = int(index[0])  # a block is a range of indices
        bits = excluded[first // 8 : (first + len(index) - 1) // 8 + 1]
        return np.unpackbits(bits)[first % 8 :][: len(index)] != 0


def read_excluded(path: pathlib.Path, num_images: int) -> np.ndarray:
    """A bit for each image, uint8 `[num_images / 8]`, of a file that lists those to leave out.

    The first column of each line, up to a comma, is an index; a first line that is no number is a
    header. Raises InputError for any other line, and FileNotFoundError.
    """
    if not path.is_file():
        raise MissingFileError(f"select.exclude={path}: there is no such file")
    bits = nothing_excluded(num_images)
    with path.open() as lines:
        for numbers in _blocks(path, lines, num_images):
            exclude(bits, np.asarray(numbers, np.int64))
    return bits


def nothing_excluded(num_images: int) -> np.ndarray:
    """A bit for each image, uint8 `[num_images / 8]`."""
    return np.zeros(-(-num_images // 8), np.uint8)


def exclude(bits: np.ndarray, index: np.ndarray) -> None:
    """Sets the bits of images, int64 `[n]`."""
    np.bitwise_or.at(bits, index >> 3, np.uint8(128) >> (index & 7).astype(np.uint8))


def _blocks(path: pathlib.Path, lines: Iterable[str], num_images: int) -> Iterator[list[int]]:
    """The indices that a file lists, some at a time."""
    found = []
    for number, line in enumerate(lines, 1):
        text = line.partition(",")[0].strip().strip('"')
        try:
            index = int(text)
        except ValueError:
            if number == 1 or not text:
                continue
            raise InputError(
                f"select.exclude={path}, line {number}: {text[:40]!r} is not an index; the first "
                "column must hold whole numbers (the first line may name the columns)"
            ) from None
        if not 0 <= index < num_images:
            raise InputError(
                f"select.exclude={path}, line {number}: there is no image {index}; the labels are "
                f"of images 0 to {num_images - 1:,}"
            )
        found.append(index)
        if len(found) == 1 << 16:
            yield found
            found = []
    yield found
