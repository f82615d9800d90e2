"""One training: teacher, student or fine-tune, by config alone. Starts where it stopped."""

import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import pathlib
import time

import jax
import numpy as np

from ns_jax import config as config_lib
from ns_jax import model_card, trees
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.data import bad_images, pipeline
from ns_jax.data import open as open_lib
from ns_jax.data.workers import default_workers
from ns_jax.errors import DamagedError
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.parallel import preemption, processes
from ns_jax.progress import Progress, say
from ns_jax.selection import table as table_lib
from ns_jax.training import examples as examples_lib
from ns_jax.training import nonfinite
from ns_jax.training import numbers as numbers_lib
from ns_jax.training import state as state_lib
from ns_jax.training import trainer as trainer_lib
from ns_jax.training.input_wait import IdleTime
from ns_jax.training.metrics_log import MetricsLog
from ns_jax.training.trainer import build

INPUT_BOUND = 0.1  # share of the time that the device may wait before it is said ...
CLEAR_AFTER_SECONDS = 30.0  # ... after so long a time


def run(config, workdir: pathlib.Path) -> dict:
    """Trains in `workdir` (`checkpoints/`, `metrics.jsonl`, `manifest.json`); returns the outputs.

    Raises InputError for numbers that do not go together, a workdir of other inputs, too many bad
    images, and FloatingPointError for a loss that is not finite.
    """
    config_lib.check_one_training(config)
    source = open_lib.open_from_config(config, "labelled")
    devices = trainer_lib.training_devices(config)
    config = _with_stat_groups(config, len(devices), workdir)
    numbers_lib.validate_training(config, len(devices), len(source))
    per_step = numbers_lib.images_per_step(config)
    steps_per_epoch, total_steps = numbers_lib.steps(config, len(source))
    labelled, unlabelled = _examples(config, source)
    initial = checkpoint.load_model(config.train.init)[1] if config.train.init else None
    inputs = _inputs(config, source, initial)
    if workdir_lib.is_done(workdir, inputs) and _is_sound(workdir):
        say(f"{workdir}: trained already")
        return workdir_lib.read_manifest(workdir)["outputs"]

    trainer = build(config, len(source.class_names), len(source))
    if trainer.teacher:
        names = trainer.teacher.class_names
        model_card.check_classes(source.class_names, names, source.name, config.train.teacher)
    model, mesh, size = trainer.model, trainer.mesh, trainer.preprocessing.size
    say(
        f"{model.name}, {trees.count(trainer.shapes.params):,} parameters at {size} pixels "
        f"on {mesh.size} device(s): {total_steps:,} steps of {per_step[0]} labelled + "
        f"{per_step[1]} unlabelled images, {steps_per_epoch:.4g} steps an epoch, "
        f"{config.train.epochs:g} epochs"
    )
    checkpoints = checkpoint.Checkpoints(
        workdir / "checkpoints", config.train.keep_checkpoints, config.train.keep_every_steps
    )
    description = model_card.describe(trainer.model, trainer.preprocessing, source.class_names)
    description["inputs"] = inputs
    description["stat_groups"] = config.model.stat_groups
    attempt = 0
    with preemption.deferred():
        while True:
            start = _start(config, trainer, checkpoints, initial, inputs, workdir, labelled.k)
            attempt = max(attempt, start.attempt)
            # Each time of going back was a step that was not finite, which no checkpoint counts.
            nonfinite = start.nonfinite + attempt - start.attempt
            start = dataclasses.replace(start, attempt=attempt, nonfinite=nonfinite)
            examples = labelled, unlabelled
            try:
                bad = _train(config, workdir, trainer, start, examples, checkpoints, description)
                break
            except nonfinite.GoBack:
                attempt += 1
            finally:
                checkpoints.close()

    for images in bad:
        if len(images):
            say(f"{len(images)} images of {images.name} could not be read and had weight 0:")
            say("\n".join(images.lines()))
    outputs = {
        "step": total_steps,
        "model": trees.digest(checkpoint.load_model(workdir)[1]),
        "num_bad": [len(images) for images in bad],
    }
    processes.call_on_first(workdir_lib.write_manifest, workdir, inputs, outputs)
    return outputs


def _is_sound(workdir: pathlib.Path) -> bool:
    """Whether the weights of a finished training are as it left them; if not, it goes on."""
    expected = workdir_lib.read_manifest(workdir)["outputs"]["model"]
    try:
        found = trees.digest(checkpoint.load_model(workdir)[1])
    except DamagedError as error:
        say(str(error))
        return False
    return found == expected


@dataclasses.dataclass(frozen=True)
class _Start:
    """Where a training goes on from."""

    step: int
    state: state_lib.TrainState
    attempt: int = 0  # how often it has gone back
    nonfinite: int = 0  # steps so far
    bad: tuple = ((), ())  # indices of unreadable images: labelled, unlabelled


