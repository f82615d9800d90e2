"""Our side of `cpu_speed.py`: the compiled steps of the programs, on the devices they choose.

Of inference the variants are the engines of `label.engine`, XLA where none is named.
"""

import pathlib
import sys
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from benchmarks import worker  # noqa: E402
from configs import base  # noqa: E402
from ns_jax import cores  # noqa: E402
from ns_jax.data import crops  # noqa: E402
from ns_jax.inference import engines, mixture  # noqa: E402
from ns_jax.inference import step as inference_step  # noqa: E402
from ns_jax.model_card import ModelCard  # noqa: E402
from ns_jax.models import efficientnet  # noqa: E402  # noqa: E402
from ns_jax.parallel import mesh as mesh_lib  # noqa: E402
from ns_jax.training import numbers as numbers_lib  # noqa: E402
from ns_jax.training import trainer as trainer_lib  # noqa: E402  # noqa: E402
from ns_jax.weights import published  # noqa: E402  # noqa: E402

network, size, mode, batch = worker.arguments()
jax.config.update("jax_num_cpu_devices", cores.count())  # as __main__ does
config = base.get_config()
model = efficientnet.build(f"efficientnet-{network}", num_classes=1000)
mean, std = published.IMAGENET
images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(np.uint8)

engine = sys.argv[3].partition(":")[2]


def drawn() -> dict:
    """Random weights, without compiling what draws them: half of a side's start."""
    shapes = jax.eval_shape(lambda rng: model.init(rng, size), jax.random.key(0))
    rng = np.random.default_rng(0)

    def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "kernel":
            spread = np.sqrt(2 / np.prod([*shape.shape[-4:-2], shape.shape[-1]]))
            return (spread * rng.standard_normal(shape.shape)).astype(np.float32)
        return np.full(shape.shape, path[-1].key in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


if engine:
    view = crops.Preprocessing(size, "none", mean, std)
    card = ModelCard(model.name, False, tuple(map(str, range(1000))), view)
    began = time.perf_counter()
    (labels,) = engines.run_by(engines.Engine(engine), [(card, drawn())], [network])

    def run():
        mixture.best(np.exp(labels.log_probs(images, batch)), 16)

elif mode == "inference":
    mesh = mesh_lib.make_mesh(fsdp=1)
    whole = {"members": [drawn()], "temperature": np.float32(1)}
    whole = mesh_lib.put_whole(whole, mesh)
    arrays = {"image": images}
    members = (inference_step.Member(model, 0, mean, std),)
    step = inference_step.compile_inference(
        mesh, inference_step.predict_step, members=members, flip=False, k=16
    )
    began = time.perf_counter()
    compiled = step.lower(whole, [mesh_lib.put_batch(arrays, mesh)["image"]]).compile()

    def run():
        on_device = mesh_lib.put_batch(arrays, mesh)["image"]
        jax.block_until_ready(compiled(whole, [on_device]))

else:
    config.model.name, config.data.image_size = f"efficientnet-{network}", size
    config.train.batch_size = batch
    numbers = numbers_lib.derive(config, num_labelled=1_281_167, num_devices=1)
    parts = trainer_lib.build(config, numbers, num_classes=1000)
    mesh, state = parts.mesh, parts.packed(parts.init(0))
    arrays = {
        "image": images,
        "target_classes": np.zeros((batch, 1), np.int32),
        "target_probs": np.full((batch, 1), 0.9, np.float32),
        "weight": np.ones(batch, np.float32),
    }
    rng = jax.random.key(0)
    began = time.perf_counter()
    parts.compile(parts.batch_spec())

    def run():
        global state
        state, metrics = parts.step(state, mesh_lib.put_batch(arrays, mesh), rng, None)
        jax.block_until_ready(metrics)


worker.serve(run, time.perf_counter() - began)
