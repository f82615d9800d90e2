"""Noisy students against students without noise and their teachers, on corrupted digits.

    python -m benchmarks.robustness_digits [--seeds 0 1 2] [--workdir runs/robustness_digits]

For each seed (of the labelled few, the weights and the noise): a self-training of two students, and
a plain student, which learns from the first one's pseudo-labels for as many steps with neither
RandAugment nor dropout nor stochastic depth. All are measured on corrupted test images, on
sequences of frames and under FGSM. Every run starts where it stopped. Prints Markdown tables.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

PLAIN = (
    "--config.randaugment.num_layers=0",
    "--config.model.drop_rate=0.0",
    "--config.model.path_drop_rate=0.0",
)
NETWORKS = ("teacher", "plain student", "noisy student 1", "noisy student 2")
COLUMNS = ("clean", "corrupted", "flips", "FGSM 2", "FGSM 4", "FGSM 8", "FGSM 16")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/robustness_digits")
    args = parser.parse_args()
    found = [_measure(seed, args.workdir / f"seed_{seed}") for seed in args.seeds]
    print("Percent of 599 test images; flips: of frames, fewer are better. Mean of the seeds "
          f"{', '.join(map(str, args.seeds))} (each seed's value)\n")  # fmt: skip
    _row(["network", *COLUMNS])
    _row(["---"] * (1 + len(COLUMNS)))
    for network in NETWORKS:
        rows = np.array([[one["numbers"][network][column] for column in COLUMNS] for one in found])
        cells = [
            f"{column.mean():.1f} ({', '.join(f'{value:.1f}' for value in column)})"
            for column in rows.T
        ]
        _row([network, *cells])
    print("\nPaired differences in points, with their 95 % intervals:\n")
    suites = ("own", "own_flips", "fgsm")
    _row(["seed", "of", "mean error, corrupted", "flips", "top-1 at FGSM 16"])
    _row(["---"] * 5)
    for seed, one in zip(args.seeds, found, strict=True):
        for pair, differences in one["differences"].items():
            _row([str(seed), pair, *(_interval(differences[suite]) for suite in suites)])


def _measure(seed: int, workdir: pathlib.Path) -> dict:
    config = "configs/digits.py"
    seeds = [f"--config.seed={seed}", f"--config.data.split_seed={seed}"]
    loop, plain = workdir / "loop", workdir / "plain"
    _run("selftrain", loop, config, *seeds)
    selection = f"--config.train.selection={loop}/iteration_1/selection"
    _run("train", plain, f"{config}:role=student", *seeds, *PLAIN, selection)
    checkpoints = dict(
        zip(
            NETWORKS,
            (loop / "iteration_0", plain, loop / "iteration_1", loop / "iteration_2"),
            strict=True,
        )
    )
    numbers: dict = {}
    differences = {}
    pairs = (("noisy student 1", "plain student"), ("noisy student 2", "teacher"))
    for network, against in pairs:
        name = f"{network} against {against}".replace(" ", "_")
        flags = [
            f"--config.robustness.checkpoint={checkpoints[network]}",
            f"--config.robustness.against={checkpoints[against]}",
        ]
        _run("robustness", workdir / name, config, *seeds, *flags)
        suites = json.loads((workdir / name / "robustness.json").read_text())["suites"]
        for side, which in (("checkpoint", network), ("against", against)):
            numbers[which] = _numbers({suite: one[side] for suite, one in suites.items()})
        differences[f"{network} less {against}"] = {
            suite: one["difference"] for suite, one in suites.items()
        }
    return {"numbers": numbers, "differences": differences}


def _numbers(suites: dict) -> dict:
    attacked = suites["fgsm"]["epsilons"]
    return {
        "clean": 100 - suites["own"]["clean_error"],
        "corrupted": 100 * suites["own"]["top1"],
        "flips": suites["own_flips"]["mean_flip_probability"],
        **{f"FGSM {epsilon}": 100 * attacked[epsilon] for epsilon in ("2", "4", "8", "16")},
    }


def _run(program: str, workdir: pathlib.Path, config: str, *flags: str) -> None:
    command = ["-m", "ns_jax", program, f"--config={config}", f"--workdir={workdir}", *flags]
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


def _row(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |")


def _interval(difference: dict) -> str:
    return f"{difference['mean']:+.1f} ({difference['low']:+.1f} to {difference['high']:+.1f})"


if __name__ == "__main__":
    main()
