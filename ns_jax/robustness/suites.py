"""The suites: which passes each is made of, and the numbers that come of them.

A number is the mean of one for each image (or video), so that two networks can be compared image by
image: `values`.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from ns_jax.errors import InputError
from ns_jax.inference.metrics import Difference, paired_difference
from ns_jax.robustness import alexnet, metrics
from ns_jax.robustness.alexnet import EXTRA_ERRORS
from ns_jax.robustness.alexnet import EXTRA_FLIP_PROBABILITIES as EXTRA_FLIPS
from ns_jax.robustness.passes import Pass, Seen

Found = Mapping[str, dict[str, np.ndarray]]  # by the name of a pass, what it measured


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 on one set of images."""

    name: str
    one: Pass
    note: str = ""
    main = "top1"
    better = "higher"

    @property
    def passes(self) -> list[Pass]:
        return [self.one]

    def summarise(self, found: Found, baseline: Found | None) -> dict:
        return _top(found[self.one.name])

    def values(self, found: Found) -> np.ndarray:
        """Percent of each image, float64."""
        return 100 * found[self.one.name]["top1"].astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Corruptions:
    """Errors on corrupted images, divided by AlexNet's or by those of the network compared with."""

    name: str
    by_corruption: dict[str, list[Pass]]  # severities 1 to 5
    clean: Pass | None
    published: bool  # whether AlexNet's errors are what to divide by
    note: str = ""
    better = "lower"

    @property
    def main(self) -> str:
        return "mce" if self.published else "mean_error"

    @property
    def passes(self) -> list[Pass]:
        clean = [self.clean] if self.clean else []
        return clean + [one for severities in self.by_corruption.values() for one in severities]

    def summarise(self, found: Found, baseline: Found | None) -> dict:
        """Errors by corruption, mCE (percent) and, where the clean error is known, relative mCE."""
        errors = self._errors(found)
        summary = {
            "mean_error": 100 * float(np.mean([np.mean(e) for e in errors.values()])),
            "top1": 1 - float(np.mean([np.mean(e) for e in errors.values()])),
            **_counts(found[self.passes[-1].name]["top1"]),
        }
        over, clean_over = self._divisor(baseline)
        ratios: dict[str, float | None] = dict.fromkeys(errors)
        if over:
            ratios = {
                name: _ratio(metrics.mean_corruption_error, {name: e}, {**EXTRA_ERRORS, **over})
                for name, e in errors.items()
            }
            summary["mce"] = _ratio(metrics.mean_corruption_error, errors, over)
        if self.clean:
            clean_error = 1 - _mean(found[self.clean.name]["top1"])
            summary["clean_error"] = 100 * clean_error
            if over and clean_over is not None:
                summary["relative_mce"] = _ratio(
                    metrics.relative_mean_corruption_error, errors, clean_error, over, clean_over
                )
        summary["corruptions"] = {
            name: {"errors": list(e), "ce": ratios[name]} for name, e in errors.items()
        }
        return summary

    def values(self, found: Found) -> np.ndarray:
        """What each image adds to the main number, in percent, float64."""
        over = alexnet.ERRORS if self.published else dict.fromkeys(self.by_corruption, (1.0,) * 5)
        added = []
        for name in filter(over.__contains__, self.by_corruption):
            right = [found[one.name]["top1"] for one in self.by_corruption[name]]
            added.append((1 - np.asarray(right, np.float64)).sum(0) / sum(over[name]))
        return 100 * np.mean(added, axis=0) if added else np.asarray(np.nan)

    def _errors(self, found: Found) -> dict[str, list[float]]:
        return {
            name: [1 - _mean(found[one.name]["top1"]) for one in severities]
            for name, severities in self.by_corruption.items()
        }

    def _divisor(self, baseline: Found | None) -> tuple[metrics.Errors | None, float | None]:
        """Errors to divide by, and the clean error that goes with them."""
        if self.published:
            return alexnet.ERRORS, alexnet.CLEAN_ERROR
        if baseline is None:
            return None, None
        clean = 1 - _mean(baseline[self.clean.name]["top1"]) if self.clean else None
        return self._errors(baseline), clean


