"""Shared by all tests: one CPU device, a compile cache of the session, tiny configs."""

import os
import pathlib
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent
CACHE = ROOT / ".pytest_cache" / "compiled"  # of steps: compiled once, reused by later runs

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def environment():
    """Environment of a child process: the same cache, the repository on its path."""
    return {
        **os.environ,
        "NS_JAX_COMPILE_CACHE": str(CACHE),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    }


@pytest.fixture
def tiny_config():
    """The digits config at its smallest: the smallest network, a handful of steps."""
    from configs import digits

    config = digits.get_config()
    config.model.name = "efficientnet-pico"
    config.train.batch_size = 10
    config.train.epochs = 1.2  # of 50 images: 6 steps
    config.train.log_every_steps = 1
    config.train.save_every_steps = 2
    config.optim.warmup_epochs = 0.5
    config.label.images_per_shard = 256
    config.label.batch_size = 256
    config.select.threshold = 0.0
    config.select.per_class = 20
    config.selftrain.iterations = 1
    config.selftrain.overrides.iteration_1.train.unlabelled_ratio = 2.0
    return config


@pytest.fixture(scope="session")
def tensors():
    """Random weights of B0 with 7 classes, as timm names and lays them out."""
    from ns_jax.models import efficientnet
    from ns_jax.weights import layout, timm
    from tests.weights import random_weights

    model = efficientnet.build("efficientnet-b0", num_classes=7)
    names = layout.their_shapes(model, timm.entries(model))
    return {name: random_weights.tensor(name, shape) for name, shape in names.items()}
