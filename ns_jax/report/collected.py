"""What a workdir says: of a self-training, or of one program alone. Parts may be missing."""

import csv
import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ns_jax import files
from ns_jax import workdir as workdir_lib
from ns_jax.errors import DamagedError, InputError
from ns_jax.inference import predictions
from ns_jax.report import timeline

LISTED = 50  # leaks and unreadable files that are named
LABELS_ALONE = "labels_alone"  # directory of a training on the labels alone, to compare with


@dataclasses.dataclass(frozen=True)
class Iteration:
    """The files of a teacher or a student, each None where it is not there."""

    number: int | None  # None: a workdir of one program
    directory: pathlib.Path
    training: dict | None  # the manifest
    scores: dict | None  # eval.json
    predictions: dict[str, np.ndarray] | None
    robustness: dict | None
    labels: dict | None  # the manifest of the labels that it was trained on
    calibration: dict | None
    selection: dict | None  # the manifest
    counts: dict | None  # the selection's report
    leaks: list[dict]
    metrics: list[dict]

    @property
    def name(self) -> str:
        if self.number is None:
            return "this run"
        return "the teacher" if self.number == 0 else f"student {self.number}"


@dataclasses.dataclass(frozen=True)
class Collected:
    """All of a workdir."""

    workdir: pathlib.Path
    config: dict | None
    iterations: list[Iteration]
    labels_alone: Iteration | None
    timeline: list[dict]
    problems: list[str]  # files that are damaged


def collect(workdir: pathlib.Path) -> Collected:
    """Raises InputError if there is no such directory, or nothing in it."""
    if not workdir.is_dir() or not any(workdir.iterdir()):
        raise InputError(f"{workdir} is not there, or empty: there is nothing to report on")
    reader = _Reader()
    found = {}
    for directory in workdir.glob("iteration_*"):
        if match := re.fullmatch(r"iteration_(\d+)", directory.name):
            found[int(match[1])] = directory
    if not found and (workdir / timeline.NAME).exists():  # a self-training that has just begun
        found[0] = workdir / "iteration_0"
    iterations = [reader.iteration(found[k], k) for k in sorted(found)]
    if not iterations:
        iterations = [reader.iteration(workdir, None)]
    alone = workdir / LABELS_ALONE
    return Collected(
        workdir,
        reader.json(workdir / workdir_lib.CONFIG),
        iterations,
        reader.iteration(alone, None) if (alone / "eval.json").exists() else None,
        timeline.read(workdir / timeline.NAME),
        reader.problems,
    )


class _Reader:
    """Reads what is there; what cannot be read is noted."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def iteration(self, directory: pathlib.Path, number: int | None) -> Iteration:
        labels, selection = directory / "labels", directory / "selection"
        return Iteration(
            number,
            directory,
            self.json(directory / workdir_lib.MANIFEST),
            self.json(directory / "eval.json"),
            self._read(directory / predictions.NAME, lambda path: predictions.read(path.parent)),
            self.json(directory / "robustness.json"),
            self.json(labels / workdir_lib.MANIFEST),
            self.json(labels / "calibration.json"),
            self.json(selection / workdir_lib.MANIFEST),
            self.json(selection / "report.json"),
            self._read(selection / "leaks.csv", _first_rows) or [],
            self.lines(directory / "metrics.jsonl"),
        )

    def json(self, path: pathlib.Path) -> dict | None:
        return self._read(path, lambda path: json.loads(path.read_text()))

    def lines(self, path: pathlib.Path) -> list[dict]:
        """Those of a JSON-lines file that are whole: the last one may just be written."""
        return self._read(path, _whole_lines) or []

    def _read(self, path: pathlib.Path, function: Callable[[pathlib.Path], Any]) -> Any:
        try:
            return function(path)
        except FileNotFoundError:
            return None
        except (DamagedError, OSError, ValueError, csv.Error) as error:
            self.problems.append(f"{path} cannot be read: {error}")
            return None


def _whole_lines(path: pathlib.Path) -> list[dict]:
    found = []
    for line in path.read_bytes().decode(errors="replace").splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            found.append(content)
    return found


def _first_rows(path: pathlib.Path) -> list[dict]:
    with files.local(path).open(newline="", encoding="utf-8") as file:
        return list(itertools.islice(csv.DictReader(file), LISTED))
