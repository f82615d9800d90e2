"""Milliseconds an image and core of the 19 corruptions: ours and the authors' own code, in one run.

    make bench-corruptions FROST=DIR    (needs Python 3.7; about three minutes on an idle machine)

Both sides corrupt the same made images of 224 pixels, from uint8 to uint8, on one thread, taking
turns; a figure is the median over the rounds, of the processor's time. Frost needs the authors'
photographs, which both sides read from DIR.
"""

import argparse
import os
import statistics
import sys

from benchmarks.sides import Side, machine, row
from ns_jax.robustness.corruptions import CORRUPTIONS, EXTRA

IMAGES = 5  # a turn
GOALS = {"glass_blur": 10, "motion_blur": 10, "elastic_transform": 10}  # of all others: 1
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MAGICK_THREAD_LIMIT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference-python", default=".venv-imagenet-c/bin/python")
    parser.add_argument("--frost", default="")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--names", default=",".join(CORRUPTIONS + EXTRA))
    options = parser.parse_args()
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    print(f"{machine()}, {options.rounds} rounds\n")
    row(["corruption", "ours, ms", "the authors', ms", "ratio", "least of a severity", "goal"])
    row(["---"] * 6)
    for name in options.names.split(","):
        if name == "frost" and not options.frost:
            continue
        arguments = (name, options.frost, IMAGES)
        sides = [
            Side(sys.executable, "corruptions_ours.py", *arguments),
            Side(options.reference_python, "corruptions_reference.py", *arguments),
        ]
        rounds = [_round(sides) for _ in range(options.rounds)]
        medians = [
            [statistics.median(turns[severity][side] for turns in rounds) for severity in range(5)]
            for side in (0, 1)
        ]
        ours, theirs = (1000 * statistics.mean(seconds) / IMAGES for seconds in medians)
        least = min(other / own for own, other in zip(*medians, strict=True))
        cells = [f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}", f"{least:.1f}"]
        row([name, *cells, GOALS.get(name, 1)])
        for side in sides:
            side.close()


def _round(sides: list[Side]) -> list[list[float]]:
    """Seconds [severity][side]: a worker takes the next severity with each request."""
    return [[side.seconds() for side in sides] for _ in range(5)]


if __name__ == "__main__":
    main()
