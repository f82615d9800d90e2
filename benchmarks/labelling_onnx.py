"""Labelling by an ONNX file of somebody else against onnxruntime alone, on the same images.

    python -m benchmarks.labelling_onnx

In turn, in one process: `label` as a user runs it, JPEGs to shards; one onnxruntime session, as it
comes, on the same images as the floats that it takes, in memory; the same readers without a
network. The file is a B0 with random weights that takes normalised floats `[b, 3, S, S]`, and says
nothing of itself.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import jax
import onnxruntime

from benchmarks import labelling
from benchmarks.sides import machine, row
from configs import base
from ns_jax import cores
from ns_jax.data import crops, pipeline
from ns_jax.data import open as open_lib
from ns_jax.foreign import onnx_file, onnx_graph
from ns_jax.inference import teachers
from ns_jax.model_card import ModelCard

CASES = [(224, 160, 16), (32, 4096, 256)]  # pixels, images of a turn, images a batch
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", cores.count())  # as __main__ does
    print(f"{machine()}, {options.rounds} rounds\n")
    names = ("label", "onnxruntime alone", "decoding alone")
    row(["pixels", *(f"{name}, images/s" for name in names), "label / the slower", "label says"])
    row(["---"] * 6)
    for case in CASES:
        with tempfile.TemporaryDirectory() as directory:
            row([case[0], *_case(pathlib.Path(directory), *case, options.rounds)])


def _case(directory: pathlib.Path, size: int, count: int, batch: int, rounds: int) -> list[str]:
    labelling._write_photographs(directory / "pool", size, size, count)
    config = base.get_config()
    config.data.unlabelled = f"folder:{directory / 'pool'}"
    config.data.update({"image_size": size, "crop": "none", "mean": MEAN, "std": STD})
    config.label.checkpoint = str(_write_file(directory, size))
    config.label.class_names = str(directory / "names.txt")
    config.data.prefetch = 2
    config.label.update({"batch_size": batch, "images_per_shard": 4 * batch})
    source = open_lib.open_from_config(config, "unlabelled")
    reading = open_lib.loader_settings(config)
    file = teachers.open_exported(config, config.label.checkpoint)

    def decoded():
        parts = pipeline.full_batches([range(count)], batch)
        settings = {"batch_size": batch, "reading": reading}
        return pipeline.evaluation_batches(source, parts, [file.view], **settings)

    session = onnxruntime.InferenceSession(config.label.checkpoint)
    form = file._network.images
    images = [form.of(found["image_0"], file.view) for found in decoded()]
    speeds, said = [], ""
    for number in range(rounds + 1):
        end_to_end, said = labelling._label(config, directory / f"run{number}")
        began = time.perf_counter()
        for seen in images:
            session.run(None, {onnx_graph.IMAGES: seen})
        alone = count / (time.perf_counter() - began)
        batches = decoded()
        next(batches)
        began = time.perf_counter()
        for _ in batches:
            pass
        decoding = (count - batch) / (time.perf_counter() - began)
        if number:  # the first turn opens files
            speeds.append((end_to_end, alone, decoding))
    medians = [statistics.median(values) for values in zip(*speeds, strict=True)]
    ratio = statistics.median(found[0] / min(found[1:]) for found in speeds)
    return [*(f"{speed:,.1f}" for speed in medians), f"{ratio:.3f}", said]


def _write_file(directory: pathlib.Path, size: int) -> pathlib.Path:
    names = tuple(str(number) for number in range(labelling.CLASSES))
    view = crops.Preprocessing(size, "none", MEAN, STD)
    card = ModelCard("efficientnet-b0", False, names, view)
    variables = jax.jit(lambda rng: card.build().init(rng, size))(jax.random.key(0))
    model = onnx_graph.build(card, jax.device_get(variables), onnx_graph.FLOAT_NCHW)
    onnx_file.write(directory / "other.onnx", model)
    (directory / "names.txt").write_text("\n".join(names))
    return directory / "other.onnx"


if __name__ == "__main__":
    main()
