"""Checkpoints: `state` to go on with, `model` to use, and the card that travels with it.

A step's directory holds `state/` (an Orbax tree of TrainState), `model/` (an Orbax tree of the EMA
variables) and `description/model.json` (the model card, with checksums and a seal beside it).
Whoever labels, evaluates or serves reads the last two and never the optimiser.
"""

import contextlib
import gc
import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from ns_jax import files, trees
from ns_jax.checkpoints import checksum, literal_paths
from ns_jax.digest import Digest
from ns_jax.errors import DamagedError, InputError, MissingFileError
from ns_jax.model_card import ModelCard
from ns_jax.parallel import processes
from ns_jax.progress import say

DAMAGED = "damaged_checkpoints"  # beside `checkpoints`: steps that could not be read
# In `model.json`, beside what the card says: checksums of the items, and a digest of all the rest.
CHECKSUMS, SEAL = "checksums", "seal"
COMMIT = "commit_success.txt"  # in a bucket Orbax writes it last
# What reading raises for other reasons than damage: a lack of memory. All else (Orbax raises a bare
# Exception for an array that is cut off) is taken for damage.
NOT_DAMAGE = (MemoryError, RuntimeError)


class Checkpoints:
    """The checkpoints of one training, of all its processes together.

    A step is there whole or not at all. It is written while the training goes on.
    """

    def __init__(self, directory: pathlib.Path, keep: int, keep_every: int | None = None):
        """Keeps the `keep` newest, and those of steps that `keep_every` divides."""
        self.directory = literal_paths.directory(directory)
        self._kept = [checkpoint_managers.LatestN(keep)]
        if keep_every:
            self._kept.append(checkpoint_managers.EveryNSteps(keep_every))
        self._manager: ocp.CheckpointManager | None = None
        self._saving: int | None = None

    def prepare(self, state: trees.Tree) -> None:
        """Compiles what saving needs, so that a save in a hurry does not wait for it."""
        checksum.prepare(state)

    def save(self, step: int, state: Any, card: ModelCard) -> None:
        """Returns as soon as the arrays may be given away.

        Raises OSError if the save before this one failed, ReplicaError if devices disagree.
        """
        sums = checksum.per_device_sums(state)
        checksum.check_replicas(sums, state, step)
        sums = jax.tree.unflatten(jax.tree.structure(state), sums[0].tolist())
        checksums = {
            "state": checksum.total(sums),
            "model": checksum.total(sums.ema_variables),
        }
        if self._manager:
            with self._explain_save_errors():
                self._manager.wait_until_finished()  # an error of the save before is its own
        self._saving = step
        with self._explain_save_errors():
            self._manager = self._manager or self._open()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    model=ocp.args.StandardSave(state.ema_variables),
                    description=ocp.args.JsonSave(_sealed(card, checksums)),
                ),
                force=True,  # whether to save is not the manager's to decide
            )

    def check(self) -> None:
        """Raises OSError if a save that was begun has failed. Costs nothing."""
        if self._manager:
            with self._explain_save_errors():
                self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for what is being written. Raises OSError if it failed."""
        if self._manager:
            with self._explain_save_errors():
                self._manager.wait_until_finished()
            self._manager.close()
            self._manager = None

    def restore(self, placed: Any, check: Callable[[ModelCard], None]) -> tuple | None:
        """(step, state, model card) of the newest sound checkpoint; None if there never was one.

        The state is put into the shapes and shardings of `placed`. Newer ones, which are damaged,
        are moved aside, once a sound one is found.
        `check(card)` raises for a checkpoint that is sound, but of something else. Raises
        InputError with the difference for one of another architecture, DamagedError if none can be
        read.
        """
        steps = sorted(_steps(self.directory), reverse=True)
        unfinished = [step for step in steps if _lacks_commit(self.directory / str(step))]
        for step in steps:
            directory = self.directory / str(step)
            try:
                card, checksums, found = _on_all_processes(_read_description_and_shapes, directory)
                check(card)
                expected = {"params": placed.params, "batch_stats": placed.batch_stats}
                found = {name: found[name] for name in expected}
                trees.check_same(expected, found, f"{directory} holds another network")
                state = _on_all_processes(_read_state, directory, placed)
                sums = checksum.per_device_sums(state)[0].tolist()
                _check_sum("state", jax.tree.unflatten(jax.tree.structure(state), sums), checksums)
                _on_all_processes(_read_model, directory, checksums)
            except DamagedError as error:
                if step not in unfinished:
                    say(f"{directory} is damaged, the one before it is taken: {error}")
                continue
            if step in unfinished:  # its checksums are right: it was copied here by hand
                processes.call_on_first(files.write, os.fspath(directory / COMMIT), b"")
            for newer in steps[: steps.index(step)]:
                processes.call_on_first(_set_aside, self.directory / str(newer))
            return step, state, card
        for step in unfinished:  # of a save that was ended
            processes.call_on_first(_set_aside, self.directory / str(step))
        if len(steps) > len(unfinished):
            raise DamagedError(
                f"none of the {len(steps)} checkpoints in {self.directory} can be read; remove "
                "them to train from the beginning"
            )
        return None

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "model": ocp.StandardCheckpointHandler(),
                "description": ocp.JsonCheckpointHandler("model.json"),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(self._kept),
                create=True,
                # Of saves that a kill ended. In a bucket one that was copied looks like those.
                cleanup_tmp_directories=not files.is_remote(os.fspath(self.directory)),
            ),
        )

    @contextlib.contextmanager
    def _explain_save_errors(self) -> Iterator[None]:
        """Any error of saving as one that says what to do."""
        try:
            yield
        except Exception as error:
            raise OSError(
                f"the checkpoint of step {self._saving:,} could not be saved in {self.directory}: "
                f"{error}\nMake room or mend the disk; the same command goes on from the one before"
            ) from error


def _on_all_processes(function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)` in every process. If it fails in one, all raise DamagedError."""
    result = error = None
    try:
        result = function(*arguments)
    except NOT_DAMAGE:
        raise
    except Exception as raised:
        error = raised
    failed = np.concatenate(processes.gather(np.array([error is not None])))
    if failed.any():
        reason = _reason(error) if error else f"in process {failed.argmax()}"
        raise DamagedError(reason) from error
    return result