def _start(
    config, trainer, checkpoints, initial: dict | None, inputs: dict, workdir, k: int
) -> _Start:
    """From its own newest checkpoint, else from `train.init`, else from the seed."""
    placed = state_lib.placed(trainer.shapes, trainer.shardings)

    def check(description: dict) -> None:
        workdir_lib.check_inputs(description["inputs"], inputs, workdir)

    if found := checkpoints.restore(placed, check):
        step, state, description = found
        say(f"goes on from step {step:,}")
        return _Start(step, state, **description.get("so_far", {}))  # not of older versions
    if not initial:
        return _Start(0, _fresh(config, trainer, k))
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
    return _Start(0, state_lib.init_from(initial, trainer.optimiser, trainer.shardings))


def _fresh(config, trainer, k: int) -> state_lib.TrainState:
    """A state from the seed. What draws it and the step are compiled at the same time."""
    rows = sum(numbers_lib.images_per_step(config))
    _say_what_is_compiled(trainer, rows, k)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(trainer.compile, rows, k)
        state = trainer.init(config.seed)
        compiled.result()
    return state


def _train(
    config, workdir, trainer, start: _Start, examples, checkpoints, description: dict
) -> list[bad_images.BadImages]:
    """The loop, from `start` to the last step or to the notice that the machine will be gone.

    Returns the unreadable images of all processes. Raises GoBack where `train.nonfinite` says so.
    """
    per_step = numbers_lib.images_per_step(config)
    total_steps = numbers_lib.steps(config, len(examples[0].source))[1]
    mesh, teacher = trainer.mesh, trainer.teacher_variables()
    seed = nonfinite.seed_of_attempt(config.seed, start.attempt)
    places = mesh_lib.local_rows(sum(per_step), mesh)
    batches = pipeline.train_batches(
        _marked(examples[0], trainer.marks, 0),
        _marked(examples[1], trainer.marks, 1),
        trainer.view,
        unlabelled_view=trainer.unlabelled_view,
        per_step=per_step,
        groups=config.model.stat_groups,
        steps=total_steps,
        start_step=start.step,
        seed=seed,
        reading=open_lib.loader_settings(config),
        places=places,
        weights=pipeline.Weights(config.train.sample_prob, numbers_lib.unlabelled_weight(config)),
    )
    checkpoints.prepare(start.state)
    state = trainer.packed(start.state)
    workdir.mkdir(parents=True, exist_ok=True)
    log = MetricsLog(workdir / "metrics.jsonl", start.step, write=processes.is_first())
    guarded = nonfinite.Guard(config.train, start.nonfinite, checkpoints.directory)
    due = _Due(config.train.save_every_steps, config.train.save_every_minutes)
    bad = [
        bad_images.BadImages(one.source, config.data.max_bad_fraction, known)
        for one, known in zip(examples, start.bad, strict=True)
        if one
    ]
    if start.step < total_steps:
        _say_what_is_compiled(trainer, sum(per_step), examples[0].k)
    rng = jax.random.key(seed)
    previous, idle, warned = None, IdleTime(), False
    images = total_steps * sum(per_step), start.step * sum(per_step)
    with (
        contextlib.closing(batches),
        contextlib.closing(idle),
        contextlib.closing(log),
        Progress("training", *images) as progress,
    ):
        for step in range(start.step + 1, total_steps + 1):
            batch = next(batches)
            _note_bad(bad, batch, places, per_step, config.model.stat_groups)
            state, metrics = trainer.step(state, mesh_lib.put_batch(batch, mesh), rng, teacher)
            idle.dispatched(metrics["loss"])
            # One step late: this step runs on the device while the host looks at the last one.
            numbers = guarded.look(step - 1, previous) if previous else {}
            previous = metrics
            progress.advance(sum(per_step), **numbers)
            last, leaves = step == total_steps, processes.leave_after_this_step()
            logs = last or step % config.train.log_every_steps == 0
            if logs:
                log.write(
                    step,
                    **{f"train__{name}": value for name, value in metrics.items()},
                    train__learning_rate=trainer.schedule(step - 1),
                    train__images_per_second=progress.images_per_second(),
                    train__input_wait_seconds=idle.seconds,
                    train__input_wait_share=idle.share(),
                )
                warned = warned or _warn_if_input_bound(idle, config.data.workers)
            checkpoints.check()
            if last or leaves or due.at(step, logs):
                guarded.look(step, metrics)
                previous = None
                so_far = {
                    "attempt": start.attempt,
                    "nonfinite": guarded.count,
                    "bad": [*map(processes.gather_bad, bad), []][:2],
                }
                whole = trainer.unpacked(state)
                checkpoints.save(step, whole, {**description, "so_far": so_far})
            if leaves and not last:
                checkpoints.close()
                say(f"step {step:,} is saved; the same command goes on from there")
                preemption.leave()
    return bad


