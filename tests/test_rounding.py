"""The comparisons of rounding see what they are there to see."""

import numpy as np
import pytest

from tests import rounding


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("scale", [1e-9, 1.0, 355.0, 1e9])
def test_a_thousandth_of_the_scale_in_one_value_is_seen(place, scale):
    expected = np.array([0, -1, 1e-6, 0.3, 0.5]) * scale
    for error, is_seen in ((2e-6, False), (1e-3, True), (-1e-3, True), (np.nan, True)):
        found = expected.copy()
        found[place] += error * scale
        for of_scale in (1e-5, 1e-4):
            if is_seen:
                with pytest.raises(AssertionError):
                    rounding.close(found, expected, of_scale)
            else:
                rounding.close(found, expected, of_scale)


def test_other_shapes_and_wide_bounds_are_refused():
    with pytest.raises(AssertionError):
        rounding.close(np.ones(3), 1.0)
    with pytest.raises(AssertionError):
        rounding.close(np.ones(0), np.ones(0))
    with pytest.raises(AssertionError, match="1e-3"):
        rounding.close(np.ones(3), np.ones(3), 1e-3)
    with pytest.raises(AssertionError):
        rounding.close_trees({"a": np.ones(2)}, {"b": np.ones(2)})


def test_each_leaf_has_its_own_scale():
    expected = {"large": np.full(2, 1e3), "small": np.full(2, 1e-3)}
    found = {"large": np.full(2, 1e3), "small": np.array([1e-3, 1.001e-3])}
    with pytest.raises(AssertionError, match="small"):
        rounding.close_trees(found, expected)
    rounding.close_trees(found, expected, at_least=1.0)


def test_a_stored_probability_may_be_two_steps_off():
    rounding.in_steps([0.5 + 1.9 / 65535], [0.5])
    with pytest.raises(AssertionError):
        rounding.in_steps([0.5 + 2.1 / 65535], [0.5])
