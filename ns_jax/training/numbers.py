"""The numbers of a training that follow from its config, derived and validated once."""

import dataclasses
import math

from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax.errors import InputError

EVALUATIONS = 20  # of a training that says nothing else ...
EVALUATION_SHARE = 0.05  # ... but no more than this share of its time
FORWARD_SHARE = 1 / 3  # of a training step's work: a backward pass is two forward ones

CHOICES = {
    "loss.normalise": ("labelled", "all"),
    "loss.pseudo_labels": ("soft", "hard"),
    "data.train_view": ("crop", "pad", "evaluation"),
    "data.crop_sampler": ("official", "area"),
    "train.unlabelled_noise": ("all", "model", "none"),
    "train.nonfinite": ("skip", "back"),
    "selftrain.student_init": ("scratch", "teacher"),
}


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
    loss_divisor: int
    unlabelled_weight: float  # of an unlabelled row, so that the loss is L_labelled + ratio * L_unl
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
        loss_divisor=labelled if config.loss.normalise == "labelled" else labelled + unlabelled,
        unlabelled_weight=_unlabelled_weight(config),
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
    return train.batch_size, math.ceil(
        train.batch_size * train.sample_prob * train.unlabelled_ratio
    )


def _unlabelled_weight(config: config_dict.ConfigDict) -> float:
    """Weight of a row in the loss, so that this is L_labelled + ratio * L_unlabelled, as official.

    That code divides the sum over kept labelled images by the batch, not by those kept.
    """
    labelled, unlabelled = images_per_step(config)
    if config.loss.normalise != "labelled" or config.train.sample_prob == 1 or not unlabelled:
        return 1.0
    return config.train.unlabelled_ratio * labelled / unlabelled


def _stat_groups(config: config_dict.ConfigDict, num_devices: int) -> int:
    """BatchNorm's groups: the config's, else by the official rule.

    Up to 8 cores each is a group; beyond, groups of 8 cores or of an eighth of them.
    """
    if config.model.stat_groups is not None:
        return config.model.stat_groups
    size = 1 if num_devices <= 8 else max(8, num_devices // 8)
    return num_devices // size


def _check_values(config: config_dict.ConfigDict) -> None:
    train, loss = config.train, config.loss
    every = train.evaluate_every_epochs
    train_ranges = (
        ("batch_size", train.batch_size >= 1, "at least 1"),
        ("accumulate", train.accumulate >= 1, "at least 1"),
        ("sample_prob", 0 < train.sample_prob <= 1, "above 0 and at most 1"),
        ("save_every_steps", train.save_every_steps >= 1, "at least 1"),
        ("save_every_minutes", train.save_every_minutes >= 0, "0 (never) or more"),
        ("keep_checkpoints", train.keep_checkpoints >= 1, "at least 1"),
        ("nonfinite_limit", train.nonfinite_limit >= 0, "0 or more"),
        ("evaluate_every_epochs", every is None or every >= 0, "0 (never) or more"),
        ("profile_steps", train.profile_steps >= 0, "0 (none) or more"),
    )
    loss_ranges = (
        ("temperature", 0 < loss.temperature < math.inf, "above 0"),
        ("label_smoothing", 0 <= loss.label_smoothing < 1, "0 or more, and below 1"),
    )
    config_lib.check_ranges("train", train, train_ranges)
    config_lib.check_ranges("loss", loss, loss_ranges)
    if train.unlabelled_ratio and not (train.selection or train.teacher):
        raise InputError(
            f"train.unlabelled_ratio is {train.unlabelled_ratio} but train.selection is empty; "
            "name the directory that the select program wrote, or a checkpoint as train.teacher"
        )
    if train.frozen_stages is not None and not train.init:
        raise InputError("train.frozen_stages is set, but train.init names no weights to keep")
    for path, known in CHOICES.items():
        section, name = path.split(".")
        if config[section][name] not in known:
            raise InputError(f"{path}={config[section][name]!r}; known: {', '.join(known)}")


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
