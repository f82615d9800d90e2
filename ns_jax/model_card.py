"""The model card: what travels with weights, enough to predict with them. `model.json` holds it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ns_jax.data import class_names as class_names_lib
from ns_jax.data import crops
from ns_jax.errors import DamagedError, InputError
from ns_jax.models import efficientnet


@dataclasses.dataclass(frozen=True)
class TrainingCounts:
    """What a training has counted up to a checkpoint, and goes on counting from there."""

    attempt: int = 0  # how often it went back to a checkpoint
    nonfinite: int = 0  # steps whose loss or gradient was not finite
    bad: tuple[tuple[int, ...], ...] = ((), ())  # unreadable images: labelled, unlabelled


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """A network's description. Three fields are there for what a training made."""

    architecture: str  # a name that `efficientnet.build` knows
    small_images: bool
    class_names: tuple[str, ...]
    preprocessing: crops.Preprocessing
    inputs: dict = dataclasses.field(default_factory=dict)  # what the weights were made of
    stat_groups: int | None = None  # parts of a batch that BatchNorm normalised apart
    counts: TrainingCounts | None = None
    # What no weight tells, but their use depends on: TensorFlow's convention, unless said.
    padding: str = efficientnet.EfficientNet.padding
    bn_epsilon: float = efficientnet.EfficientNet.bn_epsilon

    def build(self, **training: Any) -> efficientnet.EfficientNet:
        """The network; `training` are fields of `EfficientNet` that weights do not depend on.

        Raises InputError for weights without a classifier, which are good to start from alone.
        """
        if not self.class_names:
            raise InputError(
                "the weights have no classifier: train one, on labelled images, with these weights "
                "as train.init and with train.new_head=True"
            )
        return efficientnet.build(
            self.architecture,
            len(self.class_names),
            small_images=self.small_images,
            padding=self.padding,
            bn_epsilon=self.bn_epsilon,
            **training,
        )

    def to_json(self) -> dict:
        """The content of `model.json`. Fields that are not known are left out."""
        content = {
            "model": {
                "name": self.architecture,
                "num_classes": len(self.class_names),
                "small_images": self.small_images,
                **{
                    name: getattr(self, name)
                    for name, usual in CONVENTION.items()
                    if getattr(self, name) != usual
                },
            },
            "class_names": self.class_names,
            "preprocessing": vars(self.preprocessing),
        }
        training = {
            "inputs": self.inputs or None,
            "stat_groups": self.stat_groups,
            "so_far": self.counts and vars(self.counts),
        }
        return content | {name: value for name, value in training.items() if value is not None}

    @classmethod
    def from_json(cls, content: Any) -> "ModelCard":
        """The card in a parsed `model.json`, of any version: keys without a field are passed over.

        Raises DamagedError for what is not a card.
        """
        try:
            model, view = content["model"], content["preprocessing"]
            view = {**view, "mean": tuple(view["mean"]), "std": tuple(view["std"])}
            counts = content.get("so_far")
            if counts is not None:
                counts = TrainingCounts(**{**counts, "bad": tuple(map(tuple, counts["bad"]))})
            card = cls(
                architecture=model["name"],
                small_images=model.get("small_images", False),
                class_names=tuple(content["class_names"]),
                preprocessing=crops.Preprocessing(**view),
                inputs=content.get("inputs", {}),
                stat_groups=content.get("stat_groups"),
                counts=counts,
                **{name: model.get(name, usual) for name, usual in CONVENTION.items()},
            )
            num_classes = model["num_classes"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"it is no model card: {error!r}") from error
        if num_classes != len(card.class_names):
            raise DamagedError(f"it names {len(card.class_names)} of {num_classes} classes")
        return card


# TensorFlow's, which was the only one before cards had a word for it.
CONVENTION: dict[str, Any] = {name: getattr(ModelCard, name) for name in ("padding", "bn_epsilon")}


def with_classes(
    network: tuple[ModelCard, dict],
    class_names: Sequence[str],
    name: str,
    owner: str,
    remedy: str = "",
) -> tuple[ModelCard, dict]:
    """The network `name`, its classes in the order of `class_names`, those of `owner`.

    Raises InputError, which ends in `remedy`, if they are not the same classes.
    """
    card, variables = network
    if card.class_names == tuple(class_names):
        return network
    order = class_names_lib.matching(class_names, card.class_names)[:-1]
    lost = sorted(set(range(len(card.class_names))) - set(order.tolist()))
    if lost or (order < 0).any() or len(order) != len(card.class_names):
        surplus = [card.class_names[place] for place in lost]
        missing = [class_names[place] for place in np.flatnonzero(order < 0).tolist()]
        raise InputError(
            f"{name} has {len(card.class_names)} classes, {owner} has {len(class_names)}; missing: "
            f"{', '.join(missing[:10]) or 'none'}; surplus: {', '.join(surplus[:10]) or 'none'}. "
            f"Classes are matched by name{remedy}"
        )
    variables = efficientnet.EfficientNet.with_classes(variables, order)
    return dataclasses.replace(card, class_names=tuple(class_names)), variables
