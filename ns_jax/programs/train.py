"""One training: teacher, student or fine-tune, by config alone. Resumes where it stopped."""

import concurrent.futures
import copy
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax import model_card, trees
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.data import matching, overlap
from ns_jax.data import open as open_lib
from ns_jax.data.batch import BatchSpec
from ns_jax.data.source import Source
from ns_jax.errors import DamagedError, InputError
from ns_jax.inference import teachers
from ns_jax.model_card import ModelCard, TrainingCounts
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.parallel import preemption, processes
from ns_jax.progress import say
from ns_jax.training import evaluation as evaluation_lib
from ns_jax.training import examples as examples_lib
from ns_jax.training import numbers as numbers_lib
from ns_jax.training import state as state_lib
from ns_jax.training import trainer as trainer_lib
from ns_jax.training.nonfinite import Rollback
from ns_jax.training.run import Inputs, Start, TrainingRun
from ns_jax.training.trainer import Trainer
from ns_jax.weights import imported

Network = tuple[ModelCard, dict]  # a model card and variables


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> dict:
    """Trains in `workdir` (`checkpoints/`, `metrics.jsonl`, `manifest.json`); returns the outputs.

    Raises InputError for numbers that do not go together, a workdir of other inputs, too many bad
    images, and DivergedError for too many steps that are not finite.
    """
    config_lib.check_one_training(config)
    source = open_lib.open_from_config(config, "labelled")
    examples_lib.check_labelled(source)
    devices = trainer_lib.training_devices(config)
    config = _with_stat_groups_of(config, workdir)
    numbers = numbers_lib.derive(config, len(source), len(devices))
    config, initial = _initial(config)
    teacher = _teacher(config)
    if initial:
        trees.check_finite(initial[1], f"train.init={config.train.init}")
    if teacher:
        trees.check_finite(teacher[1], f"the teacher {config.train.teacher}")
    made_of = _made_of(config, source, initial and initial[1], teacher)
    if workdir_lib.is_done(workdir, made_of) and _is_sound(workdir):
        say(f"{workdir}: already trained")
        return workdir_lib.read_manifest(workdir)["outputs"]

    if config.data.holdout:
        overlap.check(open_lib.open_from_config(config, "holdout"), source)
    source, initial, teacher = _of_same_classes(config, workdir, source, initial, teacher)
    labelled, unlabelled = examples_lib.from_config(config, source)
    trainer = trainer_lib.build(
        config, numbers, len(source.class_names), teacher=teacher and teacher[0]
    )
    model, mesh, size = trainer.model, trainer.mesh, trainer.preprocessing.size
    say(
        f"{model.name}, {trees.count(trainer.shapes.params):,} parameters at {size} pixels "
        f"on {mesh.size} device(s): {numbers.total_steps:,} steps of {numbers.labelled} labelled + "
        f"{numbers.unlabelled} unlabelled images, {numbers.steps_per_epoch:.4g} steps an epoch, "
        f"{config.train.epochs:g} epochs"
    )
    checkpoints = checkpoint.Checkpoints(
        workdir / "checkpoints", config.train.keep_checkpoints, config.train.keep_every_steps
    )
    card = dataclasses.replace(
        trainer_lib.card(config, source.class_names),
        inputs=made_of,
        stat_groups=numbers.stat_groups,
    )
    inputs = Inputs(
        labelled,
        unlabelled,
        evaluation_lib.prepare(config, numbers, card),
        mesh_lib.put(teacher[1], trainer.teacher.shardings)
        if teacher and trainer.teacher
        else None,
    )
    rollbacks = 0
    with preemption.deferred():
        while True:
            start = _start(
                config, trainer, checkpoints, initial and initial[1], made_of, workdir, labelled.k
            )
            counts = start.counts
            rollbacks = max(rollbacks, counts.attempt)
            # Each rollback was a step that was not finite, which no checkpoint counts.
            nonfinite = counts.nonfinite + rollbacks - counts.attempt
            counts = dataclasses.replace(counts, attempt=rollbacks, nonfinite=nonfinite)
            start = dataclasses.replace(start, counts=counts)
            try:
                bad = _train(config, workdir, trainer, start, inputs, checkpoints, card)
                break
            except Rollback:
                rollbacks += 1
            finally:
                checkpoints.close()

    for images in bad:
        if len(images):
            say(f"{len(images)} images of {images.name} could not be read and had weight 0:")
            say("\n".join(images.lines()))
    outputs = {
        "step": numbers.total_steps,
        "model": trees.digest(checkpoint.load_model(workdir)[1]),
        "num_bad": [len(images) for images in bad],
    }
    processes.call_on_first(workdir_lib.write_manifest, workdir, made_of, outputs)
    return outputs


