"""The best classes of a mean of teachers."""

import numpy as np
import pytest

from ns_jax.inference import mixture


@pytest.mark.parametrize(("classes", "k"), [(10, 3), (10, 10), (1000, 16), (5, 1)])
def test_the_best_classes_are_those_of_a_full_sort_ties_too(classes, k):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(classes, 0.1), 200)
    probs[:100] = probs[:100].round(2)  # many are equal
    probs[7] = 1 / classes
    found = mixture.best(probs, k)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.argsort(-probs, axis=1, kind="stable")[:, :k])
