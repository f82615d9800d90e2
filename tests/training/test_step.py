"""The training step: golden numbers, its loss, weights of 0, and many devices against one."""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import base
from ns_jax.inference import step as inference_step
from ns_jax.models import efficientnet
from ns_jax.training import optim
from ns_jax.training import packing as packing_lib
from ns_jax.training import state as state_lib
from ns_jax.training import step as step_lib
from tests import rounding

pytestmark = pytest.mark.large

LABELLED, UNLABELLED = 4, 8


def build(**model_options):
    settings = base.get_config().optim
    optimiser = optim.make_optimiser(settings, lambda step: 0.01)
    model = efficientnet.build(
        "efficientnet-pico", 10, small_images=True, bn_momentum=0.9, **model_options
    )
    return model, optimiser


def make_batch(seed=0, rows=LABELLED + UNLABELLED):
    """Labelled rows first: label smoothing in one place of two; then soft targets."""
    rng = np.random.default_rng(seed)
    classes = np.stack([rng.permutation(10)[:2] for _ in range(rows)]).astype(np.int32)
    probs = np.tile(np.float32([0.6, 0.3]), (rows, 1))
    classes[:LABELLED, 1], probs[:LABELLED] = -1, (0.91, 0)
    return {
        "image": rng.integers(0, 256, (rows, 16, 16, 3), dtype=np.uint8),
        "target_classes": classes,
        "target_probs": probs,
        "weight": np.ones(rows, np.float32),
    }


def objective(**changes):
    numbers = {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "ema_decay": 0.99,
        "loss_divisor": LABELLED,
    }
    return step_lib.Objective(**{**numbers, **changes})


@pytest.fixture(scope="module")
def step():
    model, optimiser = build()
    compiled = jax.jit(
        functools.partial(
            step_lib.train_step, model=model, optimiser=optimiser, objective=objective()
        )
    )
    return lambda state, batch, seed=3: compiled(state, batch, jax.random.key(seed))


@pytest.fixture(scope="module")
def start():
    model, optimiser = build()
    return jax.jit(lambda rng: state_lib.from_variables(model.init(rng, 16), optimiser))(
        jax.random.key(0)
    )


GOLDEN = {
    "loss": 8.825977,
    "grad_norm": 55.41045,
    "second_loss": 9.497122,
    "params": 100.98041,
    "ema_params": 100.97941,
}


def test_golden_numbers(step, start):
    first, metrics = step(start, make_batch())
    second, later = step(first, make_batch(1))
    norm = functools.partial(jax.tree.reduce, lambda total, leaf: total + float((leaf**2).sum()))
    found = {
        "loss": float(metrics["loss"]),
        "grad_norm": float(metrics["grad_norm"]),
        "second_loss": float(later["loss"]),
        "params": norm(second.params, initializer=0.0) ** 0.5,
        "ema_params": norm(second.ema_params, initializer=0.0) ** 0.5,
    }
    assert found == pytest.approx(GOLDEN, rel=2e-4), (
        "The training step gives other numbers than it used to. That is legitimate only if the "
        "network, its initialisation, the loss, the optimiser, the EMA or the use of randomness "
        f"was changed on purpose; then say so in the commit and write {found} here."
    )


def test_the_loss_is_the_official_sum_over_the_labelled_batch(step, start):
    model, _ = build()
    batch = make_batch()
    _, metrics = step(start, batch)
    images = efficientnet.normalise(batch["image"], *[np.float32([v] * 3) for v in (0.5, 0.25)])
    rng = jax.random.fold_in(jax.random.key(3), 0)
    variables = {"params": start.params, "batch_stats": start.batch_stats}
    logits, _ = jax.jit(functools.partial(model.apply, train=True))(variables, images, rng=rng)
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    targets = np.zeros((len(images), 10))
    for row, (classes, probs) in enumerate(
        zip(batch["target_classes"], batch["target_probs"], strict=True)
    ):
        used = classes[classes >= 0]
        targets[row] = (1 - probs.sum()) / (10 - len(used))
        targets[row, used] = probs[: len(used)]
    each = -(targets * log_probs).sum(-1)
    ratio = UNLABELLED / LABELLED
    expected = each[:LABELLED].mean() + ratio * each[LABELLED:].mean()  # L_lab + r L_unl
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-4)


