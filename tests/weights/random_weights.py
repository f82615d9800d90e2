"""Random weights that any machine makes alike, by seed and timm's name of the tensor. NumPy alone:
the script that runs timm and the tests that do not have it share this file."""

import zlib

import numpy as np


def tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """float32; scaled so that the activations of 88 residual blocks stay near 1."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    last_norms = name.endswith("bn3.weight"), name.startswith("blocks.0.") and "bn2.weight" in name
    if any(last_norms):
        return rng.uniform(0.1, 0.3, shape).astype(np.float32)
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return rng.standard_normal(shape, np.float32) * np.float32((2.0 / fan_in) ** 0.5)


def images(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """uint8 `[2, H, W, 3]`."""
    return np.random.default_rng([seed, 1]).integers(0, 256, (2, *size, 3), np.uint8)
