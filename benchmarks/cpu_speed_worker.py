"""The worker's half of `cpu_speed.py`'s conversation: ready, then a time for each line of input."""

import json
import sys
import time


def arguments() -> tuple[str, int, str, int]:
    network, size, mode, batch = sys.argv[1:]
    return network, int(size), mode, int(batch)


def serve(run, compile_seconds: float = 0.0) -> None:
    """Answers each line with the seconds that `run()` took; two runs first, to warm up."""
    run()
    run()
    print(json.dumps({"compile_seconds": compile_seconds}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        print(time.perf_counter() - began, flush=True)
