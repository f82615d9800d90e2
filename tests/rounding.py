"""How far numbers may lie apart that rounding alone can part. Each kind says what it allows:

`close`: an array of floats that was computed in two ways. Rounding grows with the terms of a sum,
    not with what is left of them after they cancel, so every value may be off by the same share of
    the array's scale, its largest absolute value: 1e-5, about 80 units of float32. Other versions
    of XLA add in another order, and stay within 1e-6 of the scale where a computation is short.
    After several steps of training 1e-4 is allowed. Never more: an error of 1e-3 of the scale in
    one value must fail.
`close_trees`: each leaf of a tree by itself. `at_least` is the scale of leaves that hold little
    but rounding, such as biases whose gradient a BatchNorm takes away.
`in_steps`: probabilities that label shards store as whole 65,535ths, rounded down: a step off at
    most, and a second one for what is spread or written with few digits on the way. Labels made
    of label shards lose them twice and are scaled to a sum of 1 in between: six steps, 9e-5.
`pytest.approx(x, rel=...)`: one number against itself, which is its own scale.

Bytes of pixels, where one unit is 4e-3 of the scale, are compared in whole units in the tests.
What chance decides (means over draws) is no rounding: there the bound is a few standard errors.
"""

import jax
import numpy as np

from ns_jax import trees
from ns_jax.labelling import shards


def close(found, expected, of_scale: float = 1e-5, at_least: float = 0.0, name: str = "") -> None:
    """Fails unless each value is within `of_scale` of the scale of `expected`, shapes equal."""
    assert 0 < of_scale <= 1e-4, "an error of 1e-3 of the scale has to fail by far"
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape and expected.size, name
    scale = max(np.abs(expected).max(), at_least)
    np.testing.assert_allclose(found, expected, rtol=0, atol=of_scale * scale, err_msg=name)


def close_trees(found, expected, of_scale: float = 1e-5, at_least: float = 0.0) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    ours = trees.by_path(found)
    for path, leaf in trees.by_path(expected).items():
        close(ours[path], leaf, of_scale, at_least, path)


def in_steps(found, expected, steps: float = 2) -> None:
    """Fails unless each probability is within so many of the steps that shards store."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=steps / shards.SCALE)
