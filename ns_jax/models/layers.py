"""The parts EfficientNet is made of: initialisers, layers, BatchNorm, stochastic depth.

Images are `[B, H, W, C]`, kernels `[kh, kw, in, out]` as in TensorFlow (depthwise: `[k, k, 1, C]`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from ns_jax.models import cpu_convolutions

STATISTICS = "statistics"  # of a batch, by this name for rematerialisation; convolutions by theirs


def conv_init(rng: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """N(0, 2 / fan_out), untruncated, fan_out = kh * kw * out; `shape` is `[kh, kw, in, out]`."""
    fan_out = shape[0] * shape[1] * shape[3]
    return np.sqrt(2.0 / fan_out) * jax.random.normal(rng, shape, dtype)


def depthwise_init(
    rng: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """N(0, 2 / k^2): TensorFlow's depthwise kernel ends in a 1, so C does not count."""
    return np.sqrt(2.0 / (shape[0] * shape[1])) * jax.random.normal(rng, shape, dtype)


def dense_init(rng: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """U(-r, r) with r = 1 / sqrt(number of classes); `shape` is `[features, classes]`."""
    limit = 1.0 / np.sqrt(shape[1])
    return jax.random.uniform(rng, shape, dtype, -limit, limit)


class Placement(Protocol):
    """Where a network's values lie: what its layers ask for. `parallel.mesh.Placement` has the
    placement on a mesh, `Anywhere` that on one device.
    """

    @property
    def on_cpu(self) -> bool | None:
        """Whether it runs on a CPU; None: not known before it is lowered."""

    def constrain_batch(self, x: jax.Array) -> jax.Array:
        """Activations `[B, ...]`: each device has its own rows."""

    def gather_weight(self, x: jax.Array, dtype: DTypeLike) -> jax.Array:
        """A parameter, whole on every device, in `dtype`."""

    def map_per_device(self, function: Callable) -> Callable:
        """`function(rows, whole)`, which sees a device's own rows alone where that pays."""

    def mean_of_groups(self, x: jax.Array) -> jax.Array:
        """Mean over the first axis, which is of BatchNorm groups."""


@dataclasses.dataclass(frozen=True)
class Anywhere:
    """The placement of a network on one device: nothing to say."""

    on_cpu: bool | None = None  # None: not known yet

    def constrain_batch(self, x: jax.Array) -> jax.Array:
        return x

    def gather_weight(self, x: jax.Array, dtype: DTypeLike) -> jax.Array:
        return x.astype(dtype)

    def map_per_device(self, function: Callable) -> Callable:
        return function

    def mean_of_groups(self, x: jax.Array) -> jax.Array:
        return x.mean(0)


ANYWHERE = Anywhere()


class Conv(nn.Module):
    """Convolution; a float32 kernel used in the input's dtype."""

    features: int
    kernel_size: int = 1
    steps: cpu_convolutions.Steps = cpu_convolutions.Steps()
    use_bias: bool = False
    place: Placement = ANYWHERE

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.place.gather_weight(self.param("kernel", conv_init, shape), x.dtype)
        y = self.place.constrain_batch(
            cpu_convolutions.conv(x, kernel, self.steps, self.place.on_cpu)
        )
        y = checkpoint_name(y, self.name)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return y


class DepthwiseConv(nn.Module):
    """Depthwise convolution; a float32 kernel used in the input's dtype."""

    kernel_size: int
    steps: cpu_convolutions.Steps
    place: Placement = ANYWHERE

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.place.gather_weight(self.param("kernel", depthwise_init, shape), x.dtype)
        conv = functools.partial(
            cpu_convolutions.depthwise_conv, steps=self.steps, on_cpu=self.place.on_cpu
        )
        y = self.place.constrain_batch(self.place.map_per_device(conv)(x, kernel))
        return checkpoint_name(y, self.name)


class Dense(nn.Module):
    """The classifier: float32 kernel and bias used in the input's dtype."""

    features: int
    place: Placement = ANYWHERE

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", dense_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return self.place.constrain_batch(
            x @ self.place.gather_weight(kernel, x.dtype) + bias.astype(x.dtype)
        )


def sigmoid(x: jax.Array) -> jax.Array:
    """By tanh: XLA:CPU's own form costs an exponential more, 4 % of an inference."""
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)


def swish(x: jax.Array) -> jax.Array:
    return x * sigmoid(x)


def _per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
    """`[G, C]` of each group, in the shape and dtype of grouped activations."""
    return values[:, None, None, None].astype(x.dtype)


