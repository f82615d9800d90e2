"""Our own ONNX files at work in OpenVINO, on a CPU: uint8 images in, one score a class out."""

import pathlib
import sys
from typing import Any

import numpy as np

from ns_jax import cores
from ns_jax.errors import InputError, MissingPackageError
from ns_jax.foreign.network import ImageInput, Network, rows_for_a_core

FLOAT32, BFLOAT16 = "float32", "bfloat16"
HINTS = {FLOAT32: "f32", BFLOAT16: "bf16"}  # of its own it takes bfloat16 where it can


def package() -> Any:
    """The module `openvino`. Raises MissingPackageError."""
    # With it each import would be told to OpenVINO's makers, over the network.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise MissingPackageError(
            "OpenVINO is not installed: pip install 'ns-jax[openvino]'"
        ) from None
    return openvino


def engine(precision: str) -> str:
    """What runs the files, with its version.

    Raises MissingPackageError; InputError for a precision that this processor does not have.
    """
    openvino = package()
    if precision == BFLOAT16:
        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in able:
            raise InputError(
                "OpenVINO has no bfloat16 on this processor (AVX-512 BF16 or AMX): leave "
                f"label.engine_precision at {FLOAT32}"
            )
    version = openvino.__version__.partition("-")[0]
    return f"OpenVINO {version}, CPU, {precision}"


def open_file(path: pathlib.Path, size: int, precision: str) -> Network:
    """`path` takes uint8 `[b, size, size, 3]`. Raises as `engine`."""
    name, core = engine(precision), package().Core()
    calls = cores.count()
    compiled = core.compile_model(
        core.read_model(path),
        "CPU",
        {
            "NUM_STREAMS": calls,  # a core each
            "INFERENCE_NUM_THREADS": calls,
            "INFERENCE_PRECISION_HINT": HINTS[precision],
        },
    )
    requests = [compiled.create_infer_request() for _ in range(calls)]

    def call(images: np.ndarray) -> np.ndarray:
        # All from this thread: OpenVINO gets stuck if several give it images at the same time.
        rows, found = rows_for_a_core(len(images), size, calls), []
        pieces = [images[start : start + rows] for start in range(0, len(images), rows)]
        for number, piece in enumerate(pieces):
            request = requests[number % calls]
            if number >= calls:
                found.append(_scores(request))
            request.start_async([piece])
        for number in range(len(found), len(pieces)):
            found.append(_scores(requests[number % calls]))
        return np.concatenate(found)

    images = ImageInput(np.dtype(np.uint8), False, None, size)
    return Network(call, images, name, calls=0)


def _scores(request: Any) -> np.ndarray:
    request.wait()
    return request.get_output_tensor(0).data.copy()
