"""Layers against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ns_jax.models import layers
from tests import rounding


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
    rounding.close(y, expected)
    stats = layers.update_moving_averages(
        variables["batch_stats"], found["group_stats"], 0.9, layers.ANYWHERE.mean_of_groups
    )
    rounding.close(stats["mean"], 0.1 * mean.mean(0))
    rounding.close(stats["var"], 0.9 + 0.1 * var.mean(0))
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


@pytest.mark.parametrize("level", [0.0, 1.0, 40.0, -40.0, 1e4])
@pytest.mark.parametrize("activate", [False, True])
def test_a_constant_channel_has_a_variance_of_0_and_finite_gradients(level, activate):
    """E[x^2] - mean^2 comes out below 0 for some of these, and then its root is not a number."""
    x = np.full((8, 14, 14, 3), level, np.float32)
    x[..., 1] += np.random.default_rng(0).normal(0, 1, x.shape[:-1])
    x[..., 2] *= np.float32(1.0001)
    norm = layers.BatchNorm(2, activate=activate)
    variables = norm.init(jax.random.key(0), x, train=False)

    def loss(x):
        y, found = norm.apply(variables, x, train=True, mutable=["group_stats"])
        return (y**2).sum(), (y, found["group_stats"])

    gradient, (y, found) = jax.jit(jax.grad(loss, has_aux=True))(x)
    assert np.isfinite(y).all() and np.isfinite(gradient).all()
    assert (found["var"] >= 0).all()
    if abs(level) < 1e3:  # else float32 cannot tell
        np.testing.assert_allclose(found["var"][:, 1], 1, rtol=0.2)  # of 784 draws: 4 deviations


def test_a_clipped_variance_has_no_gradient():
    """As of a number that does not depend on x: the mean of g is all that is taken off."""
    x = np.full((64, 9, 9, 1), 40.1, np.float32)
    norm = layers.BatchNorm(1)
    variables = norm.init(jax.random.key(0), x, train=False)
    g = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)

    def loss(x):
        y, found = norm.apply(variables, x, train=True, mutable=["group_stats"])
        return (y * g).sum(), found["group_stats"]["var"]

    gradient, var = jax.jit(jax.grad(loss, has_aux=True))(x)
    if var.item() > 0:
        pytest.skip("it is not clipped here")
    rounding.close(gradient, (g - g.mean()) / 1e-3**0.5)


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_that_do_not_count_are_in_no_statistics_and_no_gradient(groups):
    rng = np.random.default_rng(0)
    x, g = rng.normal(2, 3, (2, 8, 3, 3, 5)).astype(np.float32)
    good = np.array([1, 0, 1, 1, 1, 1, 0, 1], bool)  # as many in each half
    g[~good] = 0  # whose outputs nothing depends on
    norm = layers.BatchNorm(groups, activate=True)
    variables = norm.init(jax.random.key(0), x, train=False)

    def after(x, g, counted):
        def loss(params, x):
            changed = {**variables, "params": params}
            y, found = norm.apply(changed, x, True, counted, mutable=["group_stats"])
            return (y * g).sum(), (y, found["group_stats"])

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)

    counted = layers.count_rows(jnp.asarray(good), groups)
    (of_params, of_x), (y, stats) = after(x, g, counted)
    (params_expected, x_expected), (y_expected, expected) = after(x[good], g[good], None)
    rounding.close(y[good], y_expected)
    rounding.close(of_x[good], x_expected)
    assert not np.asarray(of_x[~good]).any()
    for ours, theirs in ((stats, expected), (of_params, params_expected)):
        rounding.close_trees(ours, theirs)


def test_a_group_without_a_row_that_counts_takes_all():
    good = jnp.array([False, False, True, False])
    counted = layers.count_rows(good, 2)
    np.testing.assert_array_equal(counted.mask, [[True, True], [True, False]])
    np.testing.assert_array_equal(counted.share, [1, 2])
