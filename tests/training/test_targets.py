import numpy as np
import pytest

from ns_jax.labelling import shards
from ns_jax.training import targets
from tests import rounding


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("k", [3, 6])
def test_soft_targets_are_the_tempered_distribution(temperature, k):
    full = np.asarray(
        [0.4, 0.25, 0.2, 0.05, 0.05, 0.05]
    )  # the tail is even, so k = 3 loses nothing
    stored = np.round(full[:k] * shards.SCALE).astype(np.uint16)
    classes, probs = targets.soft_target(np.arange(k), stored, 6, temperature)
    expected = full ** (1 / temperature) / (full ** (1 / temperature)).sum()
    assert classes.dtype == np.int32 and probs.dtype == np.float32
    rounding.in_steps(probs, expected[:k])
