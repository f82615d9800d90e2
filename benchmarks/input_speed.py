"""Images a second from JPEG files to batches of 224 pixels: ours and timm's, in one run.

    make bench-input        (needs .venv-timm, which the target builds; about five minutes)

All sides read the same files (500 x 375, 54 kB) with as many worker processes as there are cores,
and end in batches of 64 images. Training: random crop, mirror and RandAugment, ours always both
operators of RandAugment(2, 9), timm's `rand-m9-n2` each with probability one half. Evaluation:
centre crop of 0.875. timm's side is there twice: with uint8 batches, as its own loader makes them
and ours are, and as `create_transform` and a DataLoader make them by default, normalised floats.
The sides take turns, and what they had made ahead of a turn is not counted.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

from benchmarks import photos
from benchmarks.sides import Side, machine, row

FILES = 8192
IMAGES = 10_240  # of a turn: after a pause the first thousand are up to a fifth slower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm-python", default=".venv-timm/bin/python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", default=f"{tempfile.gettempdir()}/ns_jax_photos")
    parser.add_argument("--modes", default="training,evaluation")
    options = parser.parse_args()
    photos.write(pathlib.Path(options.files), FILES)
    print(f"{machine()}, {options.rounds} rounds\n")
    names = ("ours", "timm uint8", "timm floats")
    row(["view", *(f"{n}, images/s a core" for n in names), *(f"ours / {n}" for n in names[1:])])
    row(["---"] * 6)
    cores = os.cpu_count()
    for mode in options.modes.split(","):
        arguments = (options.files, mode, cores, IMAGES)
        sides = [
            Side(sys.executable, "input_speed_ours.py", *arguments),
            Side(options.timm_python, "input_speed_timm.py", "uint8", *arguments),
            Side(options.timm_python, "input_speed_timm.py", "floats", *arguments),
        ]
        times = [[_turn(side) for side in sides] for _ in range(options.rounds)]
        medians = [statistics.median(found) for found in zip(*times, strict=True)]
        speeds = [f"{IMAGES / cores / seconds:,.0f}" for seconds in medians]
        ratios = [statistics.median(turn[other] / turn[0] for turn in times) for other in (1, 2)]
        row([mode, *speeds, *(f"{ratio:.2f}" for ratio in ratios)])
        for side in sides:
            side.close()


def _turn(side: Side) -> float:
    time.sleep(2)  # the other side fills its buffers
    return side.seconds()


if __name__ == "__main__":
    main()
