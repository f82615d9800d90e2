"""Checkpoints: `state` to go on with, `model` to use, and the description that travels with it.

A step's directory holds `state/` (an Orbax tree of TrainState), `model/` (an Orbax tree of the EMA
variables) and `description/model.json` (architecture, class names, preprocessing). Whoever labels,
evaluates or serves reads the last two and never the optimiser.
"""

import contextlib
import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from ns_jax import trees


class Checkpoints:
    """The checkpoints of one training, newest last; a step is there whole or not at all."""

    def __init__(self, directory: pathlib.Path, keep: int | None = None):
        self.directory = pathlib.Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "model": ocp.StandardCheckpointHandler(),
                "description": ocp.JsonCheckpointHandler("model.json"),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=True,
                enable_async_checkpointing=False,
            ),
        )

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state, description: dict) -> None:
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                model=ocp.args.StandardSave(state.ema_variables),
                description=ocp.args.JsonSave(description),
            ),
        )

    def description(self) -> dict:
        """`model.json` of the newest checkpoint."""
        return description(self.directory)

    def restore_state(self, placed):
        """The newest state, into the shapes and shardings of `placed`.

        Raises ValueError with the difference if the checkpoint is of another architecture.
        """
        step = self.latest_step()
        found = self._manager.item_metadata(step)["state"]
        expected = {"params": placed.params, "batch_stats": placed.batch_stats}
        found = {name: found[name] for name in expected}
        trees.check_same(expected, found, f"{self.directory}/{step} holds another network")
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(placed))
        )
        return restored["state"]

    def close(self) -> None:
        self._manager.close()


def save_model(directory: pathlib.Path, description: dict, variables: dict) -> None:
    """A checkpoint of weights alone, as step 0: to label, evaluate and start from.

    Raises ValueError if a checkpoint of anything else stands there.
    """
    directory = pathlib.Path(directory).absolute() / "checkpoints"
    handlers = {
        "model": ocp.StandardCheckpointHandler(),
        "description": ocp.JsonCheckpointHandler("model.json"),
    }
    options = ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=False)
    manager = ocp.CheckpointManager(directory, item_handlers=handlers, options=options)
    with contextlib.closing(manager):
        if manager.latest_step() is not None:
            there, found = load_model(directory)
            description = json.loads(json.dumps(description))  # as it reads back: no tuples
            if there != description or trees.digest(found) != trees.digest(variables):
                raise ValueError(f"{directory} holds another checkpoint; take another directory")
            return
        arguments = ocp.args.Composite(
            model=ocp.args.StandardSave(variables), description=ocp.args.JsonSave(description)
        )
        manager.save(0, args=arguments)


def load_model(path: str | pathlib.Path) -> tuple[dict, dict]:
    """(description, variables as NumPy arrays) of the newest checkpoint below `path`.

    `path` is a training's workdir, its `checkpoints` directory, or one step's directory.
    Raises FileNotFoundError that says where it looked.
    """
    step_dir = find(path)
    with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
        shapes = reader.metadata(step_dir / "model")
        one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device),
            dict(shapes),
        )
        variables = reader.restore(step_dir / "model", args=ocp.args.StandardRestore(target))
    return description(step_dir), jax.tree.map(np.asarray, variables)


def description(path: str | pathlib.Path) -> dict:
    """`model.json` of the newest checkpoint below `path`."""
    return json.loads((find(path) / "description" / "model.json").read_text())


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The directory of the newest checkpoint below `path`."""
    if not str(path):
        raise ValueError("no checkpoint is named; give its directory")
    path = pathlib.Path(path).absolute()
    for directory in (path, path / "checkpoints"):
        if (directory / "model").is_dir() and (directory / "description").is_dir():
            return directory
        steps = [int(p.name) for p in directory.glob("*") if p.name.isdigit()]
        if steps:
            return directory / str(max(steps))
    raise FileNotFoundError(f"there is no checkpoint in {path} or {path}/checkpoints")
