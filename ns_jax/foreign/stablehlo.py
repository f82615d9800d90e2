"""StableHLO files, ours or anybody's of `jax.export`: images in, one score a class out."""

import pathlib

import jax
import numpy as np

from ns_jax.errors import InputError
from ns_jax.foreign.network import ImageInput, Network


def open_file(path: pathlib.Path) -> Network:
    """Raises InputError for a file that is no function of uint8 images `[b, S, S, 3]`."""
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:  # of flatbuffers and of MLIR, of many classes
        raise InputError(f"{path} cannot be read by jax.export: {error!r}") from None
    takes = "; ".join(map(str, exported.in_avals))
    shapes = [value.shape for value in (*exported.in_avals, *exported.out_avals)]
    if [len(shape) for shape in shapes] != [4, 2] or not takes.startswith("uint8"):
        raise InputError(
            f"{path} is a function of {takes or 'nothing'} to {exported.out_avals}; evaluation "
            "needs images uint8[b, S, S, 3] to scores [b, classes]"
        )
    shape: tuple = shapes[0]
    batch, size = (number if isinstance(number, int) else None for number in shape[:2])
    step = jax.jit(exported.call)

    def call(images: np.ndarray) -> np.ndarray:
        return np.asarray(step(images), np.float32)

    images = ImageInput(np.dtype(np.uint8), False, batch, size)
    return Network(call, images, f"XLA of jax {jax.__version__} on {jax.default_backend()}")
