"""The targets that training makes of labels and of stored predictions."""

import numpy as np

from ns_jax.labelling import shards

Target = tuple[np.ndarray, np.ndarray]  # classes int32 [k], probabilities float32 [k]


def hard_target(label: int, num_classes: int, smoothing: float, k: int) -> Target:
    """One class with its smoothed probability, in k places: (int32 `[k]`, float32 `[k]`)."""
    classes, probs = np.full(k, -1, np.int32), np.zeros(k, np.float32)
    classes[0], probs[0] = label, 1 - smoothing + smoothing / num_classes
    return classes, probs


def soft_target(
    classes: np.ndarray, stored: np.ndarray, num_classes: int, temperature: float
) -> Target:
    """A stored p as p^(1/T), normalised over all classes: (int32 `[k]`, float32 `[k]`).

    What the stored classes leave of 1 counts as spread evenly over the others, among which are
    those too improbable to be stored: 0 in the shard, an empty place in the target.
    """
    probs = stored.astype(np.float64) / shards.SCALE
    used = probs > 0 if len(classes) < num_classes else np.ones(len(classes), bool)
    others = num_classes - used.sum()
    if others == 0:
        probs /= probs.sum()
    each_other = max(1 - probs.sum(), 0) / others if others else 0.0
    sharpened = probs ** (1 / temperature)
    total = sharpened.sum() + others * each_other ** (1 / temperature)
    named = np.where(used, classes, -1).astype(np.int32)
    return named, (sharpened / total).astype(np.float32)
