"""Random weights in timm's format, and a small network that was imported from them."""

import numpy as np
import pytest

from ns_jax.models import efficientnet
from ns_jax.weights import layout, timm
from tests.weights import random_weights


def timm_tensors(model) -> dict[str, np.ndarray]:
    """Every tensor of timm's network of this architecture, random but reproducible."""
    shapes, tensors = layout.shapes(model), {}
    for entry in timm.entries(model):
        shape = shapes[entry.path].shape[0 if entry.layer is None else 1 :]
        inverse = np.argsort(entry.axes) if entry.axes else range(len(shape))
        shape = tuple(shape[axis] for axis in inverse)
        tensors[entry.name] = random_weights.tensor(entry.name, shape)
    return tensors


@pytest.fixture(scope="session")
def tensors():
    """Of B0 with 7 classes."""
    return timm_tensors(efficientnet.build("efficientnet-b0", num_classes=7))