@dataclasses.dataclass(frozen=True)
class Flips:
    """How often a network changes its mind from frame to frame."""

    name: str
    by_perturbation: dict[str, Pass]
    published: bool
    note: str = ""
    better = "lower"

    @property
    def main(self) -> str:
        return "mfr" if self.published else "mean_flip_probability"

    @property
    def passes(self) -> list[Pass]:
        return list(self.by_perturbation.values())

    def summarise(self, found: Found, baseline: Found | None) -> dict:
        """Flip probabilities (percent), mFR (percent), T5D and the accuracy of all frames."""
        flips = self._flips(found)
        every = [found[one.name] for one in self.passes]
        summary = {
            "mean_flip_probability": 100 * float(np.mean(list(flips.values()))),
            "top1": float(np.mean([_mean(one["top1"]) for one in every])),
            **_counts(every[-1]["flips"]),
        }
        over = alexnet.FLIP_PROBABILITIES if self.published else baseline and self._flips(baseline)
        distances = {
            name: _mean(one["t5d"]) for name, one in zip(flips, every, strict=True) if "t5d" in one
        }
        if distances:
            summary["mean_t5d"] = float(np.mean(list(distances.values())))
        rates: dict[str, float | None] = dict.fromkeys(flips)
        if over:
            rates = {
                name: _ratio(metrics.mean_flip_rate, {name: p}, {**EXTRA_FLIPS, **over})
                for name, p in flips.items()
            }
            summary["mfr"] = _ratio(metrics.mean_flip_rate, flips, over)
        summary["perturbations"] = {
            name: {
                "flip_probability": p,
                "flip_rate": rates[name],
                "t5d": distances.get(name),
            }
            for name, p in flips.items()
        }
        return summary

    def values(self, found: Found) -> np.ndarray:
        """What each video adds to the main number, in percent, float64."""
        every = self.by_perturbation
        over = alexnet.FLIP_PROBABILITIES if self.published else dict.fromkeys(every, 1.0)
        counted = [name for name in every if name in over]
        added = [
            found[every[name].name]["flips"].astype(np.float64) / over[name] for name in counted
        ]
        return 100 * np.mean(added, axis=0) if added else np.asarray(np.nan)

    def _flips(self, found: Found) -> dict[str, float]:
        return {name: _mean(found[one.name]["flips"]) for name, one in self.by_perturbation.items()}


@dataclasses.dataclass(frozen=True)
class Attacks:
    """Accuracy under attack, by epsilon."""

    name: str
    by_epsilon: dict[float, Pass]
    note: str = ""
    better = "higher"
    main = "top1"

    @property
    def passes(self) -> list[Pass]:
        return list(self.by_epsilon.values())

    def summarise(self, found: Found, baseline: Found | None) -> dict:
        """Top-1 by epsilon, and as the main number at the largest one."""
        by_epsilon = {
            f"{e:g}": _mean(found[one.name]["top1"]) for e, one in self.by_epsilon.items()
        }
        worst = found[self.by_epsilon[max(self.by_epsilon)].name]["top1"]
        return {"top1": _mean(worst), **_counts(worst), "epsilons": by_epsilon}

    def values(self, found: Found) -> np.ndarray:
        """Percent of each image at the largest epsilon, float64."""
        worst = self.by_epsilon[max(self.by_epsilon)]
        return 100 * found[worst.name]["top1"].astype(np.float64)


Suite = Accuracy | Corruptions | Flips | Attacks


def measure_frames(frames: int, perturbation: str) -> Callable[[Seen], dict[str, np.ndarray]]:
    """What videos of so many frames are measured by: a video with an unreadable frame is NaN."""
    against_first = metrics.NOISE in perturbation

    def measure(seen: Seen) -> dict[str, np.ndarray]:
        classes = seen.classes.reshape(-1, frames, seen.classes.shape[-1])
        whole = seen.readable.reshape(-1, frames).all(1)

        def of_videos(values: np.ndarray) -> np.ndarray:
            return np.where(whole, values, np.nan).astype(np.float32)

        measured = {
            "flips": of_videos(metrics.flips(classes[..., 0], against_first)),
            "top1": of_videos(seen.top(1).reshape(-1, frames).mean(1)),
        }
        if classes.shape[-1] >= metrics.BEST:
            measured["t5d"] = of_videos(metrics.top5_distance(classes, against_first))
        return measured

    return measure


def difference(suite: Suite, ours: Found, theirs: Found) -> Difference | None:
    """The main number's, in percent, with its paired interval; None of sets that do not pair."""
    sides = suite.values(ours), suite.values(theirs)
    if sides[0].shape != sides[1].shape or not sides[0].ndim:
        return None
    return paired_difference(*sides)


def _top(measured: dict[str, np.ndarray]) -> dict:
    return {
        "top1": _mean(measured["top1"]),
        "top5": _mean(measured["top5"]),
        **_counts(measured["top1"]),
    }


def _counts(values: np.ndarray) -> dict:
    """How many images or videos count: those that can be read and whose class is known."""
    return {"num_images": int((~np.isnan(values)).sum())}


def _mean(values: np.ndarray) -> float:
    """The mean of those that are known. Raises InputError if none is."""
    known = values[~np.isnan(values)]
    if not len(known):
        raise InputError("no image of this suite could be read and has a label")
    return float(known.mean(dtype=np.float64))


def _ratio(function: Callable[..., float], *arguments: object) -> float | None:
    """None where nothing is to be divided, or by nothing: a baseline without a single error."""
    try:
        return function(*arguments)
    except metrics.NoRatioError:
        return None
