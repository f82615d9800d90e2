"""Exported networks (ONNX, StableHLO) that predict as `inference.predictor.Predictor` does."""

import dataclasses
import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from ns_jax.data import crops, pipeline
from ns_jax.data.source import Indices, Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.digest import Digest
from ns_jax.errors import InputError, MissingFileError
from ns_jax.progress import say
from ns_jax.weights import export, onnx_session
from ns_jax.weights.onnx_session import ImageInput, Network

ENDINGS = (export.ONNX, export.STABLEHLO)
PIECE_PIXELS = 2**20  # that go through a network at once: activations of about 0.1 GB
LATENCY_RUNS = 15


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What is taken of a file that does not say it."""

    class_names: tuple[str, ...]
    image_size: int | None
    view: Callable[[int], crops.Preprocessing]  # of a size


class ExportedNetwork:
    """A network in a file, on this machine's CPU."""

    def __init__(
        self,
        path: pathlib.Path,
        network: Network,
        class_names: tuple[str, ...],
        view: crops.Preprocessing,
    ):
        """`network`: what `path` holds, tried on an image. Raises InputError for what gives other
        than one finite score for each of `class_names`.
        """
        self.path, self.class_names, self.view = path, class_names, view
        self._network = network
        scores = self._scores(self._random_image())
        if scores.shape[1] != len(class_names):
            raise InputError(
                f"{path} gives {scores.shape[1]:,} scores an image; there are "
                f"{len(class_names):,} classes"
            )
        sums = scores.sum(axis=1)
        self._are_probabilities = bool((scores >= 0).all() and (np.abs(sums - 1) < 1e-3).all())
        self.seconds, self.images = 0.0, 0  # that full batches but the first took

    @property
    def num_bytes(self) -> int:
        """The file's size."""
        return self.path.stat().st_size

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name the file's content."""
        return str(Digest(self.path.read_bytes()))

    def predict(
        self,
        source: Source,
        chunks: Iterable[Indices],
        reading: LoaderSettings,
        k: int,
        batch_size: int,
        *,
        classes: np.ndarray | None = None,
    ) -> Iterator[dict]:
        """As `Predictor.predict`. Raises InputError for scores that are not finite."""
        size = -(-batch_size // jax.process_count())
        batches = pipeline.evaluation_batches(
            source,
            pipeline.full_batches(chunks, size),
            [self.view],
            batch_size=size,
            reading=reading,
        )
        try:
            for number, batch in enumerate(batches):
                images = batch.pop("image_0")[: len(batch["index"])]
                began = time.perf_counter()
                probs = self.probabilities(images, size)
                if number and len(images) == size:
                    self.seconds += time.perf_counter() - began
                    self.images += len(images)
                if classes is not None:  # as if there were no others
                    others = np.setdiff1d(np.arange(probs.shape[1]), classes)
                    probs[:, others] = 0
                    probs /= probs.sum(1, keepdims=True)
                order = np.argsort(-probs, axis=1, kind="stable")[:, :k].astype(np.int32)
                best = np.take_along_axis(probs, order, axis=1)
                yield {**batch, "classes": order, "probs": best}
        finally:
            batches.close()

    def check_finite(self, outputs: np.ndarray) -> None:
        """Nothing: each score is checked as it comes."""

    def probabilities(self, images: np.ndarray, at_once: int) -> np.ndarray:
        """uint8 `[n, S, S, 3]` -> float32 `[n, classes]`; logits become what they stand for.

        `at_once`: how many go through the network at most.
        """
        scores = self._scores(images, at_once)
        if self._are_probabilities:
            return scores
        exponentials = np.exp(scores - scores.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    def milliseconds(self) -> dict[str, float]:
        """`ms_one`, of an image alone (the median), and `ms_per_image`, in batches as evaluated."""
        image, times = self._random_image(), []
        for _ in range(LATENCY_RUNS):
            began = time.perf_counter()
            self._scores(image)
            times.append(time.perf_counter() - began)
        alone = statistics.median(times)
        each = self.seconds / self.images if self.images else alone
        return {"ms_one": 1000 * alone, "ms_per_image": 1000 * each}

    def _random_image(self) -> np.ndarray:
        shape = (1, self.view.size, self.view.size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def _scores(self, images: np.ndarray, at_once: int = 1) -> np.ndarray:
        """A few images at a time, or as many as the file takes, filled up with zeros: one shape."""
        form = self._network.images
        rows = form.batch or min(at_once, max(1, PIECE_PIXELS // self.view.size**2))
        found = []
        for start in range(0, len(images), rows):
            piece = images[start : start + rows]
            batch = np.zeros((rows, *piece.shape[1:]), np.uint8)
            batch[: len(piece)] = piece
            found.append(self._network.call(form.of(batch, self.view))[: len(piece)])
        scores = np.concatenate(found)
        if not np.isfinite(scores).all():
            raise InputError(f"{self.path}: its scores hold NaN or infinity")
        return scores


def open_network(path: pathlib.Path, assumed: Assumed) -> ExportedNetwork:
    """The network of a file, by its ending: ONNX or StableHLO.

    Where the file does not name classes and preprocessing, `assumed` are taken, which is said.
    Raises FileNotFoundError, MissingPackageError, and InputError for what is no classifier of
    images.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}")
    opened = onnx_session.open_session if path.suffix == export.ONNX else _open_stablehlo
    network = opened(path)
    if network.card:
        return ExportedNetwork(path, network, network.card.class_names, network.card.preprocessing)
    view = assumed.view(_size(network, assumed, path))
    found = ExportedNetwork(path, network, assumed.class_names, view)
    say(
        f"{path} names neither classes nor preprocessing; taken are the source's classes in their "
        f"order and the view of config.data: {view.size} pixels, crop {view.crop}, mean "
        f"{view.mean}, std {view.std}, {view.interpolation}"
    )
    return found


def _size(network: Network, assumed: Assumed, path: pathlib.Path) -> int:
    """Pixels of the images, where the file has no model card. Raises InputError."""
    fixed, wanted = network.images.size, assumed.image_size
    size = fixed or wanted
    if size is None:
        raise InputError(f"{path} takes images of any size; choose one: --config.data.image_size=")
    if wanted not in (None, size):
        raise InputError(f"{path} takes images of {size} pixels; data.image_size is {wanted}")
    return size


def _open_stablehlo(path: pathlib.Path) -> Network:
    """A file of `export.save_stablehlo`, or of anybody's `jax.export`. Raises InputError."""
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:  # of flatbuffers and of MLIR, of many classes
        raise InputError(f"{path} cannot be read by jax.export: {error!r}") from None
    takes = "; ".join(map(str, exported.in_avals))
    shapes = [value.shape for value in (*exported.in_avals, *exported.out_avals)]
    if [len(shape) for shape in shapes] != [4, 2] or not takes.startswith("uint8"):
        raise InputError(
            f"{path} is a function of {takes or 'nothing'} to {exported.out_avals}; evaluation "
            "needs images uint8[b, S, S, 3] to scores [b, classes]"
        )
    shape: tuple = shapes[0]
    batch, size = (number if isinstance(number, int) else None for number in shape[:2])
    step = jax.jit(exported.call)

    def call(images: np.ndarray) -> np.ndarray:
        return np.asarray(step(images), np.float32)

    return Network(call, ImageInput(np.dtype(np.uint8), False, batch, size), None)
