"""Layers against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ns_jax.models import layers


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_is_tensorflows_in_each_group(groups):
    x = np.random.default_rng(0).normal(2.0, 3.0, (4, 3, 3, 5)).astype(np.float32)
    norm = layers.BatchNorm(groups)
    variables = norm.init(jax.random.key(0), x, train=False)
    variables["params"]["scale"] = jnp.arange(1.0, 6.0)
    variables["params"]["bias"] = jnp.arange(5.0)
    y, found = norm.apply(variables, x, train=True, mutable=["group_stats"])

    parts = x.reshape(groups, -1, 5)
    mean, var = parts.mean(1), parts.var(1)  # NumPy's variance is the biased one
    normal = (parts - mean[:, None]) / np.sqrt(var[:, None] + 1e-3)
    expected = (normal * np.arange(1, 6) + np.arange(5)).reshape(x.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    stats = layers.update_moving_averages(
        variables["batch_stats"], found["group_stats"], 0.9, layers.ANYWHERE.mean_of_groups
    )
    np.testing.assert_allclose(stats["mean"], 0.1 * mean.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var.mean(0), rtol=1e-4)
    other = norm.apply(variables, x, train=False)
    assert not np.allclose(other, y)  # evaluation uses the moving averages


def test_initialisers_have_the_official_spread():
    rng = jax.random.key(0)
    assert np.std(layers.conv_init(rng, (1, 1, 64, 512))) == pytest.approx(
        (2 / 512) ** 0.5, rel=0.02
    )
    assert np.std(layers.depthwise_init(rng, (3, 3, 1, 4096))) == pytest.approx(0.47140, rel=0.02)
    assert np.std(layers.depthwise_init(rng, (5, 5, 1, 4096))) == pytest.approx(0.28284, rel=0.02)
    dense = np.asarray(layers.dense_init(rng, (512, 1000)))
    assert 0.0316 < np.abs(dense).max() <= 0.0316228
    assert np.std(dense) == pytest.approx(0.0316228 / 3**0.5, rel=0.02)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 2, 1))
    y = np.asarray(layers.drop_path(x, 0.75, jax.random.key(0)))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (y == y[:, :1, :1]).all()
    assert y.mean() == pytest.approx(1.0, abs=0.03)