def test_a_packed_state_takes_the_same_step(step, start):
    model, _ = build()
    carried = packing_lib.Packing(start, optim.decayed(start.params))
    optimiser = optim.make_optimiser(base.get_config().optim, lambda step: 0.01, carried.decayed)
    packed_step = jax.jit(
        functools.partial(
            step_lib.train_step,
            model=model,
            optimiser=optimiser,
            objective=objective(),
            packing=carried,
        )
    )
    packed = carried.pack(start)
    assert [leaf.ndim for leaf in jax.tree.leaves(packed.params)] == [1, 1]
    assert len(jax.tree.leaves(packed)) < 20 < 500 < len(jax.tree.leaves(start))
    jax.tree.map(np.testing.assert_array_equal, carried.unpack(packed), start)
    state = start
    for number in range(3):
        batch = make_batch(number)
        state, expected = step(state, batch)
        packed, found = packed_step(packed, batch, jax.random.key(3))
        for name in expected:
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-4)
    # A bias that the next BatchNorm takes away again has no gradient but rounding's: 1e-8.
    rounding.close_trees(carried.unpack(packed), state, 1e-4, at_least=1e-3)


@pytest.mark.parametrize(
    ("unlabelled", "broken"), [(0, [1]), (UNLABELLED, [0, 2, 9]), (UNLABELLED, [5, 6])]
)
def test_bad_rows_enter_neither_the_statistics_nor_the_divisor(few_stages, unlabelled, broken):
    """A batch with bad rows trains as one that never had them, but for the ratio, which stays."""
    model, optimiser = build(drop_rate=0.0, path_drop_rate=0.0)  # whose draws are of the row
    start = jax.jit(
        lambda: state_lib.from_variables(model.init(jax.random.key(0), 16), optimiser)
    )()

    def after(batch, **changes):
        step = functools.partial(
            step_lib.train_step,
            model=model,
            optimiser=optimiser,
            objective=objective(**changes),
        )
        return jax.jit(step)(start, batch, jax.random.key(3))

    whole = make_batch(rows=LABELLED + unlabelled)
    if unlabelled:
        whole["is_labelled"] = np.arange(LABELLED + unlabelled) < LABELLED
    whole["bad"] = np.isin(np.arange(LABELLED + unlabelled), broken)
    whole["weight"][broken] = 0
    whole["image"][broken] = 0
    good = {name: column[~whole["bad"]] for name, column in whole.items() if name != "bad"}
    labelled = good.get("is_labelled", np.ones(len(good["weight"]), bool))
    if unlabelled:  # L_labelled + 2 L_unlabelled, whatever their numbers
        good["weight"][~labelled] = labelled.sum() / (~labelled).sum() * unlabelled / LABELLED
    (ours, found), (theirs, expected) = after(whole), after(good, loss_divisor=labelled.sum())
    for name in expected:
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-4), name
    for tree in ("params", "batch_stats", "ema_params"):
        rounding.close_trees(getattr(ours, tree), getattr(theirs, tree), 1e-4, at_least=1e-3)


def test_the_learning_rate_is_that_of_the_steps_number_after_a_skipped_step_too(few_stages):
    model, _ = build(drop_rate=0.0, path_drop_rate=0.0)  # so that a step's noise is no matter
    optimiser = optim.make_optimiser(base.get_config().optim, lambda step: 0.01 * (1.0 + step))
    start = jax.jit(
        lambda: state_lib.from_variables(model.init(jax.random.key(0), 16), optimiser)
    )()
    step = jax.jit(
        functools.partial(
            step_lib.train_step, model=model, optimiser=optimiser, objective=objective()
        )
    )
    batch, broken = make_batch(), make_batch()
    broken["weight"][0] = np.nan
    first, _ = step(start, batch, jax.random.key(3))
    skipped, metrics = step(start, broken, jax.random.key(3))
    assert not np.isfinite(metrics["loss"]) and int(skipped.step) == 1
    jax.tree.map(np.testing.assert_array_equal, skipped.params, start.params)
    second, _ = step(skipped, batch, jax.random.key(3))
    moved, twice = (
        jax.tree.map(lambda new, old: np.asarray(new - old), state.params, start.params)
        for state in (first, second)
    )
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(twice), strict=True):
        rounding.close(other, 2 * one, 1e-4, at_least=4e-3)  # 3 units of weights near 1


