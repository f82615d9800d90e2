"""The chain source -> shuffle -> repeat -> augment -> host slice -> batch, started at any step.

A batch: `image` uint8 `[B, S, S, 3]`, `target_classes` int32 and `target_probs` float32 `[B, k]`,
`weight` float32 `[B]` (0: a bad image), and for the host alone `index` int64 `[B]`, the row's image
in its source, and `bad` bool `[B]`. With a teacher in the step also `pseudo` bool `[B]` (the row's
target is the teacher's) and `teacher_image`; where only some rows are to be noised, `noisy` bool.
Nothing here touches a device; every row is a function of (seed, step, row).
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from ns_jax.data import decoding, images, labels, views, workers
from ns_jax.data import selection as selection_lib
from ns_jax.data.source import Source


@dataclasses.dataclass(frozen=True)
class Reading:
    """Who decodes and augments: processes of their own, or threads of this one."""

    workers: int | None = None  # processes; 0: none, None: as many as pay
    threads: int = 2  # of this process, without workers
    prefetch: int = 8  # batches made ahead, over all workers

    def __post_init__(self):
        for name, least in (("workers", 0), ("threads", 1), ("prefetch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"data.{name} is {value}; set it to {least} or more")

    def iterate(self, batches: "Batches") -> Iterator[dict]:
        """The batches in order, made ahead. Close the iterator to end the workers."""
        count = default_workers() if self.workers is None else self.workers
        if not count:
            return iter(batches.to_iter_dataset(grain.ReadOptions(self.threads, self.prefetch)))
        ahead = -(-self.prefetch // count)
        return workers.Workers(batches, count, ahead, batches.num_bytes)


def default_workers() -> int:
    """All cores but one, if there are more than four: few cores are better shared by threads."""
    cores = getattr(os, "process_cpu_count", os.cpu_count)()
    return min(cores - 1, 64) if cores > 4 else 0


class Batches(grain.MapDataset):
    """Rows, several at a time."""

    def __init__(self, rows: grain.MapDataset, parts: Sequence[range], collate, num_bytes: int):
        """Batch i is of the rows `parts[i]`.

        `collate(rows, count, empty)` makes it of an iterator over these `count` rows, with arrays,
        of `num_bytes` at most, that come from `empty` (see `workers.Batches`).
        """
        super().__init__(rows)
        self._rows, self._parts, self._collate, self.num_bytes = rows, parts, collate, num_bytes

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, position):
        return self.slice(position) if isinstance(position, slice) else self.make(position)

    def make(self, position: int, empty=np.empty) -> dict:
        part = self._parts[position]
        return self._collate((self._rows[place] for place in part), len(part), empty)


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The rows of each step from `start` on, of all the same number."""

    start: int
    stop: int
    size: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, position: int) -> range:
        first = (self.start + position) * self.size
        return range(first, first + self.size)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images with their targets, by position: `(index, image, classes, probs)` as a dict."""

    source: Source
    # Of each example, into the source. Pickled for data workers: a range or a mapped column.
    index: Sequence[int]
    target: Callable  # (position, the source's label) -> (classes int32 [k], probs float32 [k])
    k: int
    marks: dict[str, bool] = dataclasses.field(default_factory=dict)  # the same of every row

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
            **{name: np.bool_(mark) for name, mark in self.marks.items()},
        }


def labelled_examples(source: Source, smoothing: float, k: int) -> Examples:
    """Every image of a labelled source with its smoothed label in k places.

    Raises ValueError for images without a label: here if the source knows, else when one comes.
    """
    num_classes = len(source.class_names)
    if not num_classes or (source.labels is not None and (source.labels < 0).any()):
        raise ValueError(f"{source.name} has images without a label; it cannot be trained on")

    def target(position: int, label: int):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"{source.name}[{position}] has the label {label}; it cannot be trained on"
            )
        return labels.hard_target(label, num_classes, smoothing, k)

    return Examples(source, range(len(source)), target, k)


def pseudo_labelled_examples(
    source: Source, selection: selection_lib.Selection, loss, num_classes: int
) -> Examples:
    """Every row of a selection with the teacher's distribution, or its best class as a label."""
    if selection.metadata["source"] != source.fingerprint:
        raise ValueError(
            f"the selection was made of another source than {source.name}: fingerprint "
            f"{selection.metadata['source']}, now {source.fingerprint}; label it again"
        )
    hard, smoothing, temperature = (
        loss.pseudo_labels == "hard",
        loss.label_smoothing,
        loss.temperature,
    )

    def target(row: int, _: int):
        if hard:
            return labels.hard_target(int(selection.label[row]), num_classes, smoothing, 1)
        return labels.soft_target(
            selection.classes[row], selection.probs[row], num_classes, temperature
        )

    return Examples(source, selection.index, target, 1 if hard else selection.classes.shape[1])