def _of_same_classes(
    config: config_dict.ConfigDict,
    workdir: pathlib.Path,
    source: Source,
    initial: Network | None,
    teacher: Network | None,
) -> tuple[Source, Network | None, Network | None]:
    """The labelled source, `train.init` and `train.teacher` with the classes of the network that is
    trained, in its order. Raises InputError.
    """
    settings, resumed = config.train, checkpoint.newest_card(workdir / "checkpoints")
    names, owner = examples_lib.class_names(
        config, source, resumed, teacher and teacher[0], initial and initial[0]
    )
    fresh = "train.new_head=True starts a classifier for other classes afresh"
    remedy = fresh if initial and owner == settings.init else matching.REMEDY
    source = matching.match(source, names, owner, remedy=remedy)
    if initial and not settings.new_head:
        initial = model_card.with_classes(initial, names, settings.init, owner, f"; {fresh}")
    if teacher:
        teacher = model_card.with_classes(teacher, names, settings.teacher, owner)
    return source, initial, teacher


def _teacher(config: config_dict.ConfigDict) -> tuple[ModelCard, dict] | None:
    """The network that labels in the step, if one does. Raises InputError."""
    name = config.train.teacher
    if not name or not config.train.unlabelled_ratio:
        return None
    if name == config_lib.PREVIOUS:
        raise InputError(
            f'train.teacher="{name}" is the teacher of an iteration of selftrain; name a checkpoint'
        )
    if not teachers.has_weights(name):
        raise InputError(
            f"train.teacher={name} cannot label in the step, which takes a checkpoint; have the "
            "program label store its labels (label.checkpoint, label.predictions), and select them"
        )
    return checkpoint.load_model(name)