def test_a_batch_without_bad_rows_is_weighed_as_it_was():
    batch = make_batch()
    batch["bad"] = np.zeros(len(batch["weight"]), bool)
    batch["is_labelled"] = np.arange(len(batch["weight"])) < LABELLED
    batch["weight"][:3] = (0, 0.7, 1 / 3)  # as sample_prob and a rounded number of rows have it
    for apart in (True, False):
        found = step_lib.with_shares_of_bad_rows(batch, apart)["weight"]
        np.testing.assert_array_equal(found, batch["weight"])
    batch["bad"][[0, 5]] = True
    found = step_lib.with_shares_of_bad_rows(batch, False)["weight"]
    rounding.close(found, batch["weight"] * 12 / 10)


def test_without_noise_unlabelled_rows_are_no_matter_of_chance(few_stages):
    model, _ = build(drop_rate=0.5, path_drop_rate=0.9, stat_groups=2)  # labelled, unlabelled
    variables = jax.jit(lambda: model.init(jax.random.key(0), 16))()
    batch = make_batch(rows=2 * LABELLED)
    batch["is_labelled"] = np.arange(2 * LABELLED) < LABELLED
    for noise in (True, False):
        loss = jax.jit(
            functools.partial(
                step_lib.batch_loss, model=model, objective=objective(unlabelled_noise=noise)
            )
        )
        one, other = (
            loss(variables["params"], variables["batch_stats"], batch, jax.random.key(seed))[1][1]
            for seed in (0, 1)
        )
        assert float(one["labelled"]["loss"]) != float(other["labelled"]["loss"])
        same = float(one["unlabelled"]["loss"]) == float(other["unlabelled"]["loss"])
        assert same == (not noise)


