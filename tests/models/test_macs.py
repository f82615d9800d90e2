import pytest

from ns_jax.models import efficientnet, macs


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