def _train(
    config: config_dict.ConfigDict,
    workdir: pathlib.Path,
    trainer: Trainer,
    start: Start,
    inputs: Inputs,
    checkpoints: checkpoint.Checkpoints,
    card: ModelCard,
) -> list:
    """The loop, from `start` to the last step or to the notice that the machine will be gone.

    Returns the unreadable images of all processes. Raises Rollback where `train.nonfinite` says so.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints.prepare(start.state)
    state, total_steps = trainer.packed(start.state), trainer.numbers.total_steps
    if start.step < total_steps:
        _say_what_is_compiled(trainer, trainer.batch_spec(inputs.labelled.k))
    with TrainingRun(config, workdir, trainer, start, inputs) as run:
        for step in range(start.step + 1, total_steps + 1):
            state, metrics = trainer.step(state, run.next_batch(), run.rng, inputs.teacher)
            run.observe(step, state, metrics)
            leaves = run.leaves(step)
            checkpoints.check()
            if run.saves(step) or leaves:
                now = dataclasses.replace(card, counts=run.counts(step))
                with run.saving():
                    checkpoints.save(step, trainer.unpacked(state), now)
            if leaves:
                checkpoints.close()
                run.leave(step)
        return run.unreadable()


def _is_sound(workdir: pathlib.Path) -> bool:
    """Whether the weights of a finished training are as it left them; if not, it goes on."""
    expected = workdir_lib.read_manifest(workdir)["outputs"]["model"]
    try:
        found = trees.digest(checkpoint.load_model(workdir)[1])
    except DamagedError as error:
        say(str(error))
        return False
    return found == expected


def _start(
    config: config_dict.ConfigDict,
    trainer: Trainer,
    checkpoints: checkpoint.Checkpoints,
    initial: dict | None,
    inputs: dict,
    workdir: pathlib.Path,
    k: int,
) -> Start:
    """From its own newest checkpoint, else from `train.init`, else from the seed."""
    placed = state_lib.placed(trainer.shapes, trainer.shardings)

    def check(card: ModelCard) -> None:
        workdir_lib.check_inputs(card.inputs, inputs, workdir)

    if found := checkpoints.restore(placed, check):
        step, state, card = found
        say(f"resuming from step {step:,}")
        return Start(step, state, card.counts or TrainingCounts())
    if not initial:
        return Start(0, _fresh(config, trainer, k))
    expected = {"params": trainer.shapes.params, "batch_stats": trainer.shapes.batch_stats}
    if config.train.new_head:
        model = trainer.model
        say(f"the classifier starts afresh, for {model.num_classes:,} classes")
        initial = model.with_new_head(initial, jax.random.key(config.seed))
    trees.check_same(
        expected,
        initial,
        f"train.init={config.train.init} is another network or "
        "has other classes (train.new_head=True starts a classifier for these afresh)",
    )
    initial = mesh_lib.put(initial, trainer.variable_shardings)
    return Start(0, state_lib.init_from(initial, trainer.optimiser, trainer.shardings))


def _fresh(config: config_dict.ConfigDict, trainer: Trainer, k: int) -> state_lib.TrainState:
    """A state from the seed. What draws it and the step are compiled at the same time."""
    spec = trainer.batch_spec(k)
    _say_what_is_compiled(trainer, spec)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(trainer.compile, spec)
        state = trainer.init(config.seed)
        compiled.result()
    return state


@functools.lru_cache(maxsize=8)  # of equal steps the first one alone is compiled
def _say_once(step: Callable, rows: int, places: int, text: str) -> None:
    say(text)


def _say_what_is_compiled(trainer: Trainer, spec: BatchSpec) -> None:
    """Before a first step that nobody sees begin."""
    text = "compiling the training step, once: later starts find it ready"
    if mesh_lib.on_cpu(trainer.mesh):  # measured on two cores: a second or less for each body
        text += f"; about {-(-trainer.model.num_bodies() // 10) * 10} s"
    step: Any = trainer.step  # a jitted function can be hashed, which its type does not say
    _say_once(step, spec.rows, spec.places, text)


def _made_of(
    config: config_dict.ConfigDict, source: Source, initial: dict | None, teacher: tuple | None
) -> dict:
    """What the training is made of besides its config."""
    inputs = {"labelled": source.fingerprint}
    if config.train.unlabelled_ratio and config.train.selection:
        inputs["selection"] = workdir_lib.read_manifest(config.train.selection)["outputs"]["digest"]
    if teacher:
        inputs["teacher"] = trees.digest(teacher[1])
    if initial:
        inputs["init"] = trees.digest(initial)
    return inputs


def _initial(config: config_dict.ConfigDict) -> tuple[config_dict.ConfigDict, Network | None]:
    """The weights of `train.init`, and the config with the padding and the epsilon they go with."""
    if not config.train.init:
        return config, None
    card, variables = imported.load(config.train.init, config.train.init_model)
    config = copy.deepcopy(config)
    for key in model_card.CONVENTION:
        wanted, there = config.model[key], getattr(card, key)
        if wanted not in (None, there):
            raise InputError(
                f"model.{key} is {wanted}, but the weights of train.init={config.train.init} go "
                f"with {there}; leave the key out"
            )
        config.model[key] = there
    return config, (card, variables)


def _with_stat_groups_of(
    config: config_dict.ConfigDict, workdir: pathlib.Path
) -> config_dict.ConfigDict:
    """With the BatchNorm groups of a run that resumes, on however many devices."""
    found = checkpoint.newest_card(workdir / "checkpoints")
    if found and config.model.stat_groups is None:
        config = copy.deepcopy(config)
        config.model.stat_groups = found.stat_groups or 1
    return config
