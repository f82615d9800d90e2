"""The CPU's convolutions against XLA's own, and which platform gets which."""

import functools

import jax
import jax.numpy as jnp
import pytest

from ns_jax.models import cpu_convolutions, efficientnet
from ns_jax.models.cpu_convolutions import Steps
from tests import rounding


def _native(x, kernel, stride=1, groups=1, padding="same"):
    """XLA's, with TensorFlow's padding as it knows it, or with PyTorch's, as its manual has it."""
    half = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME" if padding == "same" else [(half, half)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _assert_equal_with_gradients(ours, native, x, kernel):
    our_y, our_vjp = jax.vjp(ours, x, kernel)
    native_y, native_vjp = jax.vjp(native, x, kernel)
    g = jax.random.normal(jax.random.key(2), native_y.shape)
    for our, expected in zip((our_y, *our_vjp(g)), (native_y, *native_vjp(g)), strict=True):
        rounding.close(our, expected)


@pytest.mark.parametrize(
    ("shape", "kernel_size", "stride"),
    [
        ((2, 9, 7, 5), 3, 1),
        ((2, 9, 8, 5), 5, 2),
        ((3, 37, 20, 4), 5, 2),  # more rows than one block of the kernel's gradient
        ((5, 17, 33, 4), 3, 1),  # blocks of rows that do not divide the height
        ((1, 16, 16, 4), 5, 2),
        ((2, 18, 18, 3), 3, 2),
        ((6, 2, 2, 4), 5, 1),  # most places of the kernel meet padding alone
        ((2, 1, 1, 4), 5, 2),
        # Many images for their positions: a matrix product.
        ((3, 1, 1, 4), 5, 2),
        ((48, 4, 4, 5), 5, 1),
        ((75, 5, 5, 3), 3, 2),
        ((30, 2, 3, 4), 5, 1),
        ((60, 4, 5, 2), 5, 2),
    ],
)
@pytest.mark.parametrize("padding", cpu_convolutions.PADDINGS)
def test_depthwise_equals_the_native_convolution_and_its_gradients(
    shape, kernel_size, stride, padding
):
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (kernel_size, kernel_size, 1, shape[-1]))
    _assert_equal_with_gradients(
        functools.partial(cpu_convolutions.depthwise_conv, steps=Steps(stride, padding)),
        functools.partial(_native, stride=stride, groups=shape[-1], padding=padding),
        x,
        kernel,
    )


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("padding", cpu_convolutions.PADDINGS)
@pytest.mark.parametrize("size", [7, 8])
def test_both_forms_pad_alike(on_cpu, padding, size):
    x = jax.random.normal(jax.random.key(0), (2, size, size + 1, 4))
    for groups, inputs, form in (
        (1, 4, cpu_convolutions.conv),
        (4, 1, cpu_convolutions.depthwise_conv),
    ):
        kernel = jax.random.normal(jax.random.key(1), (5, 5, inputs, 4))
        found = form(x, kernel, Steps(2, padding), on_cpu)
        expected = _native(x, kernel, 2, groups, padding)
        rounding.close(found, expected)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_one_form_alone_is_traced_where_the_platform_is_known(on_cpu):
    x, kernel = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 1, 4))
    form = functools.partial(cpu_convolutions.depthwise_conv, on_cpu=on_cpu)
    text = jax.jit(form).lower(x, kernel).as_text()
    assert ("stablehlo.convolution" in text) != on_cpu and "stablehlo.case" not in text
    rounding.close(form(x, kernel), _native(x, kernel, groups=4))


@pytest.mark.parametrize("padding", cpu_convolutions.PADDINGS)
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 2)])
def test_conv_equals_the_native_convolution_and_its_gradients(kernel_size, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 6))
    kernel = jax.random.normal(jax.random.key(1), (kernel_size, kernel_size, 6, 3))
    _assert_equal_with_gradients(
        functools.partial(cpu_convolutions.conv, steps=Steps(stride, padding)),
        functools.partial(_native, stride=stride, padding=padding),
        x,
        kernel,
    )


@pytest.mark.parametrize("size", [7, 8, 9, 14, 16])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_padding_is_xlas_same(size, kernel_size):
    expected = jax.lax.padtype_to_pads((size,), (kernel_size,), (2,), "SAME")[0]
    assert Steps(2).pads(size, kernel_size) == tuple(expected)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_get_native_convolutions_and_a_cpu_none(platform):
    model = efficientnet.build("efficientnet-pico", num_classes=10)
    variables = jax.eval_shape(lambda rng: model.init(rng, 32), jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def loss(params, batch_stats, images):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, _ = model.apply(variables, images, train=True, rng=jax.random.key(0))
        return logits.sum()

    traced = jax.jit(jax.grad(loss)).trace(variables["params"], variables["batch_stats"], images)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    # Of each block: expand (but in stage 1), depthwise and project, squeeze and excite; the stem
    # and the head. Every one again for its weights' gradient, all but the stem for its input's.
    blocks = sum(stage.repeats for stage in model.stages())
    first = model.stages()[0].repeats
    scanned = sum(max(stage.repeats - 2, 0) for stage in model.stages())
    forward = 5 * blocks - first + 2 - 5 * scanned
    expected = 0 if platform == "cpu" else 3 * forward - 1
    assert text.count("stablehlo.convolution") == expected
    groups = [int(part.split()[0]) for part in text.split("feature_group_count = ")[1:]]
    assert any(count > 1 for count in groups) == (platform != "cpu")
