import numpy as np
import pytest
import scipy.special

from ns_jax.inference import calibration


def made(temperature, count=20_000, members=1):
    """Logits whose labels were drawn at a temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (count, members, 7)).astype(np.float32)
    probs = scipy.special.softmax(logits / temperature, -1).mean(1)
    drawn = (probs.cumsum(1) > rng.random((count, 1))).argmax(1)
    return logits, drawn


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_temperature_of_the_labels_is_found(temperature, members):
    found = calibration.fit(*made(temperature, members=members))
    assert found["temperature"] == pytest.approx(temperature, rel=0.03)
    assert found["after"]["ece"] < 0.02 and found["num_images"] == 20_000
    assert found["after"]["cross_entropy"] <= found["before"]["cross_entropy"]
    if temperature == 2.5:
        assert found["before"]["ece"] > 0.1
