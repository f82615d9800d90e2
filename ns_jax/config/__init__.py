"""What a run is made of: config arguments, overrides of iterations, the workdir's record."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from ml_collections import config_dict

from ns_jax.errors import InputError

PREVIOUS = "previous"  # value of train.teacher: the iteration's own


def parse_arg(arg: str, **defaults: Any) -> config_dict.FrozenConfigDict:
    """`"model=b7,role=student"` -> namespace of `defaults` with those changed, of the same types.

    Raises InputError for a name that has no default or a value of another type.
    """
    values = dict(defaults)
    for item in filter(None, arg.split(",")):
        name, _, text = item.partition("=")
        if name not in defaults:
            raise InputError(f"unknown config argument {name!r}; known: {', '.join(defaults)}")
        kind = type(defaults[name])
        try:
            values[name] = text.lower() in ("", "1", "true", "yes") if kind is bool else kind(text)
        except ValueError:
            raise InputError(f"config argument {item!r}: {name} must be {kind.__name__}") from None
    return config_dict.FrozenConfigDict(values)


def at_role(config: config_dict.ConfigDict, role: str) -> config_dict.ConfigDict:
    """The config of one training, `teacher`, `student` (the first) or `finetune` (of the last
    iteration), or all of it for `selftrain`. What a training's iteration differs in is put in
    place, and no overrides are left.
    """
    roles = {"selftrain": None, "teacher": 0, "student": 1, "finetune": config.selftrain.iterations}
    if role not in roles:
        raise InputError(f"unknown role {role!r}; known: {', '.join(roles)}")
    if role == "selftrain":
        return config
    config = at_iteration(config, roles[role])
    config.selftrain.overrides = config_dict.ConfigDict()
    return finetuned(config) if role == "finetune" else config


def is_chain(config: config_dict.ConfigDict) -> bool:
    """Whether it is a whole self-training, whose trainings are not what stands at the top level."""
    return len(config.selftrain.overrides) > 0


def check_one_training(config: config_dict.ConfigDict) -> None:
    """Raises InputError for a whole self-training whose top level is not its first training."""
    if flat(at_iteration(config, 0)) != flat(config):
        raise InputError(
            "this config is a whole self-training of several networks; name one training of it, as "
            "role=teacher, role=student or role=finetune behind the config's name "
            "(--config=configs/imagenet.py:model=b3,role=teacher), or run selftrain"
        )


def finetuned(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """The training that `finetune` adds to this one (paper, section 4.1: fix-resolution)."""
    if not config.finetune.epochs > 0:
        raise InputError("finetune.epochs is 0; there is no fine-tune (the paper's: 1.5)")
    config = copy.deepcopy(config)
    finetune = config.finetune
    config.optim.start_epoch = max(0.0, config.train.epochs - finetune.epochs)
    config.train.epochs = finetune.epochs
    config.train.unlabelled_ratio = 0.0
    config.train.selection = config.train.teacher = ""
    config.train.new_head = False  # the classifier of the training is what is tuned
    config.seed = derived_seed(config.seed, 0, 1)
    config.train.sample_prob = 1.0
    config.train.frozen_stages = finetune.frozen_stages
    config.train.batch_size = finetune.batch_size or config.train.batch_size
    config.data.image_size = finetune.image_size or config.data.image_size
    config.data.train_view = "evaluation"
    config.model.remat = finetune.remat or config.model.remat
    return config


def at_iteration(config: config_dict.ConfigDict, iteration: int) -> config_dict.ConfigDict:
    """A copy with the overrides of an iteration (or of the nearest one before it) put in place.

    Where the teacher's weights come from (`train.init`, `train.new_head`) is the teacher's alone,
    unless `selftrain.student_init` is "init": a student has its own in its overrides, or none.
    Raises InputError for an override of a key that does not exist or with a value of another type.
    """
    config = copy.deepcopy(config)
    number, overrides = entry_of(config, iteration)
    of_teacher: dict[str, Any] = {}
    if iteration > 0 and config.selftrain.student_init != "init":
        of_teacher = {"init": "", "init_model": "", "new_head": False}
        if config.selftrain.student_init == "scratch":
            of_teacher["frozen_stages"] = None
        config.train.update(of_teacher)
    for path, value in leaves(overrides):
        if number > 0 or path.removeprefix("train.") not in of_teacher:
            _assign(config, path, value)
    return config


def entry_of(config: config_dict.ConfigDict, iteration: int) -> tuple[int, dict]:
    """The number and the content of the overrides that an iteration takes: its own, or those of the
    nearest one before it; `(0, {})` without any.
    """
    entries = {number_of(name): entry for name, entry in config.selftrain.overrides.items()}
    before = [number for number in entries if number <= iteration]
    return (max(before), entries[max(before)].to_dict()) if before else (0, {})


def number_of(entry: str) -> int:
    """The iteration that an entry of `selftrain.overrides` is named after. Raises InputError."""
    number = entry.removeprefix("iteration_")
    if not entry.startswith("iteration_") or not number.isdigit():
        raise InputError(f"selftrain.overrides.{entry}: entries are named iteration_0, _1, ...")
    return int(number)


def derived_seed(seed: int, *numbers: int) -> int:
    """A seed for a part of what `seed` began: another one for other numbers."""
    import numpy as np  # whose threads must not be there before SIGTERM is blocked: __main__

    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0] >> 1)


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _assign(config: config_dict.ConfigDict, path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for section in sections:
        is_there = isinstance(config, config_dict.ConfigDict) and section in config
        config = config[section] if is_there else None
    if not isinstance(config, config_dict.ConfigDict) or name not in config:
        raise InputError(f"selftrain.overrides: there is no key config.{path}")
    try:
        config[name] = value
    except TypeError as error:
        raise InputError(f"selftrain.overrides: config.{path}: {error}") from None


def flat(config: config_dict.ConfigDict) -> dict:
    """Every key's value by its name with dots: `{"train.epochs": 350.0, ...}`."""
    return dict(leaves(json.loads(config.to_json_best_effort())))
