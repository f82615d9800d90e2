"""What a run is made of: config arguments, overrides of iterations, the workdir's record."""

import copy
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable

from ml_collections import config_dict

from ns_jax.data import files


def parse_arg(arg: str, **defaults):
    """`"model=b7,role=student"` -> namespace of `defaults` with those changed, of the same types.

    Raises ValueError for a name that has no default or a value of another type.
    """
    values = dict(defaults)
    for item in filter(None, arg.split(",")):
        name, _, text = item.partition("=")
        if name not in defaults:
            raise ValueError(f"unknown config argument {name!r}; known: {', '.join(defaults)}")
        kind = type(defaults[name])
        try:
            values[name] = text.lower() in ("", "1", "true", "yes") if kind is bool else kind(text)
        except ValueError:
            raise ValueError(f"config argument {item!r}: {name} must be {kind.__name__}") from None
    return config_dict.FrozenConfigDict(values)


def at_role(config: config_dict.ConfigDict, role: str) -> config_dict.ConfigDict:
    """The config of one training, `teacher`, `student` (the first) or `finetune` (of the last
    iteration), or all of it for `selftrain`. What a training's iteration differs in is put in
    place, and no overrides are left.
    """
    roles = {"selftrain": None, "teacher": 0, "student": 1, "finetune": config.selftrain.iterations}
    if role not in roles:
        raise ValueError(f"unknown role {role!r}; known: {', '.join(roles)}")
    if role == "selftrain":
        return config
    config = at_iteration(config, roles[role])
    config.selftrain.overrides = config_dict.ConfigDict()
    return finetuned(config) if role == "finetune" else config


def is_chain(config: config_dict.ConfigDict) -> bool:
    """Whether it is a whole self-training, whose trainings are not what stands at the top level."""
    return len(config.selftrain.overrides) > 0


def check_one_training(config: config_dict.ConfigDict) -> None:
    """Raises ValueError for a whole self-training whose top level is not its first training."""
    if flat(at_iteration(config, 0)) != flat(config):
        raise ValueError(
            "this config is a whole self-training of several networks; name one training of it, as "
            "role=teacher, role=student or role=finetune behind the config's name "
            "(--config=configs/imagenet.py:model=b3,role=teacher), or run selftrain"
        )


