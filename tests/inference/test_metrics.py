import numpy as np
import pytest

from ns_jax.inference import metrics


def test_evaluation_counts_by_hand():
    classes = np.asarray([[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 2, 1]])
    probs = np.asarray([[0.9, 0.1, 0], [0.6, 0.3, 0.1], [0.9, 0.1, 0], [0.6, 0.4, 0]])
    result = metrics.evaluate(classes, probs, np.asarray([0, 0, 2, 1]), 4)
    assert result["top1"] == 0.5
    assert result["top5"] == 1.0  # of three classes kept
    assert result["per_class"] == [0.5, 0.0, 1.0, None]
    # Two bins of two images: 0.9 confident and all right, 0.6 confident and all wrong.
    assert result["ece"] == pytest.approx(0.5 * 0.1 + 0.5 * 0.6)


def test_top_5_counts_only_five():
    classes = np.asarray([[0, 1, 2, 3, 4, 5]])
    probs = np.full((1, 6), 1 / 6)
    assert metrics.evaluate(classes, probs, np.asarray([5]), 6)["top5"] == 0.0
    assert metrics.evaluate(classes, probs, np.asarray([4]), 6)["top5"] == 1.0


def test_perfect_calibration_has_no_error():
    confidence, correct = np.full(10, 0.7), np.asarray([1] * 7 + [0] * 3)
    assert metrics.calibration_error(confidence, correct) == pytest.approx(0.0, abs=1e-12)
    assert metrics.calibration_error(np.ones(4), np.ones(4)) == 0.0
