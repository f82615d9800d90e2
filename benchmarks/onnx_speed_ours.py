"""A side of `onnx_speed.py` in onnxruntime: our file, float or int8, or the one that timm wrote."""

import pathlib
import sys

import jax
import numpy as np
import onnxruntime

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from benchmarks import worker  # noqa: E402
from ns_jax.data import crops  # noqa: E402
from ns_jax.foreign import onnx_graph  # noqa: E402
from ns_jax.model_card import ModelCard  # noqa: E402
from ns_jax.weights import onnx_quantise, published  # noqa: E402

kind, path, network, size, batch = sys.argv[1:]
size, batch = int(size), int(batch)
mean, std = published.IMAGENET
images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(np.uint8)


def our_file() -> bytes:
    view = crops.Preprocessing(size, "none", mean, std)
    card = ModelCard(f"efficientnet-{network}", False, tuple(map(str, range(1000))), view)
    variables = jax.jit(lambda rng: card.build().init(rng, size))(jax.random.key(0))
    model = onnx_graph.build(card, jax.device_get(variables))
    if kind == "int8":
        model = onnx_quantise.quantised(model, images[:8], onnx_quantise.ATTEMPTS[0])
    return model.SerializeToString()


content = path if kind == "timm" else our_file()
session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
(name,) = (value.name for value in session.get_inputs())


def run():
    seen = images
    if kind == "timm":
        normal = (images / np.float32(255) - np.float32([mean])) / np.float32([std])
        seen = np.ascontiguousarray(normal.astype(np.float32).transpose(0, 3, 1, 2))
    return session.run(None, {name: seen})[0]


worker.serve(run)
