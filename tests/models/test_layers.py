"""Layers against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ns_jax.models import layers


@pytest.mark.parametrize(
    ("shape", "kernel_size", "stride"),
    [
        ((2, 9, 7, 5), 3, 1),
        ((2, 9, 8, 5), 5, 2),
        ((3, 37, 20, 4), 5, 2),  # more rows than one block of the kernel's gradient
        ((5, 17, 33, 4), 3, 1),  # a batch that does not divide into pieces
        ((1, 16, 16, 4), 5, 2),
        ((2, 18, 18, 3), 3, 2),
    ],
)
def test_depthwise_shifts_equal_the_native_convolution_and_its_gradients(
    shape, kernel_size, stride
):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], shape)
    kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, 1, shape[-1]))
    ours, our_vjp = jax.vjp(lambda x, k: layers.depthwise_conv(x, k, stride), x, kernel)
    native, native_vjp = jax.vjp(
        lambda x, k: layers.conv(x, k, stride, groups=shape[-1]), x, kernel
    )
    g = jax.random.normal(keys[2], native.shape)
    pairs = zip((ours, *our_vjp(g)), (native, *native_vjp(g)), strict=True)
    for our, expected in pairs:
        np.testing.assert_allclose(our, expected, rtol=1e-4, atol=1e-4)


def test_pointwise_product_equals_the_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 6))
    kernel = jax.random.normal(jax.random.key(1), (1, 1, 6, 3))
    ours, native = layers.pointwise_conv(x, kernel), layers.conv(x, kernel)
    np.testing.assert_allclose(ours, native, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [7, 8, 9, 14, 16])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_padding_is_xlas_same(size, kernel_size):
    expected = jax.lax.padtype_to_pads((size,), (kernel_size,), (2,), "SAME")[0]
    assert layers.same_padding(size, kernel_size, 2) == tuple(expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_is_tensorflows_in_each_group(groups):
    x = np.random.default_rng(0).normal(2.0, 3.0, (4, 3, 3, 5)).astype(np.float32)
    norm = layers.BatchNorm(groups, momentum=0.9)
    variables = norm.init(jax.random.key(0), x, train=False)
    variables["params"]["scale"] = jnp.arange(1.0, 6.0)
    variables["params"]["bias"] = jnp.arange(5.0)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])

    parts = x.reshape(groups, -1, 5)
    mean, var = parts.mean(1), parts.var(1)  # NumPy's variance is the biased one
    normal = (parts - mean[:, None]) / np.sqrt(var[:, None] + 1e-3)
    expected = (normal * np.arange(1, 6) + np.arange(5)).reshape(x.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    stats = updated["batch_stats"]
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
