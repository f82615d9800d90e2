"""A network as StableHLO: one file, for any batch size, with the weights inside."""

import functools
import pathlib

import jax
import jax.numpy as jnp
from jax import export

from ns_jax import files
from ns_jax.inference import step as inference_step
from ns_jax.model_card import ModelCard

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo(card: ModelCard, variables: dict) -> bytes:
    """uint8 `[b, S, S, 3]` -> logits float32 `[b, classes]`, for CPU, GPU and TPU.

    Read it with `jax.export.deserialize(bytes).call(images)`.
    """
    preprocessing = card.preprocessing
    step = functools.partial(
        inference_step.logits_step,
        variables,
        model=card.build(),
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, preprocessing.size, preprocessing.size, 3), jnp.uint8)
    return bytes(export.export(jax.jit(step), platforms=PLATFORMS)(images).serialize())


def save_stablehlo(path: pathlib.Path, card: ModelCard, variables: dict) -> None:
    """Writes the file whole or not at all. Raises OSError."""
    with files.replacing(path) as temporary:
        temporary.write_bytes(stablehlo(card, variables))
