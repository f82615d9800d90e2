"""The numbers of robustness: corruption errors, flips between frames, and differences of networks.

Errors are shares in 0..1, as are flip probabilities; what carries "mean" in its name is in percent,
as papers print it. ImageNet-C and -P: Hendrycks and Dietterich, arXiv 1903.12261.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ns_jax.errors import InputError
from ns_jax.robustness import alexnet

SEVERITIES = 5
NOISE = "noise"  # in the name of a perturbation whose frames are compared with the first one
BEST = 5  # classes that the distance of two rankings looks at


class NoRatioError(InputError):
    """No number in common with the baseline, or a baseline that makes no error or never flips."""


Errors = Mapping[str, Sequence[float]]  # corruption: errors at severities 1 to 5


def mean_corruption_error(errors: Errors, baseline: Errors = alexnet.ERRORS) -> float:
    """mCE in percent: the mean over corruptions of `errors` summed over severities, divided by the
    baseline's sum (not the mean of five ratios).

    The published number is over the fifteen of `alexnet.ERRORS`; over fewer it is another number.
    Corruptions that only `errors` has, the four of validation, are left out, as in the benchmark.
    Raises InputError for errors outside 0..1, other than five of them, no corruption in common, or
    a baseline without errors.
    """
    ours, theirs = _common(errors, baseline)
    return _mean_ratio(ours.sum(1), theirs.sum(1))


def relative_mean_corruption_error(
    errors: Errors,
    clean_error: float,
    baseline: Errors = alexnet.ERRORS,
    baseline_clean_error: float = alexnet.CLEAN_ERROR,
) -> float:
    """Relative mCE in percent: as mCE, of what corruption adds to the error on clean images.

    It may be negative, and is unstable where corruption adds little to the baseline's error
    (brightness: 0.13). Raises InputError as `mean_corruption_error` does.
    """
    ours, theirs = _common(errors, baseline)
    added = ours.mean(1) - _share(clean_error, "the clean error")
    baseline_added = theirs.mean(1) - _share(baseline_clean_error, "the baseline's clean error")
    return _mean_ratio(added, baseline_added)


def mean_flip_rate(
    flip_probabilities: Mapping[str, float],
    baseline: Mapping[str, float] = alexnet.FLIP_PROBABILITIES,
) -> float:
    """mFR in percent: the mean over perturbations of flip probability over the baseline's.

    The published number is over the ten of `alexnet.FLIP_PROBABILITIES`. Raises InputError for
    probabilities outside 0..1, or no perturbation in common.
    """
    names = _shared_names(flip_probabilities, baseline, "perturbation")
    ours = np.asarray([_share(flip_probabilities[name], name) for name in names])
    theirs = np.asarray([_share(baseline[name], f"the baseline's {name}") for name in names])
    return _mean_ratio(ours, theirs)


def flips(classes: np.ndarray, against_first: bool) -> np.ndarray:
    """The share of frames whose class is another than the frame's before: float64 `[V]` of videos.

    `classes` int `[V, F]`, the predicted one of each frame. With `against_first`, which is the
    rule for perturbations of noise, frames are compared with the first one instead.
    """
    return (classes[:, 1:] != _before(classes, against_first)).mean(1)


def top5_distance(classes: np.ndarray, against_first: bool) -> np.ndarray:
    """T5D: how far the five best classes of a frame move in the next one, float64 `[V]`.

    `classes` int `[V, F, 5]`, best first. For two frames the sum over i = 1..5 of
    |min(i, 6) - min(r(i), 6)|, r(i) being the rank in the later frame of the class that is the
    i-th in the earlier one; the mean over frames. `against_first`: as in `flips`.
    """
    if classes.shape[-1] < BEST:
        raise InputError(f"T5D needs {BEST} classes of each frame, got {classes.shape[-1]}")
    later = classes[:, 1:, None, :BEST]
    same = _before(classes, against_first)[..., :BEST, None] == later  # [V, F - 1, before, after]
    rank = np.where(same.any(-1), same.argmax(-1), BEST)  # counted from 0; 5: none of the five
    return np.abs(rank - np.arange(BEST)).sum(-1).mean(1)


def _before(frames: np.ndarray, against_first: bool) -> np.ndarray:
    return frames[:, :1] if against_first else frames[:, :-1]


def _mean_ratio(ours: np.ndarray, theirs: np.ndarray) -> float:
    """In percent."""
    if (theirs == 0).any():
        raise NoRatioError("the baseline's number is 0: there is nothing to divide by")
    return float(100 * (ours / theirs).mean())


def _common(errors: Errors, baseline: Errors) -> tuple[np.ndarray, np.ndarray]:
    """Both sides' errors float64 `[C, 5]` of the corruptions that they share."""
    names = _shared_names(errors, baseline, "corruption")
    sides = []
    for one, of in ((errors, ""), (baseline, "the baseline's ")):
        for name in names:
            if len(one[name]) != SEVERITIES:
                raise InputError(
                    f"{of}{name} has {len(one[name])} errors; it needs one for each of the "
                    f"{SEVERITIES} severities"
                )
        sides.append(np.asarray([[_share(e, f"{of}{n}") for e in one[n]] for n in names]))
    return sides[0], sides[1]


def _shared_names(ours: Mapping, theirs: Mapping, what: str) -> list[str]:
    names = [name for name in ours if name in theirs]
    if not names:
        raise NoRatioError(f"no {what} in common; the baseline has {', '.join(theirs)}")
    return names


def _share(value: float, what: str) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"{what} is {value}; it must be a share in 0..1, not percent")
    return float(value)
