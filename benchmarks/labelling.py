"""Labelling end to end against its two halves: the forward pass alone and decoding alone.

    JAX_PLATFORMS=cpu python -m benchmarks.labelling        (about three minutes)

All three in turn, in one process and on the same JPEG files: `label` as a user runs it, up to the
shards on disk; the same compiled step on the same arrays from memory; the same readers without a
step. Twice: tiny images for a network that is slow on them, and large photographs for one that is
fast. Random weights: what is measured does not depend on them.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import tempfile
import time

import cv2
import jax
import numpy as np
import sklearn.datasets

from benchmarks.sides import machine, row
from configs import base
from ns_jax import cores
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops, pipeline
from ns_jax.data import open as open_lib
from ns_jax.inference import predictor, shard_pass
from ns_jax.model_card import ModelCard
from ns_jax.models import efficientnet
from ns_jax.programs import label
from ns_jax.progress import Progress

CASES = {  # JPEG's width and height, network, pixels it takes, images of a turn
    "tiny images": (32, 32, "efficientnet-b0", 224, 2048),
    "large photographs": (2048, 1536, "efficientnet-pico", 32, 2048),
}
CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", cores.count())  # as __main__ does
    print(f"{machine()}, {jax.devices()[0].device_kind}, {options.rounds} rounds\n")
    names = ("label", "forward alone", "decoding alone")
    row(["case", *(f"{name}, images/s" for name in names), "label / the slower half", "label says"])
    row(["---"] * 6)
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as directory:
            row([name, *_case(pathlib.Path(directory), case, options)])


def _case(directory: pathlib.Path, case: tuple, options) -> list[str]:
    width, height, network, size, count = case
    _write_photographs(directory / "pool", width, height, count)
    config = base.get_config()
    config.data.unlabelled = f"folder:{directory / 'pool'}"
    config.label.checkpoint = str(_teacher(directory / "teacher", network, size))
    config.label.batch_size = options.batch
    config.label.images_per_shard = 8 * options.batch
    source = open_lib.open_from_config(config, "unlabelled")
    reading = open_lib.loader_settings(config)
    teacher = predictor.Predictor([checkpoint.load_model(config.label.checkpoint)])
    batches = list(_decoded(teacher, source, range(count), reading, options.batch))
    speeds, said = [], ""
    for number in range(options.rounds + 1):
        end_to_end, said = _label(config, directory / f"run{number}")
        forward = _forward(teacher, batches, options.batch)
        decoding = _decoding(teacher, source, count, reading, options.batch)
        if number:  # the first turn compiles
            speeds.append((end_to_end, forward, decoding))
    medians = [statistics.median(values) for values in zip(*speeds, strict=True)]
    ratio = statistics.median(found[0] / min(found[1:]) for found in speeds)
    return [*(f"{speed:,.1f}" for speed in medians), f"{ratio:.3f}", said]


def _write_photographs(directory: pathlib.Path, width: int, height: int, count: int) -> None:
    """Pieces of scikit-learn's two photographs, at that size."""
    directory.mkdir(parents=True)
    photographs = sklearn.datasets.load_sample_images().images
    rng = np.random.default_rng(0)
    distinct = min(count, 64)
    for number in range(distinct):
        photograph = photographs[number % 2]
        top, left = rng.integers(0, photograph.shape[0] // 2), rng.integers(0, 320)
        piece = photograph[top : top + 213, left : left + 320]
        piece = cv2.resize(piece, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(directory / f"{number:06d}.jpg"), piece)
    for number in range(distinct, count):
        os.link(directory / f"{number % distinct:06d}.jpg", directory / f"{number:06d}.jpg")


def _teacher(directory: pathlib.Path, network: str, size: int) -> pathlib.Path:
    model = efficientnet.build(network, CLASSES)
    variables = jax.device_get(jax.jit(lambda rng: model.init(rng, size))(jax.random.key(0)))
    preprocessing = crops.Preprocessing(size, "padded", (0.485,) * 3, (0.229,) * 3)
    names = tuple(str(number) for number in range(CLASSES))
    checkpoint.save_model(directory, ModelCard(network, False, names, preprocessing), variables)
    return directory


def _label(config, workdir: pathlib.Path) -> tuple[float, str]:
    """Images/s after what was decoded ahead of the first result, and what it says bounds it."""
    reached = []

    class Recorded(Progress):
        def reach(self, count: int) -> None:
            reached.append((time.perf_counter(), count))
            super().reach(count)

    said = []
    shard_pass.Progress, shard_pass.say = Recorded, said.append
    label.run(config, workdir)
    ended, (began, first) = time.perf_counter(), reached[config.data.prefetch]
    shutil.rmtree(workdir)
    bound = next(line for line in said if "bound by" in line).partition("bound by ")[2]
    return (reached[-1][1] - first) / (ended - began), bound.replace("%", " %")


def _decoded(teacher, source, indices, reading, batch: int):
    size = teacher.local_batch_size(batch)
    parts = pipeline.full_batches([indices], size)
    settings = {"batch_size": size, "reading": reading}
    return pipeline.evaluation_batches(source, parts, teacher.views, **settings)


def _decoding(teacher, source, count: int, reading, batch: int) -> float:
    batches = _decoded(teacher, source, range(count), reading, batch)
    first = sum(len(next(batches)["index"]) for _ in range(reading.prefetch + 1))
    began = time.perf_counter()
    for _ in batches:
        pass
    return (count - first) / (time.perf_counter() - began)


def _forward(teacher, batches: list[dict], batch: int) -> float:
    """Of arrays in memory, in the program's own loop."""
    original = pipeline.evaluation_batches
    pipeline.evaluation_batches = lambda *_, **__: (dict(batch) for batch in batches)
    try:
        found = teacher.predict(None, [], None, predictor.CLASSES_KEPT, batch)
        first = len(next(found)["index"])
        began, count = time.perf_counter(), 0
        for batch in found:
            count += len(batch["index"])
        assert first + count == sum(len(batch["index"]) for batch in batches)
        return count / (time.perf_counter() - began)
    finally:
        pipeline.evaluation_batches = original


if __name__ == "__main__":
    main()
