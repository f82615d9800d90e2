"""The chain source -> shuffle -> repeat -> augment -> host slice -> batch, started at any step.

A batch: `image` uint8 `[B, S, S, 3]`, `target_classes` int32 and `target_probs` float32 `[B, k]`,
`weight` float32 `[B]` (0: a bad image), and for the host alone `index` int64 `[B]`, the row's image
in its source. Nothing here touches a device; every row is a function of (seed, step, row).
"""

import dataclasses
from collections.abc import Iterator

import cv2
import grain
import numpy as np

from ns_jax.data import images, labels, randaugment, sources


@dataclasses.dataclass(frozen=True)
class TrainView:
    """The noise on the input: (image, rng) -> uint8 `[S, S, 3]`."""

    evaluation: images.Preprocessing
    view: str  # "crop": random crop and aspect; "pad": pad and crop back, for small images
    flip: bool
    randaugment: randaugment.RandAugment
    final_cutout: int = 0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.view == "crop":
            crop = images.random_crop(image, rng)
            # The official code falls back to evaluation's crop if the sampler gives up.
            image = (
                self.evaluation(image)
                if crop is None or crop.shape == image.shape
                else images.resize(crop, self.evaluation.size)
            )
            return self._cut(self.randaugment(self._mirror(image, rng), rng), rng)
        image = self._cut(self.randaugment(self.evaluation(image), rng), rng)
        return self._mirror(images.pad_and_crop(image, rng), rng)

    def _mirror(self, image, rng):
        return cv2.flip(image, 1) if self.flip and rng.random() < 0.5 else image

    def _cut(self, image, rng):
        if not self.final_cutout:
            return image
        return randaugment.cutout(image, self.final_cutout, rng.integers(image.shape[:2]))


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images with their targets, by position: `(index, image, classes, probs)` as a dict."""

    source: sources.Source
    index: np.ndarray  # int64 [N], into the source
    target: object  # position -> (classes int32 [k], probs float32 [k])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> dict:
        index = int(self.index[position])
        classes, probs = self.target(position)
        return {
            "image": self.source[index]["image"],
            "target_classes": classes,
            "target_probs": probs,
            "index": np.int64(index),
        }


def labelled_examples(source: sources.Source, smoothing: float, k: int) -> Examples:
    """Every image of a labelled source with its smoothed label in k places."""
    if (source.labels < 0).any():
        raise ValueError(f"{source.name} has images without a label; it cannot be trained on")
    num_classes = len(source.class_names)

    def target(position):
        return labels.hard_target(int(source.labels[position]), num_classes, smoothing, k)

    return Examples(source, np.arange(len(source)), target)


def pseudo_labelled_examples(
    source: sources.Source, selection: labels.Selection, loss, num_classes: int
) -> Examples:
    """Every row of a selection with the teacher's distribution, or its best class as a label."""
    if selection.metadata["source"] != source.fingerprint:
        raise ValueError(
            f"the selection was made of another source than {source.name}: fingerprint "
            f"{selection.metadata['source']}, now {source.fingerprint}; label it again"
        )

    def target(row):
        if loss.pseudo_labels == "hard":
            label = int(selection.label[row])
            return labels.hard_target(label, num_classes, loss.label_smoothing, 1)
        return labels.soft_target(
            selection.classes[row], selection.probs[row], num_classes, loss.temperature
        )

    return Examples(source, selection.index, target)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Row r of step t, counted through all steps, out of two endless streams.

    A step's rows are `groups` equal parts, one for each BatchNorm group, and each part has its
    labelled images first: so every group sees labelled and unlabelled images in the same ratio. A
    host reads its contiguous share of each step.
    """

    labelled: grain.MapDataset
    unlabelled: grain.MapDataset | None
    per_step: tuple[int, int]  # labelled and unlabelled images
    groups: int
    steps: int
    host: int = 0
    hosts: int = 1

    @property
    def host_batch_size(self) -> int:
        return sum(self.per_step) // self.hosts

    def __len__(self) -> int:
        return self.steps * self.host_batch_size

    def __getitem__(self, position: int) -> dict:
        step, row = divmod(position, self.host_batch_size)
        of_labelled, of_unlabelled = (count // self.groups for count in self.per_step)
        group, place = divmod(row + self.host * self.host_batch_size, of_labelled + of_unlabelled)
        if place < of_labelled:
            return self.labelled[step * self.per_step[0] + group * of_labelled + place]
        place += group * of_unlabelled - of_labelled
        return self.unlabelled[step * self.per_step[1] + place]


def train_batches(
    labelled: Examples,
    unlabelled: Examples | None,
    view: TrainView,
    *,
    per_step: tuple[int, int],
    groups: int,
    steps: int,
    start_step: int,
    seed: int,
    read_threads: int,
    prefetch: int,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's batches of steps `start_step` to `steps`, in order."""

    def stream(examples: Examples, number: int) -> grain.MapDataset:
        return (
            grain.MapDataset.source(examples)
            .shuffle(seed=_stream_seed(seed, number))
            .repeat()
            .random_map(lambda e, rng: _augment(e, view, rng), seed=_stream_seed(seed, number + 1))
        )

    rows = Rows(
        labelled=stream(labelled, 0),
        unlabelled=None if unlabelled is None else stream(unlabelled, 2),
        per_step=per_step,
        groups=groups,
        steps=steps,
        host=host,
        hosts=hosts,
    )
    size = rows.host_batch_size
    dataset = grain.MapDataset.source(rows)[start_step * size :].batch(size)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(read_threads, prefetch)))


def _stream_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _augment(example: dict, view: TrainView, rng: np.random.Generator) -> dict:
    size = view.evaluation.size
    try:
        image, weight = view(images.decode(example["image"]), rng), 1.0
    except images.BadImageError:
        image, weight = np.zeros((size, size, 3), np.uint8), 0.0
    return {**example, "image": np.ascontiguousarray(image), "weight": np.float32(weight)}


def evaluation_batches(
    source: sources.Source,
    indices: range,
    preprocessing: images.Preprocessing,
    *,
    batch_size: int,
    read_threads: int,
    prefetch: int,
) -> Iterator[dict]:
    """Every image of `indices` once, un-noised, in order, in full batches.

    `image` uint8 `[B, S, S, 3]`, the last one padded with zeros; and, for the n images there are,
    `index`, `label` int `[n]`, `key` and `status` lists: `ok` or why the image cannot be read.
    """

    def read(index: int) -> dict:
        example = source[index]
        try:
            image, status = preprocessing(images.decode(example["image"])), "ok"
        except images.BadImageError as error:
            image, status = np.zeros((preprocessing.size,) * 2 + (3,), np.uint8), str(error)
        return {**example, "image": image, "index": index, "status": status}

    def collate(examples: list[dict]) -> dict:
        batch = {name: [e[name] for e in examples] for name in examples[0]}
        padded = np.zeros((batch_size, *batch["image"][0].shape), np.uint8)
        padded[: len(examples)] = batch["image"]
        return {
            "image": padded,
            "index": np.asarray(batch["index"], np.int64),
            "label": np.asarray(batch["label"], np.int32),
            "key": batch["key"],
            "status": batch["status"],
        }

    dataset = grain.MapDataset.range(indices.start, indices.stop).map(read)
    dataset = dataset.batch(batch_size, batch_fn=collate)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(read_threads, prefetch)))
