"""Everything a training step needs, built from a config: for training, measuring, planning."""

import dataclasses
from collections.abc import Callable

from ns_jax import config as config_lib
from ns_jax import experiment, optim, sharding, steps
from ns_jax import state as state_lib
from ns_jax.data import images
from ns_jax.models import efficientnet


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A training's parts; arrays there are none yet."""

    model: efficientnet.EfficientNet
    preprocessing: images.Preprocessing
    schedule: Callable  # step -> learning rate
    optimiser: object
    mesh: object
    shapes: state_lib.TrainState  # of ShapeDtypeStruct
    shardings: state_lib.TrainState
    step: Callable  # (state, batch, rng) -> (state, metrics), compiled at its first call

    def init(self, seed: int) -> state_lib.TrainState:
        """A state from scratch, on the devices."""
        size = self.preprocessing.size
        return state_lib.init(self.model, self.optimiser, seed, size, self.shardings)


def build(config, num_classes: int, num_labelled: int) -> Trainer:
    """Raises ValueError for numbers that do not go together."""
    devices = experiment.training_devices(config)
    config_lib.validate_training(config, len(devices), num_labelled)
    per_step = config_lib.images_per_step(config)
    steps_per_epoch, _ = config_lib.steps(config, num_labelled)
    model = experiment.build_model(config, num_classes)
    preprocessing = experiment.preprocessing(config, model)
    schedule = optim.learning_rate_schedule(config.optim, per_step[0], steps_per_epoch)
    optimiser = optim.make_optimiser(config.optim, schedule)
    mesh = sharding.make_mesh(config.mesh.fsdp, devices)
    shapes = state_lib.abstract(model, optimiser, preprocessing.size)
    shardings = state_lib.shardings(shapes, optimiser, mesh, config.mesh.shard_above)
    objective = steps.Objective(
        mean=preprocessing.mean,
        std=preprocessing.std,
        ema_decay=config.optim.ema_decay,
        loss_divisor=per_step[0] if config.loss.normalise == "labelled" else sum(per_step),
    )
    step = steps.compile_train_step(
        mesh, shardings, model=model, optimiser=optimiser, objective=objective
    )
    return Trainer(model, preprocessing, schedule, optimiser, mesh, shapes, shardings, step)
