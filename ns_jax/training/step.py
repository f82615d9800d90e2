"""The training step, a pure function, and the one place that compiles it with shardings."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ns_jax import trees
from ns_jax.models import efficientnet, layers
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.training import losses, optim
from ns_jax.training.packing import UNPACKED, Packing, Unpacked
from ns_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A frozen network that labels the unlabelled images of a batch inside the step."""

    model: efficientnet.EfficientNet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float  # of its distribution; below 1 sharpens it
    hard: bool  # its best class, smoothed as labels are, instead of its distribution
    smoothing: float
    noise: bool  # dropout and stochastic depth on, and the student's view instead of its own


@dataclasses.dataclass(frozen=True)
class Objective:
    """The numbers that turn a batch into an update, besides the network and the optimiser."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    ema_decay: float
    loss_divisor: float  # labelled images a step (official code), or all of them (paper)
    apart: bool = True  # labelled and unlabelled rows have means of their own (official code)
    microbatches: int = 1  # that a batch goes through the network in, one after the other
    unlabelled_noise: bool = True  # dropout and stochastic depth on unlabelled rows too
    teacher: Teacher | None = None


def train_step(
    state: TrainState,
    batch: dict,
    rng: jax.Array,
    teacher: dict | None = None,
    *,
    model: efficientnet.EfficientNet,
    optimiser: optax.GradientTransformation,
    objective: Objective,
    packing: Packing | Unpacked = UNPACKED,
) -> tuple[TrainState, dict]:
    """One update on a batch as `data.batch.BatchSpec` has it; metrics are scalars on the device.

    Where the loss or the gradient is not finite, nothing but `step` changes. Rows that are `bad`
    count nowhere: neither in BatchNorm's statistics nor in the loss, of which the others get more.

    The state comes and goes as `packing` packs it, which the optimiser's state is made for. `rng`
    is the key of the training, the same at every step: it is an argument, so that trainings which
    differ in the seed alone share one compiled step. `teacher` has the variables of
    `objective.teacher`; None without one.
    """
    rng = jax.random.fold_in(rng, state.step)
    batch = with_shares_of_bad_rows(batch, objective.apart)
    loss = functools.partial(batch_loss, model=model, objective=objective, teacher=teacher)
    variables = packing.unpack(state.params), packing.unpack(state.batch_stats)
    grads, batch_stats, sums = accumulate_gradients(
        loss, *variables, batch, rng, objective.microbatches, model.placement
    )
    grads, batch_stats = packing.pack(grads), packing.pack(batch_stats)
    updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = advance(state, params, batch_stats, opt_state, objective.ema_decay)
    metrics = summarise(sums, grads)
    return keep_if_finite(new, state, metrics), metrics


def batch_loss(
    params: dict,
    batch_stats: dict,
    batch: dict,
    rng: jax.Array,
    *,
    model: efficientnet.EfficientNet,
    objective: Objective,
    teacher: dict | None = None,
) -> tuple[jax.Array, tuple[dict, dict]]:
    """The loss: sum(weight * cross-entropy) / `loss_divisor`, over labels and pseudo-labels alike.

    Also the new moving statistics, and sums over the rows for `summarise`.
    """
    images = efficientnet.normalise(batch["image"], objective.mean, objective.std)
    is_labelled: Any = batch.get("is_labelled")  # not there: all rows are
    logits, batch_stats = model.apply(
        {"params": params, "batch_stats": batch_stats},
        images,
        train=True,
        rng=rng,
        noisy=None if objective.unlabelled_noise else is_labelled,
        bad=batch.get("bad"),
    )
    each = losses.cross_entropy(logits, batch["target_classes"], batch["target_probs"])
    best = batch["target_classes"][:, 0]
    if objective.teacher:
        variables: Any = teacher  # which come with an objective that has a teacher
        probs = teacher_probs(objective.teacher, variables, batch, rng)
        each = jnp.where(is_labelled, each, losses.dense_cross_entropy(logits, probs))
        best = jnp.where(is_labelled, best, probs.argmax(-1))
    loss = (batch["weight"] * each).sum() / objective.loss_divisor
    right = logits.argmax(-1) == best
    sums = {"loss": loss, "labelled": _sums(each, right, batch["weight"], is_labelled)}
    if is_labelled is not None:
        sums["unlabelled"] = _sums(each, right, batch["weight"], ~is_labelled)
    return loss, (batch_stats, sums)


def with_shares_of_bad_rows(batch: dict, apart: bool) -> dict:
    """The batch with the weight of its bad rows given to the others, as if it had none of them.

    To those of the same kind where labelled and unlabelled rows have means of their own. Where no
    row is bad, every weight is multiplied by 1. Without a column `bad` none is.
    """
    if "bad" not in batch:
        return batch
    good, weight = ~batch["bad"], batch["weight"]

    def share(of_kind: jax.Array) -> jax.Array:
        return of_kind.sum() / jnp.maximum((of_kind & good).sum(), 1)

    if apart and "is_labelled" in batch:
        is_labelled = batch["is_labelled"]
        shares = jnp.where(is_labelled, share(is_labelled), share(~is_labelled))
    else:
        shares = share(jnp.ones_like(good))
    return {**batch, "weight": weight * shares}


def _sums(each: jax.Array, right: jax.Array, weight: jax.Array, chosen: jax.Array | None) -> dict:
    """Over the chosen rows (None: all), each as its weight says."""
    weight = weight if chosen is None else weight * chosen
    return {
        "loss": (weight * each).sum(),
        "top1": (weight * right).sum(),
        "weight": weight.sum(),
    }


def summarise(sums: dict, grads: dict) -> dict[str, jax.Array]:
    """Scalars: the loss, its mean over labelled and over unlabelled rows with the share of rows
    whose best class is the label's or the teacher's, and the norm of the gradient.
    """
    metrics = {"loss": sums["loss"], "grad_norm": optax.tree.norm(grads)}
    for kind in sums.keys() - {"loss"}:
        total = jnp.maximum(sums[kind]["weight"], 1.0)
        metrics |= {f"{name}_{kind}": sums[kind][name] / total for name in ("loss", "top1")}
    return metrics


def advance(
    state: TrainState,
    params: trees.Tree,
    batch_stats: trees.Tree,
    opt_state: trees.Tree,
    ema_decay: float,
) -> TrainState:
    """The state after an update, its moving averages included."""
    average = functools.partial(optim.update_ema, step=state.step, decay=ema_decay)
    return TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=average(state.ema_params, params),
        ema_batch_stats=average(state.ema_batch_stats, batch_stats),
    )


def keep_if_finite(new: TrainState, old: TrainState, metrics: dict) -> TrainState:
    """The new state; the old one, a step further, where loss or gradient is not finite.

    The schedule goes on with the steps too, so that a step's learning rate is that of its number.
    """
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    count = optax.tree.get(new.opt_state, "count")
    opt_state = optax.tree.set(old.opt_state, count=count)
    unchanged = dataclasses.replace(old, step=new.step, opt_state=opt_state)
    return jax.tree.map(functools.partial(jnp.where, finite), new, unchanged)


def teacher_probs(given: Teacher, variables: dict, batch: dict, rng: jax.Array) -> jax.Array:
    """The target of each row as the teacher gives it, float32 `[B, classes]`; no gradient."""
    images = batch["image"] if given.noise else batch["teacher_image"]
    images = efficientnet.normalise(images, given.mean, given.std)
    rng = jax.random.fold_in(rng, 1)  # noise of its own
    logits, _ = given.model.apply(variables, images, train=False, rng=rng, noise=given.noise)
    if given.hard:
        num_classes = logits.shape[-1]
        best = jax.nn.one_hot(logits.argmax(-1), num_classes)
        probs = (1 - given.smoothing) * best + given.smoothing / num_classes
    else:
        probs = jax.nn.softmax(logits / given.temperature)
    return jax.lax.stop_gradient(probs)


def accumulate_gradients(
    loss: Callable,
    params: trees.Tree,
    batch_stats: trees.Tree,
    batch: dict,
    rng: jax.Array,
    microbatches: int,
    placement: layers.Placement,
) -> tuple[dict, dict, dict]:
    """`(grads, batch_stats, sums)` of a loss like `batch_loss`, summed over microbatches.

    A microbatch, an equal part of every BatchNorm group, goes through the network alone: it has
    its own statistics, and the moving averages move once for each.

    Microbatch k has the rows k, k + `microbatches`, ...: so each device's own rows hold its part of
    all of them and no image changes device. While they wait, images lie channels first, since a TPU
    would fill up 3 channels at the end to 128.
    """
    gradients = jax.grad(loss, has_aux=True)
    if microbatches == 1:
        grads, (batch_stats, sums) = gradients(params, batch_stats, batch, rng)
        return grads, batch_stats, sums

    def cut(rows: jax.Array) -> jax.Array:
        parts = rows.reshape(-1, microbatches, *rows.shape[1:]).swapaxes(0, 1)
        return jnp.moveaxis(parts, -1, 2) if _is_image(rows) else parts

    def all_rows(part: jax.Array) -> jax.Array:
        return placement.constrain_batch(jnp.moveaxis(part, 1, -1) if _is_image(part) else part)

    def of_microbatch(batch_stats: trees.Tree, number: jax.Array, waiting: dict) -> tuple:
        rows = jax.tree.map(all_rows, waiting)
        return gradients(params, batch_stats, rows, jax.random.fold_in(rng, number))

    def add(carry: tuple, turn: tuple) -> tuple[tuple, None]:
        grads, batch_stats, sums = carry
        new, (batch_stats, found) = of_microbatch(batch_stats, *turn)
        added = jax.tree.map(jnp.add, (grads, sums), (new, found))
        return (added[0], batch_stats, added[1]), None

    turns = (jnp.arange(microbatches), jax.tree.map(cut, batch))
    first = jax.tree.map(lambda rows: rows[0], turns)
    shapes, (_, sums) = jax.eval_shape(of_microbatch, batch_stats, *first)
    nothing = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), (shapes, sums))
    found, _ = jax.lax.scan(add, (nothing[0], batch_stats, nothing[1]), turns)
    return found


def _is_image(rows: jax.Array) -> bool:
    return rows.ndim == 4


def compile_train_step(
    mesh: mesh_lib.DeviceMesh,
    state_shardings: TrainState,
    teacher_shardings: trees.Tree = None,
    **static: Any,
) -> Any:
    """`(state, batch, rng, teacher) -> (state, metrics)`; the new state takes the old's memory."""
    rows, replicated = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    return jax.jit(
        functools.partial(train_step, **static),
        in_shardings=(state_shardings, rows, replicated, teacher_shardings),
        out_shardings=(state_shardings, replicated),
        donate_argnums=0,
        compiler_options=mesh_lib.compiler_options(mesh),
    )
