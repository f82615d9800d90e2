"""How sure a teacher may be: the temperature at which its confidence is its accuracy.

One number divides all logits (Guo et al., arXiv 1706.04599, section 4.2). No prediction of a single
network changes; which images pass the selection's threshold does, and how soft their targets are.
"""

import math

import numpy as np
import scipy.optimize
import scipy.special

from ns_jax.inference import metrics

RANGE = (0.05, 20.0)  # in which the temperature is looked for
ROWS = 4096  # at once


def fit(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> dict:
    """The temperature of least cross-entropy on labelled images, and its effect.

    `logits` float32 `[N, M, classes]` of M members whose distributions are averaged, `labels` int
    `[N]`, `weights` of the members, float `[M]`; None: all alike. Of cross-entropy (nats) and
    expected calibration error the values at temperature 1 and at the one found.
    """

    def loss(log_temperature: float) -> float:
        return _evaluate(logits, labels, math.exp(log_temperature), weights)["cross_entropy"]

    bounds = [math.log(bound) for bound in RANGE]
    found = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded")
    temperature = float(math.exp(found.x))
    before, after = (_evaluate(logits, labels, t, weights) for t in (1.0, temperature))
    return {
        "temperature": temperature,
        "num_images": len(labels),
        "before": before,
        "after": after,
    }


def _evaluate(
    logits: np.ndarray, labels: np.ndarray, temperature: float, weights: np.ndarray | None
) -> dict:
    losses, confidence, right = [], [], []
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        own = scipy.special.softmax(logits[rows].astype(np.float64) / temperature, -1)
        probs = own.mean(1) if weights is None else np.average(own, 1, weights)
        true = labels[rows]
        losses.append(-np.log(np.maximum(probs[np.arange(len(true)), true], 1e-300)))
        confidence.append(probs.max(1))
        right.append(probs.argmax(1) == true)
    confidences, rights = np.concatenate(confidence), np.concatenate(right)
    return {
        "cross_entropy": float(np.concatenate(losses).mean()),
        "ece": metrics.calibration_error(confidences, rights),
        "top1": float(rights.mean()),
    }
