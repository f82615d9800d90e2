"""Scores as distributions: what kind of numbers they are, what is wrong with them."""

import dataclasses

import numpy as np
import scipy.special

from ns_jax.errors import InputError
from ns_jax.progress import one_line

PROBABILITIES, LOGITS = "probabilities", "logits"
TOLERANCE = 0.02  # by which probabilities that were rounded may miss a sum of 1
SHOWN = 5  # rows of each flaw that are named
LOWEST = np.float32(np.log(1e-9))  # of a probability that is 0


@dataclasses.dataclass
class Flaws:
    """What is wrong with rows: of each reason how many, and the first ones."""

    rows: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, reason: str, where: np.ndarray, keys: list[str] | None, start: int) -> None:
        """`where`: bool `[n]`; `keys`: those of the n rows; `start`: the first one's number."""
        if not (places := np.flatnonzero(where)).size:
            return
        self.counts[reason] = self.counts.get(reason, 0) + len(places)
        named = self.rows.setdefault(reason, [])
        for place in places[: SHOWN - len(named)]:
            named.append(one_line(keys[place]) if keys else f"row {start + place + 1:,}")

    def check(self, path: str, remedy: str = "") -> None:
        """Raises InputError if there are any."""
        if self.counts:
            lines = [
                f"  {count:,} {reason}: {', '.join(self.rows[reason])}{', ...' * (count > SHOWN)}"
                for reason, count in self.counts.items()
            ]
            raise InputError("\n".join([f"{path} cannot be used{remedy}:", *lines]))


def kind_of(scores: np.ndarray, partial: bool) -> str:
    """`probabilities` or `logits`, by some rows `[n, classes]`; `partial`: sums may be below 1.

    Those that can be neither, between 0 and 1 but of other sums, count as probabilities.
    """
    finite = scores[np.isfinite(scores).all(1)]
    if not len(finite):
        return PROBABILITIES
    fits = ~_wrong_sums(finite, partial) & ~_outside(finite)
    if fits.mean() >= 0.5 or not _outside(finite).any():
        return PROBABILITIES
    return LOGITS


def flaws_of(scores: np.ndarray, kind: str, partial: bool) -> dict[str, np.ndarray]:
    """Rows that are no distribution, bool `[n]` by reason. `scores` float `[n, classes]`."""
    bad = (np.isnan(scores) | (scores == np.inf)).any(1)
    found = {"rows have scores that are missing, NaN or infinite": bad}
    if kind == PROBABILITIES:
        outside = ~bad & _outside(scores)
        found["rows have probabilities below 0 or above 1"] = outside
        what = "have probabilities whose sum is above 1" if partial else "do not sum to 1"
        found[f"rows {what}"] = ~bad & ~outside & _wrong_sums(scores, partial)
    else:
        found["rows have no finite score"] = ~bad & ~np.isfinite(scores).any(1)
    return found


def _outside(scores: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(((scores < -1e-6) | (scores > 1 + TOLERANCE)).any(1))


def _wrong_sums(scores: np.ndarray, partial: bool) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        sums = scores.sum(1, dtype=np.float64)
    return np.asarray(sums > 1 + TOLERANCE if partial else np.abs(sums - 1) > TOLERANCE)


def log_distribution(scores: np.ndarray, kind: str, order: "Order") -> np.ndarray:
    """float32 `[n, classes]`, the logarithms of sound rows' distributions over our classes.

    NaN for a row all of whose probability is on classes that are left out.
    """
    if kind == LOGITS and order.is_permutation:
        return scipy.special.log_softmax(order.permuted(scores), axis=1).astype(np.float32)
    probs = scipy.special.softmax(scores, axis=1) if kind == LOGITS else np.maximum(scores, 0)
    ours = order.added(probs)
    with np.errstate(invalid="ignore", divide="ignore"):
        ours = ours / ours.sum(1, keepdims=True)
        return np.maximum(np.log(ours), LOWEST).astype(np.float32)


class Order:
    """Their columns as ours: several may add up, some are left out, some of ours are not there."""

    def __init__(self, numbers: np.ndarray, num_classes: int):
        """`numbers`: of each column of theirs ours, or -1."""
        self._num_classes, kept = num_classes, np.flatnonzero(numbers >= 0)
        self._columns = kept[np.argsort(numbers[kept], kind="stable")]
        self._ours, self._starts = np.unique(numbers[self._columns], return_index=True)
        full = len(numbers) == len(kept) == len(self._ours) == num_classes
        self.is_permutation = full

    def permuted(self, scores: np.ndarray) -> np.ndarray:
        """`[n, classes]` in our order, where each of ours is one of theirs."""
        return scores[:, self._columns]

    def added(self, probs: np.ndarray) -> np.ndarray:
        """float64 `[n, classes]`."""
        found = np.zeros((len(probs), self._num_classes))
        if len(self._columns):
            sums = np.add.reduceat(probs[:, self._columns], self._starts, axis=1, dtype=np.float64)
            found[:, self._ours] = sums
        return found


def of_best(classes: np.ndarray, probs: np.ndarray, num_classes: int) -> np.ndarray:
    """float32 `[n, classes]`, as `log_distribution`, of the k best alone.

    `classes` int `[n, k]`, -1: none of ours; `probs` float `[n, k]`. What is left of 1 is spread
    evenly over the other classes.
    """
    rows, own = np.arange(len(classes))[:, None], np.where(classes < 0, num_classes, classes)
    found = np.zeros((len(classes), num_classes + 1))
    np.add.at(found, (rows, own), probs)
    lost, found = found[:, num_classes], found[:, :num_classes]  # on classes that are left out
    named = np.zeros((len(classes), num_classes + 1), bool)
    named[rows, own] = True
    others = ~named[:, :num_classes]
    left = np.maximum(1 - lost - found.sum(1), 0) / np.maximum(others.sum(1), 1)
    found += others * left[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        found /= found.sum(1, keepdims=True)
        return np.maximum(np.log(found), LOWEST).astype(np.float32)
