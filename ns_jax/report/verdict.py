"""Who is better, by how much, and how sure that is: in a sentence."""

import math

import numpy as np

from ns_jax.inference import metrics
from ns_jax.report.collected import Collected, Iteration


def compare(ours: Iteration, theirs: Iteration) -> dict | None:
    """Top-1 of one less the other's in points, with its 95 % interval; None if one has no scores,
    or they are of other images.

    Paired where both wrote what they said of each image; else from the two shares alone
    (Newcombe's interval, of Wilson's).
    """
    if not (ours.scores and theirs.scores):
        return None
    if ours.scores["inputs"]["source"] != theirs.scores["inputs"]["source"]:
        return None
    one, other = ours.predictions, theirs.predictions
    if one and other and np.array_equal(one["index"], other["index"]):
        right = [each["predicted"] == each["label"] for each in (one, other)]
        numbers: tuple[float, float, float] = metrics.paired_difference(*right)
        paired, count = True, len(right[0])
    else:
        numbers, paired = _unpaired(ours.scores, theirs.scores), False
        count = min(ours.scores["num_images"], theirs.scores["num_images"])
    mean, low, high = (100 * value if math.isfinite(value) else None for value in numbers)
    return {"mean": mean, "low": low, "high": high, "paired": paired, "num_images": count}


def _unpaired(ours: dict, theirs: dict) -> tuple[float, float, float]:
    (p, low, high), (q, other_low, other_high) = (
        (scores["top1"], *share(scores)) for scores in (ours, theirs)
    )
    below = math.hypot(p - low, other_high - q)
    above = math.hypot(high - p, q - other_low)
    return p - q, p - q - below, p - q + above


def share(scores: dict) -> tuple[float, float]:
    """The 95 % interval of the top-1 of an `eval.json`."""
    count = scores["num_images"]
    return metrics.share_interval(round(scores["top1"] * count), count)


def verdict(collected: Collected) -> dict:
    """`text`, and the numbers of it: `difference` and `alone` as `compare` gives them, or None."""
    scored = [one for one in collected.iterations if one.scores]
    if not scored:
        return {"text": _nothing(collected), "difference": None, "alone": None}
    first, last = scored[0], scored[-1]
    difference = compare(last, first) if last is not first else None
    alone = None
    if difference and collected.labels_alone:
        alone = compare(last, collected.labels_alone)
    if difference is None:
        text = _one(last)
    else:
        more = _of_these(alone) if difference["mean"] > 0 or alone else "."
        text = f"{_capital(last.name)} is {_points(difference)} {first.name}{more}"
        text += _best(scored, last)
    return {"text": text, "difference": difference, "alone": alone}


def _nothing(collected: Collected) -> str:
    trained = [one.name for one in collected.iterations if one.training]
    done = f"Trained so far: {', '.join(trained)}. " if trained else "No training has ended yet. "
    data = (collected.config or {}).get("data")
    if data and not data.get("test"):
        return f"{done}Nothing is evaluated: the config names no data.test."
    return f"{done}Nothing has been evaluated yet, so nothing can be said of who is better."


def _one(only: Iteration) -> str:
    scores = only.scores or {}
    low, high = share(scores)
    students = "" if only.number is None else " No student has been evaluated yet."
    return (
        f"{_capital(only.name)} has {scores['top1']:.1%} ({100 * low:.1f} to {100 * high:.1f}, "
        f"n = {scores['num_images']:,}) of the test images right.{students}"
    )


def _points(found: dict) -> str:
    """`2.0 points (0.6 to 3.4, paired, n = 599) above`."""
    mean, low, high = (found[name] for name in ("mean", "low", "high"))
    way, sign = ("below", -1) if mean < 0 else ("above", 1)
    if low is None:
        return f"{abs(mean):.1f} points (n = {found['num_images']:,}) {way}"
    ends = sorted((sign * low, sign * high))
    kind = "paired" if found["paired"] else "unpaired"
    within = f"{ends[0]:.1f} to {ends[1]:.1f}, {kind}, n = {found['num_images']:,}"
    return f"{abs(mean):.1f} points ({within}) {way}"


def _of_these(alone: dict | None) -> str:
    if alone is None:
        return (
            ". How much of that comes from the unlabelled images, and how much from training "
            "longer, was not measured here."
        )
    interval = ""
    if alone["low"] is not None:
        kind = "paired" if alone["paired"] else "unpaired"
        interval = f" ({alone['low']:.1f} to {alone['high']:.1f}, {kind})"
    return (
        f"; of these, {alone['mean']:.1f}{interval} come from the unlabelled images: so much it is "
        "above the same network trained on the labels alone."
    )


def _best(scored: list[Iteration], last: Iteration) -> str:
    best = max(scored, key=lambda one: (one.scores or {})["top1"])
    if (best.scores or {})["top1"] <= (last.scores or {})["top1"]:
        return ""
    top1 = (best.scores or {})["top1"]
    return f" The best of all is {best.name} with {top1:.1%}; choosing it by these images flatters."


def caution(found: dict | None) -> str:
    """What an interval that holds 0 means."""
    if found is None or found["low"] is None or not found["low"] <= 0 <= found["high"]:
        return ""
    return (
        "The interval holds 0: these test images are too few to tell the two apart. More of them "
        "would narrow it."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
