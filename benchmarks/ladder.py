"""Self-training against what people would use instead: same labels, same pool, same test.

    python -m benchmarks.ladder [--set digits fashion] [--seeds 0 1 2 3 4]
    python -m benchmarks.ladder --short                    (digits, seed 0)
    python -m benchmarks.ladder --table                    (of what is there, nothing is run)

The rungs, for each seed (of the labelled few, the weights and the noise):

- a kernel SVM, label spreading and self-training of scikit-learn, on histograms of gradients
- the network on the labels: as long as the teacher, and for as many images as the loop sees
- pseudo-labels without noise: two students whose unlabelled images have none
- a teacher in the step: hard labels where the teacher is surer than a fixed threshold, one student
  for the images of two. Of FixMatch's kind; but there the student itself is that teacher.
- Noisy Student: one, two and three students. Two are the loop whose images the others see
- the upper bound: true labels of the pool

Interrupt it whenever you like: the same command goes on. Prints a Markdown table for each set.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import statistics
from collections.abc import Callable, Iterator

import numpy as np
from ml_collections import config_dict

from benchmarks import classical, runs
from configs import digits, fashion
from ns_jax import config as config_lib
from ns_jax.data import open as open_lib
from ns_jax.training import numbers as numbers_lib

SETS = {"digits": digits, "fashion": fashion}
STUDENTS = 3  # of the loop ...
COMPARED = 2  # ... and the one whose cost the others have
# FixMatch's 0.95 is out of reach of a teacher that label smoothing keeps at 0.91 or less.
THRESHOLD = 0.8


@dataclasses.dataclass(frozen=True)
class Rung:
    """Where a rung's score is, and what it cost: directories of runs with the share of each."""

    name: str
    scored: str
    costs: tuple[tuple[str, float], ...]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/ladder")
    parser.add_argument("--short", action="store_true", help="the digits, one seed")
    parser.add_argument("--table", action="store_true", help="of what is there; run nothing")
    args = parser.parse_args()
    sets, seeds = (["digits"], [0]) if args.short else (args.set, args.seeds)
    for which in sets:  # files that are missing are told before anything is run
        open_lib.open_from_config(SETS[which].get_config(), "labelled")
    for which in sets:
        for seed in seeds:
            if not args.table:
                Ladder(which, seed, args.workdir / which / f"seed_{seed}").run()
        print(report(which, seeds, args.workdir / which), flush=True)


class Ladder:
    """All rungs of one set and one seed."""

    def __init__(self, which: str, seed: int, root: pathlib.Path):
        self._root = root
        self._file = f"configs/{which}.py"
        # Nothing is scored while it trains: the time would count.
        self._flags = (*runs.of_seed(seed), "--config.train.evaluate_every_epochs=0.0")
        self._config = SETS[which].get_config()
        self._config.seed = self._config.data.split_seed = seed

    def run(self) -> None:
        self._loop()
        self._classical()
        self._labels_alone("labels alone", {}, 1.0)
        self._without_noise()
        self._teacher_in_step()
        few, many, per_class = self._all_labels()
        self._labels_alone("all labels", {"data.labels_per_class": per_class}, few / many)

    def _loop(self) -> None:
        iterations = f"--config.selftrain.iterations={STUDENTS}"
        runs.run("selftrain", self._root / "loop", self._file, *self._flags, iterations)

    @functools.cached_property
    def _sources(self) -> list:
        names = ("labelled", "unlabelled", "test")
        return [open_lib.open_from_config(self._config, name) for name in names]

    def _classical(self) -> None:
        labelled, pool, test = self._sources
        size = self._config.data.image_size

        def score(method: Callable, directory: pathlib.Path) -> None:
            seen = [classical.features(source, size) for source in (labelled, pool, test)]
            predicted = method(classical.Task(seen[0], labelled.labels, *seen[1:]))
            directory.mkdir(parents=True, exist_ok=True)
            top1 = {"top1": float((predicted == test.labels).mean())}
            (directory / "eval.json").write_text(json.dumps(top1))

        for name, method in classical.METHODS.items():
            directory = self._root / name
            runs.once(directory, [name], functools.partial(score, method, directory))

    def _labels_alone(self, name: str, changes: dict, share: float) -> None:
        """The teacher's training, for as many images as the loop; `share`: of epochs for that."""
        directory, longer = self._root / name, loop_images(self._config) * share
        config = config_lib.at_iteration(self._config, 0)
        changes = changes | {
            "train.epochs": longer * config.train.epochs,
            "optim.decay_epochs": longer * config.optim.decay_epochs,
            "optim.warmup_epochs": share * config.optim.warmup_epochs,
        }
        self._train(directory, "teacher", changes)

    def _train(self, directory: pathlib.Path, role: str, changes: dict) -> None:
        """A training and its score."""
        config = f"{self._file}:role={role}"
        flags = [*self._flags, *(f"--config.{key}={value}" for key, value in changes.items())]
        runs.run("train", directory / "training", config, *flags)
        evaluated = f"--config.evaluate.checkpoint={directory}/training"
        runs.run("evaluate", directory, config, *self._flags, evaluated)

    def _without_noise(self) -> None:
        flags = (
            f"--config.selftrain.iterations={COMPARED}",
            f"--config.selftrain.teacher={self._root}/loop/iteration_0",
            "--config.train.unlabelled_noise=none",
        )
        runs.run("selftrain", self._root / "without noise", self._file, *self._flags, *flags)

    def _teacher_in_step(self) -> None:
        directory, loop = self._root / "teacher in the step", self._root / "loop"
        chosen = (
            f"--config.select.labels={loop}/iteration_1/labels",
            f"--config.select.threshold={THRESHOLD}",
            f"--config.select.per_class={len(self._sources[1])}",
            "--config.select.balance=none",
        )
        runs.run("select", directory / "selected", self._file, *self._flags, *chosen)
        student = config_lib.at_iteration(self._config, 1)
        changes = {
            "train.selection": f"{directory}/selected/selection",
            "train.teacher": f"{loop}/iteration_0",
            "loss.pseudo_labels": "hard",
            "train.epochs": COMPARED * student.train.epochs,
            "optim.decay_epochs": COMPARED * student.optim.decay_epochs,
        }
        self._train(directory, "student", changes)

    def _all_labels(self) -> tuple[int, int, int]:
        """Images labelled now and then, and of each class then: all of them, but for the evenness
        of classes and the one image that the digits leave to the pool.
        """
        labelled, pool, _ = self._sources
        counts = np.bincount(np.concatenate([labelled.labels, pool.truth]))
        per_class = int(counts.min()) - 1
        return len(labelled), per_class * len(counts), per_class


