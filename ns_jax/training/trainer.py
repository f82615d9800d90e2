"""Everything a training step needs, built from a config: for training, measuring, planning."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
import optax
from ml_collections import config_dict

from ns_jax import trees
from ns_jax.data import crops, randaugment, views
from ns_jax.data.batch import BatchSpec
from ns_jax.errors import InputError
from ns_jax.model_card import ModelCard
from ns_jax.models import efficientnet
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.training import optim
from ns_jax.training import packing as packing_lib
from ns_jax.training import state as state_lib
from ns_jax.training import step as step_lib
from ns_jax.training.numbers import Numbers


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A training's parts; arrays there are none yet."""

    numbers: Numbers
    model: efficientnet.EfficientNet
    preprocessing: crops.Preprocessing
    view: views.TrainView  # of labelled images
    unlabelled_view: views.TrainView
    schedule: Callable  # step -> learning rate
    optimiser: optax.GradientTransformation
    mesh: mesh_lib.DeviceMesh
    shapes: state_lib.TrainState  # of ShapeDtypeStruct
    shardings: state_lib.TrainState
    teacher: "StepTeacher | None"
    fresh: Callable  # random key -> a state from scratch, on the devices
    packing: packing_lib.Packing | packing_lib.Unpacked
    # (packed state, batch, rng, teacher's variables or None) -> (packed state, metrics), compiled
    # at its first call
    step: jax.stages.Wrapped

    def init(self, seed: int) -> state_lib.TrainState:
        """A state from scratch, on the devices."""
        return self.fresh(jax.random.key(seed))

    def compile(self, spec: BatchSpec) -> None:
        """Compiles the step for batches like this; calls with such batches find it ready."""
        vectors = jax.eval_shape(self.packing.pack, self.shapes)
        if self.packing is packing_lib.UNPACKED:
            state = state_lib.placed(vectors, self.shardings)
        else:
            replicated = mesh_lib.replicated(self.mesh)
            state = state_lib.placed(vectors, jax.tree.map(lambda _: replicated, vectors))
        rng = jax.eval_shape(lambda: jax.random.key(0))
        teacher = self.teacher and state_lib.placed(self.teacher.shapes, self.teacher.shardings)
        self.step.lower(state, self.abstract_batch(spec), rng, teacher).compile()

    def packed(self, state: state_lib.TrainState) -> state_lib.TrainState:
        """The state as steps carry it. A step takes its memory."""
        if self.packing is packing_lib.UNPACKED:
            return state
        vectors = self.packing.pack(jax.tree.map(np.asarray, state))
        return jax.device_put(vectors, mesh_lib.replicated(self.mesh))

    def unpacked(self, state: state_lib.TrainState) -> state_lib.TrainState:
        """The inverse of `packed`: arrays of its own, which no later step takes."""
        if self.packing is packing_lib.UNPACKED:
            return state
        copies = self.packing.unpack(jax.tree.map(np.array, state))
        return jax.tree.map(jax.device_put, copies, self.shardings)

    @property
    def variable_shardings(self) -> dict:
        """The shardings of `{"params", "batch_stats"}`."""
        return {"params": self.shardings.params, "batch_stats": self.shardings.batch_stats}

    def batch_spec(self, places: int = 1) -> BatchSpec:
        """What a batch is like whose targets name `places` classes."""
        numbers = self.numbers
        return BatchSpec(
            labelled=numbers.labelled,
            unlabelled=numbers.unlabelled,
            groups=numbers.stat_groups,
            images=self.view.shapes(),
            places=places,
        )

    def abstract_batch(self, spec: BatchSpec) -> dict[str, jax.ShapeDtypeStruct]:
        """A step's global batch as the devices have it: shapes, dtypes, shardings."""
        sharding = mesh_lib.batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct((spec.rows, *shape), dtype, sharding=sharding)
            for name, (shape, dtype) in spec.device_columns.items()
            if name != "bad" or self.is_told_of_bad_rows
        }

    @property
    def is_told_of_bad_rows(self) -> bool:
        """Whether each step's batch says which rows are bad, or that of a step which has some.

        On accelerators a mask costs nothing, and many processes must run one program. A single CPU
        compiles a second step at the first bad row, and is spared the mask in all others.
        """
        return not mesh_lib.is_one_cpu(self.mesh)

    def averaged_variables(self, state: state_lib.TrainState) -> dict:
        """The averaged weights and statistics of a packed state, on the host of every process."""
        averaged = state.ema_variables
        if self.packing is not packing_lib.UNPACKED:
            return self.packing.unpack(jax.tree.map(np.array, averaged))
        return mesh_lib.fetch(averaged, self.mesh)


