"""What a training is fed: images with their targets, labelled or pseudo-labelled."""

from typing import Any

import numpy as np
from ml_collections import config_dict

from ns_jax.data import class_names as class_names_lib
from ns_jax.data import open as open_lib
from ns_jax.data.pipeline import Examples
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.model_card import ModelCard
from ns_jax.progress import one_line
from ns_jax.selection import table as table_lib
from ns_jax.training import targets

LOOKED_AT = 2000  # images for their labels, where these lie beside them
# Folders of one data set's parts, which are no classes.
PARTS = (
    *("train", "training", "val", "valid", "validation", "dev", "test", "testing", "holdout"),
    *("eval", "evaluation", "labelled", "labeled", "unlabelled", "unlabeled"),
)


def check_labelled(source: Source) -> None:
    """Raises InputError for a source that cannot be trained on: with images without a label (of
    those that are looked at), of one class alone, or of folders that are no classes.
    """
    if not source.class_names:
        raise InputError(
            f"{source.name} has no labels: {source.no_labels}; it cannot be trained on"
        )
    names, is_folder = source.class_names, source.name.startswith("folder:")
    if is_folder and all(name.lower() in PARTS for name in names):
        inside = max(names, key=lambda name: name.lower().startswith("train"))
        raise InputError(
            f"{source.name}: its folders are parts of a data set, not classes: {', '.join(names)}; "
            f"did you mean {source.name}/{inside}?"
        )
    labels = source.some_labels(LOOKED_AT)
    unknown, looked_at = np.count_nonzero(labels < 0), len(labels)
    if unknown:
        of = f"{looked_at:,} images{' looked at' if looked_at < len(source) else ''}"
        raise InputError(
            f"{source.name}: {unknown:,} of {of} are without a label (-1 is none); it cannot be "
            "trained on. Label them, or move them to data.unlabelled"
        )
    there = np.flatnonzero(np.bincount(labels))
    if len(there) == 1 and (looked_at == len(source) or len(names) == 1):
        name = names[there[0]]
        inside = f"{source.name}/{name}" if is_folder else "folder:DIR/train"
        raise InputError(
            f"{source.name} has images of one class only, {one_line(name)}; there is nothing to "
            "learn. Of a directory whose folders are parts like train and val, or that holds the "
            f"folders of classes further down, name the right one: {inside}"
        )


def class_names(
    config: config_dict.ConfigDict,
    source: Source,
    resumed: ModelCard | None,
    teacher: ModelCard | None,
    initial: ModelCard | None,
) -> tuple[tuple[str, ...], str]:
    """The class names of a training's network, in its order, and what they are of.

    Those of the checkpoint that it resumes from, its teacher, its selection, or its initial
    weights: the first one there is. Else those of the labelled source.
    """
    settings = config.train
    if resumed and resumed.inputs.get("labelled") == source.fingerprint:
        return resumed.class_names, "the training's own checkpoint"
    if teacher:
        return teacher.class_names, settings.teacher
    if settings.unlabelled_ratio and settings.selection:
        metadata = table_lib.Selection(settings.selection).metadata
        return tuple(metadata["class_names"]), settings.selection
    if initial and not settings.new_head:
        return initial.class_names, settings.init
    return source.class_names, source.name


def labelled_examples(source: Source, smoothing: float, k: int) -> Examples:
    """Every image of a labelled source with its smoothed label in k places.

    Raises InputError as `check_labelled`: here if the source knows its labels, else for an image
    without one when it comes.
    """
    if source.labels is not None:
        check_labelled(source)
    num_classes = len(source.class_names)

    def target(position: int, label: int) -> targets.Target:
        if not 0 <= label < num_classes:
            raise InputError(
                f"{source.name}[{position}] has the label {label}; it cannot be trained on"
            )
        return targets.hard_target(label, num_classes, smoothing, k)

    return Examples(source, range(len(source)), target, k)


def pseudo_labelled_examples(
    source: Source,
    selection: table_lib.Selection,
    loss: config_dict.ConfigDict,
    num_classes: int,
    numbers: np.ndarray | None = None,
) -> Examples:
    """Every row of a selection with the teacher's distribution, or its best class as a label.

    `numbers`, int32 `[classes]`: what the selection's classes are to the network; None: the same.
    """
    source.check_fingerprint(selection.metadata["source"], "the selection")
    numbers = np.arange(num_classes, dtype=np.int32) if numbers is None else numbers
    hard, smoothing, temperature = (
        loss.pseudo_labels == "hard",
        loss.label_smoothing,
        loss.temperature,
    )

    def target(row: int, _: int) -> targets.Target:
        if hard:
            label = int(numbers[selection.label[row]])
            return targets.hard_target(label, num_classes, smoothing, 1)
        return targets.soft_target(
            numbers[selection.classes[row]], selection.probs[row], num_classes, temperature
        )

    return Examples(source, selection.index, target, 1 if hard else selection.classes.shape[1])


def teacher_labelled_examples(source: Source, selection: table_lib.Selection | None) -> Examples:
    """The images of a selection, or all, to be labelled by a teacher in the step."""
    index = range(len(source)) if selection is None else selection.index
    target = np.zeros(1, np.int32), np.zeros(1, np.float32)  # which the step replaces
    return Examples(source, index, lambda position, label: target, 1)


def from_config(config: config_dict.ConfigDict, source: Source) -> tuple[Examples, Examples | None]:
    """Labelled and, for a student, pseudo-labelled examples; all targets in equally many places.

    The labelled source's classes are the network's. Raises InputError.
    """
    smoothing = config.loss.label_smoothing
    if not config.train.unlabelled_ratio:
        return labelled_examples(source, smoothing, k=1), None
    unlabelled_source = open_lib.open_from_config(config, "unlabelled")
    selection: Any = None  # with neither it nor a teacher there would be no training
    if config.train.selection:
        selection = table_lib.Selection(config.train.selection)
    if config.train.teacher:
        unlabelled = teacher_labelled_examples(unlabelled_source, selection)
        return labelled_examples(source, smoothing, k=1), unlabelled
    theirs, ours = selection.metadata["class_names"], source.class_names
    numbers = class_names_lib.matching(theirs, ours)[:-1]
    if (numbers < 0).any() or len(theirs) != len(ours):
        raise InputError(
            f"train.selection={config.train.selection} has {len(theirs)} classes, the network "
            f"{len(ours)}, which are not the same by name; select from labels of a teacher with "
            "the network's classes"
        )
    unlabelled = pseudo_labelled_examples(
        unlabelled_source, selection, config.loss, len(ours), numbers
    )
    k = 1 if config.loss.pseudo_labels == "hard" else selection.classes.shape[1]
    return labelled_examples(source, smoothing, k), unlabelled