def teacher_labelled_examples(
    source: Source, selection: selection_lib.Selection | None
) -> Examples:
    """The images of a selection, or all, to be labelled by a teacher in the step."""
    index = range(len(source)) if selection is None else selection.index
    target = np.zeros(1, np.int32), np.zeros(1, np.float32)  # which the step replaces
    return Examples(source, index, lambda position, label: target, 1)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Of rows, when the labelled batch counts for less than an image a core (official flag
    `label_data_sample_prob`): a labelled row is kept with a probability and else has weight 0.
    """

    labelled_kept: float = 1.0
    unlabelled: float = 1.0


class Rows(grain.MapDataset):
    """Row r of step t, counted through all steps, out of two endless streams.

    A step's rows are `groups` equal parts, one for each BatchNorm group, and each part has its
    labelled images first: so every group sees labelled and unlabelled images in the same ratio. A
    host reads those rows of each step that its devices hold.
    """

    def __init__(self, labelled, unlabelled, per_step, groups, steps, places, weights, seed):
        """`labelled`, `unlabelled` (may be None): endless streams, `per_step` images of each.

        `places`: this host's rows of a step. `seed` draws the labelled rows that are kept.
        """
        super().__init__([stream for stream in (labelled, unlabelled) if stream is not None])
        self.labelled, self.unlabelled, self.per_step = labelled, unlabelled, per_step
        self.groups, self.places, self.weights, self.seed = groups, places, weights, seed
        self._length = steps * len(places)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position):
        if isinstance(position, slice):
            return self.slice(position)
        step, row = divmod(position, len(self.places))
        of_labelled, of_unlabelled = (count // self.groups for count in self.per_step)
        group, place = divmod(int(self.places[row]), of_labelled + of_unlabelled)
        if place < of_labelled:
            number = step * self.per_step[0] + group * of_labelled + place
            return self._weighted(self.labelled[number], self._kept(number))
        place += group * of_unlabelled - of_labelled
        row = self.unlabelled[step * self.per_step[1] + place]
        return self._weighted(row, self.weights.unlabelled)

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
    per_step: tuple[int, int],
    groups: int,
    steps: int,
    start_step: int,
    seed: int,
    reading: Reading,
    unlabelled_view: views.TrainView | None = None,
    places: Sequence[int] | None = None,
    weights: Weights = Weights(),  # noqa: B008  (frozen)
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of steps `start_step` to `steps`, in order: the rows `places` of each; None: all.

    Unlabelled images are seen as `unlabelled_view` has it; None: as labelled ones are.
    """

    def stream(examples: Examples, number: int, view: views.TrainView) -> grain.MapDataset:
        return (
            grain.MapDataset.range(len(examples))
            .shuffle(seed=_stream_seed(seed, number))
            .repeat()
            .random_map(
                functools.partial(_augmented, examples, view), seed=_stream_seed(seed, number + 1)
            )
        )

    places = np.arange(sum(per_step)) if places is None else np.asarray(places)
    rows = Rows(
        stream(labelled, 0, view),
        None if unlabelled is None else stream(unlabelled, 2, unlabelled_view or view),
        per_step,
        groups,
        steps,
        places,
        weights,
        _stream_seed(seed, 4),
    )
    size = len(places)
    # target_classes, target_probs, weight, index, bad and up to two marks beside the images; each
    # array starts aligned
    num_bytes = size * (view.num_bytes + 8 * labelled.k + 15) + 9 * workers.ALIGNMENT
    return reading.iterate(Batches(rows, _Steps(start_step, steps, size), _stack, num_bytes))


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


def _stack(rows: Iterator[dict], count: int, empty) -> dict[str, np.ndarray]:
    batch = {}
    for place, row in enumerate(rows):
        for name, value in row.items():
            if not place:
                batch[name] = empty((count, *np.shape(value)), np.asarray(value).dtype)
            batch[name][place] = value
    return batch


def evaluation_batches(
    source: Source,
    ranges: Sequence[range],
    preprocessing: images.Preprocessing,
    *,
    batch_size: int,
    reading: Reading,
) -> Iterator[dict]:
    """Every image of `ranges` once, un-noised, in order; no batch has images of two ranges.

    `image` uint8 `[B, S, S, 3]`, a range's last one padded with zeros; for the n images there are,
    `index`, `label` int `[n]`, `key` and `status` lists: `ok` or why the image cannot be read.
    """

    shape = (preprocessing.size, preprocessing.size, 3)

    def read(index: int) -> dict:
        example = source[index]
        try:
            image = preprocessing(decoding.decode(example["image"], source.max_pixels))
            status = "ok"
        except decoding.BadImageError as error:
            image, status = np.zeros(shape, np.uint8), str(error)
        return {**example, "image": image, "index": index, "status": status}

    def collate(rows: Iterator[dict], count: int, empty) -> dict:
        padded = empty((batch_size, *shape), np.uint8)
        padded[count:] = 0
        lists = {name: [] for name in ("index", "label", "key", "status")}
        for place, row in enumerate(rows):
            padded[place] = row["image"]
            for name, values in lists.items():
                values.append(row[name])
        return {
            "image": padded,
            "index": np.asarray(lists["index"], np.int64),
            "label": np.asarray(lists["label"], np.int32),
            "key": lists["key"],
            "status": lists["status"],
        }

    parts = [
        range(start, min(start + batch_size, indices.stop))
        for indices in ranges
        for start in range(indices.start, indices.stop, batch_size)
    ]
    rows = grain.MapDataset.range(len(source)).map(read)
    num_bytes = batch_size * math.prod(shape) + workers.ALIGNMENT
    return reading.iterate(Batches(rows, parts, collate, num_bytes))
