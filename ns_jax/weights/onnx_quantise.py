"""int8 ONNX files: onnxruntime's static quantisation, tried in order until it costs little.

Weights become int8, activations uint8, with the scales in the file (the QDQ form, which all
runtimes read). Activations' ranges are those of given images.
"""

import contextlib
import dataclasses
import io
import logging
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ns_jax.foreign import onnx_graph
from ns_jax.progress import say

MOST_LOSS = 0.01  # of accuracy: with a loss no larger, no further attempt is made
GROUP = 8  # images of a calibration that go through the network together
NEVER = (onnx_graph.PROBABILITIES,)  # in steps of 1 / 255 they would be useless


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One way to quantise. What is not in it stays float32."""

    name: str
    per_channel: bool = True
    # Activations' ranges: the mean of the extremes of groups of images, or those of all images, in
    # which one strange image can make the steps too wide for all the others.
    averaged: bool = True
    excluded: tuple[str, ...] = ()  # parts of the names of nodes
    operators: tuple[str, ...] = ()  # (): all that onnxruntime can


FRAGILE = ("images/", "stem", "/se/", "head")
ATTEMPTS = (
    Attempt("per tensor", per_channel=False),
    Attempt("per channel"),
    Attempt("per channel, ranges of all images", averaged=False),
    Attempt("per channel, without stem, squeeze-excite and classifier", excluded=FRAGILE),
    Attempt(
        "per channel, convolutions alone, without stem, squeeze-excite and classifier",
        excluded=FRAGILE,
        operators=("Conv",),
    ),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """The best attempt, and what all of them came to."""

    model: Any  # onnx.ModelProto
    attempt: Attempt
    accuracy: float
    tried: dict[str, float]  # accuracy by the attempt's name


def quantise(
    model: Any, images: np.ndarray, accuracy: Callable[[Any], float], goal: float
) -> Result:
    """The first attempt whose accuracy is at least `goal`, or else the best one.

    `model` is a float `onnx.ModelProto`; `images` are in the form that it takes; `accuracy(model)`
    measures a quantised one.
    """
    tried: dict[str, float] = {}
    best: Result | None = None
    for attempt in ATTEMPTS:
        found = quantised(model, images, attempt)
        tried[attempt.name] = accuracy(found)
        say(f"int8 {attempt.name}: {tried[attempt.name]:.2%}")
        if best is None or tried[attempt.name] > best.accuracy:
            best = Result(found, attempt, tried[attempt.name], tried)
        if best.accuracy >= goal:
            break
    assert best is not None  # there are attempts
    return best


def quantised(model: Any, images: np.ndarray, attempt: Attempt) -> Any:
    """The float `onnx.ModelProto` as one of int8, calibrated on `images`."""
    onnx, _ = onnx_graph.packages()
    from onnxruntime import quantization

    parts = (*NEVER, *attempt.excluded)
    excluded = [node.name for node in model.graph.node if any(part in node.name for part in parts)]
    with tempfile.TemporaryDirectory() as directory, _quiet():
        float_path, path = (pathlib.Path(directory) / name for name in ("float.onnx", "int8.onnx"))
        onnx.save(model, float_path)
        quantization.quantize_static(
            float_path,
            path,
            _Reader(images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(attempt.operators),
            per_channel=attempt.per_channel,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=excluded,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": attempt.averaged},
        )
        return onnx.load(path)


class _Reader:
    """Groups of images, as onnxruntime's calibration asks for them."""

    def __init__(self, images: np.ndarray):
        self._groups = (images[n : n + GROUP] for n in range(0, len(images), GROUP))

    def get_next(self) -> dict | None:
        """A group by the input's name; None at the end."""
        group = next(self._groups, None)
        return None if group is None else {onnx_graph.IMAGES: group}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what onnxruntime prints, and its advice through the root logger, at each attempt."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
