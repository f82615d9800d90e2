"""Labelling and training on a CPU: ours, timm (channels-last PyTorch), stock Flax, in one run.

    make bench-cpu        (needs .venv-timm, which the target builds; about ten minutes)

Each side is a process of its own that waits while the others work; a round asks each of them for
one batch, so a slow minute of the machine slows all. A row gives the medians over the rounds.
For inference timm is asked in batches of this size, half, and a quarter of it, and its best counts.
Every side gets uint8 images in memory and ends in probabilities (inference) or updated weights
(training: RMSProp with momentum, cross-entropy with smoothed labels).
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys

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
HERE = pathlib.Path(__file__).parent


class Side:
    """A worker process: `seconds()` is the time of one batch."""

    def __init__(self, python: str, script: str, case: tuple):
        network, size, mode, self.batch, _ = case
        arguments = [python, str(HERE / script), network, str(size), mode, str(self.batch)]
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent
        )
        self.ready = json.loads(self._process.stdout.readline())

    def seconds(self) -> float:
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


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
    print(f"{platform.processor() or platform.machine()}, {_cpu()}, {options.rounds} rounds\n")
    _row(COLUMNS)
    _row(["---"] * len(COLUMNS))
    for case in CASES:
        network, size, mode, batch, goal = case
        if options.mode not in ("", mode):
            continue
        sides = {name: Side(*worker, case) for name, worker in workers.items()}
        if mode == "inference":
            for part in (batch // 2, batch // 4):
                smaller = (network, size, mode, part, goal)
                sides[f"timm {part}"] = Side(*workers["timm"], smaller)
        times = {name: [] for name in sides}
        for number in range(options.rounds):
            for name, side in sides.items():
                if name != "flax" or number < 3:  # 10 times as slow: three rounds will do
                    times[name].append(side.seconds())
        speed = {n: sides[n].batch / statistics.median(found) for n, found in times.items()}
        best = max((name for name in speed if name.startswith("timm")), key=speed.get)
        speed["timm"] = speed[best]
        ratio, compiled = speed["ours"] / speed["timm"], sides["ours"].ready["compile_seconds"]
        speeds = [f"{speed[name]:,.1f}" for name in ("ours", "timm", "flax")]
        speeds.insert(2, str(sides[best].batch))
        _row([network, size, mode, batch, *speeds, f"{ratio:.2f}", goal, f"{compiled:.1f}"])
        for side in sides.values():
            side.close()


def _row(cells: list) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _cpu() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}"


if __name__ == "__main__":
    main()
