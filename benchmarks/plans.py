"""The table of docs/plan.md: students of the paper on TPU slices, planned without one.

    python -m benchmarks.plans [--models b0,b4] [--slices v3-32,v3-2048] [--workdir runs/plans]

Needs the extra `plan`. Each row is a compilation of one to ten minutes on 2 cores; what stands in
the workdir is not compiled again. A step is the recipe's whole batch: on a slice too small to hold
it at once, it goes through the network in pieces (`train.accumulate`).
"""

import argparse
import json
import pathlib
import subprocess
import sys

from benchmarks.sides import row

MODELS = ("b0", "b4", "b7", "l2")
SLICES = ("v3-32", "v3-512", "v3-2048", "v4-512", "v5e-256", "v6e-256")
PIECES = {  # of a step, where it is not one
    "v3-32": {"b0": 2, "b4": 16, "b7": 32, "l2": 64},
    "v3-512": {"b7": 2, "l2": 4},
    "v4-512": {"b7": 2, "l2": 4},
    "v5e-256": {"b4": 2, "b7": 4, "l2": 8},
    "v6e-256": {"b4": 2, "b7": 4, "l2": 8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--slices", default=",".join(SLICES))
    parser.add_argument("--workdir", default="runs/plans", type=pathlib.Path)
    options = parser.parse_args()
    names = ("network", "slice", "images a device at once", "pieces", "memory a device, GB")
    row([*names, "step, s", "FLOPs used", "days", "core-hours", "compiled in, s"])
    row(["---"] * 10)
    for model in options.models.split(","):
        for slice_ in options.slices.split(","):
            pieces = PIECES.get(slice_, {}).get(model, 1)
            directory = options.workdir / f"{model}_{slice_}"
            row(_cells(model, slice_, pieces, _plan(model, slice_, pieces, directory)))


def _plan(model: str, slice_: str, pieces: int, directory: pathlib.Path) -> dict:
    path = directory / "plan.json"
    if not path.exists():
        flags = {"topology": slice_, "labelling": False}
        command = [
            *(sys.executable, "-m", "ns_jax", "plan", f"--workdir={directory}"),
            f"--config=configs/imagenet.py:model={model},role=student",
            f"--config.train.accumulate={pieces}",
            *(f"--config.plan.{name}={value}" for name, value in flags.items()),
        ]
        subprocess.run(command, check=True, capture_output=True)
    return json.loads(path.read_text())["train"]


def _cells(model: str, slice_: str, pieces: int, plan: dict) -> list:
    cells = [model.upper(), slice_, f"{plan['images_per_device'] / pieces:g}", pieces]
    seconds = f"{plan['compile_seconds']:.0f}"
    if not plan["fits"]:
        return [*cells, f"{plan['peak_bytes'] / 1e9:.1f}: too much", *["-"] * 4, seconds]
    return [
        *cells,
        f"{plan['peak_bytes'] / 1e9:.1f}",
        f"{plan['step_seconds']:.3f}",
        f"{plan['utilisation']:.1%}",
        f"{plan['days']:.2f}",
        f"{plan['core_hours']:,.0f}",
        seconds,
    ]


if __name__ == "__main__":
    main()
