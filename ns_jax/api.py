"""What a user imports: `ns_jax.load(...)` gives a `Classifier`."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np

from ns_jax import files
from ns_jax.data import decoding, given
from ns_jax.data.source import Record, Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import InputError
from ns_jax.inference import predictor
from ns_jax.model_card import ModelCard
from ns_jax.progress import Progress
from ns_jax.weights import export, imported

BATCH_SIZE = 64  # images on the devices at once
LONG = 256  # images from which progress is shown
READING = LoaderSettings(workers=0, prefetch=4)


class Prediction(NamedTuple):
    """A class and its probability, 0 to 1."""

    name: str
    probability: float


def load(path_or_name: str | pathlib.Path, model: str | None = None) -> "Classifier":
    """A classifier from a workdir, a checkpoint, a timm safetensors file or `hf:OWNER/NAME`.

    `model` names what a foreign file holds: published weights (`tf_efficientnet_b3.ns_jft_in1k`)
    or timm's network (`tf_efficientnet_b3`, `efficientnet_b3`). Raises FileNotFoundError or
    InputError with the reason.
    """
    return Classifier(*imported.load(path_or_name, model or ""))


class Classifier:
    """A network with its class names and its preprocessing, on all devices."""

    def __init__(self, card: ModelCard, variables: dict):
        self._card = card
        self.class_names = list(card.class_names)
        self.preprocessing = card.preprocessing
        self.model = card.build()
        self._predictor = predictor.Predictor([(card, variables)])

    def predict(self, images: Any, top: int = 5) -> list[list[Prediction]]:
        """For each image the `top` most probable classes, best first; one image is a list of one.

        `images` is one image or any number of them, mixed as you like: paths (`~` too), bytes of
        files, files opened with "rb", Pillow's images, arrays `[H, W]`, `[H, W, 1]`, `[H, W, 3]`
        (RGB) or `[H, W, 4]` of NumPy, JAX or PyTorch, or an array `[N, H, W, C]`. Arrays are uint8,
        floats from 0 to 1, uint16 or other integers up to 255. Each is seen as the weights'
        preprocessing wants it. Grey, palette, 16-bit and CMYK files become 8-bit RGB, transparency
        is dropped, a camera's orientation mark is followed. Raises InputError for none, for what is
        no image and for files that cannot be read (all are named), and FileNotFoundError for paths
        that do not exist.
        """
        images = given.images(images)
        if not 1 <= top <= len(self.class_names):
            raise InputError(f"top is {top}; there are {len(self.class_names)} classes")
        chunks, size, k = [range(len(images))], _batch_size(len(images)), len(self.class_names)
        batches = self._predictor.predict(_source(images), chunks, READING, k, size)
        found, bad = [], []
        with Progress("classifying", len(images), shown=len(images) >= LONG) as progress:
            for batch in batches:
                bad += [
                    f"{key}: {status}"
                    for key, status in zip(batch["key"], batch["status"], strict=True)
                    if status != "ok"
                ]
                best = batch["classes"][:, :top], batch["probs"][:, :top]
                found += [self._named(*row) for row in zip(*best, strict=True)]
                progress.advance(len(batch["index"]))
        _check_readable(bad)
        return found

    def logits(self, images: Any) -> np.ndarray:
        """float32 `[N, classes]` of images of one size, shown to the network as they are.

        `images` as in `predict`; they are neither cropped nor resized. Raises InputError for
        images of several sizes, and as `predict` does.
        """
        images = _pixels(given.images(images))
        found = []
        with Progress("classifying", len(images), shown=len(images) >= LONG) as progress:
            for batch in self._predictor.logits_of_arrays(images, _batch_size(len(images))):
                found.append(batch["logits"][:, 0])
                progress.advance(len(batch["index"]))
        return np.concatenate(found)

    def export(self, path: str | pathlib.Path, onnx_input: str = "uint8_nhwc") -> None:
        """Writes the network as a file, by its ending: .onnx, .stablehlo, .safetensors (timm).

        An ONNX file takes images as `onnx_input` says: "uint8_nhwc", uint8 `[b, S, S, 3]`, or
        "float_nchw", float32 `[b, 3, S, S]` normalised by `preprocessing`'s mean and std. Raises
        InputError for another ending or form, MissingPackageError, OSError.
        """
        (variables,) = self._predictor.variables()
        export.save(files.as_path(path), self._card, variables, onnx_input)

    def _named(self, classes: np.ndarray, probs: np.ndarray) -> list[Prediction]:
        return [
            Prediction(self.class_names[c], float(p)) for c, p in zip(classes, probs, strict=True)
        ]


def _batch_size(count: int) -> int:
    """A power of two, so that few shapes are compiled."""
    return min(BATCH_SIZE, 1 << (count - 1).bit_length())


@dataclasses.dataclass(frozen=True)
class _Images:
    """Paths, bytes and arrays as the records of a source."""

    images: list[given.Given]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        image = self.images[index]
        if isinstance(image, pathlib.Path):
            return image.read_bytes(), -1, str(image)
        return image, -1, f"images[{index}]"


def _source(images: list[given.Given]) -> Source:
    return Source(name="images", class_names=(), fingerprint="", records=_Images(images))


def _pixels(images: list[given.Given]) -> np.ndarray:
    """uint8 `[N, H, W, 3]`. Raises InputError for files that cannot be read, and several sizes."""
    found, bad = [], []
    for image, _, key in map(_Images(images).__getitem__, range(len(images))):
        try:
            found.append(decoding.decode(image))
        except decoding.BadImageError as error:
            bad.append(f"{key}: {error}")
    _check_readable(bad)
    if len(sizes := dict.fromkeys(pixels.shape[:2] for pixels in found)) > 1:
        shown = ", ".join(f"{height} x {width}" for height, width in list(sizes)[:4])
        raise InputError(
            f"logits takes images of one size and these have {len(sizes)}: {shown}; predict brings "
            "them to one"
        )
    return np.stack(found)


def _check_readable(bad: list[str]) -> None:
    if bad:
        raise InputError(f"{len(bad)} images cannot be read: {'; '.join(bad[:10])}")
