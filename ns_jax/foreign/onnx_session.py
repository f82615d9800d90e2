"""ONNX files of anybody at work, in onnxruntime: images in, one score a class out.

On a CPU each core takes images of its own: split between cores node by node, they wait for one
another, and the activations leave their caches.
"""

import ast
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ns_jax import cores, files
from ns_jax.errors import DamagedError, InputError, MissingPackageError
from ns_jax.foreign.network import ImageInput, Network
from ns_jax.model_card import ModelCard

CARD = "ns_jax.model.json"  # in the metadata of our own files: the model card
NAMES = ("class_names", "names", "labels", "classes")  # in those of others: a list or numbered
DTYPES: dict[str, np.dtype] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
}
# The first of them that the installed package has: onnxruntime-gpu has CUDA's.
CPU = "CPUExecutionProvider"
PROVIDERS = ("CUDAExecutionProvider", CPU)


def packages() -> tuple[Any, Any]:
    """The modules `onnx` and `onnxruntime`. Raises MissingPackageError."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            f"ONNX needs the package {error.name}: pip install 'ns-jax[onnx]'"
        ) from None
    return onnx, onnxruntime


def engine() -> str:
    """What runs the files, with its version. Raises MissingPackageError."""
    _, onnxruntime = packages()
    return f"onnxruntime {onnxruntime.__version__}, {_providers(onnxruntime)[0]}"


def open_file(path: pathlib.Path) -> Network:
    """Raises MissingPackageError, and InputError for a file that is no ONNX, that onnxruntime
    cannot run, or that takes anything but a batch of square RGB images.
    """
    _, onnxruntime = packages()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions too
    options.intra_op_num_threads = 1  # of a call; of its own it takes all of the machine
    try:
        session = onnxruntime.InferenceSession(
            files.local(path), options, providers=_providers(onnxruntime)
        )
    except Exception as error:  # onnxruntime's have no class of their own
        hint = "; weights beside it are not fetched, copy all of it to a disk"
        raise InputError(
            f"{path}: onnxruntime cannot run it: {_first_line(error)}"
            f"{hint * files.is_remote(str(path))}"
        ) from None
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
    provider = session.get_providers()[0]
    return Network(
        call,
        images,
        f"onnxruntime {onnxruntime.__version__}, {provider}",
        card_of(metadata, path),
        _class_names(metadata),
        calls=cores.count() if provider == CPU else 1,
    )


def _providers(onnxruntime: Any) -> list[str]:
    return [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]


def card_of(metadata: Mapping[str, str], path: pathlib.Path) -> ModelCard | None:
    """The model card in a file's metadata, or None: it is somebody else's. Raises DamagedError."""
    if CARD not in metadata:
        return None
    try:
        return ModelCard.from_json(json.loads(metadata[CARD]))
    except ValueError as error:
        raise DamagedError(f"{path}: its {CARD} is damaged: {error}") from error


def _class_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Names that stand in the metadata as a list or by their numbers, in JSON or Python's form."""
    for key in filter(metadata.__contains__, NAMES):
        for parse in (json.loads, ast.literal_eval):
            try:
                return listed(parse(metadata[key]))
            except (ValueError, SyntaxError, TypeError, AttributeError, KeyError):
                continue
    return ()


def listed(names: Any) -> tuple[str, ...]:
    """Class names of a list, or of a table from their numbers. Raises ValueError for others."""
    if isinstance(names, dict):
        by_number = {int(number): name for number, name in names.items()}
        names = [by_number[number] for number in range(len(by_number))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it is no list of names")
    return tuple(names)


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
    # A tracer may leave all axes open; then the usual order is taken.
    if channels not in (3, None) or (height and width and height != width):
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
        return found[0].astype(np.float32, copy=False)
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
