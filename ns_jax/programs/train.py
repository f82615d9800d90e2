"""One training: teacher, student or fine-tune, by config alone. Starts where it stopped."""

import contextlib
import copy
import dataclasses
import math
import pathlib

import jax
import numpy as np

from ns_jax import checkpoint, experiment, manifest, processes, sharding, trees
from ns_jax import config as config_lib
from ns_jax import state as state_lib
from ns_jax.data import bad_images, pipeline
from ns_jax.data import selection as selection_lib
from ns_jax.data.reading import default_workers
from ns_jax.idle import IdleTime
from ns_jax.progress import MetricsLog, Progress, say
from ns_jax.trainer import build

INPUT_BOUND = 0.1  # share of the time that the device may wait before it is said ...
CLEAR_AFTER_SECONDS = 30.0  # ... after so long a time


def run(config, workdir: pathlib.Path) -> dict:
    """Trains in `workdir` (`checkpoints/`, `metrics.jsonl`, `manifest.json`); returns the outputs.

    Raises ValueError for numbers that do not go together, a workdir of other inputs, too many bad
    images, and FloatingPointError for a loss that is not finite.
    """
    source = experiment.open_source(config, "labelled")
    devices = experiment.training_devices(config)
    config = _with_stat_groups(config, len(devices), workdir)
    config_lib.validate_training(config, len(devices), len(source))
    per_step = config_lib.images_per_step(config)
    groups = config.model.stat_groups
    steps_per_epoch, total_steps = config_lib.steps(config, len(source))
    labelled, unlabelled = _examples(config, source)
    initial = checkpoint.load_model(config.train.init)[1] if config.train.init else None
    inputs = _inputs(config, source, initial)
    if manifest.is_done(workdir, inputs):
        say(f"{workdir}: trained already")
        return manifest.read(workdir)["outputs"]

    trainer = build(config, len(source.class_names), len(source))
    if trainer.teacher:
        names = trainer.teacher.class_names
        experiment.check_classes(source.class_names, names, source.name, config.train.teacher)
    teacher = trainer.teacher_variables()
    model, mesh, size = trainer.model, trainer.mesh, trainer.preprocessing.size
    say(
        f"{model.name}, {trees.count(trainer.shapes.params):,} parameters at {size} pixels "
        f"on {mesh.size} device(s): {total_steps:,} steps of {per_step[0]} labelled + "
        f"{per_step[1]} unlabelled images, {steps_per_epoch:.4g} steps an epoch, "
        f"{config.train.epochs:g} epochs"
    )
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", config.train.keep_checkpoints)
    # What a training starts from, in this order: its own newest checkpoint, train.init, the seed.
    start_step = checkpoints.latest_step() or 0
    if start_step:
        manifest.check_inputs(checkpoints.description()["inputs"], inputs, workdir)
        state = checkpoints.restore_state(state_lib.placed(trainer.shapes, trainer.shardings))
        say(f"goes on from step {start_step:,}")
    elif initial:
        expected = {"params": trainer.shapes.params, "batch_stats": trainer.shapes.batch_stats}
        if config.train.new_head:
            say(f"the classifier starts afresh, for {model.num_classes:,} classes")
            initial = model.with_new_head(initial, jax.random.key(config.seed))
        trees.check_same(
            expected,
            initial,
            f"train.init={config.train.init} is another network or "
            "has other classes (train.new_head=True starts a classifier for these afresh)",
        )
        initial = sharding.put(initial, trainer.variable_shardings)
        state = state_lib.init_from(initial, trainer.optimiser, trainer.shardings)
    else:
        state = trainer.init(config.seed)

    places = sharding.local_rows(sum(per_step), mesh)
    batches = pipeline.train_batches(
        _marked(labelled, trainer.marks, 0),
        _marked(unlabelled, trainer.marks, 1),
        trainer.view,
        unlabelled_view=trainer.unlabelled_view,
        per_step=per_step,
        groups=groups,
        steps=total_steps,
        start_step=start_step,
        seed=config.seed,
        reading=experiment.reading(config),
        places=places,
        weights=pipeline.Weights(config.train.sample_prob, config_lib.unlabelled_weight(config)),
    )
    description = experiment.describe(model, trainer.preprocessing, source.class_names)
    description["inputs"] = inputs
    description["stat_groups"] = config.model.stat_groups

    bad = [
        bad_images.BadImages(examples.source, config.data.max_bad_fraction)
        for examples in (labelled, unlabelled)
        if examples
    ]
    log = MetricsLog(workdir / "metrics.jsonl", start_step, write=processes.is_first())
    rng = jax.random.key(config.seed)
    previous, idle, warned = None, IdleTime(), False
    with Progress("training", total_steps * sum(per_step), start_step * sum(per_step)) as progress:
        for step in range(start_step + 1, total_steps + 1):
            batch = next(batches)
            _note_bad(bad, batch, places, per_step, groups)
            state, metrics = trainer.step(state, sharding.put_batch(batch, mesh), rng, teacher)
            idle.dispatched(metrics["loss"])
            # One step late: this step runs on the device while the host looks at the last one.
            numbers = _checked(step - 1, previous, workdir) if previous else {}
            previous = metrics
            progress.advance(sum(per_step), **numbers)
            last = step == total_steps
            if last or step % config.train.log_every_steps == 0:
                log.write(
                    step,
                    **{f"train__{name}": value for name, value in metrics.items()},
                    train__learning_rate=trainer.schedule(step - 1),
                    train__images_per_second=progress.images_per_second(),
                    train__input_wait_seconds=idle.seconds,
                    train__input_wait_share=idle.share(),
                )
                warned = warned or _warn_if_input_bound(idle, config.data.workers)
            if last or step % config.train.save_every_steps == 0:
                _checked(step, metrics, workdir)
                checkpoints.save(step, state, description)
    batches.close()
    idle.close()
    log.close()
    checkpoints.close()

    for images in bad:
        images.add(np.concatenate(processes.gather(np.asarray(images.indices(), np.int64))))
        if len(images):
            say(f"{len(images)} images of {images.name} could not be read and had weight 0:")
            say("\n".join(images.lines()))
    outputs = {
        "step": total_steps,
        "model": trees.digest(checkpoint.load_model(workdir)[1]),
        "num_bad": [len(images) for images in bad],
    }
    processes.first_alone(manifest.write, workdir, inputs, outputs)
    return outputs