def _reason(error: BaseException) -> str:
    """The error that began it, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [repr(error)])[0][:300]


@contextlib.contextmanager
def _reader() -> Iterator[ocp.StandardCheckpointHandler]:
    """A reader of Orbax trees. After an error it waits for Orbax's threads and silences those that
    they raise, one for each array: the first is enough.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
            yield reader
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        time.sleep(0.5)  # its threads end meanwhile
        gc.collect()
        raise
    finally:
        sys.unraisablehook = hook


def _read_description_and_shapes(directory: pathlib.Path) -> tuple[ModelCard, dict, dict]:
    """The card, the checksums of the items, and the shapes of the state."""
    with _reader() as reader:
        return *_read_json(directory), dict(reader.metadata(directory / "state"))


def _read_state(directory: pathlib.Path, placed: trees.Tree) -> trees.Tree:
    with _reader() as reader:
        return reader.restore(directory / "state", args=ocp.args.StandardRestore(placed))


def _check_sum(item: str, sums: trees.Tree, checksums: dict) -> None:
    """Raises DamagedError if `checksums` has another one of `item` than `sums`, of its leaves."""
    if checksums.get(item) not in (None, checksum.total(sums)):
        raise DamagedError(f"the checksum of its {item} is wrong")


def _set_aside(directory: pathlib.Path) -> None:
    """Moves a damaged step to where it is in nobody's way, and may be looked at."""
    there = directory.parent.parent / DAMAGED / directory.name
    files.move_directory(directory, there)


def _steps(directory: pathlib.Path) -> list[int]:
    return [int(path.name) for path in directory.glob("*") if path.name.isdigit()]


def _lacks_commit(directory: pathlib.Path) -> bool:
    """Whether a step in a bucket has no mark that it is whole: its save was ended, or is at work,
    or it was copied from a disk, where steps have none.
    """
    return files.is_remote(os.fspath(directory)) and not (directory / COMMIT).exists()


def _newest(directory: pathlib.Path) -> int | None:
    """The newest step of a `checkpoints` directory; only of copies one that has no mark."""
    for step in sorted(steps := _steps(directory), reverse=True):
        if not _lacks_commit(directory / str(step)):
            return step
    return max(steps, default=None)