def _affine(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """`scale * (x - mean) / sqrt(var + epsilon) + bias` as one multiply-add."""
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return x * _per_channel(factor, x) + _per_channel(bias - mean * factor, x)


class CountedRows(NamedTuple):
    """Which rows of each group enter its statistics."""

    mask: jax.Array  # bool [G, n]
    share: jax.Array  # float32 [G]: rows for each one that counts; 1 where all do


def count_rows(good: jax.Array, groups: int) -> CountedRows:
    """Those that are `good`, bool `[B]`; all rows of a group without any."""
    mask = good.reshape(groups, -1)
    mask = mask | ~mask.any(1, keepdims=True)
    return CountedRows(mask, mask.shape[1] / mask.sum(1).astype(jnp.float32))


def _mean(x: jax.Array, counted: CountedRows | None) -> jax.Array:
    """Over the rows that count and the places, `[G, n, H, W, C]` -> `[G, C]`."""
    if counted is None:
        return x.mean((1, 2, 3))
    mask = counted.mask[:, :, None, None, None]
    return jnp.where(mask, x, 0).mean((1, 2, 3)) * counted.share[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _normalise(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    counted: CountedRows | None,
    epsilon: float,
    activate: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Grouped `[G, n, H, W, C]` by its own statistics -> (y, mean, var), float32 `[G, C]`."""
    x32 = x.astype(jnp.float32)
    mean = checkpoint_name(_mean(x32, counted), STATISTICS)
    # One pass over x. The difference of two large numbers may come out below 0.
    var = jnp.maximum(_mean(x32 * x32, counted) - mean * mean, 0)
    var = checkpoint_name(var, STATISTICS)
    y = _affine(x, mean, var, scale, bias, epsilon)
    return swish(y) if activate else y, mean, var


def _normalise_forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    counted: CountedRows | None,
    epsilon: float,
    activate: bool,
) -> tuple:
    y, mean, var = _normalise(x, scale, bias, counted, epsilon, activate)
    return (y, mean, var), (x, scale, bias, counted, mean, var)


def _normalise_backward(epsilon: float, activate: bool, saved: tuple, gradients: tuple) -> tuple:
    """Keeps the convolution's output alone and computes the activation again from it: the step is
    bound by memory, and autodiff stores two more arrays of that size and reads each twice.

    The gradient of the statistics is not wanted: the moving averages are not differentiated.
    """
    x, scale, bias, counted, mean, var = saved
    x32, g = x.astype(jnp.float32), gradients[0].astype(jnp.float32)
    if activate:
        y = _affine(x32, mean, var, scale, bias, epsilon)
        gate = sigmoid(y)
        g = g * (gate * (1 + y * (1 - gate)))
    count: Any = x[0, ..., 0].size
    share = 1.0 if counted is None else counted.share[:, None]
    rstd = jax.lax.rsqrt(var + epsilon)
    d_bias = g.sum((1, 2, 3))
    d_scale = ((g * x32).sum((1, 2, 3)) - mean * d_bias) * rstd
    # dx = scale * rstd * (g - mean of g - normalised x * mean of (g * normalised x))
    factor = scale * rstd
    of_x = jnp.where(var > 0, factor * rstd * d_scale / count * share, 0)  # 0: it was clipped
    constant = factor * d_bias / count * share - of_x * mean
    dx = g * _per_channel(factor, g) - x32 * _per_channel(of_x, g) - _per_channel(constant, g)
    if counted is not None:
        dx = jnp.where(counted.mask[:, :, None, None, None], dx, 0)
    return dx.astype(x.dtype), d_scale.sum(0), d_bias.sum(0), None


_normalise.defvjp(_normalise_forward, _normalise_backward)


class BatchNorm(nn.Module):
    """Batch normalisation with TensorFlow's semantics and grouped statistics, then swish if asked.

    The batch is cut into `stat_groups` contiguous parts, each normalised by its own float32
    statistics (the official code groups TPU cores), which are left in the collection `group_stats`
    as `[G, C]`: `update_moving_averages` takes them, of all layers at once. The variance is the
    biased one, in the normalisation and in its moving average alike. Rows that are not `counted`
    enter no statistics; whoever passes it gives their outputs no gradient.
    """

    stat_groups: int = 1
    epsilon: float = 1e-3
    activate: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, counted: CountedRows | None = None) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        moving_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        moving_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if not train:
            mean, var = moving_mean.value[None], moving_var.value[None]
            y = _affine(x[None], mean, var, scale, bias, self.epsilon)[0]
            return swish(y) if self.activate else y
        grouped = x.reshape(self.stat_groups, -1, *x.shape[1:])
        y, mean, var = _normalise(grouped, scale, bias, counted, self.epsilon, self.activate)
        # Flax gives a variable the type of its first value, of which there is none.
        self.variable("group_stats", "mean", lambda: None).value = mean  # type: ignore[assignment]
        self.variable("group_stats", "var", lambda: None).value = var  # type: ignore[assignment]
        return y.reshape(x.shape)


def update_moving_averages(
    batch_stats: dict,
    group_stats: dict,
    momentum: float,
    mean_of_groups: Callable[[jax.Array], jax.Array],
) -> dict:
    """The moving averages after a batch, where it has statistics: `[..., C]` and `[..., G, C]`.

    They take the mean over the groups. Outside of the layers, since it is the one thing that
    crosses groups: one message a step instead of one a layer.
    """

    def new(path: tuple, old: jax.Array) -> jax.Array:
        found: Any = group_stats  # at first a dict, in the end an array
        for key in path:
            found = found.get(key.key) if found else None
        if found is None:
            return old
        mean = mean_of_groups(jnp.moveaxis(found, -2, 0))
        return momentum * old + (1 - momentum) * mean

    return jax.tree_util.tree_map_with_path(new, batch_stats)


def drop_path(
    x: jax.Array, keep_prob: jax.Array, rng: jax.Array, noisy: jax.Array | None = None
) -> jax.Array:
    """Stochastic depth (section 2 of the paper): each example's branch is kept or zeroed as one.

    Rows that are not `noisy` (bool `[B]`; None: all are) stay as they are. The draw is float32 even
    for bfloat16 activations: near 1 a bfloat16 uniform is too coarse.
    """
    keep = jax.random.bernoulli(rng, keep_prob, (x.shape[0], 1, 1, 1))
    dropped = jnp.where(keep, x / jnp.asarray(keep_prob, x.dtype), jnp.zeros((), x.dtype))
    return dropped if noisy is None else jnp.where(noisy[:, None, None, None], dropped, x)
