"""A network as one file for other programs, by the file's ending; as StableHLO here."""

import functools
import pathlib

import jax
import jax.numpy as jnp
from jax import export

from ns_jax import files
from ns_jax.errors import InputError
from ns_jax.foreign import onnx_file, onnx_graph
from ns_jax.foreign.exported import ONNX, STABLEHLO
from ns_jax.inference import step as inference_step
from ns_jax.model_card import ModelCard
from ns_jax.weights import timm

PLATFORMS = ("cpu", "cuda", "tpu")
SAFETENSORS = ".safetensors"
ENDINGS = (ONNX, STABLEHLO, SAFETENSORS)


def save(
    path: pathlib.Path,
    card: ModelCard,
    variables: dict,
    onnx_input: str = onnx_graph.UINT8_NHWC,
) -> None:
    """Writes the file whole or not at all: `.onnx`, `.stablehlo`, or `.safetensors` for timm.

    `onnx_input`: see `onnx_graph.build`. Raises InputError for another ending or what the format
    cannot hold, MissingPackageError, OSError.
    """
    if path.suffix == ONNX:
        onnx_file.save(path, card, variables, onnx_input)
    elif path.suffix == STABLEHLO:
        save_stablehlo(path, card, variables)
    elif path.suffix == SAFETENSORS:
        timm.save(path, card, variables)
    else:
        raise InputError(f"{path}: a network is exported as {', '.join(ENDINGS)}")


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
