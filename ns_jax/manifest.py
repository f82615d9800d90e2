"""What a stage was made of and what came out; written last, so a stage with a manifest is done."""

import json
import pathlib

from ns_jax import config as config_lib
from ns_jax.data import files

NAME = "manifest.json"


def is_done(directory: pathlib.Path, inputs: dict) -> bool:
    """Whether the stage in `directory` has been finished with these inputs.

    Raises ValueError that lists the differences if it was finished with others.
    """
    if not (directory / NAME).exists():
        return False
    check_inputs(read(directory)["inputs"], inputs, directory)
    return True


def check_inputs(theirs: dict, ours: dict, directory: pathlib.Path) -> None:
    """Raises ValueError if what stands in `directory` was made of something else."""
    ours = json.loads(json.dumps(ours))  # as it reads back: tuples are lists
    lines = [
        f"  {name}: {theirs.get(name)!r} there, {ours.get(name)!r} now"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if lines:
        raise ValueError(
            f"{directory} was made of other inputs; remove it or take another --workdir:\n"
            + "\n".join(lines)
        )


def write(directory: pathlib.Path, inputs: dict, outputs: dict) -> None:
    config_lib.write_json(directory / NAME, {"inputs": inputs, "outputs": outputs})


def remove(directory: str | pathlib.Path) -> None:
    """The stage is finished no longer."""
    files.remove(f"{directory}/{NAME}")


def read(directory: str | pathlib.Path) -> dict:
    """`{"inputs": ..., "outputs": ...}`; raises FileNotFoundError if the stage is not finished."""
    path = files.as_path(directory) / NAME
    if not path.exists():
        raise FileNotFoundError(f"{directory} holds no finished stage: there is no {path}")
    return json.loads(path.read_text())
