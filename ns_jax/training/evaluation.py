"""Scores of the averaged weights while a training runs. They change no bit of it."""

import dataclasses

import numpy as np
from ml_collections import config_dict

from ns_jax.data import bad_images
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import DivergedError
from ns_jax.inference import predictor, scoring
from ns_jax.model_card import ModelCard
from ns_jax.parallel import preemption, processes
from ns_jax.progress import say
from ns_jax.training.numbers import Numbers


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """On `data.holdout`, or without one on `data.test`, every so many steps and at the end."""

    source: Source
    split: str  # what the scores are named by
    card: ModelCard
    reading: LoaderSettings
    batch_size: int
    every_steps: int
    total_steps: int
    classes: np.ndarray | None = None  # that compete, int32; None: all

    def is_due(self, step: int) -> bool:
        return (self.total_steps - step) % self.every_steps == 0

    def scores(self, variables: dict) -> dict[str, float]:
        """`{"test/top1": ..., ...}` of weights on the host. Called by all processes.

        The pass is the one that labelling and evaluation compile. Empty where the outputs are not
        finite, which is said, where no image could be read, and where a notice broke it off, which
        of many processes it does not.
        """
        name = "the averaged weights"
        network = predictor.Predictor([(self.card, variables)], name=name)
        try:
            found = scoring.score(
                network,
                self.source,
                self.reading,
                bad_images.BadImages(self.source, 1.0),
                self.batch_size,
                shown=False,
                stop=lambda: processes.count() == 1 and preemption.noticed(),
                classes=self.classes,
            )
        except (scoring.Stopped, scoring.NothingScoredError):
            return {}
        except DivergedError as error:  # the weights that are trained may be sound
            say(str(error))
            return {}
        return {f"{self.split}/{name}": found[name] for name in ("top1", "top5", "ece")}


def prepare(config: config_dict.ConfigDict, numbers: Numbers, card: ModelCard) -> Evaluation | None:
    """The evaluation that a config asks for; None without a source, or where none would pay.

    Raises InputError for a source with other classes than the network's.
    """
    split = next((name for name in ("holdout", "test") if config.data[name]), None)
    if split is None or config.train.evaluate_every_epochs == 0:
        return None
    source = open_lib.open_from_config(config, split)
    every_steps = numbers.steps_between_evaluations(len(source))
    if every_steps is None:
        return None
    source, classes = scoring.prepare(
        source, card.class_names, "the training", config.evaluate.classes
    )
    return Evaluation(
        source,
        split,
        card,
        open_lib.loader_settings(config),
        config.evaluate.batch_size,
        every_steps,
        numbers.total_steps,
        classes,
    )
