"""The zoo against the official numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ns_jax import trees
from ns_jax.models import efficientnet, layers
from tests import rounding

pytestmark = pytest.mark.large

PARAMETERS = {  # trainable, BatchNorm statistics; 1,000 classes
    "b0": (5_288_548, 42_016),
    "b1": (7_794_184, 62_048),
    "b2": (9_109_994, 67_568),
    "b3": (12_233_232, 87_296),
    "b4": (19_341_616, 125_200),
    "b5": (30_389_784, 172_736),
    "b6": (43_040_704, 224_432),
    "b7": (66_347_960, 310_720),
    "b8": (87_413_142, 380_032),
    "l0": (140_764_664, 493_904),
    "l1": (272_630_564, 693_920),
    "l2": (480_309_308, 1_090_688),
}


def shapes_of(model, size):
    return jax.eval_shape(lambda rng: model.init(rng, size), jax.random.key(0))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_official_ones(name):
    model = efficientnet.build(f"efficientnet-{name}", 1000)
    shapes = shapes_of(model, model.resolution)
    assert (trees.count(shapes["params"]), trees.count(shapes["batch_stats"])) == PARAMETERS[name]


def test_small_image_variant_keeps_more_of_the_image_and_the_same_parameters():
    model = efficientnet.build("efficientnet-b0", 10, small_images=True)
    assert trees.count(shapes_of(model, 32)["params"]) == 4_020_358
    assert np.prod([spec.stride for spec in model.stages()]) == 4  # and 2 of the stem
    assert np.prod([s.stride for s in efficientnet.build("efficientnet-b0", 10).stages()]) == 16


def test_l2_has_the_official_table():
    model = efficientnet.build("efficientnet-l2", 1000)
    assert [s.features for s in model.stages()] == [72, 104, 176, 344, 480, 824, 1376]
    assert [s.repeats for s in model.stages()] == [6, 11, 11, 16, 16, 22, 6]
    params = trees.by_path(shapes_of(model, 475)["params"])
    squeezed = [
        (
            params[f"stage{i}/first/se/se_reduce/kernel"].shape[-1],
            params[f"stage{i}/rest/se/se_reduce/kernel"].shape[-1],
        )
        for i in range(1, 8)
    ]
    expected = [(34, 18), (18, 26), (26, 44), (44, 86), (86, 120), (120, 206), (206, 344)]
    assert squeezed == expected


@pytest.mark.parametrize(("name", "last"), [("b0", 0.1875), ("b7", 0.19636), ("l2", 0.19773)])
def test_survival_falls_linearly_and_stops_short_of_the_rate(name, last):
    keep = efficientnet.build(f"efficientnet-{name}", 1000).keep_probs()
    assert keep[0] == 1.0
    assert float(1 - keep[-1]) == pytest.approx(last, abs=5e-6)


def stage_outputs(**options):
    """Output, new statistics and gradients of a stage of four equal blocks after its first."""
    spec = efficientnet.StageSpec(repeats=5, kernel_size=3, stride=2, expand_ratio=2, features=8)
    norm = functools.partial(layers.BatchNorm, 1)
    mode, place = efficientnet.Mode(train=True, noise=True), layers.ANYWHERE
    rows = efficientnet.NO_ROWS
    options = {"scan_unroll": 1, "remat": "none", **options}
    stage = efficientnet.Stage(spec, "same", norm, mode, place, **options)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 4))
    keep_probs = jnp.linspace(1.0, 0.5, 5)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(2)}
    variables = jax.jit(stage.init)(rngs, images, keep_probs, rows)

    def loss(params):
        both = {"params": params, "batch_stats": variables["batch_stats"]}
        y, stats = stage.apply(both, images, keep_probs, rows, mutable=["group_stats"], rngs=rngs)
        return (y**2).sum(), (y, stats)

    grads, (y, stats) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    return {"y": y, "stats": stats, "grads": grads}


@pytest.fixture(scope="module")
def plain():
    return stage_outputs()


@pytest.mark.parametrize(
    "options",
    [
        {"scan_unroll": 0},
        {"scan_unroll": 2},
        {"remat": "full"},
        {"remat": "convs"},
        {"remat": "depthwise"},
    ],
)
def test_unrolling_and_remat_change_nothing(plain, options):
    other = stage_outputs(**options)
    assert trees.by_path(plain)["grads/rest/expand_conv/kernel"].shape == (4, 1, 1, 8, 16)
    rounding.close_trees(other, plain, 1e-4)  # 8e-6 with JAX 0.11, in gradients that cancel


@pytest.fixture(scope="module")
def pico():
    model = efficientnet.build("efficientnet-pico", 10, small_images=True)
    variables = jax.jit(lambda rng: model.init(rng, 16))(jax.random.key(0))
    return model, variables, jax.random.normal(jax.random.key(1), (4, 16, 16, 3))


def test_training_is_noisy_and_evaluation_is_not(pico):
    model, variables, images = pico
    train = jax.jit(lambda rng: model.apply(variables, images, train=True, rng=rng)[0])
    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    evaluate = jax.jit(lambda images: model.apply(variables, images, train=False))
    (logits, stats), (doubled, _) = evaluate(images), evaluate(jnp.concatenate([images, images]))
    assert logits.dtype == jnp.float32
    rounding.close(doubled[:4], logits)
    for old, new in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(stats), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_rows_without_noise_are_what_the_network_without_noise_gives(pico):
    model, variables, images = pico
    noisy = jnp.array([True, False, True, False])
    rng = jax.random.key(0)
    everywhere, nowhere, mixed = (
        jax.jit(
            lambda noisy, noise=noise: model.apply(
                variables, images, train=False, rng=rng, noise=noise, noisy=noisy
            )[0]
        )(noisy if noise else None)
        for noise, noisy in ((True, jnp.ones(4, bool)), (False, None), (True, noisy))
    )
    assert not np.isclose(everywhere, nowhere).all(1).any()
    expected = jnp.where(noisy[:, None], everywhere, nowhere)
    rounding.close(mixed, expected)


@pytest.mark.parametrize("frozen", [0, 3, 7])
def test_frozen_stages_have_no_gradient_and_keep_their_statistics(pico, frozen):
    plain, variables, images = pico
    model = dataclasses.replace(plain, frozen_stages=frozen)

    def loss(params):
        both = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, stats = model.apply(both, images, train=True, rng=jax.random.key(0))
        return (logits**2).sum(), stats

    grads, stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    old = trees.by_path(variables["batch_stats"])
    for path, new in trees.by_path(stats).items():
        assert np.array_equal(new, old[path]) == model.is_frozen(path), path
    for path, grad in trees.by_path(grads).items():
        assert (not np.any(grad)) == model.is_frozen(path), path
    frozen_parts = {path.split("/")[0] for path in old if model.is_frozen(path)}
    assert frozen_parts == {"stem_bn", *(f"stage{i}" for i in range(1, frozen + 1))}


def test_bfloat16_activations_keep_float32_weights_and_statistics(pico):
    _, variables, images = pico
    model = efficientnet.build("efficientnet-pico", 10, small_images=True, dtype="bfloat16")
    logits, stats = jax.eval_shape(
        lambda rng: model.apply(variables, images, train=True, rng=rng), jax.random.key(0)
    )
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="efficientnet-l2"):
        efficientnet.build("resnet50", 10)
    with pytest.raises(ValueError, match="none, convs, depthwise, full"):
        efficientnet.build("efficientnet-b0", 10, remat="some")
    with pytest.raises(ValueError, match="7 of them"):
        efficientnet.build("efficientnet-b0", 10, remat="full,none")
    with pytest.raises(ValueError, match="frozen_stages is 8"):
        efficientnet.build("efficientnet-b0", 10, frozen_stages=8)
