"""The chain source -> shuffle -> repeat -> augment -> host slice -> batch, started at any step.

Nothing here touches a device; every row is a function of (seed, step, row).
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from ns_jax import files
from ns_jax.data import crops, decoding, perceptual, shard_cache, views, workers
from ns_jax.data import shards as shards_lib
from ns_jax.data.batch import BatchSpec
from ns_jax.data.shard_order import Lanes, ShardPlan, ShardShuffled
from ns_jax.data.shards import Pass
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

    own = np.arange(spec.rows) if places is None else np.asarray(places)
    is_labelled = spec.is_labelled(own)
    there = [(labelled, own[is_labelled], spec.labelled)]
    if unlabelled:
        there.append((unlabelled, own[~is_labelled], spec.unlabelled))
    plans = [
        _plan(examples, [spec.number_in_stream(0, int(row)) for row in rows], count, order, reading)
        for (examples, rows, count), order in zip(
            there, (_stream_seed(seed, 0), _stream_seed(seed, 2)), strict=False
        )
    ]
    shards = Pass(reading.cache, *(plan.shards if plan else None for plan in plans))
    _check_room(plans, reading)
    late = any(examples.source.late for examples, _, _ in there)

    def stream(examples: Examples, number: int, view: views.TrainView) -> grain.MapDataset:
        order, plan = _stream_seed(seed, number), plans[number // 2]
        return (
            (ShardShuffled(plan.lanes) if plan else Shuffled(len(examples), order))
            .repeat()
            .random_map(
                functools.partial(_augmented, examples, view), seed=_stream_seed(seed, number + 1)
            )
        )

    rows = Rows(
        stream(labelled, 0, view),
        None if unlabelled is None else stream(unlabelled, 2, unlabelled_view or view),
        spec,
        weights,
        _stream_seed(seed, 4),
    )

    def make(step: int, empty: Callable) -> dict:
        batch = spec.empty(len(own), empty)
        with shards.reading(*_needed(plans, step)):
            read = functools.partial(rows.row, step)
            for number, row in enumerate(_each(read, own.tolist(), late, shards)):
                for name, value in row.items():
                    batch[name][number] = value
        if "is_labelled" in batch:
            batch["is_labelled"][:] = is_labelled
        return batch

    num_bytes = spec.num_bytes(len(own), workers.ALIGNMENT)
    return reading.iterate(make, range(start_step, steps), num_bytes)


def _plan(
    examples: Examples, numbers: list[int], batch: int, seed: int, reading: LoaderSettings
) -> ShardPlan | None:
    """Which shards of a bucket a host's rows need, which are `numbers` of the examples' stream in
    step 0; None of examples on a disk.
    """
    if not examples.source.shards:
        return None
    shards = examples.source.shards.chosen(examples.index)
    return ShardPlan(shards, Lanes(shards.ends, batch, reading.shuffle_shards, seed), numbers)


def _check_room(plans: Sequence[ShardPlan | None], reading: LoaderSettings) -> None:
    """Raises InputError if the copies that training needs at once cannot be kept."""
    least = sum(plan.shards.largest(plan.at_once) for plan in plans if plan)
    if least:
        reading.cache.check()
        what = f"training from {sum(plan.at_once for plan in plans if plan)} shards at once"
        reading.cache.check_room(least, what)


def _needed(plans: Sequence[ShardPlan | None], step: int) -> tuple[list, list]:
    """The shards that a step reads, and those that follow them."""
    found = [plan.needed(step) for plan in plans if plan]
    return [one for now, _ in found for one in now], [one for _, soon in found for one in soon]


def _each(function: Callable, items: Iterable, late: bool, shards: Pass | None) -> Iterable:
    """`function` of each item in order; many at once where each waits for a bucket."""
    if not late:
        return map(function, items)

    def one(item: Any) -> Any:
        with shards.reading() if shards else contextlib.nullcontext():
            return function(item)

    return shard_cache.pool("images", files.REQUESTS).map(one, items)


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
    shards = Pass(reading.cache, source.shards)
    if source.shards:
        reading.cache.check()

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
        whole = bool(shards) and shards_lib.lie_together(part)
        late = source.late or (bool(shards) and not whole)
        needed = shards_lib.in_order(source.shards, part) if whole and source.shards else ((), ())
        with shards.reading(*needed) if whole else contextlib.nullcontext():
            read = source.__getitem__, np.asarray(part).tolist()
            for place, example in enumerate(_each(*read, late, shards if whole else None)):
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
