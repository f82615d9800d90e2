"""What a stage was made of and what came out; written last, so a stage with a manifest is done."""

import json
import os
import pathlib
import re

from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax import files
from ns_jax.errors import InputError, MissingFileError

MANIFEST = "manifest.json"


def is_done(directory: pathlib.Path, inputs: dict) -> bool:
    """Whether the stage in `directory` has been finished with these inputs.

    Raises InputError that lists the differences if it was finished with others.
    """
    if not (directory / MANIFEST).exists():
        return False
    check_inputs(read_manifest(directory)["inputs"], inputs, directory)
    return True


def check_inputs(theirs: dict, ours: dict, directory: pathlib.Path) -> None:
    """Raises InputError if what stands in `directory` was made of something else."""
    ours = json.loads(json.dumps(ours))  # as it reads back: tuples are lists
    lines = [f"  {line}" for line in _differences(theirs, ours)]
    if lines:
        raise InputError(
            f"{directory} was made of other inputs; remove it or take another --workdir:\n"
            + "\n".join(lines)
        )


# Keys of earlier versions, in configs and in manifests, with the value that changed nothing: what a
# record without them says.
RETIRED = {"select.quantile": 0.0, "quantile": 0.0}


def _differences(theirs: dict, ours: dict, harmless: tuple[str, ...] = ()) -> list[str]:
    """A line for each name, but for the harmless ones, whose values differ, sorted."""
    lines = []
    for name in sorted(theirs.keys() | ours.keys()):
        key = OVERRIDE.sub("", name)
        there, now = (values.get(name, RETIRED.get(key)) for values in (theirs, ours))
        if key not in harmless and there != now:
            lines.append(f"{name}: {there!r} there, {now!r} now")
    return lines


def write_manifest(directory: pathlib.Path, inputs: dict, outputs: dict) -> None:
    write_json(directory / MANIFEST, {"inputs": inputs, "outputs": outputs})


def remove_manifest(directory: str | pathlib.Path) -> None:
    """The stage is finished no longer."""
    files.remove(f"{directory}/{MANIFEST}")


def read_manifest(directory: str | pathlib.Path) -> dict:
    """`{"inputs": ..., "outputs": ...}`; raises FileNotFoundError if the stage is not finished."""
    path = files.as_path(directory) / MANIFEST
    if not path.exists():
        raise MissingFileError(f"{directory} holds no finished stage: there is no {path}")
    return json.loads(path.read_text())


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
    # of earlier versions
    "plan.search",
    "doctor.compared",
)


OVERRIDE = re.compile(r"^selftrain\.overrides\.iteration_\d+\.")


def claim_workdir(config: config_dict.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes `config.json`, or compares with the one there if anything stands beside it.

    Raises InputError that lists the differences when the workdir belongs to another config.
    """
    ours = json.loads(config.to_json_best_effort())
    path = workdir / "config.json"
    if not path.exists() or [entry.name for entry in workdir.iterdir()] == [path.name]:
        write_json(path, ours)
        return
    theirs = dict(config_lib.leaves(json.loads(path.read_text())))
    ours = dict(config_lib.leaves(ours))
    lines = [f"  config.{line}" for line in _differences(theirs, ours, HARMLESS)]
    if lines:
        raise InputError(
            f"{workdir} belongs to a run of another config; take another --workdir, or the values "
            "of that run:\n" + "\n".join(lines)
        )


def write_json(path: pathlib.Path, content) -> None:
    """Writes a JSON file so that it is there whole or not at all."""
    files.write(os.fspath(path), f"{json.dumps(content, indent=1)}\n".encode())
