import numpy as np

from ns_jax.training import losses
from tests import rounding


def dense_target(classes, probs, num_classes):
    """The whole distribution that a sparse target stands for."""
    used = [c for c in classes if c >= 0]
    total = sum(p for c, p in zip(classes, probs, strict=True) if c >= 0)
    target = np.zeros(num_classes)
    if len(used) < num_classes:
        target[:] = (1 - total) / (num_classes - len(used))
    for c, p in zip(classes, probs, strict=True):
        if c >= 0:
            target[c] = p
    return target


def test_cross_entropy_equals_that_of_the_whole_distribution():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 6)).astype(np.float32) * 3
    classes = np.asarray([[2, -1, -1], [0, 5, 3], [4, 1, -1], [5, 0, 1]], np.int32)
    probs = np.asarray([[0.9, 0, 0], [0.5, 0.3, 0.2], [0.4, 0.4, 9.0], [0.2, 0.1, 0.1]], np.float32)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [
        -(dense_target(c, p, 6) * row).sum()
        for c, p, row in zip(classes, probs, log_probs, strict=True)
    ]
    rounding.close(losses.cross_entropy(logits, classes, probs), expected)


def test_label_smoothing_is_that_of_tensorflow():
    logits = np.random.default_rng(1).normal(size=(1, 10)).astype(np.float32)
    log_probs = logits - np.log(np.exp(logits).sum())
    smoothed = np.full(10, 0.1 / 10)
    smoothed[3] += 0.9
    loss = losses.cross_entropy(logits, np.asarray([[3]]), np.float32([[0.9 + 0.1 / 10]]))
    rounding.close(loss, [-(smoothed * log_probs).sum()])


def test_k_equal_to_the_number_of_classes_is_the_full_distribution():
    logits = np.random.default_rng(2).normal(size=(1, 4)).astype(np.float32)
    log_probs = logits - np.log(np.exp(logits).sum())
    target = np.float32([[0.4, 0.3, 0.2, 0.1]])
    loss = losses.cross_entropy(logits, np.asarray([[3, 1, 0, 2]]), target)
    rounding.close(loss, [-(target[0] * log_probs[0, [3, 1, 0, 2]]).sum()])
