"""Labelling and training on a CPU: ours, timm (channels-last PyTorch), stock Flax, in one run.

    make bench-cpu        (needs .venv-timm, which the target builds; about ten minutes)

Each side is a process of its own that waits while the others work; a round asks each of them for
one batch, so a slow minute of the machine slows all. A row gives the medians over the rounds.
For inference timm is asked in batches of this size, half, and a quarter of it, and its best counts.
Every side gets uint8 images in memory and ends in probabilities (inference) or updated weights
(training: RMSProp with momentum, cross-entropy with smoothed labels).
"""

import argparse
import statistics
import sys

from benchmarks.sides import Side, machine, row

CASES = [  # network, pixels, mode, images a batch, goal over timm
    ("b0", 224, "inference", 32, 1.3),
    ("b0", 32, "inference", 512, 1.8),
    ("b4", 380, "inference", 16, 1.2),
    ("b0", 224, "training", 16, 0.9),
    ("b0", 32, "training", 128, 1.0),
]
COLUMNS = [
    *("network", "pixels", "mode", "batch", "ours", "timm", "timm's best batch", "stock Flax"),
    *("ours / timm", "goal", "our compile time, s"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm-python", default=".venv-timm/bin/python")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mode", default="", help="inference or training; both if not given")
    options = parser.parse_args()
    workers = {
        "ours": (sys.executable, "cpu_speed_ours.py"),
        "timm": (options.timm_python, "cpu_speed_timm.py"),
        "flax": (sys.executable, "cpu_speed_flax.py"),
    }
    print(f"{machine()}, {options.rounds} rounds\n")
    row(COLUMNS)
    row(["---"] * len(COLUMNS))
    for case in CASES:
        network, size, mode, batch, goal = case
        if options.mode not in ("", mode):
            continue
        arguments = (network, size, mode, batch)
        sides = {name: Side(*worker, *arguments) for name, worker in workers.items()}
        if mode == "inference":
            for part in (batch // 2, batch // 4):
                sides[f"timm {part}"] = Side(*workers["timm"], network, size, mode, part)
        times = {name: [] for name in sides}
        for number in range(options.rounds):
            for name, side in sides.items():
                if name != "flax" or number < 3:  # 10 times as slow: three rounds will do
                    times[name].append(side.seconds())
        speed = {n: sides[n].images / statistics.median(found) for n, found in times.items()}
        best = max((name for name in speed if name.startswith("timm")), key=speed.get)
        speed["timm"] = speed[best]
        ratio, compiled = speed["ours"] / speed["timm"], sides["ours"].ready["compile_seconds"]
        speeds = [f"{speed[name]:,.1f}" for name in ("ours", "timm", "flax")]
        speeds.insert(2, str(sides[best].images))
        row([network, size, mode, batch, *speeds, f"{ratio:.2f}", goal, f"{compiled:.1f}"])
        for side in sides.values():
            side.close()


if __name__ == "__main__":
    main()
