"""Self-training on the digits with 5 labels a class, over seeds, against labels alone.

    python -m benchmarks.digits [--seeds 0 1 2 3 4] [--workdir runs/benchmark_digits]

For each seed (of the labelled few, the weights and the noise): a teacher, two students, and the
baseline: the same network trained with the same noise on the same labels alone, for as many images
as the whole loop saw. Every run starts where it stopped. Prints a Markdown table.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

from configs import digits
from ns_jax import config as config_lib
from ns_jax.training import numbers as numbers_lib


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/benchmark_digits")
    args = parser.parse_args()

    config = digits.get_config()
    images_of = [
        sum(numbers_lib.images_per_step(iteration)) * iteration.train.epochs
        for iteration in (config_lib.at_iteration(config, k) for k in range(3))
    ]
    longer = sum(images_of) / images_of[0]
    rows = []
    for seed in args.seeds:
        began = time.monotonic()
        loop, alone = args.workdir / f"seed_{seed}", args.workdir / f"seed_{seed}_labels_alone"
        of_seed = [f"--config.seed={seed}", f"--config.data.split_seed={seed}"]
        _run("selftrain", loop, "configs/digits.py", *of_seed)
        seconds = time.monotonic() - began
        of_seed += [
            f"--config.train.epochs={longer * config.train.epochs}",
            f"--config.optim.decay_epochs={longer * config.optim.decay_epochs}",
            f"--config.evaluate.checkpoint={alone}",
        ]
        _run("train", alone, "configs/digits.py:role=teacher", *of_seed)
        _run("evaluate", alone, "configs/digits.py:role=teacher", *of_seed)
        workdirs = [loop / f"iteration_{k}" for k in range(3)] + [alone]
        top1 = [json.loads((w / "eval.json").read_text())["top1"] for w in workdirs]
        rows.append([*top1[:3], top1[2] - top1[0], top1[3], top1[2] - top1[3]])
        print(f"seed {seed}: {top1}, loop {seconds:.0f} s", file=sys.stderr, flush=True)

    print(f"Labels alone: {longer:g} times the teacher's steps, as many images as the loop.\n")
    print("| seed | teacher | student 1 | student 2 | gain | labels alone | loop over alone |")
    print("|---|---|---|---|---|---|---|")
    for seed, row in zip(args.seeds, rows, strict=True):
        print(_line(str(seed), row))
    print(_line("mean", [statistics.mean(column) for column in zip(*rows, strict=True)]))


def _line(name: str, row: list[float]) -> str:
    teacher, first, second, gain, alone, over = (100 * value for value in row)
    return (
        f"| {name} | {teacher:.2f} | {first:.2f} | {second:.2f} | {gain:+.2f} | {alone:.2f} "
        f"| {over:+.2f} |"
    )


def _run(program: str, workdir: pathlib.Path, config: str, *flags: str) -> None:
    command = ["-m", "ns_jax", program, f"--config={config}", f"--workdir={workdir}", *flags]
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
