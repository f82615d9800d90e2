"""What surrounds the steps of a training: batches, metrics, evaluations, saves, the last notice."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import config_dict

from ns_jax.data import bad_images, pipeline
from ns_jax.data import open as open_lib
from ns_jax.data.workers import Batches
from ns_jax.model_card import TrainingCounts
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.parallel import preemption, processes
from ns_jax.progress import Progress, say
from ns_jax.training.evaluation import Evaluation
from ns_jax.training.input_wait import InputWait, warn_if_input_bound
from ns_jax.training.metrics_log import MetricsLog
from ns_jax.training.nonfinite import NonFinitePolicy, seed_of_attempt
from ns_jax.training.state import TrainState
from ns_jax.training.trainer import Trainer

PROFILE_AFTER = 10  # steps, when compilation is over and the pipeline is full


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a training begins or resumes."""

    step: int
    state: TrainState
    counts: TrainingCounts = TrainingCounts()


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a training is fed and judged with."""

    labelled: pipeline.Examples
    unlabelled: pipeline.Examples | None
    evaluation: Evaluation | None
    teacher: dict | None  # variables of a teacher in the step, on the devices


class TrainingRun:
    """One stretch of a training, from a start to its last step or to a notice; a context."""

    def __init__(
        self,
        config: config_dict.ConfigDict,
        workdir: pathlib.Path,
        trainer: Trainer,
        start: Start,
        inputs: Inputs,
    ):
        self._config, self._workdir, self._trainer = config, workdir, trainer
        self._start, self._evaluation, counts = start, inputs.evaluation, start.counts
        self._spec = trainer.batch_spec(inputs.labelled.k)
        self._total = trainer.numbers.total_steps
        self.rng = jax.random.key(seed_of_attempt(config.seed, counts.attempt))
        self._bad = [
            bad_images.BadImages(one.source, config.data.max_bad_fraction, known)
            for one, known in zip((inputs.labelled, inputs.unlabelled), counts.bad, strict=True)
            if one
        ]
        self._policy = NonFinitePolicy(config.train, counts.nonfinite, workdir / "checkpoints")
        self._due = _Due(config.train.save_every_steps, config.train.save_every_minutes)
        self._previous: dict | None = None  # metrics of the step before
        self._scores: dict[str, float] = {}
        self._warned = self._leaving = self._masked = False
        self._saving = 0.0  # seconds that the loop stood still to save
        self._inputs, self._open = inputs, contextlib.ExitStack()

    def __enter__(self) -> "TrainingRun":
        train, rows, done = self._config.train, self._spec.rows, self._start.step
        self._batches = self._open.enter_context(contextlib.closing(self._read()))
        self._wait = self._open.enter_context(contextlib.closing(InputWait()))
        log = MetricsLog(
            self._workdir,
            done,
            write=processes.is_first(),
            tensorboard=train.tensorboard,
            wandb=train.wandb,
        )
        self._log = self._open.enter_context(contextlib.closing(log))
        progress = Progress("training", self._total * rows, done * rows)
        self._progress = self._open.enter_context(progress)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _read(self) -> Batches:
        """Batches of this process's rows, from the start's step on."""
        config, numbers = self._config, self._trainer.numbers
        self._places = mesh_lib.local_rows(self._spec.rows, self._trainer.mesh)
        return pipeline.train_batches(
            self._inputs.labelled,
            self._inputs.unlabelled,
            self._trainer.view,
            unlabelled_view=self._trainer.unlabelled_view,
            spec=self._spec,
            steps=self._total,
            start_step=self._start.step,
            seed=seed_of_attempt(config.seed, self._start.counts.attempt),
            reading=open_lib.loader_settings(config),
            places=self._places,
            weights=pipeline.Weights(config.train.sample_prob, numbers.unlabelled_weight),
        )

    def next_batch(self) -> dict[str, jax.Array]:
        """The next step's batch on the devices; its unreadable images are noted."""
        batch = next(self._batches)
        index, bad = batch.pop("index"), batch["bad"]
        if bad.any():
            labelled = self._spec.is_labelled(self._places)
            for images, rows in zip(self._bad, (labelled, ~labelled), strict=False):
                images.add(index[bad & rows])
            self._say_what_is_compiled()
        elif not self._trainer.is_told_of_bad_rows:
            del batch["bad"]
        return mesh_lib.put_batch(batch, self._trainer.mesh)

    def _say_what_is_compiled(self) -> None:
        """At the first of the batches that a step of their own is for."""
        if not (self._masked or self._trainer.is_told_of_bad_rows):
            self._masked = True
            say("compiling the training step for batches with images that cannot be read, once")

    def observe(self, step: int, state: TrainState, metrics: dict) -> None:
        """After a step was dispatched: looks at the step before, which is done, while it runs."""
        self._wait.dispatched(metrics["loss"])
        seen: dict[str, float] = {}
        if self._previous:
            seen = self._policy.look(step - 1, self._previous)
        self._previous = metrics
        shown = {name: value for name, value in self._scores.items() if name.endswith("/top1")}
        self._progress.advance(self._spec.rows, **seen, **shown)
        self._profile(step - self._start.step, metrics)
        numbers = {}
        if self.logs(step):
            numbers = {f"train/{name}": value for name, value in metrics.items()}
            numbers |= {
                "train/learning_rate": self._trainer.schedule(step - 1),
                "train/images_per_second": self._progress.images_per_second(),
                "train/input_wait_seconds": self._wait.seconds,
                "train/input_wait_share": self._wait.share(),
                "train/saving_share": self._saving / max(self._wait.elapsed(), 1e-9),
            }
            self._warned = self._warned or warn_if_input_bound(
                self._wait, self._config.data.workers
            )
        if self._evaluation and self._evaluation.is_due(step) and not self.leaves(step):
            began = time.monotonic()
            scores = self._evaluation.scores(self._trainer.averaged_variables(state))
            for clock in (self._wait, self._progress):
                clock.leave_out(time.monotonic() - began)
            numbers |= scores
            self._scores = scores or self._scores
        if numbers:
            self._log.write(step, numbers)

    def logs(self, step: int) -> bool:
        return step == self._total or step % self._config.train.log_every_steps == 0

    def leaves(self, step: int) -> bool:
        """Whether the machine is about to go. Called by all processes, at least once a step."""
        self._leaving = self._leaving or processes.leave_after_this_step()
        return self._leaving and step < self._total

    def saves(self, step: int) -> bool:
        return self._due.at(step, self.logs(step)) or step == self._total

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """In here the loop stands still; the files are written while it goes on."""
        began = time.monotonic()
        self._log.flush()
        yield
        self._saving += time.monotonic() - began

    def counts(self, step: int) -> TrainingCounts:
        """What a checkpoint of this step says beside the weights; the step was finite."""
        if self._previous:
            self._policy.look(step, self._previous)
            self._previous = None
        for images in self._bad:
            images.add(processes.union(images.indices()))
        bad = [tuple(images.indices()) for images in self._bad]
        return TrainingCounts(self._start.counts.attempt, self._policy.count, (*bad, ())[:2])

    def unreadable(self) -> list[bad_images.BadImages]:
        """The unreadable labelled and unlabelled images, as all processes found them."""
        return self._bad

    def leave(self, step: int) -> None:
        """Ends the process. What was to be saved is."""
        self._open.close()
        say(f"saved step {step:,}; run the same command to resume")
        preemption.leave()

    def _profile(self, done: int, metrics: dict) -> None:
        steps = self._config.train.profile_steps
        if steps and done == PROFILE_AFTER:
            jax.profiler.start_trace(str(self._workdir / "profile"))
        if steps and done == PROFILE_AFTER + steps:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            say(f"a profile of {steps} steps is in {self._workdir / 'profile'}")


class _Due:
    """When to save: every so many steps, and when so many minutes have passed."""

    def __init__(self, every_steps: int, every_minutes: float):
        self._steps, self._seconds = every_steps, 60 * every_minutes
        self._saved = time.monotonic()

    def at(self, step: int, look: bool) -> bool:
        """Whether to save after this step; at the clock only if `look`.

        Process 0's clock counts, and the others are told.
        """
        due = step % self._steps == 0
        if look and self._seconds:
            late = time.monotonic() - self._saved >= self._seconds
            due = due or bool(processes.gather(np.array([late]))[0][0])
        if due:
            self._saved = time.monotonic()
        return due
