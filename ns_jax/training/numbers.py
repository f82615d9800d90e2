"""The numbers of a training that follow from its config, derived and validated once."""

import dataclasses
import math

from ml_collections import config_dict

from ns_jax.config import ranges
from ns_jax.errors import InputError

EVALUATIONS = 20  # of a training that says nothing else ...
EVALUATION_SHARE = 0.05  # ... but no more than this share of its time
FORWARD_SHARE = 1 / 3  # of a training step's work: a backward pass is two forward ones


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What a step is made of, and how many there are."""

    labelled: int  # images a step
    unlabelled: int
    labelled_batch: float  # labelled images a step that count: for learning rate and epochs
    steps_per_epoch: float  # as in the official code no whole number
    total_steps: int
    microbatches: int  # that a batch goes through the network in, one after the other
    stat_groups: int  # parts of a batch that BatchNorm normalises apart
    unlabelled_weight: float  # of an unlabelled row, so that the loss has exactly the ratio
    loss_divisor: float
    evaluate_every_epochs: float | None  # None: about `EVALUATIONS` times; 0: never

    @property
    def rows(self) -> int:
        """Images a step."""
        return self.labelled + self.unlabelled

    def steps_between_evaluations(self, num_images: int) -> int | None:
        """With so many images to evaluate on; the last step has one. None: no evaluation."""
        if self.evaluate_every_epochs is not None:
            return math.ceil(self.evaluate_every_epochs * self.steps_per_epoch) or None
        allowed = EVALUATION_SHARE * self.total_steps * self.rows / (FORWARD_SHARE * num_images)
        times = min(EVALUATIONS, int(allowed))
        if not times:
            return None
        return max(math.ceil(self.total_steps / times), math.ceil(self.steps_per_epoch))


def derive(config: config_dict.ConfigDict, num_labelled: int, num_devices: int) -> Numbers:
    """The numbers of a training on so many labelled images and devices.

    Raises InputError that names the config's keys where they do not go together.
    """
    _check_values(config)
    train = config.train
    labelled, unlabelled = images_per_step(config)
    weight = _unlabelled_weight(config)
    labelled_batch = train.batch_size * train.sample_prob
    steps_per_epoch = num_labelled / labelled_batch
    numbers = Numbers(
        labelled=labelled,
        unlabelled=unlabelled,
        labelled_batch=labelled_batch,
        steps_per_epoch=steps_per_epoch,
        total_steps=int(train.epochs * steps_per_epoch),
        microbatches=train.accumulate,
        stat_groups=_stat_groups(config, num_devices),
        unlabelled_weight=weight,
        loss_divisor=labelled + (weight * unlabelled if config.loss.normalise == "all" else 0),
        evaluate_every_epochs=train.evaluate_every_epochs,
    )
    _check_division(numbers, config, num_devices)
    if numbers.total_steps < 1:
        raise InputError(
            f"train.epochs={train.epochs} of {num_labelled} labelled images in batches of "
            f"{labelled} is not a single step"
        )
    return numbers


def images_per_step(config: config_dict.ConfigDict) -> tuple[int, int]:
    """Labelled and unlabelled images of a training step."""
    train = config.train
    unlabelled = train.batch_size * train.sample_prob * train.unlabelled_ratio
    return train.batch_size, math.ceil(round(unlabelled, 6))  # 10 * 1.1 is a little more than 11


def _unlabelled_weight(config: config_dict.ConfigDict) -> float:
    """Weight of a row in the loss, so that it has the config's ratio however rows are rounded.

    "labelled" is L_labelled + ratio * L_unlabelled, as official: that code divides the sum over
    kept labelled images by the batch, not by those kept. In "all" rows count alike, as far as their
    number is not rounded.
    """
    train = config.train
    labelled, unlabelled = images_per_step(config)
    if not unlabelled:
        return 1.0
    kept = 1.0 if config.loss.normalise == "labelled" else train.sample_prob
    return round(train.unlabelled_ratio * kept * labelled / unlabelled, 12)


def _stat_groups(config: config_dict.ConfigDict, num_devices: int) -> int:
    """BatchNorm's groups: the config's, else by the official rule.

    Up to 8 cores each is a group; beyond, groups of 8 cores or of an eighth of them.
    """
    if config.model.stat_groups is not None:
        return config.model.stat_groups
    size = 1 if num_devices <= 8 else max(8, num_devices // 8)
    return num_devices // size


def _check_values(config: config_dict.ConfigDict) -> None:
    ranges.check(config)
    train = config.train
    if train.unlabelled_ratio and not (train.selection or train.teacher):
        raise InputError(
            f"train.unlabelled_ratio is {train.unlabelled_ratio} but train.selection is empty; "
            "name the directory that the select program wrote, or a checkpoint as train.teacher"
        )
    if train.frozen_stages is not None and not train.init:
        raise InputError("train.frozen_stages is set, but train.init names no weights to keep")


def _check_division(numbers: Numbers, config: config_dict.ConfigDict, num_devices: int) -> None:
    """Raises InputError where rows cannot be shared by devices, groups and microbatches."""
    parts = numbers.microbatches
    within = f" in {parts} microbatches" if parts > 1 else ""
    if numbers.rows % (num_devices * parts):
        raise InputError(
            f"{numbers.labelled} labelled + {numbers.unlabelled} unlabelled images a step are not "
            f"divisible by {num_devices} devices{within}; make train.batch_size * "
            f"(1 + train.unlabelled_ratio) a multiple of {num_devices * parts}"
        )
    for name, count in (("labelled", numbers.labelled), ("unlabelled", numbers.unlabelled)):
        if count % (numbers.stat_groups * parts):
            raise InputError(
                f"{count} {name} images a step cannot be shared by {numbers.stat_groups} BatchNorm "
                f"groups{within}; change train.batch_size, train.unlabelled_ratio, "
                "train.accumulate or model.stat_groups"
            )
    if num_devices % config.mesh.fsdp:
        raise InputError(f"mesh.fsdp={config.mesh.fsdp} does not divide {num_devices} devices")