@dataclasses.dataclass(frozen=True)
class StepTeacher:
    """A teacher that labels in the step: what it is, and where its variables lie."""

    step: step_lib.Teacher
    preprocessing: crops.Preprocessing
    shapes: dict
    shardings: dict


def build(
    config: config_dict.ConfigDict,
    numbers: Numbers,
    num_classes: int,
    devices: list | None = None,
    teacher: ModelCard | None = None,
) -> Trainer:
    """A training's parts for `devices`, or for those that the config trains on.

    `numbers` are the config's own, for as many devices; `teacher` is the card of `train.teacher`,
    which labels in the step. Raises InputError.
    """
    devices = training_devices(config) if devices is None else devices
    mesh = mesh_lib.make_mesh(config.mesh.fsdp, devices)
    placement = mesh_lib.Placement(mesh, config.mesh.shard_above)
    model = dataclasses.replace(
        build_model(config, num_classes),
        placement=placement,
        frozen_stages=config.train.frozen_stages,
        stat_groups=numbers.stat_groups,
    )
    preprocessing = build_preprocessing(config, model)
    in_step = _teacher(config, teacher, placement, preprocessing) if teacher else None
    objective = step_lib.Objective(
        mean=preprocessing.mean,
        std=preprocessing.std,
        ema_decay=config.optim.ema_decay,
        loss_divisor=numbers.loss_divisor,
        apart=config.loss.normalise == "labelled",
        microbatches=numbers.microbatches,
        unlabelled_noise=config.train.unlabelled_noise != "none",
        teacher=in_step.step if in_step else None,
    )
    of_teacher = None if teacher is None or config.train.teacher_noise else teacher.preprocessing
    view = train_view(config, preprocessing, of_teacher)
    return Trainer(
        numbers=numbers,
        model=model,
        preprocessing=preprocessing,
        view=view,
        unlabelled_view=unlabelled_view(config, view),
        mesh=mesh,
        teacher=in_step,
        **_compiled(
            model,
            preprocessing.size,
            objective,
            json.dumps(config.optim.to_dict()),
            numbers.labelled_batch,
            numbers.steps_per_epoch,
            teacher and teacher.preprocessing.size,
        ),
    )


@functools.lru_cache(maxsize=4)
def _compiled(
    model: efficientnet.EfficientNet,
    size: int,
    objective: step_lib.Objective,
    optim_settings: str,
    batch: float,
    steps_per_epoch: float,
    teacher_size: int | None,
) -> dict:
    """What a training compiles, and what that is made of: the same for all of equal numbers, so
    that the second student of a self-training neither traces nor compiles anything again.
    """
    placement = cast(mesh_lib.Placement, model.placement)
    mesh, shard_above = placement.mesh, placement.shard_above
    settings = config_dict.ConfigDict(json.loads(optim_settings))
    schedule = optim.learning_rate_schedule(settings, batch, steps_per_epoch)
    decays = functools.partial(optim.decayed, is_frozen=model.is_frozen)
    optimiser = optim.make_optimiser(settings, schedule, decays)
    shapes = state_lib.abstract(model, optimiser, size)
    shardings = state_lib.shardings(shapes, optimiser, mesh, shard_above)
    carried: packing_lib.Packing | packing_lib.Unpacked = packing_lib.UNPACKED
    step_optimiser = optimiser
    step_shardings: trees.Tree = shardings
    if mesh_lib.is_one_cpu(mesh):
        carried = packing_lib.Packing(shapes, decays(shapes.params))
        step_optimiser = optim.make_optimiser(settings, schedule, carried.decayed)
        step_shardings = mesh_lib.replicated(mesh)  # of every vector
    teacher_shardings = None
    if objective.teacher and teacher_size:
        teacher_shardings = _variables(objective.teacher.model, teacher_size)[1]
    return {
        "schedule": schedule,
        "optimiser": optimiser,
        "shapes": shapes,
        "shardings": shardings,
        "fresh": state_lib.compile_init(model, optimiser, size, shardings),
        "packing": carried,
        "step": step_lib.compile_train_step(
            mesh,
            step_shardings,
            teacher_shardings,
            model=model,
            optimiser=step_optimiser,
            objective=objective,
            packing=carried,
        ),
    }


