import numpy as np
import pytest
from scipy import stats

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


def test_a_paired_interval_is_narrow_where_networks_err_on_the_same_images():
    rng = np.random.default_rng(1)
    theirs = (rng.random(4000) < 0.5).astype(float)
    ours = np.where(rng.random(4000) < 0.02, 1.0, theirs)
    mean, low, high = metrics.paired_difference(ours, theirs)
    assert low < mean < high and low > 0
    d = ours - theirs
    assert high - low == pytest.approx(2 * 1.96 * d.std(ddof=1) / 4000**0.5, rel=1e-4)
    alone = 2 * 1.96 * (2 * 0.25 / 4000) ** 0.5  # as if the images were different ones
    assert high - low < alone / 4


def test_unreadable_images_are_left_out_of_a_difference():
    found = metrics.paired_difference(np.array([1, np.nan, 0, 1.0]), np.array([0, 1, np.nan, 1.0]))
    assert found.mean == 0.5
    assert np.isnan(metrics.paired_difference(np.array([1.0]), np.array([0.0])).low)


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (3, 10), (950, 1000)])
def test_the_interval_of_a_share_is_wilsons(right, count):
    found = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert metrics.share_interval(right, count) == pytest.approx((found.low, found.high), abs=1e-6)


def test_nothing_is_known_of_a_share_of_nothing():
    assert metrics.share_interval(0, 0) == (0, 1)
