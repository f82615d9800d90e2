"""What a training is fed: images with their targets, labelled or pseudo-labelled."""

from typing import Any

import numpy as np
from ml_collections import config_dict

from ns_jax import model_card
from ns_jax.data import open as open_lib
from ns_jax.data.pipeline import Examples
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.selection import table as table_lib
from ns_jax.training import targets


def labelled_examples(source: Source, smoothing: float, k: int) -> Examples:
    """Every image of a labelled source with its smoothed label in k places.

    Raises InputError for images without a label: here if the source knows, else when one comes.
    """
    num_classes = len(source.class_names)
    if not num_classes or (source.labels is not None and (source.labels < 0).any()):
        raise InputError(f"{source.name} has images without a label; it cannot be trained on")

    def target(position: int, label: int) -> targets.Target:
        if not 0 <= label < num_classes:
            raise InputError(
                f"{source.name}[{position}] has the label {label}; it cannot be trained on"
            )
        return targets.hard_target(label, num_classes, smoothing, k)

    return Examples(source, range(len(source)), target, k)


def pseudo_labelled_examples(
    source: Source, selection: table_lib.Selection, loss: config_dict.ConfigDict, num_classes: int
) -> Examples:
    """Every row of a selection with the teacher's distribution, or its best class as a label."""
    source.check_fingerprint(selection.metadata["source"], "the selection")
    hard, smoothing, temperature = (
        loss.pseudo_labels == "hard",
        loss.label_smoothing,
        loss.temperature,
    )

    def target(row: int, _: int) -> targets.Target:
        if hard:
            return targets.hard_target(int(selection.label[row]), num_classes, smoothing, 1)
        return targets.soft_target(
            selection.classes[row], selection.probs[row], num_classes, temperature
        )

    return Examples(source, selection.index, target, 1 if hard else selection.classes.shape[1])


def teacher_labelled_examples(source: Source, selection: table_lib.Selection | None) -> Examples:
    """The images of a selection, or all, to be labelled by a teacher in the step."""
    index = range(len(source)) if selection is None else selection.index
    target = np.zeros(1, np.int32), np.zeros(1, np.float32)  # which the step replaces
    return Examples(source, index, lambda position, label: target, 1)


def from_config(config: config_dict.ConfigDict, source: Source) -> tuple[Examples, Examples | None]:
    """Labelled and, for a student, pseudo-labelled examples; all targets in equally many places."""
    smoothing, num_classes = config.loss.label_smoothing, len(source.class_names)
    if not config.train.unlabelled_ratio:
        return labelled_examples(source, smoothing, k=1), None
    unlabelled_source = open_lib.open_from_config(config, "unlabelled")
    selection: Any = None  # with neither it nor a teacher there would be no training
    if config.train.selection:
        selection = table_lib.Selection(config.train.selection)
    if config.train.teacher:
        unlabelled = teacher_labelled_examples(unlabelled_source, selection)
        return labelled_examples(source, smoothing, k=1), unlabelled
    model_card.check_classes(
        source.class_names, selection.metadata["class_names"], source.name, "the selection"
    )
    unlabelled = pseudo_labelled_examples(unlabelled_source, selection, config.loss, num_classes)
    k = 1 if config.loss.pseudo_labels == "hard" else selection.classes.shape[1]
    return labelled_examples(source, smoothing, k), unlabelled
