"""The chain source -> shuffle -> repeat -> augment -> host slice -> batch, started at any step.

Nothing here touches a device; every row is a function of (seed, step, row).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from ns_jax.data import crops, decoding, perceptual, views, workers
from ns_jax.data.batch import BatchSpec
from ns_jax.data.source import Indices, Source
from ns_jax.data.workers import LoaderSettings


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images with their targets, by position: `(index, image, classes, probs)` as a dict."""

    source: Source
    # Of each example, into the source. Pickled for data workers: a range or a mapped column.
    index: Indices
    target: Callable  # (position, the source's label) -> (classes int32 [k], probs float32 [k])
    k: int

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> dict:
        index = int(self.index[position])
        example = self.source[index]
        classes, probs = self.target(position, example["label"])
        return {
            "image": example["image"],
            "target_classes": classes,
            "target_probs": probs,
            "index": np.int64(index),
        }


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of rows, when the labelled batch counts for less than an image a core (official flag
    `label_data_sample_prob`): a labelled row is kept with a probability and else has weight 0.
    """

    labelled_kept: float = 1.0
    unlabelled: float = 1.0


FEW = 2**16  # examples, below which Grain's shuffle of an index is slow


class Shuffled(grain.MapDataset):
    """Positions of examples, in another order in each epoch: a function of (seed, epoch).

    Grain permutes an index alone, in constant memory, by walking through a range of 2^16 numbers or
    more until one of its own comes: of 50 examples 355 us for each, of 300 million 5. Of few
    examples the order of an epoch is drawn whole and kept while it is needed.
    """

    def __init__(self, count: int, seed: int):
        positions = grain.MapDataset.range(count)
        super().__init__(positions.shuffle(seed=seed) if count >= FEW else positions)
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        if self._count >= FEW:
            return self._parent[index]
        epoch, place = divmod(index, self._count)
        return int(_order(self._count, self._seed, epoch)[place])


@functools.lru_cache(maxsize=32)  # of each stream the epochs that a few batches touch
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of all steps, out of two endless streams of augmented examples."""

    labelled: grain.MapDataset
    unlabelled: grain.MapDataset | None
    spec: BatchSpec
    weights: Weights
    seed: int  # draws the labelled rows that are kept

    def row(self, step: int, row: int) -> dict:
        """The columns of a row, but for `is_labelled`."""
        number = self.spec.number_in_stream(step, row)
        if self.spec.is_labelled(row):
            return self._weighted(self.labelled[number], self._kept(number))
        unlabelled: Any = self.unlabelled  # there are such rows, so it is not None
        return self._weighted(unlabelled[number], self.weights.unlabelled)

    def _kept(self, number: int) -> float:
        kept = self.weights.labelled_kept
        return (
            1.0 if kept == 1 else float(np.random.default_rng([self.seed, number]).random() < kept)
        )

    @staticmethod
    def _weighted(row: dict, weight: float) -> dict:
        return row if weight == 1 else {**row, "weight": row["weight"] * np.float32(weight)}


def train_batches(
    labelled: Examples,
    unlabelled: Examples | None,
    view: views.TrainView,
    *,
    spec: BatchSpec,
    steps: int,
    start_step: int,
    seed: int,
    reading: LoaderSettings,
    unlabelled_view: views.TrainView | None = None,
    places: Indices | None = None,
    weights: Weights = Weights(),  # noqa: B008  (frozen)
) -> workers.Batches:
    """Batches, as `spec` has them, of steps `start_step` to `steps`, in order.

    `places`: the rows of each step that this host's devices hold; None: all. Unlabelled images are
    seen as `unlabelled_view` has it; None: as labelled ones are.
    """

    def stream(examples: Examples, number: int, view: views.TrainView) -> grain.MapDataset:
        return (
            Shuffled(len(examples), _stream_seed(seed, number))
            .repeat()
            .random_map(
                functools.partial(_augmented, examples, view), seed=_stream_seed(seed, number + 1)
            )
        )

    own = np.arange(spec.rows) if places is None else np.asarray(places)
    rows = Rows(
        stream(labelled, 0, view),
        None if unlabelled is None else stream(unlabelled, 2, unlabelled_view or view),
        spec,
        weights,
        _stream_seed(seed, 4),
    )

    def make(step: int, empty: Callable) -> dict:
        batch = spec.empty(len(own), empty)
        for number, place in enumerate(own):
            for name, value in rows.row(step, int(place)).items():
                batch[name][number] = value
        if "is_labelled" in batch:
            batch["is_labelled"][:] = spec.is_labelled(own)
        return batch

    num_bytes = spec.num_bytes(len(own), workers.ALIGNMENT)
    return reading.iterate(make, range(start_step, steps), num_bytes)


