"""Numbers about predictions: accuracy, accuracy of each class, calibration."""

import numpy as np

BINS = 15  # of the expected calibration error, equally wide in confidence


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
