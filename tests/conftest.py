"""Shared by all tests: one CPU device, a compile cache of the session, tiny configs."""

import os
import pathlib
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent
CACHE = ROOT / ".pytest_cache" / "compiled"  # of steps: compiled once, reused by later runs

os.environ["NS_JAX_REPORT_ERRORS"] = "raise"  # of selftrain's reports, in child processes too
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


@pytest.fixture
def few_stages(monkeypatch):
    """Networks end after three stages of seven, for which their steps compile in half the time."""
    from ns_jax.inference import step as inference_step
    from ns_jax.models import efficientnet
    from ns_jax.training import trainer as trainer_lib

    def forget():  # steps of networks of the same name
        trainer_lib._compiled.cache_clear()
        inference_step.compile_inference.cache_clear()

    forget()
    monkeypatch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:3])
    yield
    forget()


@pytest.fixture(scope="session")
def tensors():
    """Random weights of B0 with 7 classes, as timm names and lays them out."""
    from ns_jax.models import efficientnet
    from ns_jax.weights import layout, timm
    from tests.weights import random_weights

    model = efficientnet.build("efficientnet-b0", num_classes=7)
    names = layout.their_shapes(model, timm.entries(model))
    return {name: random_weights.tensor(name, shape) for name, shape in names.items()}


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """gs:// as a directory: fsspec's own local files under Google's name."""
    from etils.epath import backend
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    from ns_jax.buckets import client

    class Bucket(DirFileSystem):
        protocol = "gs"
        async_impl = False

        def __init__(self, **_):
            super().__init__(path=str(tmp_path), fs=LocalFileSystem(auto_mkdir=True))

        @classmethod
        def _strip_protocol(cls, path):
            return path.removeprefix("gs://").rstrip("/")

    for name in ("gs", "gcs"):
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, name, Bucket)
    client._check_library.cache_clear()
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield tmp_path
    client._check_library.cache_clear()


@pytest.fixture(scope="session")
def make_teacher():
    """`make_teacher(directory, seed, size)`: a checkpoint of random weights for the digits."""
    from ns_jax.checkpoints import checkpoint
    from ns_jax.data import crops
    from ns_jax.model_card import ModelCard
    from ns_jax.models import efficientnet

    def make(directory, seed=1, size=16):
        model = efficientnet.build("efficientnet-pico", 10, small_images=True)
        fresh = jax.jit(lambda rng: model.init(rng, size))
        variables = jax.device_get(fresh(jax.random.key(seed)))
        preprocessing = crops.Preprocessing(size, "none", (0.5,) * 3, (0.25,) * 3)
        card = ModelCard(model.name, True, tuple("0123456789"), preprocessing)
        checkpoint.save_model(directory, card, variables)
        return directory

    return make