def test_a_row_of_weight_0_counts_only_in_the_batch_statistics(step, start):
    """As `sample_prob` has it: an image that is there, but does not count."""
    batch, other = make_batch(), make_batch()
    for b in (batch, other):
        b["weight"][5] = 0
    other["target_classes"][5], other["target_probs"][5] = (7, 3), (0.5, 0.5)
    for a, b in zip(
        jax.tree.leaves(step(start, batch)), jax.tree.leaves(step(start, other)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert float(step(start, make_batch())[1]["loss"]) != float(step(start, batch)[1]["loss"])


def test_noise_is_a_function_of_seed_and_step(step, start):
    again = step(start, make_batch())[1]["loss"]
    assert float(step(start, make_batch())[1]["loss"]) == float(again)
    later = state_lib.TrainState(**{**vars(start), "step": start.step + 1})
    assert float(step(later, make_batch())[1]["loss"]) != float(again)
    assert float(step(start, make_batch(), seed=4)[1]["loss"]) != float(again)


def test_pieces_of_a_batch_are_groups_of_their_own(few_stages):
    """Without noise, two pieces, of every second row each, give the loss and gradient of two
    BatchNorm groups.
    """
    batch = make_batch()
    halves = {name: np.concatenate([column[::2], column[1::2]]) for name, column in batch.items()}
    still = {"drop_rate": 0.0, "path_drop_rate": 0.0}
    found = []
    for options, pieces, rows in (({"stat_groups": 2}, 1, halves), ({}, 2, batch)):
        model, optimiser = build(**options, **still)
        step = functools.partial(
            step_lib.train_step,
            model=model,
            optimiser=optimiser,
            objective=objective(microbatches=pieces),
        )
        start = jax.jit(
            lambda m=model, o=optimiser: state_lib.from_variables(m.init(jax.random.key(0), 16), o)
        )()
        found.append(jax.jit(step)(start, rows, jax.random.key(3)))
    (grouped, metrics), (turned, others) = found
    for name in metrics:
        assert float(metrics[name]) == pytest.approx(float(others[name]), rel=1e-4), name
    rounding.close_trees(grouped.params, turned.params, 1e-4, at_least=1e-3)


def test_a_teacher_in_the_step_gives_its_distribution_or_its_best_class():
    model, _ = build()
    variables = jax.jit(lambda: model.init(jax.random.key(1), 16))()
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    batch = {"image": images[::-1], "teacher_image": images}
    given = step_lib.Teacher(model, (0.5,) * 3, (0.25,) * 3, 0.5, False, 0.1, False)

    def probs(**changes):
        changed = dataclasses.replace(given, **changes)
        return jax.jit(functools.partial(step_lib.teacher_probs, changed))(
            variables, batch, jax.random.key(0)
        )

    normal = efficientnet.normalise(images, given.mean, given.std)
    logits = jax.jit(lambda: model.apply(variables, normal, train=False)[0])()
    soft, hard = jax.nn.softmax(logits / 0.5), 0.9 * jax.nn.one_hot(logits.argmax(-1), 10) + 0.01
    rounding.close(probs(), soft)
    rounding.close(probs(hard=True), hard)
    noised, still = probs(noise=True), probs()[::-1]  # the first on the student's images
    assert np.abs(noised - soft).max() > 1e-5 and np.abs(noised - still).max() > 1e-5


def test_ties_go_to_the_lower_class():
    model, _ = build()
    shapes = jax.eval_shape(lambda rng: model.init(rng, 16), jax.random.key(0))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    members = (inference_step.Member(model, 0, (0,) * 3, (1,) * 3),)
    predict = functools.partial(inference_step.predict_step, members=members, flip=False, k=3)
    whole = {"members": [variables], "temperature": np.float32(1)}
    classes, probs = jax.jit(predict)(whole, [np.zeros((2, 16, 16, 3), np.uint8)])
    np.testing.assert_array_equal(classes, [[0, 1, 2]] * 2)
    rounding.close(probs, np.full((2, 3), 0.1))


MANY_DEVICES = """
import json, sys
import jax, numpy as np
from ns_jax import trees
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.training import state as state_lib
from ns_jax.training import step as step_lib
from tests import rounding
from tests.training import test_step as t

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
result, pieces = {}, int(sys.argv[2])
for data, fsdp in ((1, 1), (8, 1), (2, 4), (1, 8)):
    mesh = mesh_lib.make_mesh(fsdp, jax.devices()[: data * fsdp])
    assert dict(mesh.shape) == {"data": data, "fsdp": fsdp}
    placement = mesh_lib.Placement(mesh, 64)
    model, optimiser = t.build(stat_groups=4, placement=placement)
    shapes = state_lib.abstract(model, optimiser, 16)
    shardings = state_lib.shardings(shapes, optimiser, mesh, 64)
    state = state_lib.compile_init(model, optimiser, 16, shardings)(jax.random.key(0))
    step = step_lib.compile_train_step(
        mesh,
        shardings,
        model=model,
        optimiser=optimiser,
        objective=t.objective(microbatches=pieces),
    )
    losses = []
    for i in range(5):
        # As many rows a piece either way: statistics of two rows make rounding errors grow fast.
        batch = mesh_lib.put_batch(t.make_batch(i, rows=16 * pieces), mesh)
        state, metrics = step(state, batch, jax.random.key(3), None)
        losses.append(float(metrics["loss"]))
    params = trees.by_path(state.params)
    shards = params["head_conv/kernel"].addressable_shards
    result[f"{data}x{fsdp}"] = {
        "losses": losses,
        "shards": len({str(shard.index) for shard in shards}),
    }
    params = {path: np.asarray(array) for path, array in params.items()}
    first = first if data * fsdp > 1 else params
    for path, array in params.items():
        rounding.close(array, first[path], 1e-4, at_least=1e-3, name=path)
try:
    state_lib.shardings(shapes, optimiser, mesh, 10**9)
except ValueError as error:
    result["coverage"] = str(error)
print(json.dumps(result))
"""


@pytest.mark.pod
@pytest.mark.parametrize("pieces", [1, 2])
def test_all_meshes_equal_one_device(environment, pieces):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    child = subprocess.run(
        [sys.executable, "-c", MANY_DEVICES, environment["NS_JAX_COMPILE_CACHE"], str(pieces)],
        env={**environment, **flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    result = json.loads(child.stdout)
    coverage = result.pop("coverage")
    assert "splits only 0% of the parameters" in coverage and "head_conv/kernel" in coverage
    for mesh, found in result.items():
        assert found["shards"] == int(mesh.split("x")[1])  # the weights were in fact split
        rounding.close(found["losses"], result["1x1"]["losses"], 1e-4)