def finetuned(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """The training that `finetune` adds to this one (paper, section 4.1: fix-resolution)."""
    if not config.finetune.epochs > 0:
        raise ValueError("finetune.epochs is 0; there is no fine-tune (the paper's: 1.5)")
    config = copy.deepcopy(config)
    finetune = config.finetune
    config.optim.start_epoch = config.train.epochs - finetune.epochs
    config.train.epochs = finetune.epochs
    config.train.unlabelled_ratio = 0.0
    config.train.selection = config.train.teacher = ""
    config.train.sample_prob = 1.0
    config.train.frozen_stages = finetune.frozen_stages
    config.train.batch_size = finetune.batch_size or config.train.batch_size
    config.data.image_size = finetune.image_size or config.data.image_size
    config.data.train_view = "evaluation"
    config.model.remat = finetune.remat or config.model.remat
    return config


def at_iteration(config: config_dict.ConfigDict, iteration: int) -> config_dict.ConfigDict:
    """A copy with the overrides of an iteration (or of the nearest one before it) put in place.

    Raises ValueError for an override of a key that does not exist or with a value of another type.
    """
    config = copy.deepcopy(config)
    entries = {}
    for name, overrides in config.selftrain.overrides.items():
        number = name.removeprefix("iteration_")
        if not name.startswith("iteration_") or not number.isdigit():
            raise ValueError(f"selftrain.overrides.{name}: entries are named iteration_0, _1, ...")
        entries[int(number)] = overrides
    before = [number for number in entries if number <= iteration]
    if before:
        for path, value in _leaves(entries[max(before)].to_dict()):
            _assign(config, path, value)
    return config


def _leaves(tree: dict, prefix: str = ""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _assign(config, path: str, value) -> None:
    *sections, name = path.split(".")
    for section in sections:
        config = config.get(section) if isinstance(config, config_dict.ConfigDict) else None
    if not isinstance(config, config_dict.ConfigDict) or name not in config:
        raise ValueError(f"selftrain.overrides: there is no key config.{path}")
    try:
        config[name] = value
    except TypeError as error:
        raise ValueError(f"selftrain.overrides: config.{path}: {error}") from None


# What may differ between the starts of a run, and between the workers of one: no result depends on
# it, but for the rounding of sums on another mesh.
HARMLESS = (
    "mesh.devices",
    "mesh.fsdp",
    "mesh.shard_above",
    "data.workers",
    "data.read_threads",
    "data.prefetch",
    "label.batch_size",
    "label.worker",
    "label.lease_seconds",
    "evaluate.batch_size",
    "select.memory_gb",
    "train.save_every_steps",
    "train.save_every_minutes",
    "train.keep_checkpoints",
    "train.keep_every_steps",
    "preemption.grace_seconds",
)
OVERRIDE = re.compile(r"^selftrain\.overrides\.iteration_\d+\.")


def claim_workdir(config: config_dict.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes `config.json`, or compares with the one there if anything stands beside it.

    Raises ValueError that lists the differences when the workdir belongs to another config.
    """
    ours = json.loads(config.to_json_best_effort())
    path = workdir / "config.json"
    if not path.exists() or [entry.name for entry in workdir.iterdir()] == [path.name]:
        write_json(path, ours)
        return
    theirs, ours = dict(_leaves(json.loads(path.read_text()))), dict(_leaves(ours))
    different = sorted(
        name
        for name in theirs.keys() | ours.keys()
        if OVERRIDE.sub("", name) not in HARMLESS and theirs.get(name) != ours.get(name)
    )
    if different:
        lines = [f"  config.{k}: {theirs.get(k)!r} there, {ours.get(k)!r} now" for k in different]
        raise ValueError(
            f"{workdir} belongs to a run of another config; take another --workdir, or the values "
            "of that run:\n" + "\n".join(lines)
        )


def flat(config: config_dict.ConfigDict) -> dict:
    """Every key's value by its name with dots: `{"train.epochs": 350.0, ...}`."""
    return dict(_leaves(json.loads(config.to_json_best_effort())))


def write_json(path: pathlib.Path, content) -> None:
    """Writes a JSON file so that it is there whole or not at all."""
    files.write(os.fspath(path), f"{json.dumps(content, indent=1)}\n".encode())


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


def check_ranges(section: str, settings, rules: Iterable[tuple[str, bool, str]]) -> None:
    """`rules`: name of a setting, whether its value is valid, what it is to be. Or ValueError."""
    for name, valid, range_ in rules:
        if not valid:
            raise ValueError(f"{section}.{name} is {settings[name]}; it must be {range_}")


def validate_training(config: config_dict.ConfigDict, num_devices: int, num_labelled: int) -> None:
    """Checks that the numbers of a training go together; raises ValueError naming those at odds."""
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
    check_ranges("train", train, train_ranges)
    check_ranges("loss", loss, loss_ranges)
    labelled, unlabelled = images_per_step(config)
    turns = f" in {train.accumulate} turns" if train.accumulate > 1 else ""
    if (labelled + unlabelled) % (num_devices * train.accumulate):
        raise ValueError(
            f"{labelled} labelled + {unlabelled} unlabelled images a step are not divisible by "
            f"{num_devices} devices{turns}; make train.batch_size * (1 + train.unlabelled_ratio) a "
            f"multiple of {num_devices * train.accumulate}"
        )
    groups = with_stat_groups(config, num_devices).model.stat_groups
    for name, count in (("labelled", labelled), ("unlabelled", unlabelled)):
        if count % (groups * train.accumulate):
            raise ValueError(
                f"{count} {name} images a step cannot be shared by {groups} BatchNorm groups{turns}"
                "; change train.batch_size, train.unlabelled_ratio, train.accumulate or "
                "model.stat_groups"
            )
    if num_devices % config.mesh.fsdp:
        raise ValueError(f"mesh.fsdp={config.mesh.fsdp} does not divide {num_devices} devices")
    if steps(config, num_labelled)[1] < 1:
        raise ValueError(
            f"train.epochs={train.epochs} of {num_labelled} labelled images in batches of "
            f"{labelled} is not a single step"
        )
    if unlabelled and not (train.selection or train.teacher):
        raise ValueError(
            f"train.unlabelled_ratio is {train.unlabelled_ratio} but train.selection is empty; "
            "name the directory that the select program wrote, or a checkpoint as train.teacher"
        )
    if train.frozen_stages is not None and not train.init:
        raise ValueError("train.frozen_stages is set, but train.init names no weights to keep")
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
            raise ValueError(f"{path}={config[section][name]!r}; known: {', '.join(known)}")
