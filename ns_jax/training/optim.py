"""The official optimiser: TensorFlow's RMSProp, staircase schedule, EMA with a ramp."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import config_dict

from ns_jax import trees


def learning_rate_schedule(
    optim: config_dict.ConfigDict, batch_size: float, steps_per_epoch: float
) -> optax.Schedule:
    """step -> learning rate: linear warm-up from 0, then a staircase counted from step 0.

    Only labelled images count in `batch_size`. As in the official code, the staircase includes the
    warm-up's steps, so the rate falls below its peak the moment warm-up ends. `optim.start_epoch`
    begins further on: a fine-tune takes its rates from the tail of the training before it.
    """
    peak = optim.learning_rate_per_256 * batch_size / 256
    warmup_steps = int(optim.warmup_epochs * steps_per_epoch)
    decay_steps = steps_per_epoch * optim.decay_epochs
    begun = int(optim.start_epoch * steps_per_epoch)

    def schedule(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32) + begun
        # As exp(n log r): r itself rounded to float32 would be off by 4e-6 after 145 powers.
        staircase = peak * jnp.exp(jnp.floor(step / decay_steps) * math.log(optim.decay_rate))
        return jnp.where(step < warmup_steps, peak * step / max(warmup_steps, 1), staircase)

    return schedule


def decayed(
    params: trees.Tree, is_frozen: Callable[[str], bool] = lambda path: False
) -> trees.Tree:
    """Tree of bool: the parameters of the L2 penalty. All but BatchNorm's; biases included."""
    flat = [
        not path.split("/")[-2].endswith("_bn") and not is_frozen(path)
        for path in trees.by_path(params)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), flat)


def make_optimiser(
    optim: config_dict.ConfigDict,
    schedule: optax.Schedule,
    decays: Callable[[trees.Tree], trees.Tree] = decayed,
) -> optax.GradientTransformation:
    """TensorFlow's RMSProp after the gradient of the L2 penalty.

    `decays` maps parameters to the tree of bool that says which of them the penalty is of. Frozen
    ones are spared; with no gradient either they stay.

    ms = d ms + (1 - d) g^2 from 1, not 0; mom = m mom + lr g / sqrt(ms + eps); w -= mom.
    """
    return optax.chain(
        optax.add_decayed_weights(optim.weight_decay, decays),
        optax.rmsprop(
            schedule,
            decay=optim.rms_decay,
            eps=optim.epsilon,
            initial_scale=1.0,
            eps_in_sqrt=True,
            momentum=optim.momentum,
        ),
    )


def update_ema(average: trees.Tree, new: trees.Tree, step: jax.Array, decay: float) -> trees.Tree:
    """The moving average of `new` after `step` updates, with TensorFlow's ramp of the decay.

    The official code does not settle whether t counts this update; here step 0's update has t = 0.
    """
    t = jnp.asarray(step, jnp.float32)
    ramped = jnp.minimum(decay, (1.0 + t) / (10.0 + t))
    # As TensorFlow writes it: what does not change stays to the last bit.
    return jax.tree.map(lambda old, new: old - (1.0 - ramped) * (old - new), average, new)