@functools.lru_cache(maxsize=8)  # of equal steps the first one alone is compiled
def _say_once(step, rows: int, k: int, text: str) -> None:
    say(text)


def _say_what_is_compiled(trainer, rows: int, k: int) -> None:
    """Before a first step that nobody sees begin."""
    text = "compiling the training step, once: later starts find it ready"
    if mesh_lib.on_cpu(trainer.mesh):  # measured on two cores: a second or less for each body
        text += f"; about {-(-trainer.model.num_bodies() // 10) * 10} s"
    _say_once(trainer.step, rows, k, text)


class _Due:
    """When to save: every so many steps, and when so many minutes have passed."""

    def __init__(self, every_steps: int, every_minutes: float):
        self._steps, self._seconds = every_steps, 60 * every_minutes
        self._saved = time.monotonic()

    def at(self, step: int, look: bool) -> bool:
        """Whether to save after this step; at the clock only if `look`.

        Of many processes the first one's clock counts, and the others are told.
        """
        due = step % self._steps == 0
        if look and self._seconds:
            late = time.monotonic() - self._saved >= self._seconds
            due = due or bool(processes.gather(np.array([late]))[0][0])
        if due:
            self._saved = time.monotonic()
        return due


def _examples(config, source) -> tuple[pipeline.Examples, pipeline.Examples | None]:
    """Labelled and, for a student, pseudo-labelled examples; all targets in equally many places."""
    smoothing, num_classes = config.loss.label_smoothing, len(source.class_names)
    if not config.train.unlabelled_ratio:
        return examples_lib.labelled_examples(source, smoothing, k=1), None
    unlabelled_source = open_lib.open_from_config(config, "unlabelled")
    selection = None
    if config.train.selection:
        selection = table_lib.Selection(config.train.selection)
    if config.train.teacher:
        unlabelled = examples_lib.teacher_labelled_examples(unlabelled_source, selection)
        return examples_lib.labelled_examples(source, smoothing, k=1), unlabelled
    model_card.check_classes(
        source.class_names, selection.metadata["class_names"], source.name, "the selection"
    )
    unlabelled = examples_lib.pseudo_labelled_examples(
        unlabelled_source, selection, config.loss, num_classes
    )
    k = 1 if config.loss.pseudo_labels == "hard" else selection.classes.shape[1]
    return examples_lib.labelled_examples(source, smoothing, k), unlabelled


def _inputs(config, source, initial: dict | None) -> dict:
    """What the training is made of besides its config."""
    inputs = {"labelled": source.fingerprint}
    if config.train.unlabelled_ratio and config.train.selection:
        inputs["selection"] = workdir_lib.read_manifest(config.train.selection)["outputs"]["digest"]
    if config.train.teacher:
        inputs["teacher"] = trees.digest(checkpoint.load_model(config.train.teacher)[1])
    if initial:
        inputs["init"] = trees.digest(initial)
    return inputs


def _with_stat_groups(config, num_devices: int, workdir: pathlib.Path):
    """With BatchNorm's groups settled: a run that goes on elsewhere keeps those it began with."""
    found = checkpoint.readable_description(workdir / "checkpoints")
    if found and config.model.stat_groups is None:
        config = copy.deepcopy(config)
        config.model.stat_groups = found.get("stat_groups", 1)
    return numbers_lib.with_stat_groups(config, num_devices)


def _marked(examples: pipeline.Examples | None, marks: dict, kind: int):
    """Examples with the columns that tell labelled (kind 0) from unlabelled rows (1)."""
    if examples is None:
        return None
    return dataclasses.replace(examples, marks={name: both[kind] for name, both in marks.items()})


def _note_bad(bad: list, batch: dict, places, per_step: tuple[int, int], groups: int) -> None:
    """Takes the host's columns off the batch and records its bad images."""
    index, part = batch.pop("index"), sum(per_step) // groups
    for row in batch.pop("bad").nonzero()[0]:
        is_labelled = places[row] % part < per_step[0] // groups
        bad[0 if is_labelled else 1].add([index[row]])


def _warn_if_input_bound(idle: IdleTime, workers: int | None) -> bool:
    """Says, once it is clear, that the device waits for images; whether it said so."""
    if idle.share() < INPUT_BOUND or idle.elapsed() < CLEAR_AFTER_SECONDS:
        return False
    count = default_workers() if workers is None else workers
    say(
        f"input-bound: the device waited for images {idle.share():.0%} of the time. "
        f"data.workers is {count}; more of them, smaller files or a lighter view help, and "
        "`doctor` says how many cores would do"
    )
    return True
