"""Our own ONNX files at work in OpenVINO, on a CPU: uint8 images in, one score a class out."""

import pathlib
import sys
import threading
from typing import Any

import numpy as np

from ns_jax import cores
from ns_jax.errors import InputError, MissingPackageError
from ns_jax.foreign.network import ImageInput, Network

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
    own = threading.local()

    def call(images: np.ndarray) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer([images])[0]

    images = ImageInput(np.dtype(np.uint8), False, None, size)
    return Network(call, images, name, calls=calls)
