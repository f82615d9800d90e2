"""What people would try before a network: methods of scikit-learn on histograms of gradients."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
from sklearn import linear_model, model_selection, semi_supervised, svm

from ns_jax.data import decoding
from ns_jax.data.source import Source

CELLS, BINS = 4, 9  # cells along a side of the image, and directions in each
AT_ONCE = 256  # images


@dataclasses.dataclass(frozen=True)
class Task:
    """Features float32 `[n, d]` of labelled, unlabelled and test images, and labels int `[n]`."""

    labelled: np.ndarray
    labels: np.ndarray
    pool: np.ndarray
    test: np.ndarray

    def partly_labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Labelled and unlabelled together; -1 where there is no label."""
        unknown = np.full(len(self.pool), -1)
        return np.concatenate([self.labelled, self.pool]), np.concatenate([self.labels, unknown])


def support_vectors(task: Task) -> np.ndarray:
    """A kernel SVM on the labelled few, its numbers chosen by cross-validation among them."""
    grid = {"C": [1, 10, 100], "gamma": ["scale", 1.0, 3.0]}
    search = model_selection.GridSearchCV(svm.SVC(), grid, cv=5)
    return search.fit(task.labelled, task.labels).predict(task.test)


def label_spreading(task: Task) -> np.ndarray:
    model = semi_supervised.LabelSpreading(kernel="knn", n_neighbors=7, alpha=0.2, max_iter=100)
    return model.fit(*task.partly_labelled()).predict(task.test)


def self_training(task: Task) -> np.ndarray:
    """Logistic regression that takes its own predictions above 0.75 as labels, up to ten times."""
    regression = linear_model.LogisticRegression(C=10, max_iter=100, tol=1e-3)
    model = semi_supervised.SelfTrainingClassifier(regression)
    return model.fit(*task.partly_labelled()).predict(task.test)


METHODS: dict[str, Callable[[Task], np.ndarray]] = {
    "SVM on HOG": support_vectors,
    "label spreading on HOG": label_spreading,
    "self-training on HOG": self_training,
}


def features(source: Source, size: int) -> np.ndarray:
    """Histograms of gradients of all images, seen at `size` pixels: float32 `[N, 324]`."""
    parts = np.array_split(np.arange(len(source)), -(-len(source) // AT_ONCE))
    return np.concatenate([_hog(np.stack([_grey(source, i, size) for i in p])) for p in parts])


def _grey(source: Source, index: int, size: int) -> np.ndarray:
    image = cv2.cvtColor(decoding.decode(source[int(index)]["image"]), cv2.COLOR_RGB2GRAY)
    return cv2.resize(image, (size, size)).astype(np.float32)


def _hog(grey: np.ndarray) -> np.ndarray:
    """Dalal and Triggs: directions without sign, blocks of 2 x 2 cells, L2-Hys; of `[n, S, S]`."""
    dy, dx = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(dx, dy)
    # Each pixel votes for the two directions nearest to its own.
    place = (np.arctan2(dy, dx) % np.pi) / np.pi * BINS
    distance = np.abs(place[..., None] - np.arange(BINS))
    votes = strength[..., None] * np.maximum(1 - np.minimum(distance, BINS - distance), 0)
    count, size = grey.shape[:2]
    side = size // CELLS
    used = votes[:, : CELLS * side, : CELLS * side]
    cells = used.reshape(count, CELLS, side, CELLS, side, BINS).sum((2, 4))
    blocks = np.stack(
        [
            cells[:, i : i + 2, j : j + 2].reshape(count, -1)
            for i in range(CELLS - 1)
            for j in range(CELLS - 1)
        ],
        axis=1,
    )
    return _unit(np.minimum(_unit(blocks), 0.2)).reshape(count, -1).astype(np.float32)


def _unit(blocks: np.ndarray) -> np.ndarray:
    return blocks / np.sqrt((blocks**2).sum(-1, keepdims=True) + 1e-6)
