"""What a user imports: `ns_jax.load(...)` gives a `Classifier`."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from ns_jax import model_card
from ns_jax.data import pipeline
from ns_jax.data.source import Source
from ns_jax.data.workers import Reading
from ns_jax.errors import InputError, MissingFileError
from ns_jax.inference import step as inference_step
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.progress import Progress
from ns_jax.weights import imported

BATCH_SIZE = 64  # images on the devices at once
LONG = 256  # images from which progress is shown


class Prediction(NamedTuple):
    """A class and its probability, 0 to 1."""

    name: str
    probability: float


def load(path_or_name: str | pathlib.Path, model: str | None = None) -> "Classifier":
    """A classifier from a workdir, a checkpoint, a timm safetensors file or `hf:OWNER/NAME`.

    `model` names what a foreign file holds: published weights (`tf_efficientnet_b3.ns_jft_in1k`)
    or an architecture (`efficientnet-b3`). Raises FileNotFoundError or InputError with the reason.
    """
    return Classifier(*imported.load(path_or_name, model or ""))


class Classifier:
    """A network with its class names and its preprocessing, on all devices."""

    def __init__(self, description: dict, variables: dict):
        self.class_names = list(description["class_names"])
        self.preprocessing = model_card.described_preprocessing(description)
        self.model = model_card.described_model(description)
        self._mesh = mesh_lib.make_mesh(fsdp=1)
        self._variables = mesh_lib.put_whole(variables, self._mesh)
        self._logits = inference_step.compile_inference(
            self._mesh,
            inference_step.logits_step,
            model=self.model,
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
        )

    def predict(self, images: Sequence, top: int = 5) -> list[list[Prediction]]:
        """For each image the `top` most probable classes, best first.

        `images` are paths of files or uint8 arrays `[H, W, 3]` (RGB), mixed as you like; each is
        seen as the weights' preprocessing wants it. Grey, palette, 16-bit and CMYK files become
        8-bit RGB, transparency is dropped, a camera's orientation mark is followed. Raises
        InputError for an empty list or images that cannot be read (all are named), and
        FileNotFoundError for paths that do not exist.
        """
        images = [images] if isinstance(images, str | pathlib.Path) else list(images)
        if not 1 <= top <= len(self.class_names):
            raise InputError(f"top is {top}; there are {len(self.class_names)} classes")
        source = _source(images)
        found, bad = [], []
        with Progress("classifying", len(images), shown=len(images) >= LONG) as progress:
            size = self._batch_size(len(images))
            for batch in pipeline.evaluation_batches(
                source,
                pipeline.full_batches([range(len(images))], size),
                [self.preprocessing],
                batch_size=size,
                reading=Reading(workers=0, prefetch=4),
            ):
                bad += [
                    f"{key}: {status}"
                    for key, status in zip(batch["key"], batch["status"], strict=True)
                    if status != "ok"
                ]
                if not bad:
                    logits = self._run(batch["image_0"])[: len(batch["index"])]
                    found += [self._best(row, top) for row in logits]
                progress.advance(len(batch["index"]))
        if bad:
            raise InputError(f"{len(bad)} images cannot be read: {'; '.join(bad[:10])}")
        return found

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 `[N, H, W, 3]`, shown to the network as they are -> float32 `[N, classes]`.

        Raises InputError for an array of another kind or without images.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
            raise InputError(
                f"logits needs uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}"
            )
        size, found = self._batch_size(len(images)), []
        with Progress("classifying", len(images), shown=len(images) >= LONG) as progress:
            for start in range(0, len(images), size):
                batch = images[start : start + size]
                padded = np.zeros((size, *images.shape[1:]), np.uint8)
                padded[: len(batch)] = batch
                found.append(self._run(padded)[: len(batch)])
                progress.advance(len(batch))
        return np.concatenate(found)

    def _batch_size(self, count: int) -> int:
        """A power of two, so that few shapes are compiled, that the devices can share."""
        wanted = min(BATCH_SIZE, 1 << (count - 1).bit_length())
        return mesh_lib.round_up(wanted, self._mesh)

    def _run(self, images: np.ndarray) -> np.ndarray:
        images = mesh_lib.put_batch({"image": images}, self._mesh)["image"]
        return np.asarray(self._logits(self._variables, images))

    def _best(self, logits: np.ndarray, top: int) -> list[Prediction]:
        probs = np.asarray(jax.nn.softmax(logits))
        best = np.argsort(-probs, kind="stable")[:top]
        return [Prediction(self.class_names[c], float(probs[c])) for c in best]


@dataclasses.dataclass(frozen=True)
class _Images:
    """Paths and arrays as the records of a source."""

    images: list

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        image = self.images[index]
        if isinstance(image, np.ndarray):
            return image, -1, f"images[{index}]"
        return pathlib.Path(image).read_bytes(), -1, str(image)


def _source(images: list) -> Source:
    if not images:
        raise InputError("the list of images is empty")
    paths = [image for image in images if isinstance(image, str | pathlib.Path)]
    missing = [str(path) for path in paths if not pathlib.Path(path).is_file()]
    if missing:
        raise MissingFileError(f"{len(missing)} files do not exist: {', '.join(missing[:10])}")
    return Source(name="images", class_names=(), fingerprint="", records=_Images(images))
