"""The parts EfficientNet is made of: initialisers, convolutions, BatchNorm, stochastic depth.

Images are `[B, H, W, C]`, kernels `[kh, kw, in, out]` as in TensorFlow (depthwise: `[k, k, 1, C]`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def conv_init(rng, shape, dtype=jnp.float32):
    """N(0, 2 / fan_out), untruncated, fan_out = kh * kw * out; `shape` is `[kh, kw, in, out]`."""
    fan_out = shape[0] * shape[1] * shape[3]
    return np.sqrt(2.0 / fan_out) * jax.random.normal(rng, shape, dtype)


def depthwise_init(rng, shape, dtype=jnp.float32):
    """N(0, 2 / k^2): TensorFlow's depthwise kernel ends in a 1, so C does not count."""
    return np.sqrt(2.0 / (shape[0] * shape[1])) * jax.random.normal(rng, shape, dtype)


def dense_init(rng, shape, dtype=jnp.float32):
    """U(-r, r) with r = 1 / sqrt(number of classes); `shape` is `[features, classes]`."""
    limit = 1.0 / np.sqrt(shape[1])
    return jax.random.uniform(rng, shape, dtype, -limit, limit)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding; an odd pixel goes to the bottom and the right."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv(x, kernel, stride: int = 1, groups: int = 1):
    """Convolution with SAME padding: `[B, H, W, in]` -> `[B, ceil(H/s), ceil(W/s), out]`."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def pointwise_conv(x, kernel):
    """1x1 convolution. XLA:CPU runs the matrix product 2 to 4 times faster than the convolution."""
    return jax.lax.platform_dependent(
        x, kernel, cpu=lambda x, kernel: x @ kernel[0, 0], default=conv
    )


def _unfused(function, x, pieces: int = 4):
    """`function` over a batch, piece by piece, in a loop that XLA:CPU cannot fuse across.

    Left alone, XLA:CPU fuses a sum of k*k products into each of its consumers and computes it again
    in every one of them (it drops `optimization_barrier`): a step took 1.6 times as long.
    """
    return jax.lax.map(function, x, batch_size=-(-x.shape[0] // pieces))


def _windows(x, kernel_size: int, stride: int):
    """The k*k shifted, strided views of one padded image that a depthwise kernel multiplies."""
    pads = [same_padding(n, kernel_size, stride) for n in x.shape[:2]]
    out_h, out_w = (-(-n // stride) for n in x.shape[:2])
    padded = jnp.pad(x, (*pads, (0, 0)))
    for i in range(kernel_size):
        for j in range(kernel_size):
            last = (i + (out_h - 1) * stride + 1, j + (out_w - 1) * stride + 1)
            yield (i, j), padded[i : last[0] : stride, j : last[1] : stride]


def _depthwise_shifts(x, kernel, stride: int):
    """Depthwise convolution as k*k multiply-adds: 10 to 40 times XLA:CPU's grouped convolution."""

    def one(image):
        return sum(w * kernel[i, j, 0] for (i, j), w in _windows(image, kernel.shape[0], stride))

    return _unfused(one, x)


def _depthwise_native(x, kernel, stride: int):
    return conv(x, kernel, stride, groups=x.shape[-1])


def _depthwise_native_vjp(x, kernel, g, stride: int):
    return jax.vjp(functools.partial(_depthwise_native, stride=stride), x, kernel)[1](g)


