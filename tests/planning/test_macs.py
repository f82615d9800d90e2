import pytest

from ns_jax.models import efficientnet
from ns_jax.planning import macs


@pytest.mark.parametrize(
    ("name", "size", "giga"),
    [
        ("b0", 224, 0.39),
        ("b4", 380, 4.39),
        ("b7", 600, 37.75),
        ("l0", 380, 32.85),
        ("l2", 475, 170.89),
        ("l2", 800, 475.70),
    ],
)
def test_multiply_adds_are_the_published_ones(name, size, giga):
    model = efficientnet.build(f"efficientnet-{name}", 1000)
    assert round(macs.macs(model, size) / 1e9, 2) == giga


def test_frozen_stages_have_no_backward_pass():
    def training(frozen_stages):
        model = efficientnet.build("efficientnet-l2", 1000, frozen_stages=frozen_stages)
        return macs.training_macs(model, 800)

    forward = macs.macs(efficientnet.build("efficientnet-l2", 1000), 800)
    assert training(None) == 3 * forward
    stem = 400**2 * 9 * 3 * 136
    assert training(0) == 3 * forward - 2 * stem
    stage = 400**2 * (9 * 136 + 136 * 72) + 2 * 136 * 34  # its first block, from 136 to 72 features
    stage += 5 * (400**2 * (9 * 72 + 72**2) + 2 * 72 * 18)
    assert training(1) == 3 * forward - 2 * (stem + stage)
    head = 25**2 * 1376 * 5504 + 5504 * 1000
    assert training(7) == forward + 2 * head
    assert forward < training(7) < training(3) < training(1)
