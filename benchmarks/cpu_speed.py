"""Labelling and training on a CPU: ours, PyTorch's, ONNX in other runtimes, stock Flax, in one run.

    make bench-cpu        (needs .venv-timm, which the target builds, and a C++ compiler)

Each side is a process of its own that waits while the others work; a round asks each of them for
one batch, so a slow minute of the machine slows all. A row gives the medians over the rounds.
Where a side has several forms (batches of this size, half, and a quarter of it; OpenVINO's two
hints) its best counts. Every side gets uint8 images in memory and ends in the 16 best classes and
their probabilities (inference) or updated weights (training: RMSProp with momentum, cross-entropy
with smoothed labels). Ours is every engine that `label.engine` may name. `--only b0,224,inference`
runs a row.
"""

import argparse
import os
import statistics
import sys
import tempfile

from benchmarks.sides import Side, machine, row

CASES = [  # network, pixels, mode, images a batch, goal over the best other side in float32
    ("b0", 224, "inference", 32, 1.0),
    ("b0", 32, "inference", 512, 1.3),
    ("b4", 380, "inference", 8, 1.0),
    ("b0", 224, "training", 16, 1.1),
    ("b0", 32, "training", 128, 1.1),
]
OURS = ("ours, XLA", "ours, onnxruntime", "ours, OpenVINO")
FLAX, BFLOAT16 = "stock Flax", "OpenVINO, bfloat16"
RIVALS = ("timm", "timm, torch.compile", "timm's ONNX, onnxruntime", "timm's ONNX, OpenVINO")
# Of each side: the script, and its forms, as (variant, part of the batch).
SIDES = {
    "ours, XLA": ("ours", [("", 1)]),
    "ours, onnxruntime": ("ours", [("onnxruntime", 1)]),
    "ours, OpenVINO": ("ours", [("openvino", 1)]),
    "timm": ("timm", [("", 1), ("", 2), ("", 4)]),
    "timm, torch.compile": ("timm", [("compiled", 1)]),
    "timm's ONNX, onnxruntime": ("timm_onnx", [("onnxruntime", 1), ("onnxruntime", 4)]),
    "timm's ONNX, OpenVINO": ("timm_onnx", [("throughput", 1), ("latency", 1)]),
    BFLOAT16: ("timm_onnx", [("bfloat16", 1)]),
    FLAX: ("flax", [("", 1)]),
}
TRAINED = ("ours, XLA", "timm", "timm, torch.compile", FLAX)  # alone, at the whole batch
COLUMNS = [
    *("network", "pixels", "mode", "batch", *SIDES),
    *("best of ours / of the others", "goal", "seconds to compile: ours, XLA", "torch.compile"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm-python", default=".venv-timm/bin/python")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="a part of a row's name, as b0,32,inference")
    parser.add_argument("--without", default="", help="a side to leave out, as 'stock Flax'")
    options = parser.parse_args()
    print(f"{machine()}, {options.rounds} rounds\n")
    row(COLUMNS)
    row(["---"] * len(COLUMNS))
    with tempfile.TemporaryDirectory() as directory:
        os.environ["TIMM_ONNX"] = directory
        for case in CASES:
            if options.only in ",".join(map(str, case)):
                row(_measured(*case, options))


def _measured(network: str, size: int, mode: str, batch: int, goal: float, options) -> list:
    sides = _sides(network, size, mode, batch, options)
    times = {place: [] for place in sides}
    for number in range(options.rounds):
        for place, side in sides.items():
            if place[0] != FLAX or number < 3:  # 10 times as slow: three rounds will do
                times[place].append(side.seconds())
    speeds, compiling = {}, {}
    for (name, form), side in sides.items():
        speed = side.images / statistics.median(times[name, form])
        speeds[name] = max(speed, speeds.get(name, 0.0))
        compiling[name] = side.ready["compile_seconds"]
        side.close()
    ratio = max(speeds.get(name, 0) for name in OURS) / max(speeds.get(name, 0) for name in RIVALS)
    shown = [f"{speeds[name]:,.1f}" if name in speeds else "-" for name in SIDES]
    seconds = [f"{compiling[name]:.0f}" for name in ("ours, XLA", "timm, torch.compile")]
    return [network, size, mode, batch, *shown, f"{ratio:.2f}", goal, *seconds]


def _sides(network: str, size: int, mode: str, batch: int, options) -> dict:
    """Worker processes by side and form; none of what this processor does not have."""
    found = {}
    for name, (script, forms) in SIDES.items():
        if mode == "training":
            forms = forms[:1] if name in TRAINED else []
        for variant, part in forms if name != options.without else ():
            python = options.timm_python if script.startswith("timm") else sys.executable
            arguments = (network, size, f"{mode}:{variant}", batch // part)
            side = Side(python, f"cpu_speed_{script}.py", *arguments)
            if "unavailable" in side.ready:
                side.close()
            else:
                found[name, (variant, part)] = side
    return found


if __name__ == "__main__":
    main()
