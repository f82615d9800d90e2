"""Convolutions, images `[B, H, W, C]`, kernels `[kh, kw, in, out]`; outputs `ceil(size / stride)`.

TPU and GPU run XLA's native convolutions. XLA:CPU is slow at them, so on a CPU the same sums are
written as matrix products and shifted multiply-adds; `docs/performance.md` has the figures.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

PADDINGS = ("same", "symmetric")


@dataclasses.dataclass(frozen=True)
class Steps:
    """How a kernel goes over an image."""

    stride: int = 1
    padding: str = "same"  # a name of PADDINGS

    def out(self, size: int) -> int:
        return -(-size // self.stride)

    def pads(self, size: int, kernel: int) -> tuple[int, int]:
        """Zeros before and behind. Either padding has the same total, up to what no step reaches.

        TensorFlow's SAME puts an odd one behind; PyTorch's has half a kernel before.
        """
        total = max((self.out(size) - 1) * self.stride + kernel - size, 0)
        before = total // 2 if self.padding == "same" else kernel // 2
        return before, total - before


def conv(
    x: jax.Array, kernel: jax.Array, steps: Steps = Steps(), on_cpu: bool | None = None
) -> jax.Array:
    """Convolution: x `[B, H, W, in]` -> `[B, ceil(H/s), ceil(W/s), out]`.

    `on_cpu`: whether it will run on a CPU. None: known when it is lowered; both forms are traced.
    """
    native = functools.partial(_conv_native, steps=steps)
    return _by_platform(on_cpu, functools.partial(_conv_matmul, steps=steps), native, x, kernel)


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, steps: Steps = Steps(), on_cpu: bool | None = None
) -> jax.Array:
    """Depthwise convolution: x `[B, H, W, C]`, kernel `[k, k, 1, C]`; `on_cpu` as in `conv`."""
    native = functools.partial(_conv_native, steps=steps, groups=x.shape[-1])
    return _by_platform(on_cpu, functools.partial(_depthwise_cpu, steps=steps), native, x, kernel)


def _by_platform(
    on_cpu: bool | None, cpu: Callable, native: Callable, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    if on_cpu is None:
        return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=native)
    return (cpu if on_cpu else native)(x, kernel)


def _depthwise_cpu(x: jax.Array, kernel: jax.Array, steps: Steps) -> jax.Array:
    batch, height, width, _ = x.shape
    # A matrix for each channel is to be small beside the images that it multiplies. The batch of an
    # export is a symbol.
    if isinstance(batch, int) and MAPS_A_POSITION * height * width <= batch:
        return _depthwise_matmul(x, kernel, steps)
    return _depthwise_shifts(x, kernel, steps)


def _conv_native(x: jax.Array, kernel: jax.Array, steps: Steps, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (steps.stride, steps.stride),
        [steps.pads(size, k) for size, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _conv_matmul(x: jax.Array, kernel: jax.Array, steps: Steps) -> jax.Array:
    """Every output pixel's patch times the kernel as one matrix."""
    every = range(kernel.shape[0])
    views = [view for _, view in _windows(x, len(every), steps, every, every)]
    patches = jnp.concatenate(views, -1) if len(views) > 1 else views[0]
    return _matmul(patches, kernel.reshape(-1, kernel.shape[-1]))


# Images for each position of their maps from which on a matrix product beats shifted multiply-adds.
MAPS_A_POSITION = 3


def _depthwise_matmul(x: jax.Array, kernel: jax.Array, steps: Steps) -> jax.Array:
    """A channel's map, as a row of positions, times a matrix: one product a channel for each pass.

    Of an 8 x 8 map it multiplies 64 values for an output where a 5 x 5 kernel has 25, and is twice
    as fast as the shifts at that; on smaller maps up to 4 times. It compiles in a sixth of the
    time.
    """
    size, channels = kernel.shape[0], x.shape[-1]
    out_shape = tuple(map(steps.out, x.shape[1:3]))
    taps = jnp.asarray(_tap_of_positions(x.shape[1:3], size, steps), x.dtype)
    matrices = kernel.reshape(-1, channels).T @ taps.reshape(len(taps), -1)
    matrices = matrices.reshape(channels, *taps.shape[1:])
    maps = x.reshape(len(x), -1, channels).transpose(2, 0, 1)
    out = jax.lax.dot_general(maps, matrices, (((2,), (1,)), ((0,), (0,))))
    return out.transpose(1, 2, 0).reshape(len(x), *out_shape, channels)