def _variables(model: efficientnet.EfficientNet, size: int) -> tuple[dict, dict]:
    """Shapes and shardings of a network's variables, on its placement."""
    placement = cast(mesh_lib.Placement, model.placement)
    mesh, shard_above = placement.mesh, placement.shard_above
    shapes = jax.eval_shape(lambda rng: model.init(rng, size), jax.random.key(0))
    params = mesh_lib.params_shardings(shapes["params"], mesh, shard_above)
    replicated = jax.tree.map(lambda _: mesh_lib.replicated(mesh), shapes["batch_stats"])
    return shapes, {"params": params, "batch_stats": replicated}


def _teacher(
    config: config_dict.ConfigDict,
    card: ModelCard,
    placement: mesh_lib.Placement,
    student: crops.Preprocessing,
) -> StepTeacher:
    """The network of the card as a part of the step."""
    preprocessing = card.preprocessing
    if config.train.teacher_noise and preprocessing.size != student.size:
        raise InputError(
            f"train.teacher_noise: the teacher takes {preprocessing.size} pixels, but the "
            f"student's images, which it is to see, have {student.size}"
        )
    model = card.build(dtype=config.model.dtype, placement=placement)
    shapes, shardings = _variables(model, preprocessing.size)
    return StepTeacher(
        step=step_lib.Teacher(
            model=model,
            mean=preprocessing.mean,
            std=preprocessing.std,
            temperature=config.loss.temperature,
            hard=config.loss.pseudo_labels == "hard",
            smoothing=config.loss.label_smoothing,
            noise=config.train.teacher_noise,
        ),
        preprocessing=preprocessing,
        shapes=shapes,
        shardings=shardings,
    )


def build_model(config: config_dict.ConfigDict, num_classes: int) -> efficientnet.EfficientNet:
    return efficientnet.build(num_classes=num_classes, **config.model.to_dict())


def build_preprocessing(
    config: config_dict.ConfigDict, model: efficientnet.EfficientNet
) -> crops.Preprocessing:
    data = config.data
    return crops.Preprocessing(
        size=data.image_size or model.resolution,
        crop=data.crop,
        mean=tuple(data.mean),
        std=tuple(data.std),
        interpolation=data.interpolation,
    )


def card(config: config_dict.ConfigDict, class_names: Sequence[str]) -> ModelCard:
    """The card of the network that a config trains."""
    model = build_model(config, len(class_names))
    return ModelCard(
        architecture=model.name,
        small_images=model.small_images,
        class_names=tuple(class_names),
        preprocessing=build_preprocessing(config, model),
        padding=model.padding,
        bn_epsilon=model.bn_epsilon,
    )


def train_view(
    config: config_dict.ConfigDict,
    evaluation: crops.Preprocessing,
    teacher: crops.Preprocessing | None = None,
) -> views.TrainView:
    """The view of labelled images; `teacher` adds the view of a teacher in the step."""
    settings = config.randaugment.to_dict()
    final_cutout = settings.pop("final_cutout")
    return views.TrainView(
        evaluation=evaluation,
        kind=config.data.train_view,
        flip=config.data.flip,
        crop_sampler=config.data.crop_sampler,
        randaugment=randaugment.RandAugment(**settings),
        final_cutout=final_cutout,
        teacher=teacher,
    )


def unlabelled_view(config: config_dict.ConfigDict, view: views.TrainView) -> views.TrainView:
    """The view of unlabelled images, where labelled ones are seen as `view` has it."""
    changes: dict[str, dict[str, Any]] = {
        "all": {},
        "model": {"randaugment": randaugment.RandAugment(0), "final_cutout": 0},
        "none": {"kind": "evaluation"},
    }
    return dataclasses.replace(view, **changes[config.train.unlabelled_noise])


def training_devices(config: config_dict.ConfigDict) -> list:
    """The devices that train: `mesh.devices` of them, or all.

    A CPU's devices are its cores, one for each part of a labelling batch. Training takes one of
    them by default: its operations use every core, and any batch size divides by one. Many
    processes train on all of theirs.
    """
    devices, wanted = jax.devices(), config.mesh.devices
    if jax.process_count() > 1 and wanted not in (None, len(devices)):
        raise InputError(
            f"mesh.devices is {wanted}, but {jax.process_count()} processes train on all of their "
            f"{len(devices)} devices"
        )
    if wanted is None:
        alone = devices[0].platform == "cpu" and jax.process_count() == 1
        return devices[:1] if alone else devices
    if not 1 <= wanted <= len(devices):
        raise InputError(f"mesh.devices is {wanted}; there are {len(devices)}")
    return devices[:wanted]
