"""An int8 ONNX file: calibrated on images of a pool, its loss of accuracy measured on others."""

import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import numpy as np

from ns_jax import files
from ns_jax.data import matching, pipeline
from ns_jax.data.source import Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import InputError
from ns_jax.foreign import exported, onnx_file, onnx_graph, onnx_session
from ns_jax.inference.mixture import Mixture
from ns_jax.model_card import ModelCard
from ns_jax.progress import say
from ns_jax.weights import onnx_quantise

MOST_MEASURED = 5000  # images that an attempt is measured on
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Images:
    """What a quantisation sees."""

    pool: Source  # labels play no part
    labelled: Source | None  # None: measured by the float network's own classes, on the pool
    reading: LoaderSettings
    calibration: int  # images of the pool that give the activations' ranges

    def chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices to calibrate on, of the pool, and to measure on; evenly spread."""
        chosen = _spread(np.arange(len(self.pool)), self.calibration)
        if self.labelled is not None:
            return chosen, _spread(np.arange(len(self.labelled)), MOST_MEASURED)
        others = np.setdiff1d(np.arange(len(self.pool)), chosen)
        return chosen, _spread(others if len(others) else chosen, MOST_MEASURED)


def save(
    path: pathlib.Path, card: ModelCard, variables: dict, images: Images, onnx_input: str
) -> None:
    """Writes the file whole or not at all, and says what it costs; so does its metadata.

    For `onnx_input` see `onnx_graph.build`. Raises InputError for other classes and where no image
    can be read, and what that raises.
    """
    if images.labelled is not None:
        matched = matching.match(images.labelled, card.class_names, "the network")
        images = dataclasses.replace(images, labelled=matched)
    model = onnx_graph.build(card, variables, onnx_input)
    metadata = {onnx_session.CARD: json.dumps(card.to_json()), onnx_file.INPUT: onnx_input}
    calibration, measured = images.chosen()
    pixels = _pixels(images, calibration, card)
    with tempfile.TemporaryDirectory() as directory:
        at_work = pathlib.Path(directory) / path.name

        def predict(candidate: Any) -> tuple[np.ndarray, np.ndarray]:
            onnx_file.describe(candidate, metadata)
            onnx_file.write(at_work, candidate)
            return _best_classes(at_work, card, images, measured)

        floats, labels = predict(model)
        if images.labelled is None:
            labels = floats
        float_accuracy = float((floats == labels).mean())
        what = "agreement with float32" if images.labelled is None else "top-1"
        say(f"float32: {what} {float_accuracy:.2%} of {len(labels):,} images")
        form = onnx_session.open_file(at_work).images
        found = onnx_quantise.quantise(
            model,
            form.of(pixels, card.preprocessing),
            lambda candidate: float((predict(candidate)[0] == labels).mean()),
            float_accuracy - onnx_quantise.MOST_LOSS,
        )
    told = {
        "attempt": found.attempt.name,
        "measure": what,
        "images": len(labels),
        "float32": float_accuracy,
        "int8": found.accuracy,
        "tried": found.tried,
    }
    onnx_file.describe(found.model, {**metadata, onnx_file.INT8: json.dumps(told)})
    onnx_file.write(path, found.model)
    _say_cost(path, float_accuracy - found.accuracy, found.attempt, what)


def _say_cost(path: pathlib.Path, loss: float, attempt: onnx_quantise.Attempt, what: str) -> None:
    size = files.size(str(path))
    say(
        f"{path}: int8 {attempt.name}, {size / 1e6:,.2f} MB; {100 * loss:.2f} points of {what} lost"
    )
    if loss > onnx_quantise.MOST_LOSS:
        say(
            f"that is more than the {100 * onnx_quantise.MOST_LOSS:.0f} point aimed at, and the "
            "best of all attempts; a network trained longer, or more calibration images "
            "(convert.calibration_images), may lose less"
        )


def _spread(indices: np.ndarray, most: int) -> np.ndarray:
    count = min(most, len(indices))
    return indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]


def _pixels(images: Images, indices: np.ndarray, card: ModelCard) -> np.ndarray:
    """uint8 `[n, S, S, 3]` as the network sees them, without those that cannot be read."""
    batches = pipeline.evaluation_batches(
        images.pool,
        pipeline.full_batches([indices], BATCH_SIZE),
        [card.preprocessing],
        batch_size=BATCH_SIZE,
        reading=images.reading,
    )
    try:
        found = [
            batch["image_0"][: len(batch["status"])][_readable(batch)].copy() for batch in batches
        ]
    finally:
        batches.close()
    pixels = np.concatenate(found)
    if not len(pixels):
        raise InputError(f"none of {len(indices):,} images of {images.pool.name} can be read")
    return pixels


def _best_classes(
    path: pathlib.Path, card: ModelCard, images: Images, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best class by the network in `path`, and the label, of each image that can be read."""
    source = images.pool if images.labelled is None else images.labelled
    file = exported.ExportedNetwork(
        path, onnx_session.open_file(path), card.class_names, card.preprocessing
    )
    network = Mixture(None, [file], [])
    best, labels = [], []
    for batch in network.predict(source, [indices], images.reading, 1, BATCH_SIZE):
        best.append(batch["classes"][_readable(batch), 0])
        labels.append(batch["label"][_readable(batch)])
    if not sum(map(len, best)):
        raise InputError(f"none of {len(indices):,} images of {source.name} can be read")
    return np.concatenate(best), np.concatenate(labels)


def _readable(batch: dict) -> np.ndarray:
    return np.asarray([status == "ok" for status in batch["status"]], bool)
