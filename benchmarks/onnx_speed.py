"""Inference on a CPU: our own, our ONNX file and timm's ONNX export in onnxruntime, in one run.

    make bench-onnx        (needs .venv-timm with onnx and onnxscript, which the target builds)

Each side is a process of its own that waits while the others work; a round asks each of them for
one batch, so a slow minute of the machine slows all. A row gives the medians over the rounds. Every
side gets uint8 images in memory and ends in probabilities, on as many threads as there are cores;
for timm's file the images are normalised by NumPy, as its users do, and that is in its time.
`--quantise` adds our int8 file, calibrated on random images: its speed is that of any other.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile

from benchmarks.sides import HERE, Side, machine, row

CASES = [("b0", 224, 32), ("b4", 380, 8)]  # network, pixels, images a batch
COLUMNS = [
    "network",
    "pixels",
    "batch",
    "ours (JAX)",
    "ours (ONNX)",
    "timm's ONNX",
    "ours / timm's",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm-python", default=".venv-timm/bin/python")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quantise", action="store_true")
    options = parser.parse_args()
    kinds = ["ours", "timm"] + ["int8"] * options.quantise
    print(f"{machine()}, {options.rounds} rounds\n")
    columns = COLUMNS + ["ours (int8)"] * options.quantise
    row(columns)
    row(["---"] * len(columns))
    with tempfile.TemporaryDirectory() as directory:
        for network, size, batch in CASES:
            timms = pathlib.Path(directory) / "timm.onnx"
            script = str(HERE / "onnx_speed_timm.py")
            command = [options.timm_python, script, network, str(size), str(timms)]
            subprocess.run(command, check=True, capture_output=True)
            arguments = (network, size, "inference", batch)
            sides = {"jax": Side(sys.executable, "cpu_speed_ours.py", *arguments)}
            for kind in kinds:
                file = timms if kind == "timm" else "-"
                sides[kind] = Side(
                    sys.executable, "onnx_speed_ours.py", kind, file, *arguments[:2], batch
                )
            times = {name: [] for name in sides}
            for _ in range(options.rounds):
                for name, side in sides.items():
                    times[name].append(side.seconds())
            speed = {name: batch / statistics.median(found) for name, found in times.items()}
            shown = [f"{speed[name]:,.1f}" for name in ("jax", "ours", "timm")]
            shown.append(f"{speed['ours'] / speed['timm']:.2f}")
            row([network, size, batch, *shown, *[f"{speed['int8']:,.1f}"] * options.quantise])
            for side in sides.values():
                side.close()


if __name__ == "__main__":
    main()
