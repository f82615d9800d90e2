"""Policy for losses or gradients that are not finite: skip the step or roll back, up to a limit."""

import math
import pathlib

from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax.errors import DivergedError
from ns_jax.progress import say

SKIP, BACK = "skip", "back"  # values of train.nonfinite


class Rollback(Exception):  # noqa: N818 (it is no error: the training resumes elsewhere)
    """The training is to resume from its last checkpoint, with other noise and another order."""


class NonFinitePolicy:
    """Looks at the metrics of each step. A step that is not finite has changed no weights."""

    def __init__(self, train: config_dict.ConfigDict, count: int, directory: pathlib.Path):
        """`count` such steps were met before; more than `train.nonfinite_limit` are too many.

        `directory`: of the checkpoints, for the message.
        """
        self._what_then, self._limit = train.nonfinite, train.nonfinite_limit
        self._directory, self.count = directory, count

    def look(self, step: int, metrics: dict) -> dict[str, float]:
        """The step's loss and accuracies, on the host.

        Raises Rollback where that is what to do, DivergedError beyond the limit.
        """
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if name == "loss" or name.startswith("top1")
        }
        norm = float(metrics["grad_norm"])
        if math.isfinite(numbers["loss"]) and math.isfinite(norm):
            return numbers
        self.count += 1
        what = f"the loss of step {step:,} is {numbers['loss']}, the norm of its gradient {norm}"
        if self.count > self._limit:
            raise DivergedError(
                f"{what}: step {self.count} of this kind, train.nonfinite_limit is {self._limit}. "
                f"The last good checkpoint stays in {self._directory}. Lower "
                "optim.learning_rate_per_256 or lengthen optim.warmup_epochs"
            )
        then = "it is left out" if self._what_then == SKIP else "back to the last checkpoint"
        say(f"{what}; {then} ({self.count} of at most {self._limit})")
        if self._what_then == BACK:
            raise Rollback
        return numbers


def seed_of_attempt(seed: int, attempt: int) -> int:
    """Seed for data order and noise after `attempt` rollbacks; attempt 0 is the training's own."""
    if attempt == 0:
        return seed
    return config_lib.derived_seed(seed, attempt)
