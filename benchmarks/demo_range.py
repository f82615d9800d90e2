"""The table of `make demo` over seeds, Pythons and versions of JAX.

    python -m benchmarks.demo_range [--seeds 0 1 2 3 4] [--workdir runs/demo_range]

Runs the demo once a seed (of the labelled few, the weights and the noise) with the Python and the
JAX that run this, each where it stopped, then prints a Markdown table of all that lies in the
workdir. So the same command in one environment after the other gives the range over them all.
"""

import argparse
import pathlib
import platform
import re

import jax

from benchmarks import runs

SEED = re.compile(r"seed_(\d+)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/demo_range")
    args = parser.parse_args()
    versions = f"Python {platform.python_version()}, JAX {jax.__version__}"
    for seed in args.seeds:
        workdir = args.workdir / versions / f"seed_{seed}"
        runs.run("selftrain", workdir, "configs/digits.py", *runs.of_seed(seed))
    print(of_workdir(args.workdir))


def of_workdir(workdir: pathlib.Path) -> str:
    """The table of all finished runs; its last row is the range over them."""
    found = {}
    for path in sorted(workdir.glob(f"*/seed_*/{runs.RUN}")):
        if runs.finished(path.parent):
            seed = int(SEED.fullmatch(path.parent.name)[1])
            top1 = [runs.top1(path.parent / f"iteration_{k}") for k in range(3)]
            found[path.parent.parent.name, seed] = [*top1, top1[1] - top1[0], top1[2] - top1[0]]
    rows = [[*key, *_cells(values)] for key, values in found.items()]
    columns = list(zip(*found.values(), strict=True))
    lowest, highest = (_cells(map(end, columns)) for end in (min, max))
    both = [f"{low} to {high}" for low, high in zip(lowest, highest, strict=True)]
    names = ["teacher", "student 1", "student 2", "gain of student 1", "of student 2"]
    return runs.table(["versions", "seed", *names], [*rows, ["range", "", *both]])


def _cells(values) -> list[str]:
    return [f"{value:.2f}" if k < 3 else f"{value:+.2f}" for k, value in enumerate(values)]


if __name__ == "__main__":
    main()
