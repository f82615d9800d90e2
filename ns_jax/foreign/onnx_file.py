"""ONNX files: the graph, and in the metadata the model card, so that predictions need nothing else.

Keys of the metadata: `ns_jax.model.json`, the model card as in `model.json` (class names and
preprocessing); `ns_jax.onnx_input`, the form of the images; in an int8 file `ns_jax.int8`, how it
was quantised and what that cost.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ns_jax import files
from ns_jax.foreign import onnx_graph
from ns_jax.foreign.onnx_session import CARD
from ns_jax.model_card import ModelCard

INPUT, INT8 = "ns_jax.onnx_input", "ns_jax.int8"


def save(
    path: pathlib.Path,
    card: ModelCard,
    variables: dict,
    onnx_input: str = onnx_graph.UINT8_NHWC,
) -> None:
    """Writes the file whole or not at all; for `onnx_input` see `onnx_graph.build`. Raises OSError
    and what that raises.
    """
    model = onnx_graph.build(card, variables, onnx_input)
    describe(model, {CARD: json.dumps(card.to_json()), INPUT: onnx_input})
    write(path, model)


def describe(model: Any, metadata: Mapping[str, str]) -> None:
    """Puts `metadata` into an `onnx.ModelProto`, beside what is there."""
    kept = {entry.key: entry.value for entry in model.metadata_props} | dict(metadata)
    del model.metadata_props[:]
    for key, value in kept.items():
        model.metadata_props.add(key=key, value=value)


def write(path: pathlib.Path, model: Any) -> None:
    """Writes an `onnx.ModelProto` whole or not at all. Raises OSError."""
    with files.replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