@functools.cache
def _tap_of_positions(shape: tuple[int, int], kernel_size: int, steps: Steps) -> np.ndarray:
    """bool `[k * k, in positions, out positions]`: whether that place of the kernel joins them."""

    def along(size: int) -> np.ndarray:  # [k, in, out]
        before, out = steps.pads(size, kernel_size)[0], np.arange(steps.out(size))
        place = np.arange(size)[:, None] + before - steps.stride * out
        return np.arange(kernel_size)[:, None, None] == place

    rows, columns = map(along, shape)
    both = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]
    return both.reshape(kernel_size**2, shape[0] * shape[1], -1)


@jax.custom_vjp
def _matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return x @ matrix


def _matmul_forward(x: jax.Array, matrix: jax.Array) -> tuple:
    return x @ matrix, (x, matrix)


def _matmul_backward(saved: tuple, g: jax.Array) -> tuple:
    """Autodiff's weight gradient transposes `g` by strided stores: a third of a training step."""
    x, matrix = saved
    rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return g @ matrix.T, jax.lax.dot_general(rows, g_rows, (((0,), (0,)), ((), ())))


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _taps(shape: tuple[int, ...], kernel_size: int, steps: Steps) -> tuple[range, range]:
    """The kernel's rows and columns that ever meet a pixel: on tiny maps, few of them."""

    def meeting(size: int) -> range:
        before, last = steps.pads(size, kernel_size)[0], steps.out(size) - 1
        found = [i for i in range(kernel_size) if -last * steps.stride <= i - before < size]
        return range(found[0], found[-1] + 1)

    return meeting(shape[0]), meeting(shape[1])


