"""The files beside an ONNX file that hold its weights, where it does not hold them itself."""

import pathlib
from collections.abc import Iterator
from typing import Any

from ns_jax import files
from ns_jax.foreign import onnx_session


def beside(path: pathlib.Path) -> list[pathlib.Path]:
    """Their paths, each once, in order. Raises MissingPackageError."""
    onnx, _ = onnx_session.packages()
    model = onnx.load(files.local(path), load_external_data=False)
    names = {name for tensor in _tensors(model.graph) for name in _locations(onnx, tensor)}
    return sorted(path.parent / name for name in names)


def _locations(onnx: Any, tensor: Any) -> Iterator[str]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _tensors(graph: Any) -> Iterator[Any]:
    """Weights, and the constants of nodes, of graphs within nodes too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            inner = [attribute.g] if attribute.HasField("g") else []
            for within in (*inner, *attribute.graphs):
                yield from _tensors(within)
