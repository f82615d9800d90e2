"""The pure steps, and the one place that compiles them with shardings and donation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from ns_jax.inference import step as inference_step
from ns_jax.models.efficientnet import EfficientNet
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.training import losses, optim
from ns_jax.training.packing import UNPACKED
from ns_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A frozen network that labels the unlabelled images of a batch inside the step."""

    model: EfficientNet
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
    loss_divisor: int  # labelled images a step (official code), or all of them (paper)
    pieces: int = 1  # that a batch goes through the network in, one after the other
    teacher: Teacher | None = None


def train_step(
    state: TrainState,
    batch: dict,
    rng: jax.Array,
    teacher: dict | None = None,
    *,
    model,
    optimiser,
    objective: Objective,
    packing=UNPACKED,
) -> tuple[TrainState, dict]:
    """One update on a batch as in `data.pipeline`; metrics are scalars on the device.

    The state comes and goes as `packing` packs it, which the optimiser's state is made for.

    Where the loss or the gradient is not finite, nothing but `step` changes.

    `rng` is the key of the training, the same at every step. It is an argument, so that trainings
    which differ in the seed alone share one compiled step. `teacher` has the variables of
    `objective.teacher`; None without one.
    """
    rng = jax.random.fold_in(rng, state.step)

    def loss_of(params, batch_stats, batch, rng):
        variables = {"params": params, "batch_stats": batch_stats}
        images = inference_step.normalise(batch["image"], objective.mean, objective.std)
        logits, batch_stats = model.apply(
            variables, images, train=True, rng=rng, noisy=batch.get("noisy")
        )
        each = losses.cross_entropy(logits, batch["target_classes"], batch["target_probs"])
        best = batch["target_classes"][:, 0]
        if objective.teacher:
            probs = teacher_probs(objective.teacher, teacher, batch, rng)
            each = jnp.where(batch["pseudo"], losses.dense_cross_entropy(logits, probs), each)
            best = jnp.where(batch["pseudo"], probs.argmax(-1), best)
        sums = {
            "loss": (batch["weight"] * each).sum() / objective.loss_divisor,
            "right": (batch["weight"] * (logits.argmax(-1) == best)).sum(),
        }
        return sums["loss"], (batch_stats, sums)

    gradients = jax.grad(loss_of, has_aux=True)
    variables = packing.unpack(state.params), packing.unpack(state.batch_stats)
    if objective.pieces == 1:
        grads, (batch_stats, sums) = gradients(*variables, batch, rng)
    else:
        grads, batch_stats, sums = _in_turn(
            gradients, *variables, batch, rng, model, objective.pieces
        )
    grads, batch_stats = packing.pack(grads), packing.pack(batch_stats)
    updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = functools.partial(optim.update_ema, step=state.step, decay=objective.ema_decay)
    metrics = {
        "loss": sums["loss"],
        "top1": sums["right"] / jnp.maximum(batch["weight"].sum(), 1.0),
        "grad_norm": optax.tree.norm(grads),
    }
    new = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=average(state.ema_params, params),
        ema_batch_stats=average(state.ema_batch_stats, batch_stats),
    )
    sound = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    unchanged = dataclasses.replace(state, step=new.step)
    return jax.tree.map(functools.partial(jnp.where, sound), new, unchanged), metrics


def teacher_probs(given: Teacher, variables: dict, batch: dict, rng: jax.Array) -> jax.Array:
    """The target of each row as the teacher gives it, float32 `[B, classes]`; no gradient."""
    images = batch["image"] if given.noise else batch["teacher_image"]
    images = inference_step.normalise(images, given.mean, given.std)
    rng = jax.random.fold_in(rng, 1)  # noise of its own
    logits, _ = given.model.apply(variables, images, train=False, rng=rng, noise=given.noise)
    if given.hard:
        num_classes = logits.shape[-1]
        best = jax.nn.one_hot(logits.argmax(-1), num_classes)
        probs = (1 - given.smoothing) * best + given.smoothing / num_classes
    else:
        probs = jax.nn.softmax(logits / given.temperature)
    return jax.lax.stop_gradient(probs)


def _in_turn(gradients, params, batch_stats, batch: dict, rng, model, pieces: int):
    """Gradients of a batch of which each piece, an equal part of every BatchNorm group, goes
    through the network alone: its own statistics, and moving averages that move once a piece.

    Piece k has the rows k, k + `pieces`, ...: so each device's own rows hold its part of all pieces
    and no image changes device. While they wait, images lie channels first, since a TPU would fill
    up 3 channels at the end to 128.
    """

    def cut(rows):
        parts = rows.reshape(-1, pieces, *rows.shape[1:]).swapaxes(0, 1)
        return jnp.moveaxis(parts, -1, 2) if _is_image(rows) else parts

    def piece_of(part):
        return model.placement.rows(jnp.moveaxis(part, 1, -1) if _is_image(part) else part)

    def add(carry, turn):
        grads, batch_stats, sums = carry
        number, waiting = turn
        piece = jax.tree.map(piece_of, waiting)
        new, (batch_stats, found) = gradients(
            params, batch_stats, piece, jax.random.fold_in(rng, number)
        )
        return (_added(grads, new), batch_stats, _added(sums, found)), None

    nothing = jax.tree.map(jnp.zeros_like, params)
    sums = {"loss": jnp.zeros(()), "right": jnp.zeros(())}
    start = (nothing, batch_stats, sums)
    found, _ = jax.lax.scan(add, start, (jnp.arange(pieces), jax.tree.map(cut, batch)))
    return found


def _is_image(rows: jax.Array) -> bool:
    return rows.ndim == 4


def _added(one: dict, other: dict) -> dict:
    return jax.tree.map(jnp.add, one, other)


def compile_train_step(mesh, state_shardings: TrainState, teacher_shardings=None, **static):
    """`(state, batch, rng, teacher) -> (state, metrics)`; the new state takes the old's memory."""
    rows, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    return jax.jit(
        functools.partial(train_step, **static),
        in_shardings=(state_shardings, rows, whole, teacher_shardings),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
        compiler_options=mesh_lib.compiler_options(mesh),
    )
