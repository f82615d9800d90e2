"""Everything a training step needs, built from a config: for training, measuring, planning."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from ns_jax import checkpoint, experiment, optim, sharding, steps
from ns_jax import config as config_lib
from ns_jax import state as state_lib
from ns_jax.data import images, views
from ns_jax.models import efficientnet


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A training's parts; arrays there are none yet."""

    model: efficientnet.EfficientNet
    preprocessing: images.Preprocessing
    view: views.TrainView  # of labelled images
    unlabelled_view: views.TrainView
    schedule: Callable  # step -> learning rate
    optimiser: object
    mesh: object
    shapes: state_lib.TrainState  # of ShapeDtypeStruct
    shardings: state_lib.TrainState
    teacher: "StepTeacher | None"
    # (state, batch, rng, teacher's variables or None) -> (state, metrics), compiled at its first
    # call
    step: Callable

    def init(self, seed: int) -> state_lib.TrainState:
        """A state from scratch, on the devices."""
        size = self.preprocessing.size
        return state_lib.init(self.model, self.optimiser, seed, size, self.shardings)

    def teacher_variables(self) -> dict | None:
        """The weights of the teacher in the step, on the devices; None without one."""
        if self.teacher is None:
            return None
        _, variables = checkpoint.load_model(self.teacher.path)
        return sharding.put(variables, self.teacher.shardings)

    @property
    def variable_shardings(self) -> dict:
        """Of `{"params", "batch_stats"}`."""
        return {"params": self.shardings.params, "batch_stats": self.shardings.batch_stats}

    def batch(self, rows: int, k: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a step's global batch of so many rows, with targets in k places."""
        columns = {name: (shape, np.uint8) for name, shape in self.view.shapes().items()}
        columns |= {
            "target_classes": ((k,), np.int32),
            "target_probs": ((k,), np.float32),
            "weight": ((), np.float32),
        }
        columns |= {name: ((), np.bool_) for name in self.marks}
        return {
            name: jax.ShapeDtypeStruct(
                (rows, *shape), dtype, sharding=sharding.batch_sharding(self.mesh)
            )
            for name, (shape, dtype) in columns.items()
        }

    @property
    def marks(self) -> dict[str, tuple[bool, bool]]:
        """Columns of a batch that tell labelled rows from unlabelled: their value in each."""
        marks = {"pseudo": (False, True)} if self.teacher else {}
        if self.unlabelled_view.kind != self.view.kind:
            marks["noisy"] = (True, False)
        return marks


@dataclasses.dataclass(frozen=True)
class StepTeacher:
    """A teacher that labels in the step: what it is, and where its variables lie."""

    path: str
    step: steps.Teacher
    preprocessing: images.Preprocessing
    class_names: list[str]
    shapes: dict
    shardings: dict


def build(config, num_classes: int, num_labelled: int, devices: list | None = None) -> Trainer:
    """For `devices`, or for those that the config trains on.

    Raises ValueError for numbers that do not go together.
    """
    devices = experiment.training_devices(config) if devices is None else devices
    config_lib.validate_training(config, len(devices), num_labelled)
    config = config_lib.with_stat_groups(config, len(devices))
    mesh = sharding.make_mesh(config.mesh.fsdp, devices)
    placement = sharding.Placement(mesh, config.mesh.shard_above)
    model = dataclasses.replace(
        experiment.build_model(config, num_classes),
        placement=placement,
        frozen_stages=config.train.frozen_stages,
    )
    preprocessing = experiment.preprocessing(config, model)
    steps_per_epoch, _ = config_lib.steps(config, num_labelled)
    batch = config_lib.labelled_batch(config)
    schedule = optim.learning_rate_schedule(config.optim, batch, steps_per_epoch)
    optimiser = optim.make_optimiser(config.optim, schedule, model.is_frozen)
    shapes = state_lib.abstract(model, optimiser, preprocessing.size)
    shardings = state_lib.shardings(shapes, optimiser, mesh, config.mesh.shard_above)
    teacher = _teacher(config, placement, preprocessing) if config.train.teacher else None
    per_step = config_lib.images_per_step(config)
    objective = steps.Objective(
        mean=preprocessing.mean,
        std=preprocessing.std,
        ema_decay=config.optim.ema_decay,
        loss_divisor=per_step[0] if config.loss.normalise == "labelled" else sum(per_step),
        pieces=config.train.accumulate,
        teacher=teacher and teacher.step,
    )
    of_teacher = None if teacher is None or config.train.teacher_noise else teacher.preprocessing
    view = experiment.train_view(config, preprocessing, of_teacher)
    return Trainer(
        model=model,
        preprocessing=preprocessing,
        view=view,
        unlabelled_view=experiment.unlabelled_view(config, view),
        schedule=schedule,
        optimiser=optimiser,
        mesh=mesh,
        shapes=shapes,
        shardings=shardings,
        teacher=teacher,
        step=steps.compile_train_step(
            mesh,
            shardings,
            teacher and teacher.shardings,
            model=model,
            optimiser=optimiser,
            objective=objective,
        ),
    )


def _teacher(config, placement: sharding.Placement, student: images.Preprocessing) -> StepTeacher:
    """The checkpoint `train.teacher` as a part of the step."""
    description = checkpoint.description(config.train.teacher)
    preprocessing = experiment.described_preprocessing(description)
    if config.train.teacher_noise and preprocessing.size != student.size:
        raise ValueError(
            f"train.teacher_noise: the teacher takes {preprocessing.size} pixels, but the "
            f"student's images, which it is to see, have {student.size}"
        )
    model = dataclasses.replace(
        experiment.described_model(description), dtype=config.model.dtype, placement=placement
    )
    shapes = jax.eval_shape(lambda rng: model.init(rng, preprocessing.size), jax.random.key(0))
    mesh = placement.mesh
    of_params = sharding.params_shardings(shapes["params"], mesh, config.mesh.shard_above)
    whole = jax.tree.map(lambda _: sharding.replicated(mesh), shapes["batch_stats"])
    return StepTeacher(
        path=config.train.teacher,
        step=steps.Teacher(
            model=model,
            mean=preprocessing.mean,
            std=preprocessing.std,
            temperature=config.loss.temperature,
            hard=config.loss.pseudo_labels == "hard",
            smoothing=config.loss.label_smoothing,
            noise=config.train.teacher_noise,
        ),
        preprocessing=preprocessing,
        class_names=description["class_names"],
        shapes=shapes,
        shardings={"params": of_params, "batch_stats": whole},
    )