def loop_images(config: config_dict.ConfigDict, students: int = COMPARED) -> float:
    """Images that a loop of so many students trains on, in those of its teacher."""
    images = [_images(config, k) for k in range(students + 1)]
    return sum(images) / images[0]


def _images(config: config_dict.ConfigDict, k: int) -> float:
    iteration = config_lib.at_iteration(config, k)
    steps = iteration.train.epochs / iteration.train.batch_size  # times the labelled images
    return sum(numbers_lib.images_per_step(iteration)) * steps


def rungs(config: config_dict.ConfigDict) -> Iterator[Rung]:
    """From the lowest to the upper bound. The loop's seconds are shared out by images."""
    whole = loop_images(config, STUDENTS)

    def loop(students: int) -> tuple[str, float]:
        return "loop", loop_images(config, students) / whole

    def trained(name: str) -> tuple[tuple[str, float], ...]:
        return (f"{name}/training", 1.0), (name, 1.0)

    for name in classical.METHODS:
        yield Rung(name, name, ((name, 1.0),))
    yield Rung("teacher: labels alone", "loop/iteration_0", (loop(0),))
    yield Rung("labels alone, the loop's images", "labels alone", trained("labels alone"))
    noiseless = f"without noise/iteration_{COMPARED}"
    yield Rung("pseudo-labels without noise", noiseless, (loop(0), ("without noise", 1.0)))
    in_step = "teacher in the step"
    selected = (f"{in_step}/selected", 1.0)
    yield Rung(in_step, in_step, (loop(0), selected, *trained(in_step)))
    for k in range(1, STUDENTS + 1):
        yield Rung(f"Noisy Student, {k}", f"loop/iteration_{k}", (loop(k),))
    yield Rung("upper bound: all labels", "all labels", trained("all labels"))


def report(which: str, seeds: list[int], root: pathlib.Path) -> str:
    """The table of a set, of what is there."""
    config = SETS[which].get_config()
    found = {
        rung.name: {seed: _found(root / f"seed_{seed}", rung) for seed in seeds}
        for rung in rungs(config)
    }
    best = found[f"Noisy Student, {COMPARED}"]
    rows = []
    for name, by_seed in found.items():
        there = [one for one in by_seed.values() if one]
        if not there:
            continue
        both = [seed for seed in seeds if by_seed[seed] and best[seed]]
        less = ""
        if both and by_seed is not best:
            difference = [[one[seed][0] for seed in both] for one in (best, by_seed)]
            less = runs.interval(runs.difference(*difference))
        minutes = statistics.mean(seconds for _, seconds in there) / 60
        scores = [score for score, _ in there]
        each = ", ".join(f"{score:.2f}" for score in scores)
        rows.append([name, runs.mean_and_spread(scores), each, f"{minutes:.1f}", less])
    columns = ["", "top-1", "each seed", "minutes", f"student {COMPARED} less this"]
    images = round(loop_images(config), 1)
    return (
        f"{which}, seeds {', '.join(map(str, seeds))}: top-1 in percent, mean and standard "
        f"deviation; minutes for one seed. The loop sees {images:g} times the teacher's images.\n\n"
        f"{runs.table(columns, rows)}\n"
    )


def _found(root: pathlib.Path, rung: Rung) -> tuple[float, float] | None:
    """Top-1 and seconds, if the rung has been run."""
    if not (root / rung.scored / "eval.json").exists():
        return None
    seconds = sum(share * runs.seconds(root / name) for name, share in rung.costs)
    return runs.top1(root / rung.scored), seconds


if __name__ == "__main__":
    main()
