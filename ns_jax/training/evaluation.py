"""Scores of the averaged weights while a training runs. They change no bit of it."""

from typing import Any

from ml_collections import config_dict

from ns_jax import model_card
from ns_jax.data import bad_images
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.inference import predictor, scoring
from ns_jax.model_card import ModelCard
from ns_jax.parallel import preemption, processes
from ns_jax.training.numbers import Numbers


class Evaluation:
    """On `data.holdout`, or without one on `data.test`, every so many steps and at the end."""

    def __init__(
        self,
        config: config_dict.ConfigDict,
        numbers: Numbers,
        source: Source,
        split: str,
        card: ModelCard,
    ):
        self._source, self._split, self._card = source, split, card
        self._batch_size = config.evaluate.batch_size
        self._reading = open_lib.loader_settings(config)
        every: Any = numbers.steps_between_evaluations(len(source))  # not None: see `prepare`
        self._every = every
        self._total = numbers.total_steps

    def is_due(self, step: int) -> bool:
        return (self._total - step) % self._every == 0

    def scores(self, variables: dict) -> dict[str, float]:
        """`{"test/top1": ..., ...}` of weights on the host. Called by all processes.

        The pass is the one that labelling and evaluation compile. Empty where a notice broke it
        off, which of many processes it does not.
        """
        network = predictor.Predictor([(self._card, variables)])
        try:
            found = scoring.score(
                network,
                self._source,
                self._reading,
                bad_images.BadImages(self._source, 1.0),
                self._batch_size,
                shown=False,
                stop=lambda: processes.count() == 1 and preemption.noticed(),
            )
        except scoring.Stopped:
            return {}
        return {f"{self._split}/{name}": found[name] for name in ("top1", "top5", "ece")}


def prepare(config: config_dict.ConfigDict, numbers: Numbers, card: ModelCard) -> Evaluation | None:
    """The evaluation that a config asks for; None without a source, or where none would pay.

    Raises InputError for a source of other classes than the network's.
    """
    split = next((name for name in ("holdout", "test") if config.data[name]), None)
    if split is None or config.train.evaluate_every_epochs == 0:
        return None
    source = open_lib.open_from_config(config, split)
    if numbers.steps_between_evaluations(len(source)) is None:
        return None
    model_card.check_classes(source.class_names, card.class_names, source.name, "the training")
    return Evaluation(config, numbers, source, split, card)
