"""Numbers about predictions: accuracy, accuracy of each class, calibration, and their intervals."""

from typing import NamedTuple

import numpy as np

BINS = 15  # of the expected calibration error, equally wide in confidence
NORMAL = 1.959964  # standard errors on each side of a mean that hold 95 %


def evaluate(classes: np.ndarray, probs: np.ndarray, labels: np.ndarray, num_classes: int) -> dict:
    """Top-1, top-5, per-class accuracy and calibration of predictions.

    `classes` int `[N, k]` best first, `probs` `[N, k]`, `labels` int `[N]`. With fewer than five
    classes top-5 is over as many as there are. A class without an image has accuracy None.
    """
    hits = classes == labels[:, None]
    top1, confidence = hits[:, 0], probs[:, 0]
    images = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels, weights=top1, minlength=num_classes)
    return {
        "top1": float(top1.mean()),
        "top5": float(hits[:, :5].any(1).mean()),
        "ece": calibration_error(confidence, top1),
        "per_class": [float(r / n) if n else None for r, n in zip(right, images, strict=True)],
    }


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error: |accuracy - confidence| of each bin, weighted by its share."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


class Difference(NamedTuple):
    """A mean difference and its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """The mean of `ours - theirs` over the same images, with its interval from their spread.

    float `[N]` each; images for which either is NaN, unreadable ones, are left out. The interval is
    the normal one of a mean of N paired differences; of fewer than two it is NaN.
    """
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    difference = difference[~np.isnan(difference)]
    if len(difference) < 2:
        return Difference(float(difference.mean()) if len(difference) else np.nan, np.nan, np.nan)
    mean = float(difference.mean())
    spread = NORMAL * float(difference.std(ddof=1)) / len(difference) ** 0.5
    return Difference(mean, mean - spread, mean + spread)


def share_interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `right` of `count` were seen (Wilson's), 0..1."""
    if not count:
        return 0.0, 1.0
    share, square = right / count, NORMAL**2 / count
    middle = (share + square / 2) / (1 + square)
    half = NORMAL * (share * (1 - share) / count + square / 4 / count) ** 0.5 / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
