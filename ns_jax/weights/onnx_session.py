"""ONNX files of anybody at work, in onnxruntime on the CPU: images in, one score a class out."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ns_jax.data import crops
from ns_jax.errors import InputError
from ns_jax.model_card import ModelCard
from ns_jax.weights import onnx_file, onnx_graph

DTYPES: dict[str, np.dtype] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
}


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """The images that a network in a file takes. None: as many, or as large, as you like."""

    dtype: np.dtype  # uint8: as decoded; a float: normalised
    channels_first: bool
    batch: int | None
    size: int | None

    def of(self, pixels: np.ndarray, view: crops.Preprocessing) -> np.ndarray:
        """uint8 `[n, S, S, 3]` in this form, normalised by the view's mean and std if floats."""
        images = pixels
        if self.dtype != np.uint8:
            mean, std = (np.asarray(values, np.float32) for values in (view.mean, view.std))
            images = ((pixels / np.float32(255) - mean) / std).astype(self.dtype)
        if self.channels_first:
            images = images.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(images)


@dataclasses.dataclass(frozen=True)
class Network:
    """What a file holds: `call` takes images as `images` says and returns `[n, classes]`."""

    call: Callable[[np.ndarray], np.ndarray]
    images: ImageInput
    card: ModelCard | None  # None: the file does not say


def open_session(path: pathlib.Path) -> Network:
    """Raises MissingPackageError, and InputError for a file that is no ONNX, that onnxruntime
    cannot run, or that takes anything but a batch of square RGB images.
    """
    _, onnxruntime = onnx_graph.packages()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they come as exceptions too
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's have no class of their own
        raise InputError(f"{path}: onnxruntime cannot run it: {_first_line(error)}") from None
    images = _image_input(session.get_inputs(), path)
    (name,) = (value.name for value in session.get_inputs())

    def call(batch: np.ndarray) -> np.ndarray:
        try:
            outputs = session.run(None, {name: batch})
        except Exception as error:
            raise InputError(
                f"{path}: onnxruntime fails on images {batch.dtype}{list(batch.shape)}: "
                f"{_first_line(error)}"
            ) from None
        return _scores(outputs, len(batch), path)

    metadata = session.get_modelmeta().custom_metadata_map
    return Network(call, images, onnx_file.card_of(metadata, str(path)))


def _image_input(inputs: list, path: pathlib.Path) -> ImageInput:
    told = "; ".join(f"{value.name} {value.type}{list(value.shape)}" for value in inputs)
    wrong = InputError(
        f"{path} takes {told or 'nothing'}; evaluation needs one input, a batch of square RGB "
        "images as uint8 or float: [b, S, S, 3] or [b, 3, S, S]"
    )
    if len(inputs) != 1 or inputs[0].type not in DTYPES or len(inputs[0].shape) != 4:
        raise wrong
    batch, *axes = (_fixed(number) for number in inputs[0].shape)
    channels_first = axes[2] != 3
    channels, height, width = axes if channels_first else (axes[2], *axes[:2])
    if channels != 3 or (height and width and height != width):
        raise wrong
    return ImageInput(DTYPES[inputs[0].type], channels_first, batch, height or width)


def _fixed(number: Any) -> int | None:
    """An axis's length; None for a name, or whatever stands for any length."""
    return number if isinstance(number, int) and number > 0 else None


def _scores(outputs: list, count: int, path: pathlib.Path) -> np.ndarray:
    found = [
        output
        for output in outputs
        if isinstance(output, np.ndarray) and output.ndim == 2 and output.dtype.kind == "f"
    ]
    if len(found) == 1 and len(found[0]) == count and found[0].shape[1] >= 2:
        return found[0].astype(np.float32)
    told = "; ".join(
        f"{output.dtype}{list(output.shape)}" if isinstance(output, np.ndarray) else "no tensor"
        for output in outputs
    )
    raise InputError(
        f"{path} gives {told} for {count} images; evaluation needs one output of floats, a row an "
        "image with one score a class"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
