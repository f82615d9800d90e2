"""Against closed forms and rows worked out by hand."""

import numpy as np
import pytest

from ns_jax.errors import InputError
from ns_jax.robustness import alexnet, metrics
from tests import rounding


def test_alexnet_itself_has_a_hundred_percent_of_each():
    every = alexnet.ERRORS | alexnet.EXTRA_ERRORS
    assert metrics.mean_corruption_error(alexnet.ERRORS) == 100
    assert metrics.mean_corruption_error(every) == 100
    assert metrics.relative_mean_corruption_error(alexnet.ERRORS, 0.4348) == 100
    assert metrics.mean_flip_rate(alexnet.FLIP_PROBABILITIES) == 100


def test_the_tables_have_the_published_means():
    means = {name: np.mean(errors) for name, errors in alexnet.ERRORS.items()}
    assert len(alexnet.ERRORS) == 15 and len(alexnet.EXTRA_ERRORS) == 4
    assert np.mean(list(means.values())) == pytest.approx(0.788993, abs=1e-6)
    assert means["gaussian_noise"] == pytest.approx(0.886428)
    assert means["jpeg_compression"] == pytest.approx(0.6065)
    assert len(alexnet.FLIP_PROBABILITIES) == 10 and len(alexnet.EXTRA_FLIP_PROBABILITIES) == 4
    assert np.mean(list(alexnet.FLIP_PROBABILITIES.values())) == pytest.approx(0.140463)


def test_severities_are_summed_before_the_division():
    errors, baseline = {"fog": [0.1, 0, 0, 0, 0.4]}, {"fog": [0.2, 0.2, 0.2, 0.2, 0.2]}
    assert metrics.mean_corruption_error(errors, baseline) == pytest.approx(50)
    uneven = {"fog": [0.1, 0.2, 0.3, 0.4, 0.5]}  # the mean of five ratios would be 45.67
    ours = {"fog": [0.1, 0.1, 0.1, 0.1, 0.1]}
    assert metrics.mean_corruption_error(ours, uneven) == pytest.approx(100 * 0.5 / 1.5)


def test_relative_error_is_of_what_corruption_adds():
    errors = {"fog": [0.5] * 5, "snow": [0.2] * 5}
    baseline = {"fog": [0.8] * 5, "snow": [0.6] * 5}
    found = metrics.relative_mean_corruption_error(errors, 0.3, baseline, 0.4)
    assert found == pytest.approx(100 * (0.2 / 0.4 - 0.1 / 0.2) / 2)  # one of them negative


def test_the_wide_network_of_the_paper_has_its_published_flip_rate():
    # flip probabilities of ResNeXt-101 32x48d WSL relative to AlexNet's, so that the mean is 27.83
    scaled = {name: 0.2783 * p for name, p in alexnet.FLIP_PROBABILITIES.items()}
    assert metrics.mean_flip_rate(scaled) == pytest.approx(27.83)
    one = {"tilt": 0.0705 / 2, "scale": 0.23531}
    assert metrics.mean_flip_rate(one) == pytest.approx(75)


def test_frames_are_compared_with_the_first_one_or_with_the_one_before():
    classes = np.array([[0, 1, 1, 1], [2, 2, 2, 2], [0, 1, 0, 1]])
    rounding.close(metrics.flips(classes, against_first=True), [1, 0, 2 / 3])
    rounding.close(metrics.flips(classes, against_first=False), [1 / 3, 0, 1])


def by_definition(before: np.ndarray, after: np.ndarray) -> float:
    """T5D of two whole rankings of logits, as the definition has it."""
    rank = {int(c): place for place, c in enumerate(np.argsort(-after, kind="stable"), 1)}
    order = np.argsort(-before, kind="stable")
    return sum(abs(min(i, 6) - min(rank[int(order[i - 1])], 6)) for i in range(1, 6))


def test_the_distance_of_two_rankings_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(100):
        logits = np.round(rng.normal(size=(3, 12)), 1)  # with ties
        best = np.argsort(-logits, axis=-1, kind="stable")[:, :5][None]
        steps = [by_definition(logits[0], logits[1]), by_definition(logits[1], logits[2])]
        assert metrics.top5_distance(best, against_first=False)[0] == pytest.approx(np.mean(steps))
        steps[1] = by_definition(logits[0], logits[2])
        assert metrics.top5_distance(best, against_first=True)[0] == pytest.approx(np.mean(steps))


def test_equal_frames_have_no_distance_and_a_shifted_ranking_a_known_one():
    same = np.tile(np.arange(5), (2, 4, 1))
    np.testing.assert_array_equal(metrics.top5_distance(same, False), [0, 0])
    moved = np.array([[[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]]])  # 4 + 1 + 1 + 1 + 1
    np.testing.assert_array_equal(metrics.top5_distance(moved, False), [8])
    replaced = np.array([[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]])  # 5 + 4 + 3 + 2 + 1
    np.testing.assert_array_equal(metrics.top5_distance(replaced, False), [15])


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"fog": [10, 20, 30, 40, 50]}, "fog is 10; it must be a share in 0..1"),
        ({"fog": [0.1, 0.2]}, "fog has 2 errors"),
        ({"foggy": [0.1] * 5}, "no corruption in common"),
        ({}, "no corruption in common"),
        ({"fog": [float("nan")] * 5}, "fog is nan"),
    ],
)
def test_what_is_no_table_of_errors_is_said(errors, said):
    with pytest.raises(InputError, match=said):
        metrics.mean_corruption_error(errors)
    with pytest.raises(InputError, match=said):
        metrics.relative_mean_corruption_error(errors, 0.2)


def test_what_is_no_flip_probability_is_said():
    with pytest.raises(InputError, match=r"tilt is 7.05; it must be a share"):
        metrics.mean_flip_rate({"tilt": 7.05})
    with pytest.raises(InputError, match="no perturbation in common"):
        metrics.mean_flip_rate({"tilted": 0.1})


def test_a_baseline_without_errors_is_nothing_to_divide_by():
    for call in (
        lambda: metrics.mean_corruption_error({"fog": [0.1] * 5}, {"fog": [0.0] * 5}),
        lambda: metrics.mean_flip_rate({"tilt": 0.1}, {"tilt": 0.0}),
    ):
        with pytest.raises(metrics.NoRatioError, match="nothing to divide by"):
            call()
