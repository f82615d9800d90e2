"""The worker's half of a conversation with `sides.Side`: ready, then a time for each line."""

from __future__ import annotations  # the authors' code of `corruptions.py` runs on Python 3.7

import json
import sys
import time


def arguments() -> tuple[str, int, str, int]:
    """Network, pixels, mode (as `inference:VARIANT`, less the variant) and images a batch."""
    network, size, mode, batch = sys.argv[1:]
    return network, int(size), mode.partition(":")[0], int(batch)


def serve(run, compile_seconds: float = 0.0, clock=time.perf_counter) -> None:
    """Answers each line with the seconds that `run()` took; two runs first, to warm up."""
    run()
    run()
    print(json.dumps({"compile_seconds": compile_seconds}), flush=True)
    for _ in sys.stdin:
        began = clock()
        run()
        print(clock() - began, flush=True)


def serve_stream(batches, batch: int, count: int) -> None:
    """Answers each line with the seconds that `count` images take from an endless iterator.

    As many batches as may have been made ahead (a quarter of `count`) pass before the clock starts.
    """
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        for _ in range(count // 4 // batch):
            next(batches)
        began = time.perf_counter()
        for _ in range(count // batch):
            next(batches)
        print(time.perf_counter() - began, flush=True)
