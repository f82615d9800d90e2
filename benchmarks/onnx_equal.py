"""ONNX files of our networks, run by onnxruntime, against our own network: random weights, CPU.

    python -m benchmarks.onnx_equal [NETWORK ...]        (b0 to b8, l0 to l2; without any, b0 to b8)

Largest difference of the logits over the standard deviation of ours; two images of each network.
The images are smaller than the network's own, which changes nothing but the padding; L2: 10 GB.
"""

import functools
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np
import onnxruntime

from benchmarks.sides import machine, row
from ns_jax.data import crops
from ns_jax.foreign import onnx_file
from ns_jax.inference import step as inference_step
from ns_jax.model_card import ModelCard
from ns_jax.weights import published
from tests.weights.made import weights_of

SIZE, CLASSES = 97, 1000
ALL = [f"b{number}" for number in range(9)]


def centred(scores: np.ndarray) -> np.ndarray:
    """Logits and the logarithms of probabilities differ by a number an image, which this takes."""
    return scores - scores.mean(1, keepdims=True)


def compare(network: str, directory: pathlib.Path) -> list:
    view = crops.Preprocessing(SIZE, "none", *published.IMAGENET)
    names = tuple(map(str, range(CLASSES)))
    card = ModelCard(f"efficientnet-{network}", False, names, view)
    variables, path = weights_of(card), directory / f"{network}.onnx"
    began = time.perf_counter()
    onnx_file.save(path, card, variables)
    seconds = time.perf_counter() - began
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    step = functools.partial(
        inference_step.logits_step, model=card.build(), mean=view.mean, std=view.std
    )
    expected = centred(np.asarray(jax.jit(step)(variables, images)))
    del variables
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = centred(np.log(session.run(None, {"images": images})[0]))
    size = path.stat().st_size / 1e6
    path.unlink()
    difference = np.abs(found - expected).max() / expected.std()
    return [network, f"{difference:.1e}", f"{size:,.1f}", f"{seconds:.1f}"]


def main() -> None:
    print(f"{machine()}\n")
    row(["network", "largest difference", "MB", "seconds to write"])
    row(["---"] * 4)
    with tempfile.TemporaryDirectory() as directory:
        for network in sys.argv[1:] or ALL:
            row(compare(network, pathlib.Path(directory)))


if __name__ == "__main__":
    main()
