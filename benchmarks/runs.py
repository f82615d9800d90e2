"""What tables over many trainings share: runs that go on where they stopped, and statistics.

A run is one call of a program in a directory of its own. `run.json` in it says that it is finished
and how many seconds all of its starts took.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from scipy import stats

RUN = "run.json"


def run(program: str, workdir: pathlib.Path, config: str, *flags: str) -> None:
    """Runs a program unless it has been run with these flags. Raises CalledProcessError."""
    command = [program, f"--config={config}", f"--workdir={workdir}", *flags]
    whole = [sys.executable, "-m", "ns_jax", *command]
    once(workdir, command, lambda: subprocess.run(whole, check=True, stdout=subprocess.DEVNULL))


def once(workdir: pathlib.Path, command: list[str], function: Callable[[], object]) -> None:
    """Calls a function unless that has been done under this name, and notes the seconds."""
    found = _read(workdir)
    if found["command"] == command and found["done"]:
        return
    seconds = found["seconds"] if found["command"] == command else 0.0
    print(f"{time.strftime('%H:%M:%S')} {' '.join(command)}", file=sys.stderr, flush=True)
    began, done = time.monotonic(), False
    try:
        function()
        done = True
    finally:
        seconds += time.monotonic() - began
        workdir.mkdir(parents=True, exist_ok=True)
        content = {"command": command, "seconds": seconds, "done": done}
        (workdir / RUN).write_text(json.dumps(content))


def _read(workdir: pathlib.Path) -> dict:
    path = workdir / RUN
    if path.exists():
        return json.loads(path.read_text())
    return {"command": None, "seconds": 0.0, "done": False}


def finished(workdir: pathlib.Path) -> bool:
    return _read(workdir)["done"]


def seconds(workdir: pathlib.Path) -> float:
    """That a run took in all of its starts."""
    return _read(workdir)["seconds"]


def of_seed(seed: int) -> tuple[str, str]:
    """The flags of a seed: of the labelled few, the weights and the noise."""
    return f"--config.seed={seed}", f"--config.data.split_seed={seed}"


def top1(directory: pathlib.Path) -> float:
    """Percent of the test images that are classified correctly."""
    return 100 * json.loads((directory / "eval.json").read_text())["top1"]


def half_interval(values: Sequence[float], level: float = 0.95) -> float:
    """Half the width of Student's interval for the mean; of a single value infinite."""
    if len(values) < 2:
        return float("inf")
    width = stats.t.ppf((1 + level) / 2, len(values) - 1)
    return float(width * statistics.stdev(values) / len(values) ** 0.5)


def difference(values: Sequence[float], against: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the differences, seed by seed, and the ends of its 95 % interval."""
    paired = [value - other for value, other in zip(values, against, strict=True)]
    mean, half = statistics.mean(paired), half_interval(paired)
    return mean, mean - half, mean + half


def mean_and_spread(values: Sequence[float]) -> str:
    """`81.23 ± 0.45`: mean and standard deviation over seeds."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def interval(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    return f"{mean:+.2f}" if high == float("inf") else f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join([row(columns), "|" + "---|" * len(columns), *map(row, rows)])
