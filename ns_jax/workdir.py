"""What a workdir says of itself: the config of its run, and a manifest for each finished stage.

A stage writes `manifest.json` last, so it is done if and only if the manifest is there.
"""

import copy
import json
import os
import pathlib
import re
from typing import Any

from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax import files, trees
from ns_jax.errors import InputError, MissingFileError, paths_of_the_user

CONFIG, MANIFEST = "config.json", "manifest.json"
# Keys of earlier versions, in configs and in manifests, with the value that changed nothing.
RETIRED = {"select.quantile": 0.0, "quantile": 0.0}
# What may differ between the starts of a run, and between the workers of one: no result depends on
# it, but for the rounding of sums on another mesh; each labelling is held to its engine by itself.
HARMLESS = (
    "mesh.devices",
    "mesh.fsdp",
    "mesh.shard_above",
    "data.workers",
    "data.read_threads",
    "data.prefetch",
    "data.cache",
    "data.cache_gb",
    "label.batch_size",
    "label.engine",
    "label.engine_precision",
    "label.worker",
    "label.lease_seconds",
    "evaluate.batch_size",
    "predict.target",
    "robustness.batch_size",
    "select.memory_gb",
    "train.save_every_steps",
    "train.save_every_minutes",
    "train.keep_checkpoints",
    "train.keep_every_steps",
    "train.log_every_steps",
    "train.evaluate_every_epochs",
    "train.tensorboard",
    "train.wandb",
    "train.profile_steps",
    "preemption.grace_seconds",
)
_OVERRIDE = re.compile(r"^selftrain\.overrides\.iteration_\d+\.")


def claim_workdir(config: config_dict.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes `config.json`, or compares with the one there if anything stands beside it.

    Raises InputError that lists the differences when the workdir belongs to another config.
    """
    ours = json.loads(config.to_json_best_effort())
    path = workdir / CONFIG
    with paths_of_the_user():
        if not files.exists(os.fspath(path)) or _names(workdir) == [path.name]:
            write_json(path, ours)
            return
        theirs = json.loads(path.read_text())
    theirs, ours = (dict(config_lib.leaves(one)) for one in (theirs, ours))
    ours = _with_retired(ours, theirs)
    # Any other key that only one of them declares is of another version, and cannot differ.
    declared = (theirs.keys() & ours.keys()) - set(HARMLESS)
    theirs, ours = (
        {f"config.{key}": one[key] for key in one if _OVERRIDE.sub("", key) in declared}
        for one in (theirs, ours)
    )
    if lines := trees.differences(theirs, ours):
        raise InputError(
            f"{workdir} belongs to a run of another config; take another --workdir, or the values "
            "of that run:\n" + "\n".join(lines)
        )


def _names(workdir: pathlib.Path) -> list[str]:
    """What is there, but for the lock of this very run."""
    return [entry.name for entry in workdir.iterdir() if not entry.name.startswith(".")]


def _with_retired(ours: dict, theirs: dict) -> dict:
    """`ours` and, at the value that changed nothing, the retired keys that `theirs` still has."""
    keys = {name: _OVERRIDE.sub("", name) for name in theirs}
    return {name: RETIRED[key] for name, key in keys.items() if key in RETIRED} | ours


def with_values(config: config_dict.ConfigDict, recorded: dict) -> config_dict.ConfigDict:
    """A copy with the values of a recorded `config.json`, of the keys that both declare."""
    config = copy.deepcopy(config)
    for path, value in config_lib.leaves(recorded):
        *sections, name = path.split(".")
        section = config
        for part in sections:
            section = (
                section[part]
                if isinstance(section, config_dict.ConfigDict) and part in section
                else None
            )
        if isinstance(section, config_dict.ConfigDict) and name in section:
            section[name] = tuple(value) if isinstance(value, list) else value
    if "selftrain" in recorded:
        config.selftrain.overrides = config_dict.ConfigDict(recorded["selftrain"]["overrides"])
    return config


def is_done(directory: pathlib.Path, inputs: dict) -> bool:
    """Whether the stage in `directory` has been finished with these inputs.

    Raises InputError that lists the differences if it was finished with others.
    """
    if not (directory / MANIFEST).exists():
        return False
    check_inputs(read_manifest(directory)["inputs"], inputs, directory)
    return True


def check_inputs(
    theirs: dict,
    ours: dict,
    path: str | pathlib.Path,
    remedy: str = "remove it or take another --workdir",
) -> None:
    """Raises InputError, with the differences and `remedy`, if `path` was made of other inputs.

    `theirs`: the inputs that were read from `path`; `ours`: any that JSON can hold.
    """
    ours = json.loads(json.dumps(ours))  # as it reads back: tuples are lists
    if lines := trees.differences(theirs, _with_retired(ours, theirs)):
        raise InputError("\n".join([f"{path} was made of other inputs; {remedy}:", *lines]))


def read_manifest(directory: str | pathlib.Path) -> dict:
    """`{"inputs": ..., "outputs": ...}`; raises FileNotFoundError if the stage is not finished."""
    path = files.as_path(directory) / MANIFEST
    if not path.exists():
        raise MissingFileError(f"{directory} holds no finished stage: there is no {path}")
    return json.loads(path.read_text())


def write_manifest(directory: pathlib.Path, inputs: dict, outputs: dict) -> None:
    """Makes the stage in `directory` a finished one. Raises OSError."""
    write_json(directory / MANIFEST, {"inputs": inputs, "outputs": outputs})


def remove_manifest(directory: str | pathlib.Path) -> None:
    """Makes the stage in `directory` unfinished, if it was finished. Raises OSError."""
    files.remove(f"{directory}/{MANIFEST}")


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file atomically. Raises OSError."""
    files.write(os.fspath(path), f"{json.dumps(content, indent=1)}\n".encode())