def save_model(directory: pathlib.Path, card: ModelCard, variables: dict) -> None:
    """A checkpoint of weights alone, as step 0: to label, evaluate and start from.

    Raises InputError if a checkpoint of anything else stands there.
    """
    directory = literal_paths.directory(directory) / "checkpoints"
    handlers = {
        "model": ocp.StandardCheckpointHandler(),
        "description": ocp.JsonCheckpointHandler("model.json"),
    }
    options = ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=False)
    manager = ocp.CheckpointManager(directory, item_handlers=handlers, options=options)
    with contextlib.closing(manager):
        if _steps(directory):
            there, found = load_model(directory)
            if there != card or trees.digest(found) != trees.digest(variables):
                raise InputError(f"{directory} holds another checkpoint; take another directory")
            return
        arguments = ocp.args.Composite(
            model=ocp.args.StandardSave(variables),
            description=ocp.args.JsonSave(_sealed(card, {"model": checksum.of_host(variables)})),
        )
        manager.save(0, args=arguments)


def load_model(path: str | pathlib.Path) -> tuple[ModelCard, dict]:
    """(model card, variables as NumPy arrays) of the newest checkpoint below `path`.

    `path` is a training's workdir, its `checkpoints` directory, or one step's directory.
    Raises FileNotFoundError that says where it looked, DamagedError for one that is not whole.
    """
    step_dir = find(path)
    try:
        card, checksums = _read_json(step_dir)
        variables = _read_model(step_dir, checksums)
    except NOT_DAMAGE:
        raise
    except Exception as error:
        raise DamagedError(
            f"the checkpoint {step_dir} is damaged ({_reason(error)}); name an earlier one, or run "
            "its training again, which makes it anew from the one before it"
        ) from error
    return card, variables


def _read_model(step_dir: pathlib.Path, checksums: dict) -> dict:
    """Raises DamagedError, or whatever reading damaged files raises."""
    with _reader() as reader:
        shapes = reader.metadata(step_dir / "model")
        one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device),
            dict(shapes),
        )
        variables = reader.restore(step_dir / "model", args=ocp.args.StandardRestore(target))
    variables = jax.tree.map(np.asarray, variables)
    _check_sum("model", checksum.of_leaves(variables), checksums)
    return variables


def load_card(path: str | pathlib.Path) -> ModelCard:
    """The card of the newest checkpoint below `path`. Raises DamagedError if it changed."""
    return _read_json(find(path))[0]


def newest_card(directory: pathlib.Path) -> ModelCard | None:
    """The card of the newest step in a `checkpoints` directory that has a sound one, or None."""
    for step in sorted(_steps(directory), reverse=True):
        with contextlib.suppress(ValueError, OSError):
            return load_card(directory / str(step))
    return None


def _read_json(step_dir: pathlib.Path) -> tuple[ModelCard, dict]:
    """The card and the checksums of the items. Raises DamagedError for a file that changed."""
    path = step_dir / "description" / "model.json"
    try:
        content = json.loads(path.read_text())
        card = ModelCard.from_json(content)
        if content.pop(SEAL, None) not in (None, _seal(content)):
            raise DamagedError("it has another seal")
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    return card, content.get(CHECKSUMS, {})


def _sealed(card: ModelCard, checksums: dict) -> dict:
    """The content of `model.json`, with what shows that it is whole."""
    content = json.loads(json.dumps({**card.to_json(), CHECKSUMS: checksums}))  # no tuples
    return {**content, SEAL: _seal(content)}


def _seal(content: dict) -> str:
    return str(Digest(json.dumps(content, sort_keys=True).encode()))


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The directory of the newest checkpoint below `path`."""
    if not str(path):
        raise InputError("no checkpoint is named; give its directory")
    path = files.absolute(path)
    for directory in (path, path / "checkpoints"):
        if (directory / "model").is_dir() and (directory / "description").is_dir():
            return directory
        if (step := _newest(directory)) is not None:
            return directory / str(step)
    raise MissingFileError(f"there is no checkpoint in {path} or {path}/checkpoints")
