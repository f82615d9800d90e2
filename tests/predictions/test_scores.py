"""Scores as distributions: what they are taken for, and what becomes of other classes."""

import numpy as np
import pytest
import scipy.special

from ns_jax.predictions import scores
from tests import rounding

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 6)) * 3
PROBS = scipy.special.softmax(LOGITS, 1)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (PROBS, "probabilities"),
        (PROBS.round(2), "probabilities"),
        (np.eye(6), "probabilities"),
        (LOGITS, "logits"),
        (np.log(PROBS), "logits"),
        (np.abs(LOGITS) + 5, "logits"),
        (PROBS * 0.6, "probabilities"),  # and refused for their sums
        (np.where(np.arange(50)[:, None] == 3, np.nan, PROBS), "probabilities"),
    ],
)
def test_values_tell_what_scores_are(found, kind):
    assert scores.kind_of(found, partial=False) == kind


def test_logarithms_of_probabilities_are_logits_that_stand_for_them():
    order = scores.Order(np.arange(6), 6)
    found = np.exp(scores.log_distribution(np.log(PROBS), "logits", order))
    rounding.close(found, PROBS)


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_their_columns_add_up_are_left_out_and_change_places(kind):
    order = scores.Order(np.asarray([3, -1, 0, 3, 1, 0]), 4)  # of ours the third has none
    given = PROBS if kind == "probabilities" else LOGITS
    found = np.exp(scores.log_distribution(given, kind, order))
    kept = 1 - PROBS[:, 1]
    expected = [PROBS[:, 2] + PROBS[:, 5], PROBS[:, 4], 0 * kept, PROBS[:, 0] + PROBS[:, 3]]
    rounding.close(found, (np.stack(expected) / kept).T)


def test_all_on_classes_that_are_left_out_is_no_prediction():
    order = scores.Order(np.asarray([-1, 0, 1]), 2)
    found = scores.log_distribution(
        np.asarray([[1.0, 0, 0], [0.5, 0.5, 0]]), "probabilities", order
    )
    assert np.isnan(found[0]).all()
    rounding.close(np.exp(found[1]), [1, 0])


def test_what_the_best_leave_is_spread_over_the_others():
    classes, probs = (
        np.asarray([[2, 0], [1, 1], [3, -1]]),
        np.asarray([[0.7, 0.1], [0.3, 0.3], [0.5, 0]]),
    )
    found = np.exp(scores.of_best(classes, probs, 4))
    rounding.close(found[0], [0.1, 0.1, 0.7, 0.1])
    rounding.close(found[1], [0.4 / 3, 0.6, 0.4 / 3, 0.4 / 3])
    rounding.close(found[2], [0.5 / 3, 0.5 / 3, 0.5 / 3, 0.5])
