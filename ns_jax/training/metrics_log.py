"""`metrics.jsonl`, which machines read."""

import json
import math
import pathlib
import time


class MetricsLog:
    """Appends to `metrics.jsonl`; lines of steps that a resumed run repeats are dropped first."""

    def __init__(self, path: pathlib.Path, start_step: int, write: bool = True):
        """Without `write` nothing is: of many processes the first one does."""
        self._file = None
        if not write:
            return
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    kept += [line] if json.loads(line)["step"] <= start_step else []
                except ValueError:
                    continue  # a line that a kill cut in two
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        temporary.replace(path)
        self._file = path.open("a", buffering=1)

    def write(self, step: int, **numbers: float) -> None:
        """Names are `<split>/<name>`; they come in as `split__name`."""
        if self._file is None:
            return
        named = {name.replace("__", "/"): float(value) for name, value in numbers.items()}
        # JSON has no words for what is not finite.
        named = {name: value if math.isfinite(value) else None for name, value in named.items()}
        self._file.write(json.dumps({"step": step, "time": time.time(), **named}) + "\n")

    def close(self) -> None:
        if self._file:
            self._file.close()
