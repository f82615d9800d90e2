"""Classes, calibration, precision and confusions as plain numbers, worst first."""

import numpy as np

from ns_jax.inference import metrics
from ns_jax.report.sample import Sample

THRESHOLDS = 21  # of the curve of precision, 0 to 1
CONFUSIONS = 1000  # pairs of classes that the JSON lists
MATRIX = 20  # classes of a matrix; of more, pairs are listed


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict]:
    """Mean confidence, accuracy and images of each bin of `metrics.BINS` that has any."""
    bins = np.minimum((confidence * metrics.BINS).astype(int), metrics.BINS - 1)
    found = []
    for number in np.unique(bins).tolist():
        inside = bins == number
        hits = int(right[inside].sum())
        low, high = metrics.share_interval(hits, int(inside.sum()))
        found.append(
            {
                "confidence": float(confidence[inside].mean()),
                "accuracy": hits / int(inside.sum()),
                "low": low,
                "high": high,
                "num_images": int(inside.sum()),
            }
        )
    return found


def precision(confidence: np.ndarray, right: np.ndarray, chosen: float | None) -> list[dict]:
    """Labels above each threshold, and the chosen one: how many, and how many are right."""
    levels = set(np.linspace(0, 1, THRESHOLDS)[:-1].round(6).tolist())
    found = []
    for level in sorted(levels | ({chosen} if chosen is not None else set())):
        above = confidence > np.float32(level)
        count, hits = int(above.sum()), int((right & above).sum())
        if count:
            low, high = metrics.share_interval(hits, count)
            found.append(
                {
                    "threshold": level,
                    "precision": hits / count,
                    "low": low,
                    "high": high,
                    "num_images": count,
                    "share": count / len(confidence),
                    "chosen": level == chosen,
                }
            )
    return found


def confusions(found: dict[str, np.ndarray]) -> list[dict]:
    """`{"truth", "predicted", "num_images"}` of pairs of classes that occur, most often first."""
    pair = found["label"].astype(np.int64) << 32 | found["predicted"]
    values, counts = np.unique(pair, return_counts=True)
    order = np.lexsort((values, -counts))
    return [
        {
            "truth": int(values[place] >> 32),
            "predicted": int(values[place] & 0xFFFFFFFF),
            "num_images": int(counts[place]),
        }
        for place in order.tolist()
    ]


def classes(
    counts: dict,
    sample: Sample | None,
    teacher: dict[str, np.ndarray] | None,
    in_labels: np.ndarray | None,
) -> list[dict]:
    """A selection's report on each class, with estimates; the worst class first.

    Precision of what was kept is that of the sample where the pool's truth is known, else that of
    the `teacher` on the test images to which it gives the class with such a confidence.
    `in_labels` int64 `[C]`: labelled images.
    """
    num_classes = len(counts["classes"])
    in_pool = None if sample is None else np.bincount(sample.label, minlength=num_classes)
    right, known = _kept_right(counts, sample, teacher)
    rows = []
    for number, one in enumerate(counts["classes"]):
        low, high = metrics.share_interval(int(right[number]), int(known[number]))
        rows.append(
            {
                "number": number,
                **one,
                "precision": float(right[number] / known[number]) if known[number] else None,
                "precision_low": low if known[number] else None,
                "precision_high": high if known[number] else None,
                "precision_of": int(known[number]),
                "share_in_pool": _share(in_pool, number),
                "share_in_labels": _share(in_labels, number),
            }
        )
    return sorted(rows, key=_worst)


def _share(counts: np.ndarray | None, number: int) -> float | None:
    return None if counts is None or not counts.sum() else float(counts[number] / counts.sum())


def _worst(row: dict) -> tuple:
    """Without an image, then by what is surely right, then scarce, then unsure."""
    lowest = row["lowest_confidence"]
    return (
        row["kept"] > 0,
        1.0 if row["precision_high"] is None else row["precision_high"],
        row["kept"],
        1.0 if lowest is None else lowest,
    )


def _kept_right(
    counts: dict, sample: Sample | None, teacher: dict[str, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Each class's labels that are right, and those that are known, int64 `[C]` each."""
    num_classes = len(counts["classes"])
    if sample is not None and sample.truth is not None:
        chosen = (sample.copies > 0) & (sample.truth >= 0)
        label, right = sample.label[chosen], (sample.label == sample.truth)[chosen]
    elif teacher is not None:
        lowest = np.asarray(
            [
                np.inf if c["lowest_confidence"] is None else c["lowest_confidence"]
                for c in counts["classes"]
            ]
        )
        inside = teacher["predicted"] < num_classes
        chosen = inside & (
            teacher["confidence"] >= lowest[np.minimum(teacher["predicted"], num_classes - 1)]
        )
        label = teacher["predicted"][chosen]
        right = (teacher["predicted"] == teacher["label"])[chosen]
    else:
        return np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    known = np.bincount(label, minlength=num_classes)
    return np.bincount(label[right], minlength=num_classes), known
