"""The pure steps, and the one place that compiles them with shardings and donation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from ns_jax import losses, optim, sharding
from ns_jax.models.efficientnet import EfficientNet
from ns_jax.packing import UNPACKED
from ns_jax.state import TrainState


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


def normalise(images: jax.Array, mean, std) -> jax.Array:
    """uint8 `[B, S, S, 3]` -> float32 of about zero mean and unit variance; on the device."""
    return (images.astype(jnp.float32) / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)


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
        images = normalise(batch["image"], objective.mean, objective.std)
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
    images = normalise(images, given.mean, given.std)
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


def logits_step(variables: dict, images: jax.Array, *, model, mean, std) -> jax.Array:
    """uint8 images -> logits float32 `[B, classes]`, nothing random."""
    return model.apply(variables, normalise(images, mean, std), train=False)[0]


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of those that predict together."""

    model: EfficientNet
    view: int  # which of the views of an image it takes
    mean: tuple[float, ...]
    std: tuple[float, ...]


def member_logits(variables: list, views: list, *, members: tuple[Member, ...], flip: bool):
    """float32 `[B, M, classes]`: of each member, with `flip` on the mirrored image as well.

    `variables` are the members'; `views` uint8 `[B, S, S, 3]`, of one size each.
    """
    found = []
    for member, own in zip(members, variables, strict=True):
        images = views[member.view]
        for seen in (images, images[:, :, ::-1]) if flip else (images,):
            settings = {"model": member.model, "mean": member.mean, "std": member.std}
            found.append(logits_step(own, seen, **settings))
    return jnp.stack(found, axis=1)


def predict_step(whole: dict, views: list, *, members: tuple[Member, ...], flip: bool, k: int):
    """The k best classes int32 `[B, k]` and their probabilities float32 `[B, k]`, nothing random.

    `whole` has the `members`' variables and a `temperature` by which all logits are divided;
    distributions are averaged. Labelling and evaluation are this one pass. Ties go to the lower
    class.
    """
    logits = member_logits(whole["members"], views, members=members, flip=flip)
    probs = jax.nn.softmax(logits / whole["temperature"]).mean(axis=1)
    probs, classes = jax.lax.top_k(probs, k)
    return classes, probs


def compile_train_step(mesh, state_shardings: TrainState, teacher_shardings=None, **static):
    """`(state, batch, rng, teacher) -> (state, metrics)`; the new state takes the old's memory."""
    rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    return jax.jit(
        functools.partial(train_step, **static),
        in_shardings=(state_shardings, rows, whole, teacher_shardings),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
        compiler_options=sharding.compiler_options(mesh),
    )


PIECE_PIXELS = 65536  # that a CPU core takes through the network at once; at least two images


def _in_pieces(function, whole, rows):
    """`function` over a few images at a time, so that a core's activations stay in its cache.

    `rows`: arrays of images `[B, S, S, 3]`, of the same B.
    """
    images = jax.tree.leaves(rows)
    piece = max(2, PIECE_PIXELS // max(one.shape[1] * one.shape[2] for one in images))
    count = len(images[0])
    pieces = -(-count // piece)

    def cut(images):
        padded = jnp.pad(images, ((0, pieces * piece - count), (0, 0), (0, 0), (0, 0)))
        return padded.reshape(pieces, piece, *images.shape[1:])

    results = jax.lax.map(functools.partial(function, whole), jax.tree.map(cut, rows))
    return jax.tree.map(lambda r: r.reshape(-1, *r.shape[2:])[:count], results)


@functools.lru_cache(maxsize=16)
def compile_inference(mesh, function, **static):
    """`(whole, rows) -> rows` of `function`, `whole` (weights) whole on every device.

    The same for equal arguments: labelling and evaluation, of all iterations, trace and compile the
    pass of one network once.

    A function of images alone: each device takes its own rows, a CPU's cores being its devices.
    """
    function = functools.partial(function, **static)
    if sharding.on_cpu(mesh):
        function = functools.partial(_in_pieces, function)
    return jax.jit(
        sharding.per_device(function, mesh), compiler_options=sharding.compiler_options(mesh)
    )