def _examples(config, source) -> tuple[pipeline.Examples, pipeline.Examples | None]:
    """Labelled and, for a student, pseudo-labelled examples; all targets in equally many places."""
    smoothing, num_classes = config.loss.label_smoothing, len(source.class_names)
    if not config.train.unlabelled_ratio:
        return pipeline.labelled_examples(source, smoothing, k=1), None
    unlabelled_source = experiment.open_source(config, "unlabelled")
    selection = None
    if config.train.selection:
        selection = selection_lib.Selection(config.train.selection)
    if config.train.teacher:
        unlabelled = pipeline.teacher_labelled_examples(unlabelled_source, selection)
        return pipeline.labelled_examples(source, smoothing, k=1), unlabelled
    experiment.check_classes(
        source.class_names, selection.metadata["class_names"], source.name, "the selection"
    )
    unlabelled = pipeline.pseudo_labelled_examples(
        unlabelled_source, selection, config.loss, num_classes
    )
    k = 1 if config.loss.pseudo_labels == "hard" else selection.classes.shape[1]
    return pipeline.labelled_examples(source, smoothing, k), unlabelled


def _inputs(config, source, initial: dict | None) -> dict:
    """What the training is made of besides its config."""
    inputs = {"labelled": source.fingerprint}
    if config.train.unlabelled_ratio and config.train.selection:
        inputs["selection"] = manifest.read(config.train.selection)["outputs"]["digest"]
    if config.train.teacher:
        inputs["teacher"] = trees.digest(checkpoint.load_model(config.train.teacher)[1])
    if initial:
        inputs["init"] = trees.digest(initial)
    return inputs


def _with_stat_groups(config, num_devices: int, workdir: pathlib.Path):
    """With BatchNorm's groups settled: a run that goes on elsewhere keeps those it began with."""
    if config.model.stat_groups is None:
        with contextlib.suppress(FileNotFoundError):
            found = checkpoint.description(workdir).get("stat_groups", 1)
            config = copy.deepcopy(config)
            config.model.stat_groups = found
    return config_lib.with_stat_groups(config, num_devices)


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


def _checked(step: int, metrics: dict, workdir: pathlib.Path) -> dict[str, float]:
    """The metrics of a step on the host. Raises FloatingPointError if the loss is not finite."""
    numbers = {name: float(metrics[name]) for name in ("loss", "top1")}
    if not math.isfinite(numbers["loss"]):
        raise FloatingPointError(
            f"the loss of step {step:,} is {numbers['loss']}; the last good checkpoint stays in "
            f"{workdir / 'checkpoints'}. Lower optim.learning_rate_per_256 or lengthen "
            "optim.warmup_epochs"
        )
    return numbers