def _depthwise_shifts_input_gradient(shape, kernel, g, stride: int):
    """Each residue of the padded input's rows and columns modulo the stride is a sum of its own."""
    k, (_, out_h, out_w, channels) = kernel.shape[0], g.shape
    reach = (k - 1) // stride
    (top, _), (left, _) = (same_padding(n, k, stride) for n in shape[1:3])
    # Rows and columns that no window reached have gradient 0.
    bottom = max(top + shape[1] - (out_h + reach) * stride, 0)
    right = max(left + shape[2] - (out_w + reach) * stride, 0)

    def one(g):
        padded = jnp.pad(g, ((reach, reach), (reach, reach), (0, 0)))

        def residue(a, b):
            return sum(
                padded[reach - i : 2 * reach + out_h - i, reach - j : 2 * reach + out_w - j]
                * kernel[a + i * stride, b + j * stride, 0]
                for i in range(-(-(k - a) // stride))
                for j in range(-(-(k - b) // stride))
            )

        rows = [jnp.stack([residue(a, b) for b in range(stride)], 2) for a in range(stride)]
        dx = jnp.stack(rows, 1)  # [rows, stride, columns, stride, C]
        dx = dx.reshape((out_h + reach) * stride, (out_w + reach) * stride, channels)
        dx = jnp.pad(dx, ((0, bottom), (0, right), (0, 0)))
        return dx[top : top + shape[1], left : left + shape[2]]

    return _unfused(one, g)


def _depthwise_shifts_vjp(x, kernel, g, stride: int):
    """Gradients of the shifted form, written out.

    Autodiff's kernel gradient is k*k reductions of `[B, H, W, C]` to `[C]`, which XLA:CPU does not
    vectorise. Here a scan takes one image's block of rows a step and adds to `[k*k, W, C]`, which
    stays in cache: 6 to 12 times faster on maps of 16 x 16.
    """
    k, (batch, height, width, channels) = kernel.shape[0], g.shape
    dx = _depthwise_shifts_input_gradient(x.shape, kernel, g, stride)

    blocks = -(-height // 16)
    rows = -(-height // blocks)
    (top, bottom), sides = (same_padding(n, k, stride) for n in x.shape[1:3])
    spare = blocks * rows - height  # zero rows of g: they add nothing
    x = jnp.pad(x, ((0, 0), (top, bottom + spare * stride), sides, (0, 0)))
    g = jnp.pad(g, ((0, 0), (0, spare), (0, 0), (0, 0)))
    x_rows, x_last = (rows - 1) * stride + k, (width - 1) * stride + 1

    def add_block(total, position):
        image, row = position // blocks, position % blocks * rows
        x_block = jax.lax.dynamic_slice(
            x, (image, row * stride, 0, 0), (1, x_rows, x.shape[2], channels)
        )[0]
        g_block = jax.lax.dynamic_slice(g, (image, row, 0, 0), (1, rows, width, channels))[0]
        products = [
            sum(x_block[i + r * stride, j : j + x_last : stride] * g_block[r] for r in range(rows))
            for i in range(k)
            for j in range(k)
        ]
        return total + jnp.stack(products).astype(jnp.float32), None

    total = jnp.zeros((k * k, width, channels), jnp.float32)
    total, _ = jax.lax.scan(add_block, total, jnp.arange(batch * blocks))
    return dx, total.sum(1).reshape(kernel.shape).astype(kernel.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv(x, kernel, stride: int):
    """Depthwise convolution, SAME padding: x `[B, H, W, C]`, kernel `[k, k, 1, C]`."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_depthwise_shifts, stride=stride),
        default=functools.partial(_depthwise_native, stride=stride),
    )


def _depthwise_forward(x, kernel, stride):
    return depthwise_conv(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride, saved, g):
    return jax.lax.platform_dependent(
        *saved,
        g,
        cpu=functools.partial(_depthwise_shifts_vjp, stride=stride),
        default=functools.partial(_depthwise_native_vjp, stride=stride),
    )


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


class Conv(nn.Module):
    """Convolution with SAME padding, float32 kernel used in the input's dtype."""

    features: int
    kernel_size: int = 1
    stride: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", conv_init, shape).astype(x.dtype)
        if self.kernel_size == 1 and self.stride == 1:
            y = pointwise_conv(x, kernel)
        else:
            y = conv(x, kernel, self.stride)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return y


class DepthwiseConv(nn.Module):
    """Depthwise convolution with SAME padding, float32 kernel used in the input's dtype."""

    kernel_size: int
    stride: int

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", depthwise_init, shape).astype(x.dtype)
        return depthwise_conv(x, kernel, self.stride)


class BatchNorm(nn.Module):
    """Batch normalisation with TensorFlow's semantics and grouped statistics.

    The batch is cut into `stat_groups` contiguous parts, each normalised by its own float32
    statistics (the official code groups TPU cores); the moving averages take the groups' mean.
    The variance is the biased one, in the normalisation and in its moving average alike.
    """

    stat_groups: int = 1
    momentum: float = 0.99
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x, train: bool):
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        moving_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        moving_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        groups = self.stat_groups if train else 1
        grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
        if train:
            x32 = grouped.astype(jnp.float32)
            mean = x32.mean((1, 2, 3))
            var = (x32 * x32).mean((1, 2, 3)) - mean * mean
            if not self.is_initializing():
                for moving, batch in ((moving_mean, mean), (moving_var, var)):
                    new = batch.mean(0)
                    moving.value = self.momentum * moving.value + (1 - self.momentum) * new
        else:
            mean, var = moving_mean.value[None], moving_var.value[None]
        factor = scale[None] * jax.lax.rsqrt(var + self.epsilon)
        offset = bias[None] - mean * factor
        shape = (groups, 1, 1, 1, channels)
        y = grouped * factor.reshape(shape).astype(x.dtype) + offset.reshape(shape).astype(x.dtype)
        return y.reshape(x.shape)


def drop_path(x, keep_prob, rng):
    """Stochastic depth (section 2 of the paper): each example's branch is kept or zeroed as one.

    The draw is float32 even for bfloat16 activations: near 1 a bfloat16 uniform is too coarse.
    """
    keep = jax.random.bernoulli(rng, keep_prob, (x.shape[0], 1, 1, 1))
    return jnp.where(keep, x / jnp.asarray(keep_prob, x.dtype), jnp.zeros((), x.dtype))
