"""digits:train, digits:unlabelled, digits:test: real images that need no download."""

import dataclasses
import functools

import numpy as np
import pyarrow as pa

from ns_jax.data.source import Record, Source, digest, numbered_keys
from ns_jax.errors import InputError

SPLITS = ("train", "unlabelled", "test")


@dataclasses.dataclass(frozen=True)
class _Digits:
    images: np.ndarray  # uint8 [N, 8, 8, 3]
    labels: np.ndarray
    numbers: np.ndarray  # of each image in the data set

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        return self.images[index], self.labels[index], f"digit-{self.numbers[index]:04d}"

    def keys(self, indices: np.ndarray) -> pa.Array:
        return numbered_keys("digit", self.numbers[indices], digits=4)


def open_source(split: str, labels_per_class: int, seed: int) -> Source:
    """scikit-learn's 1,797 real handwritten digits, 8 x 8.

    Every third image is the test split. Of the others `labels_per_class` images of each class,
    drawn by the seed, are the train split; the rest, their labels hidden, are the unlabelled one.
    """
    if split not in SPLITS:
        raise InputError(f"digits has no split {split!r}; known: {', '.join(SPLITS)}")
    images, labels = _arrays()
    pool = np.flatnonzero(np.arange(len(labels)) % 3)
    scarcest = np.bincount(labels[pool]).min()
    if not 1 <= labels_per_class < scarcest:
        raise InputError(
            f"data.labels_per_class is {labels_per_class}; the digits allow 1 to {scarcest - 1}"
        )
    order = np.random.default_rng(seed).permutation(pool)
    train = np.concatenate([order[labels[order] == c][:labels_per_class] for c in range(10)])
    chosen = {
        "train": np.sort(train),
        "unlabelled": np.setdiff1d(pool, train),
        "test": np.arange(0, len(labels), 3),
    }[split]
    hidden = split == "unlabelled"
    shown = np.full(len(chosen), -1, np.int32) if hidden else labels[chosen]
    return Source(
        name=f"digits:{split}",
        class_names=tuple(str(c) for c in range(10)),
        fingerprint=digest(images[chosen].tobytes(), labels[chosen].tobytes(), split),
        records=_Digits(images[chosen], shown, chosen),
        labels=shown,
        truth=labels[chosen] if hidden else None,
    )


@functools.cache
def _arrays() -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets  # slow to import, and only the digits need it

    digits = datasets.load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), digits.target.astype(np.int32)
