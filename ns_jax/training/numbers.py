"""The numbers of a training that follow from its config."""

import copy
import math

from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax.errors import InputError


def images_per_step(config: config_dict.ConfigDict) -> tuple[int, int]:
    """Labelled and unlabelled images of a training step."""
    train = config.train
    return train.batch_size, math.ceil(
        train.batch_size * train.sample_prob * train.unlabelled_ratio
    )


def labelled_batch(config: config_dict.ConfigDict) -> float:
    """Labelled images of a step that count, on average: for loss, learning rate and epochs."""
    return config.train.batch_size * config.train.sample_prob


def steps(config: config_dict.ConfigDict, num_labelled: int) -> tuple[float, int]:
    """Steps of an epoch (a float, as in the official code) and of the whole training."""
    steps_per_epoch = num_labelled / labelled_batch(config)
    return steps_per_epoch, int(config.train.epochs * steps_per_epoch)


def unlabelled_weight(config: config_dict.ConfigDict) -> float:
    """Of a row in the loss, so that it is L_labelled + ratio * L_unlabelled, as official.

    That code divides the sum over kept labelled images by the batch, not by those kept.
    """
    if config.loss.normalise != "labelled" or config.train.sample_prob == 1:
        return 1.0
    labelled, unlabelled = images_per_step(config)
    return config.train.unlabelled_ratio * labelled / unlabelled if unlabelled else 1.0


def with_stat_groups(config: config_dict.ConfigDict, num_devices: int) -> config_dict.ConfigDict:
    """The config with BatchNorm's groups by the official rule, if it does not say.

    Up to 8 cores each is a group; beyond, groups of 8 cores or of an eighth of them.
    """
    if config.model.stat_groups is not None:
        return config
    config = copy.deepcopy(config)
    size = 1 if num_devices <= 8 else max(8, num_devices // 8)
    config.model.stat_groups = num_devices // size
    return config


def validate_training(config: config_dict.ConfigDict, num_devices: int, num_labelled: int) -> None:
    """Checks that the numbers of a training go together; raises InputError naming those at odds."""
    train, loss = config.train, config.loss
    train_ranges = (
        ("batch_size", train.batch_size >= 1, "at least 1"),
        ("accumulate", train.accumulate >= 1, "at least 1"),
        ("sample_prob", 0 < train.sample_prob <= 1, "above 0 and at most 1"),
        ("save_every_steps", train.save_every_steps >= 1, "at least 1"),
        ("save_every_minutes", train.save_every_minutes >= 0, "0 (never) or more"),
        ("keep_checkpoints", train.keep_checkpoints >= 1, "at least 1"),
        ("nonfinite_limit", train.nonfinite_limit >= 0, "0 or more"),
    )
    loss_ranges = (
        ("temperature", 0 < loss.temperature < math.inf, "above 0"),
        ("label_smoothing", 0 <= loss.label_smoothing < 1, "0 or more, and below 1"),
    )
    config_lib.check_ranges("train", train, train_ranges)
    config_lib.check_ranges("loss", loss, loss_ranges)
    labelled, unlabelled = images_per_step(config)
    turns = f" in {train.accumulate} turns" if train.accumulate > 1 else ""
    if (labelled + unlabelled) % (num_devices * train.accumulate):
        raise InputError(
            f"{labelled} labelled + {unlabelled} unlabelled images a step are not divisible by "
            f"{num_devices} devices{turns}; make train.batch_size * (1 + train.unlabelled_ratio) a "
            f"multiple of {num_devices * train.accumulate}"
        )
    groups = with_stat_groups(config, num_devices).model.stat_groups
    for name, count in (("labelled", labelled), ("unlabelled", unlabelled)):
        if count % (groups * train.accumulate):
            raise InputError(
                f"{count} {name} images a step cannot be shared by {groups} BatchNorm groups{turns}"
                "; change train.batch_size, train.unlabelled_ratio, train.accumulate or "
                "model.stat_groups"
            )
    if num_devices % config.mesh.fsdp:
        raise InputError(f"mesh.fsdp={config.mesh.fsdp} does not divide {num_devices} devices")
    if steps(config, num_labelled)[1] < 1:
        raise InputError(
            f"train.epochs={train.epochs} of {num_labelled} labelled images in batches of "
            f"{labelled} is not a single step"
        )
    if unlabelled and not (train.selection or train.teacher):
        raise InputError(
            f"train.unlabelled_ratio is {train.unlabelled_ratio} but train.selection is empty; "
            "name the directory that the select program wrote, or a checkpoint as train.teacher"
        )
    if train.frozen_stages is not None and not train.init:
        raise InputError("train.frozen_stages is set, but train.init names no weights to keep")
    choices = {
        "loss.normalise": ("labelled", "all"),
        "loss.pseudo_labels": ("soft", "hard"),
        "data.train_view": ("crop", "pad", "evaluation"),
        "data.crop_sampler": ("official", "area"),
        "train.unlabelled_noise": ("all", "model", "none"),
        "train.nonfinite": ("skip", "back"),
        "selftrain.student_init": ("scratch", "teacher"),
    }
    for path, known in choices.items():
        section, name = path.split(".")
        if config[section][name] not in known:
            raise InputError(f"{path}={config[section][name]!r}; known: {', '.join(known)}")
