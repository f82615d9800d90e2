"""The loss, on targets of k classes and a tail."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, classes: jax.Array, probs: jax.Array) -> jax.Array:
    """Cross-entropy of each row with its sparse target, float32 `[B]`.

    A target gives `probs` `[B, k]` to the `classes` `[B, k]`; what is left of 1 is spread evenly
    over the other classes. A class of -1 is an empty place. So a label smoothed by s over K classes
    is one class at 1 - s + s / K, and k = K places hold a whole distribution.
    """
    num_classes = logits.shape[-1]
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    used = classes >= 0
    named_log_probs = jnp.take_along_axis(log_probs, jnp.maximum(classes, 0), axis=-1)
    named_log_probs = jnp.where(used, named_log_probs, 0.0)
    probs = jnp.where(used, probs, 0.0)
    others = num_classes - used.sum(-1)
    tail = jnp.where(others > 0, (1.0 - probs.sum(-1)) / jnp.maximum(others, 1), 0.0)
    tail_log_probs = log_probs.sum(-1) - named_log_probs.sum(-1)
    return -(probs * named_log_probs).sum(-1) - tail * tail_log_probs


def dense_cross_entropy(logits: jax.Array, probs: jax.Array) -> jax.Array:
    """Cross-entropy of each row with a whole distribution `[B, classes]`, float32 `[B]`."""
    return -(probs * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(-1)
