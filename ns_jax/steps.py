"""The pure steps, and the one place that compiles them with shardings and donation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from ns_jax import losses, optim, sharding
from ns_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class Objective:
    """The numbers that turn a batch into an update, besides the network and the optimiser."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    ema_decay: float
    loss_divisor: int  # labelled images a step (official code), or all of them (paper)


def normalise(images: jax.Array, mean, std) -> jax.Array:
    """uint8 `[B, S, S, 3]` -> float32 of about zero mean and unit variance; on the device."""
    return (images.astype(jnp.float32) / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)


def train_step(
    state: TrainState, batch: dict, rng: jax.Array, *, model, optimiser, objective: Objective
) -> tuple[TrainState, dict]:
    """One update on a batch as in `data.pipeline`; metrics are scalars on the device.

    `rng` is the key of the training, the same at every step. It is an argument, so that trainings
    which differ in the seed alone share one compiled step.
    """
    rng = jax.random.fold_in(rng, state.step)
    images = normalise(batch["image"], objective.mean, objective.std)

    def loss_of(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, batch_stats = model.apply(variables, images, train=True, rng=rng)
        each = losses.cross_entropy(logits, batch["target_classes"], batch["target_probs"])
        loss = (batch["weight"] * each).sum() / objective.loss_divisor
        return loss, (logits, batch_stats)

    (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = functools.partial(optim.update_ema, step=state.step, decay=objective.ema_decay)
    agrees = logits.argmax(-1) == batch["target_classes"][:, 0]
    metrics = {
        "loss": loss,
        "top1": (batch["weight"] * agrees).sum() / jnp.maximum(batch["weight"].sum(), 1.0),
        "grad_norm": optax.tree.norm(grads),
    }
    state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=average(state.ema_params, params),
        ema_batch_stats=average(state.ema_batch_stats, batch_stats),
    )
    return state, metrics


def logits_step(variables: dict, images: jax.Array, *, model, mean, std) -> jax.Array:
    """uint8 images -> logits float32 `[B, classes]`, nothing random."""
    return model.apply(variables, normalise(images, mean, std), train=False)[0]


def predict_step(variables: dict, images: jax.Array, *, model, mean, std, k: int):
    """uint8 images -> the k best classes int32 `[B, k]` and probabilities float32 `[B, k]`.

    Labelling and evaluation are this one un-noised pass. Ties go to the lower class.
    """
    logits = logits_step(variables, images, model=model, mean=mean, std=std)
    probs, classes = jax.lax.top_k(jax.nn.softmax(logits), k)
    return classes, probs


def compile_train_step(mesh, state_shardings: TrainState, **static):
    """`(state, batch, rng) -> (state, metrics)`; the old state's memory becomes the new one's."""
    return jax.jit(
        functools.partial(train_step, **static),
        in_shardings=(state_shardings, sharding.batch_sharding(mesh), sharding.replicated(mesh)),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        donate_argnums=0,
        compiler_options=sharding.compiler_options(mesh),
    )


PIECE_PIXELS = 65536  # that a CPU core takes through the network at once; at least two images


def _in_pieces(function, variables: dict, images: jax.Array):
    """`function` over a few images at a time, so that a core's activations stay in its cache."""
    piece = max(2, PIECE_PIXELS // (images.shape[1] * images.shape[2]))
    pieces = -(-len(images) // piece)
    padded = jnp.pad(images, ((0, pieces * piece - len(images)), (0, 0), (0, 0), (0, 0)))
    padded = padded.reshape(pieces, piece, *images.shape[1:])
    results = jax.lax.map(functools.partial(function, variables), padded)
    return jax.tree.map(lambda r: r.reshape(-1, *r.shape[2:])[: len(images)], results)


def compile_inference(mesh, function, **static):
    """`(variables, images) -> rows` of `function`, weights whole on every device.

    A function of images alone: each device takes its own rows, a CPU's cores being its devices.
    """
    function = functools.partial(function, **static)
    if sharding.on_cpu(mesh):
        function = functools.partial(_in_pieces, function)
    return jax.jit(
        sharding.per_device(function, mesh), compiler_options=sharding.compiler_options(mesh)
    )
