"""Images a second from JPEG files to batches of 224 pixels: ours and timm's, in one run.

    make bench-input        (needs .venv-timm, which the target builds; about three minutes)

Both sides read the same files (500 x 375, 54 kB) with one worker process and with as many as cores,
and end in batches of 64 uint8 images. Training: random crop, mirror and RandAugment, ours always
both operators of RandAugment(2, 9), timm's `rand-m9-n2` each with probability one half. Evaluation:
centre crop of 0.875. The sides take turns, and what they had made ahead of a turn is not counted.
"""

import argparse
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
import time

from benchmarks import photos
from benchmarks.sides import Side, machine, row

FILES = 8192
IMAGES = 2560  # of a turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm-python", default=".venv-timm/bin/python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", default=f"{tempfile.gettempdir()}/ns_jax_photos")
    options = parser.parse_args()
    photos.write(pathlib.Path(options.files), FILES)
    print(f"{machine()}, {options.rounds} rounds\n")
    row(
        ["view", "workers", "ours, images/s a core", "timm, images/s a core", "ours / timm", "goal"]
    )
    row(["---"] * 6)
    goals = {"training": 3.0, "evaluation": 2.0}
    for mode, cores in itertools.product(goals, sorted({1, os.cpu_count()})):
        arguments = (options.files, mode, cores, IMAGES)
        sides = [
            Side(sys.executable, "input_speed_ours.py", *arguments),
            Side(options.timm_python, "input_speed_timm.py", *arguments),
        ]
        times = [[_turn(side) for side in sides] for _ in range(options.rounds)]
        speeds = [IMAGES / cores / statistics.median(found) for found in zip(*times, strict=True)]
        ratio = statistics.median(theirs / ours for ours, theirs in times)
        row([mode, cores, *(f"{speed:,.0f}" for speed in speeds), f"{ratio:.2f}", goals[mode]])
        for side in sides:
            side.close()


def _turn(side: Side) -> float:
    time.sleep(2)  # the other side fills its buffers
    return side.seconds()


if __name__ == "__main__":
    main()
