"""What 50 clicks on a report's tiles gain: as they are offered, against labels of random images.

    python -m benchmarks.corrections [--seeds 0 1 2 3 4] [--clicks 50] [--workdir runs/corrections]
    python -m benchmarks.corrections --table               (of what is there, nothing is run)

For each seed (of the labelled few, the weights and the noise): `base`, the digits' teacher and two
students. Then the second student is trained once more of the same teacher, with the same seed: of
its labels as they are (`none`), with the answers to the images that the report offers first
(`offered`), and with the labels of as many images drawn at random (`random`). All answers are the
digits' own labels: an offered image whose label is right is called right, any other is named; a
random image is given its label. Both reach the student through `select.corrections`. Differences
are paired by seed. Interrupt it whenever you like: the same command goes on. Prints Markdown.
"""

import argparse
import csv
import json
import pathlib

import numpy as np

from benchmarks import runs
from configs import digits
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.report import sample as sample_lib
from ns_jax.selection import corrections

CONFIG = "configs/digits.py"
LAST = 2  # the student that is trained once more
ARMS = ("none", "offered", "random")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--clicks", type=int, default=50)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/corrections")
    parser.add_argument("--table", action="store_true", help="of what is there; run nothing")
    args = parser.parse_args()
    found = {}
    for seed in args.seeds:
        root = args.workdir / f"seed_{seed}"
        if not args.table:
            run(root, seed, args.clicks)
        if all((root / arm / "iteration_1" / "eval.json").exists() for arm in ARMS):
            found[seed] = of_seed(root)
    print(report(found, args.clicks))


def run(root: pathlib.Path, seed: int, clicks: int) -> None:
    flags = runs.of_seed(seed)
    runs.run("selftrain", root / "base", CONFIG, *flags)
    source = pool(seed)
    for arm in ARMS:
        again = [f"--config.selftrain.teacher={root / 'base' / f'iteration_{LAST - 1}'}"]
        again += ["--config.selftrain.iterations=1"]
        if arm != "none":
            path = root / f"{arm}.csv"
            write(path, answers(root / "base", source, arm, clicks, seed))
            again.append(f"--config.select.corrections={path}")
        runs.run("selftrain", root / arm, CONFIG, *flags, *again)


def pool(seed: int) -> Source:
    config = digits.get_config()
    config.data.split_seed = seed
    return open_lib.open_from_config(config, "unlabelled")


def answers(
    base: pathlib.Path, source: Source, arm: str, clicks: int, seed: int
) -> list[tuple[int, str, str, str]]:
    """Lines of `corrections.csv`: index, key, verdict, label."""
    directory = base / f"iteration_{LAST}"
    before = base / f"iteration_{LAST - 1}" / "labels"
    found = sample_lib.take(directory / "labels", directory / "selection", before, source.truth)
    if arm == "random":
        rows = np.random.default_rng([seed, 50]).choice(len(found), clicks, replace=False)
    else:
        rows = sample_lib.offered(found, clicks)
    names, truth = source.class_names, found.truth
    assert truth is not None  # the digits know it
    lines = []
    for row, key in zip(rows.tolist(), found.keys(rows), strict=True):
        is_right = truth[row] == found.label[row] and arm == "offered"
        verdict = corrections.RIGHT if is_right else corrections.OTHER
        lines.append((int(found.index[row]), key, verdict, names[truth[row]]))
    return lines


def write(path: pathlib.Path, lines: list[tuple[int, str, str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([corrections.COLUMNS, *lines])


def of_seed(root: pathlib.Path) -> dict:
    """Top-1 in percent and kept labels that are right, by arm; labels that the answers changed."""
    numbers: dict = {}
    for arm in ARMS:
        directory = root / arm / "iteration_1"
        made = json.loads((directory / "selection" / "manifest.json").read_text())
        numbers[arm] = {"top1": runs.top1(directory), "right": 100 * made["outputs"]["accuracy"]}
    numbers["changed"] = {
        arm: _changed(root / f"{arm}.csv", root / "base" / f"iteration_{LAST}" / "labels")
        for arm in ARMS[1:]
    }
    return numbers


def _changed(path: pathlib.Path, labels: pathlib.Path) -> int:
    """Answers that are another class than the labels have."""
    found = sample_lib.take(labels, None, None, None)
    said = {row.index: int(row.label) for row in corrections.read(path)}
    return sum(
        said[index] != label
        for index, label in zip(found.index.tolist(), found.label.tolist(), strict=True)
        if index in said
    )


def report(found: dict[int, dict], clicks: int) -> str:
    """The tables, in Markdown."""
    columns = ["seed", *ARMS, "of the answers another class: offered", "random", "kept right: none"]
    columns += ["offered", "random"]
    rows: list[list[object]] = [
        [
            seed,
            *(f"{one[arm]['top1']:.2f}" for arm in ARMS),
            *(one["changed"][arm] for arm in ARMS[1:]),
            *(f"{one[arm]['right']:.2f}" for arm in ARMS),
        ]
        for seed, one in found.items()
    ]
    top1 = {arm: [one[arm]["top1"] for one in found.values()] for arm in ARMS}
    lines = [f"The digits, {clicks} answers: top-1 of the student in percent.\n"]
    lines.append(runs.table(columns, rows))
    if found:
        pairs = (("offered", "none"), ("random", "none"), ("offered", "random"))
        compared = [
            [f"{one} less {other}", runs.interval(runs.difference(top1[one], top1[other]))]
            for one, other in pairs
        ]
        lines.append("\nDifferences in points, paired by seed, with their 95 % intervals.\n")
        lines.append(runs.table(["compared", "difference"], compared))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