def _stream_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _augmented(
    examples: Examples, view: views.TrainView, position: int, rng: np.random.Generator
) -> dict:
    example = examples[position]
    try:
        seen = view(example.pop("image"), rng, examples.source.max_pixels)
        bad = False
    except decoding.BadImageError:
        seen = {name: np.zeros(shape, np.uint8) for name, shape in view.shapes().items()}
        bad = True
    return {**example, **seen, "weight": np.float32(not bad), "bad": np.bool_(bad)}


def full_batches(chunks: Iterable[Indices], batch_size: int) -> Iterator[np.ndarray]:
    """The indices of `chunks` in order, int64 `[batch_size]` at a time; the last may be fewer."""
    held: list[np.ndarray] = []
    count = 0
    for given in chunks:
        chunk = np.asarray(given, np.int64)
        while count + len(chunk) >= batch_size:
            yield np.concatenate([*held, chunk[: batch_size - count]])
            chunk, held, count = chunk[batch_size - count :], [], 0
        if len(chunk):
            held.append(chunk)
            count += len(chunk)
    if count:
        yield np.concatenate(held)


def evaluation_batches(
    source: Source,
    parts: Iterable[np.ndarray],
    preprocessings: Sequence[crops.Preprocessing],
    *,
    batch_size: int,
    reading: LoaderSettings,
    hashed: bool = False,
) -> workers.Batches:
    """A batch of the images of each of `parts` (at most `batch_size` indices), in order, un-noised.

    `image_0`, `image_1`, ...: for each of `preprocessings` uint8 `[B, S, S, 3]`, padded with zeros;
    for the n images there are, `index` int64, `label` int32 `[n]`, `key` and `status` lists: `ok`
    or why the image cannot be read. With `hashed` also `phash` uint64 `[n]`, which is
    `perceptual.NOTHING` of what cannot be read. An image is decoded once.
    """
    shapes = [(preprocessing.size,) * 2 + (3,) for preprocessing in preprocessings]

    def make(part: np.ndarray, empty: Callable) -> dict:
        views = [empty((batch_size, *shape), np.uint8) for shape in shapes]
        batch: dict[str, Any] = {
            "index": np.asarray(part, np.int64),
            "label": np.zeros(len(part), np.int32),
            "key": [],
            "status": [],
        }
        if hashed:
            batch["phash"] = np.full(len(part), perceptual.NOTHING, np.uint64)
        for view in views:
            view[len(part) :] = 0
        for place, index in enumerate(part):
            example = source[int(index)]
            status = "ok"
            try:
                pixels = decoding.decode(example["image"], source.max_pixels)
                for view, preprocessing in zip(views, preprocessings, strict=True):
                    view[place] = preprocessing(pixels)
                if hashed:
                    batch["phash"][place] = perceptual.phash(pixels)
            except decoding.BadImageError as error:
                status = str(error)
                for view in views:
                    view[place] = 0
            batch["label"][place] = example["label"]
            batch["key"].append(example["key"])
            batch["status"].append(status)
        return {**{f"image_{n}": view for n, view in enumerate(views)}, **batch}

    num_bytes = batch_size * sum(map(math.prod, shapes)) + workers.ALIGNMENT * (1 + len(shapes))
    return reading.iterate(make, parts, num_bytes)
