"""What benchmarks of two sides share: workers that are asked in turn, and the table."""

import json
import pathlib
import platform
import subprocess

HERE = pathlib.Path(__file__).parent


class Side:
    """A worker process: `seconds()` is the time of one request, that is of `images` images."""

    def __init__(self, python: str, script: str, *arguments):
        """The last of the arguments is the number of images that a request works on."""
        self.images = int(arguments[-1])
        command = [python, str(HERE / script), *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent
        )
        self.ready = json.loads(self._process.stdout.readline())

    def seconds(self) -> float:
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def row(cells: list) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def machine() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{platform.processor() or platform.machine()}, {len(names)} x {names[0]}"