def _windows(
    x: jax.Array, kernel_size: int, steps: Steps, rows: range, columns: range
) -> Iterator[tuple[tuple[int, int], jax.Array]]:
    """The shifted, strided views of padded images that these places of the kernel multiply."""
    stride, pads = steps.stride, [steps.pads(n, kernel_size) for n in x.shape[1:3]]
    last_h, last_w = ((steps.out(n) - 1) * stride + 1 for n in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    for i in rows:
        for j in columns:
            yield (i, j), padded[:, i : i + last_h : stride, j : j + last_w : stride]


def _unfused(function: Callable, x: jax.Array) -> jax.Array:
    """`function` over a batch, in a loop of at least 4 turns that XLA:CPU cannot fuse across.

    Left alone, XLA:CPU fuses a sum of k*k products into each of its consumers and computes it again
    in every one of them (it drops `optimization_barrier`): a step took 1.6 times as long.
    """
    batch, size = x.shape[0], 1
    if isinstance(batch, int):  # not the symbol of an export
        size = batch // next(n for n in range(min(4, batch), batch + 1) if batch % n == 0)

    def turn(number: jax.Array, out: jax.Array) -> jax.Array:
        piece = function(jax.lax.dynamic_slice_in_dim(x, number * size, size))
        return jax.lax.dynamic_update_slice_in_dim(out, piece, number * size, 0)

    shape = jax.eval_shape(function, x)
    return jax.lax.fori_loop(0, batch // size, turn, jnp.zeros(shape.shape, shape.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_shifts(x: jax.Array, kernel: jax.Array, steps: Steps) -> jax.Array:
    """Shifted multiply-adds: 10 to 40 times as fast as XLA:CPU's grouped convolution."""
    size = kernel.shape[0]
    taps = _taps(x.shape[1:3], size, steps)

    def products(images: jax.Array) -> jax.Array:
        views = _windows(images, size, steps, *taps)
        terms = (view * kernel[i, j, 0] for (i, j), view in views)
        return sum(terms)  # type: ignore[return-value]  # there is one at least

    return _unfused(products, x)


def _depthwise_forward(x: jax.Array, kernel: jax.Array, steps: Steps) -> tuple:
    return _depthwise_shifts(x, kernel, steps), (x, kernel)


def _depthwise_backward(steps: Steps, saved: tuple, g: jax.Array) -> tuple:
    x, kernel = saved
    return _input_gradient(x.shape, kernel, g, steps), _kernel_gradient(x, kernel, g, steps)


_depthwise_shifts.defvjp(_depthwise_forward, _depthwise_backward)


def _input_gradient(
    shape: tuple[int, ...], kernel: jax.Array, g: jax.Array, steps: Steps
) -> jax.Array:
    """Each residue of the padded input's rows and columns modulo the stride is a sum of its own."""
    k, (_, out_h, out_w, channels) = kernel.shape[0], g.shape
    stride, reach = steps.stride, (k - 1) // steps.stride
    (top, _), (left, _) = (steps.pads(n, k) for n in shape[1:3])
    tap_rows, tap_columns = _taps(shape[1:3], k, steps)
    # Rows and columns that no window reached have gradient 0.
    bottom = max(top + shape[1] - (out_h + reach) * stride, 0)
    right = max(left + shape[2] - (out_w + reach) * stride, 0)

    def products(g: jax.Array) -> jax.Array:
        padded = jnp.pad(g, ((0, 0), (reach, reach), (reach, reach), (0, 0)))

        def residue(a: int, b: int) -> jax.Array:
            terms = [
                padded[:, reach - i : 2 * reach + out_h - i, reach - j : 2 * reach + out_w - j]
                * kernel[a + i * stride, b + j * stride, 0]
                for i in range(-(-(k - a) // stride))
                for j in range(-(-(k - b) // stride))
                if a + i * stride in tap_rows and b + j * stride in tap_columns
            ]
            zeros = jnp.zeros((len(g), out_h + reach, out_w + reach, channels), g.dtype)
            return sum(terms) if terms else zeros  # type: ignore[return-value]  # never 0

        rows = [jnp.stack([residue(a, b) for b in range(stride)], 3) for a in range(stride)]
        dx = jnp.stack(rows, 2)  # [n, rows, stride, columns, stride, C]
        dx = dx.reshape(len(g), (out_h + reach) * stride, (out_w + reach) * stride, channels)
        dx = jnp.pad(dx, ((0, 0), (0, bottom), (0, right), (0, 0)))
        return dx[:, top : top + shape[1], left : left + shape[2]]

    return _unfused(products, g)


ROWS = 8  # of output that a step of the kernel gradient's loop takes: they stay in cache


def _kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, steps: Steps) -> jax.Array:
    """A loop over blocks of rows that adds to one `[W, C]` for each place of the kernel.

    Autodiff's k*k reductions of `[B, H, W, C]` to `[C]` are not vectorised; sums over a few rows of
    static slices are. The block goes through the loop's carry because a dynamic slice that is fused
    into the sums keeps them from being vectorised: 4 times as slow.
    """
    k, (batch, height, width, channels) = kernel.shape[0], g.shape
    (top, bottom), (left, right) = (steps.pads(n, k) for n in x.shape[1:3])
    stride, (tap_rows, tap_columns) = steps.stride, _taps(x.shape[1:3], k, steps)
    taps = [(i, j) for i in tap_rows for j in tap_columns]
    blocks = -(-height // ROWS)
    rows = -(-height // blocks)
    images = max(n for n in range(1, max(1, ROWS // height) + 1) if batch % n == 0)

    def load(position: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        image, row = position // blocks * images, position % blocks * rows
        pads = (top, bottom + rows * stride)
        x_block = _rows_of(x, image, images, row * stride - top, (rows - 1) * stride + k, pads)
        g_block = _rows_of(g, image, images, row, rows, (0, rows))
        return jnp.pad(x_block, ((0, 0), (0, 0), (left, right), (0, 0))), g_block

    def add(carry: tuple, position: jax.Array) -> tuple[tuple, None]:
        totals, x_block, g_block = carry
        last = (width - 1) * stride + 1
        totals = tuple(
            total
            + sum(
                (x_block[n, i + r * stride, j : j + last : stride] * g_block[n, r])
                for n in range(images)
                for r in range(rows)
            ).astype(jnp.float32)
            for total, (i, j) in zip(totals, taps, strict=True)
        )
        return (totals, *load(position + 1)), None

    totals = tuple(jnp.zeros((width, channels), jnp.float32) for _ in taps)
    (totals, _, _), _ = jax.lax.scan(add, (totals, *load(0)), jnp.arange(batch // images * blocks))
    found = jnp.stack(totals).sum(1).reshape(len(tap_rows), len(tap_columns), 1, channels)
    around = [(taps.start, k - taps.stop) for taps in (tap_rows, tap_columns)]
    return jnp.pad(found, (*around, (0, 0), (0, 0))).astype(kernel.dtype)


def _rows_of(
    x: jax.Array,
    image: jax.Array | int,
    images: int,
    start: jax.Array | int,
    count: int,
    pads: tuple[int, int],
) -> jax.Array:
    """Rows `start` to `start + count` of some images; those outside are zero, up to `pads`.

    Only the block is padded: a padded copy of `x` would be another pass over memory.
    """
    there = min(count, x.shape[1])
    first = jnp.clip(start, 0, x.shape[1] - there)
    block = jax.lax.dynamic_slice(x, (image, first, 0, 0), (images, there, *x.shape[2:]))
    block = jnp.pad(block, ((0, 0), (pads[0], pads[1] + count - there), (0, 0), (0, 0)))
    return jax.lax.dynamic_slice_in_dim(block, start - first + pads[0], count, 1)
