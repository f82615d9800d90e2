"""All that a page says, as one tree of plain values (`report.json`), and the sprites beside it."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax import files
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.report import collected as collected_lib
from ns_jax.report import mosaic, numbers, repeat, times, verdict
from ns_jax.report import sample as sample_lib
from ns_jax.report.collected import Collected, Iteration
from ns_jax.report.tiles import Sprite

# Numbers of a suite; the first is a share, the others are in percent.
SHOWN = {"top1": "top-1", "mean_flip_probability": "flips", "mce": "mCE"}
NAMES = 1000  # of classes that the page offers for a correction


@dataclasses.dataclass(frozen=True)
class Report:
    """What is shown: `content` is plain, `sprites` are by the names that its tiles have."""

    content: dict
    sprites: dict[str, Sprite]


def build(collected: Collected, config: config_dict.ConfigDict, defaults: dict | None) -> Report:
    """`config`: the workdir's own; `defaults`: every key's default by its name with dots."""
    problems = list(collected.problems)
    found = verdict.verdict(collected)
    content: dict[str, Any] = {
        "workdir": collected.workdir.name or str(collected.workdir),
        "made": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "state": _state(collected, config),
        "verdict": {**found, "caution": verdict.caution(found["difference"])},
        "iterations": [_iteration(collected, one, config) for one in collected.iterations],
    }
    pool = _Pool(collected, config, problems)
    content["pool"], sprites = pool.shown()
    content["classes"] = pool.classes
    content["calibration"] = _calibration(collected, pool)
    content["confusion"], more = _confusion(collected, config, pool.class_names, problems)
    content["leaks"] = _leaks(pool.iteration)
    content["unreadable"] = _unreadable(collected, pool)
    content["curves"] = times.curves(collected)
    content["times"] = times.stages(collected)
    content["repeat"] = repeat.repeat(collected, config, defaults)
    content["problems"] = problems
    return Report(content, {**sprites, **more})


def _state(collected: Collected, config: config_dict.ConfigDict) -> str:
    """Finished, or where it is."""
    last = collected.iterations[-1]
    if last.number is None:
        return ""
    done = last.scores if config.data.test else last.training
    if last.number >= config.selftrain.iterations and done:
        return "finished"
    stages = [row["stage"] for row in times.stages(collected) if row["at_work"]]
    where = f" in {stages[0]}" if stages else ""
    return f"not finished: at work, or stopped,{where or f' at {last.name}'}"


def _iteration(collected: Collected, one: Iteration, config: config_dict.ConfigDict) -> dict:
    scores, first = one.scores, collected.iterations[0]
    row: dict[str, Any] = {
        "name": one.name,
        "network": None,
        "step": one.training["outputs"].get("step") if one.training else None,
        "gain": verdict.compare(one, first) if one is not first else None,
        "robustness": _robustness(one),
    }
    if one.number is not None and not (one.number == 0 and config.selftrain.teacher):
        row["network"] = config_lib.at_iteration(config, one.number).model.name
    if scores:
        low, high = verdict.share(scores)
        row |= {name: scores[name] for name in ("top1", "top5", "ece", "num_images", "num_corrupt")}
        row |= {"top1_low": low, "top1_high": high}
    labels, counts = one.labels, one.counts
    row["labels_right"] = labels["outputs"].get("accuracy") if labels else None
    row["temperature"] = labels["inputs"].get("temperature") if labels else None
    for name in ("rows", "candidates", "kept", "copies"):
        row[name] = counts[name] if counts else None
    row["kept_right"] = counts["accuracy"] if counts else None
    return row


def _robustness(one: Iteration) -> dict[str, float]:
    """The main numbers of each suite that was run: shares, and mCE in percent."""
    found = {}
    for name, suite in (one.robustness or {}).get("suites", {}).items():
        ours = suite["checkpoint"]
        for number, words in SHOWN.items():
            if ours.get(number) is not None:
                found[f"{name}: {words}"] = ours[number]
    return found


class _Pool:
    """The last iteration that has labels and a selection, a sample of it, and its pictures."""

    def __init__(
        self, collected: Collected, config: config_dict.ConfigDict, problems: list[str]
    ) -> None:
        self._problems, self._config = problems, config
        ready = [one for one in collected.iterations if one.selection and one.counts]
        self.iteration = ready[-1] if ready else None
        self.sample: sample_lib.Sample | None = None
        self._source: Source | None = None
        self.class_names: list[str] = _class_names(collected)
        self.classes: list[dict] = []
        self.teacher: Iteration | None = None
        if self.iteration is None:
            return
        number = self.iteration.number
        self.teacher = next(
            (one for one in collected.iterations if number and one.number == number - 1), None
        )
        made = self.iteration.selection or {}
        self.class_names = made["inputs"]["labels"]["class_names"]
        self._source = self._attempt(lambda: self._open(made["inputs"]["labels"]["source"]))
        self.sample = self._attempt(self._sample)
        predictions = self.teacher.predictions if self.teacher else None
        in_labels = self._attempt(self._in_labels)
        self.classes = numbers.classes(
            self.iteration.counts or {}, self.sample, predictions, in_labels
        )

    @property
    def threshold(self) -> float | None:
        made = self.iteration.selection if self.iteration else None
        return made["inputs"].get("threshold") if made else None

    def _attempt(self, function: Callable) -> Any:
        return attempt(function, self._problems)

    def _open(self, fingerprint: str) -> Source | None:
        source = open_lib.open_from_config(self._config, "unlabelled")
        source.check_fingerprint(fingerprint, "the labelling")
        return source

    def _sample(self) -> sample_lib.Sample:
        one = self.iteration
        assert one is not None  # it is called where there is one
        labels = one.directory / "labels"
        if not one.labels:
            labels = files.as_path(self._config.select.labels)
        before = None
        if self.teacher is not None:
            before = self.teacher.directory / "labels"
        truth = self._source.known_labels(self.class_names) if self._source else None
        return sample_lib.take(labels, one.directory / "selection", before, truth)

    def _in_labels(self) -> np.ndarray | None:
        labelled = open_lib.open_from_config(self._config, "labelled")
        known = labelled.known_labels(self.class_names)
        if known is None:
            return None
        return np.bincount(known[known >= 0], minlength=len(self.class_names))

    def shown(self) -> tuple[dict, dict[str, Sprite]]:
        """The mosaic, with a `reason` where there are no pictures."""
        found: dict[str, Any] = {
            "reason": "",
            "offered": [],
            "classes": [],
            "class_names": self.class_names[:NAMES],
            "num_classes": len(self.class_names),
        }
        if self.iteration is None:
            in_step = self._config.train.teacher
            stored = "the teacher labels in the training step and stores nothing"
            reason = (
                f"There is nothing to show: {stored}." if in_step else "Nothing is selected yet."
            )
            return {**found, "reason": reason}, {}
        found["iteration"] = self.iteration.name
        if self.sample is None or self._source is None:
            reason = (
                "The labels or the images of the pool cannot be read; see the end of this page."
            )
            return {**found, "reason": reason}, {}
        found["sample"] = len(self.sample)
        found["num_images"] = self.sample.num_images
        found["complete"] = self.sample.complete
        found["has_before"] = self.sample.has_before
        worst = [row["number"] for row in self.classes]
        source, sample = self._source, self.sample
        tiles = self._attempt(lambda: mosaic.pool(sample, source, self.class_names, worst))
        if tiles is None:
            return {**found, "reason": "The pool's tiles cannot be made; see below."}, {}
        return {**found, **tiles[0]}, tiles[1]


def attempt(function: Callable, problems: list[str]) -> Any:
    """Its result; None, and the reason among the problems, where data is not as it was."""
    try:
        return function()
    except (InputError, OSError) as error:
        problems.append(str(error))
        return None


def _class_names(collected: Collected) -> list[str]:
    for one in reversed(collected.iterations):
        if one.labels:
            return one.labels["inputs"]["class_names"]
    for one in reversed(collected.iterations):
        if one.scores:
            return [str(number) for number in range(len(one.scores["per_class"]))]
    return []


def _calibration(collected: Collected, pool: _Pool) -> dict:
    """Reliability of each network that was scored, and precision of labels by threshold."""
    diagrams = [
        {
            "name": one.name,
            "ece": one.scores["ece"],
            "bins": numbers.reliability(
                one.predictions["confidence"],
                one.predictions["predicted"] == one.predictions["label"],
            ),
        }
        for one in collected.iterations
        if one.scores and one.predictions
    ]
    fitted = [
        {"name": one.name, **{key: one.calibration[key] for key in ("temperature", "num_images")}}
        | {"before": one.calibration["before"]["ece"], "after": one.calibration["after"]["ece"]}
        for one in collected.iterations
        if one.calibration
    ]
    points, of = [], ""
    sample, teacher = pool.sample, pool.teacher
    if sample is not None and sample.truth is not None and (sample.truth >= 0).any():
        known = sample.truth >= 0
        right = (sample.label == sample.truth)[known]
        points = numbers.precision(sample.confidence[known], right, pool.threshold)
        of = "images of the pool whose class is known"
    elif teacher is not None and teacher.predictions:
        found = teacher.predictions
        right = found["predicted"] == found["label"]
        points = numbers.precision(found["confidence"], right, pool.threshold)
        of = f"test images, of {teacher.name}, which labelled the pool"
    return {"reliability": diagrams, "temperature": fitted, "precision": points, "precision_of": of}


def _confusion(
    collected: Collected,
    config: config_dict.ConfigDict,
    class_names: list[str],
    problems: list[str],
) -> tuple[dict, dict[str, Sprite]]:
    scored = [one for one in collected.iterations if one.scores and one.predictions]
    if not scored:
        return {"name": None, "cells": [], "classes": [], "mistakes": []}, {}
    last = scored[-1]
    scores, predictions = last.scores or {}, last.predictions or {}
    cells = numbers.confusions(predictions)

    def tiles() -> tuple[list[dict], dict[str, Sprite]]:
        source = open_lib.open_from_config(config, "test")
        source.check_fingerprint(scores["inputs"]["source"], f"eval.json of {last.name}")
        return mosaic.mistakes(predictions, cells, source, class_names)

    shown, sprites = attempt(tiles, problems) or ([], {})
    return {
        "name": last.name,
        "cells": cells[: numbers.CONFUSIONS],
        "classes": class_names if len(class_names) <= numbers.MATRIX else [],
        "mistakes": shown,
    }, sprites


def _leaks(one: Iteration | None) -> dict:
    """`guarded`: whether somebody looked."""
    found: dict[str, Any] = {"guarded": False, "num_images": None, "left_out": None, "listed": []}
    inputs = (one.selection or {}).get("inputs", {}) if one else {}
    if one is None or "guard" not in inputs:
        return found
    return {
        "guarded": True,
        "num_images": (one.counts or {}).get("leaks"),
        "left_out": inputs.get("drop_leaks"),
        "listed": one.leaks,
    }


def _unreadable(collected: Collected, pool: _Pool) -> dict:
    counts = []
    for one in collected.iterations:
        bad = (one.training or {}).get("outputs", {}).get("num_bad", [])
        for what, count in zip(("labelled images", "unlabelled images"), bad, strict=False):
            counts.append({"where": f"{what}, training {one.name}", "num_images": count})
        if one.labels:
            count = one.labels["outputs"]["num_bad"]
            counts.append({"where": f"the pool, labelled for {one.name}", "num_images": count})
        if one.scores:
            count = one.scores["num_corrupt"]
            counts.append({"where": f"test images, scoring {one.name}", "num_images": count})
    listed = pool.sample.unreadable if pool.sample else []
    return {"counts": counts, "listed": listed[: collected_lib.LISTED]}
