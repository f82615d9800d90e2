"""How long the device waited for its next step: exactly, and without making it wait."""

import concurrent.futures
import time

import jax

from ns_jax.data.workers import default_workers
from ns_jax.progress import say

INPUT_BOUND = 0.1  # share of the time that the device may wait before it is said ...
CLEAR_AFTER_SECONDS = 30.0  # ... after so long a time


class InputWait:
    """Seconds between the end of each step on the device and the dispatch of the next one."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began: float | None = None
        self._finished: concurrent.futures.Future[float] | None = None
        self._left_out = 0.0
        self._watcher = concurrent.futures.ThreadPoolExecutor(1, "input-wait")

    def dispatched(self, result: jax.Array) -> None:
        """Called right after a step was dispatched, with some array of its result."""
        now = time.monotonic()
        if self._began is None:
            self._began = now  # the first step compiles: time before it does not count
        elif self._finished and self._finished.done():
            self.seconds += max(0.0, now - self._finished.result())
        self._finished = self._watcher.submit(_finish_time, result)

    def leave_out(self, seconds: float) -> None:
        """Seconds that just went by, of an evaluation, in which nothing waited for images."""
        self._left_out += seconds
        self._finished = None

    def elapsed(self) -> float:
        """Seconds of training since the first step was dispatched."""
        return 0.0 if self._began is None else time.monotonic() - self._began - self._left_out

    def share(self) -> float:
        """The part of these seconds that the device waited."""
        return self.seconds / max(self.elapsed(), 1e-9)

    def close(self) -> None:
        self._watcher.shutdown()


def _finish_time(result: jax.Array) -> float:
    jax.block_until_ready(result)
    return time.monotonic()


def warn_if_input_bound(wait: InputWait, workers: int | None) -> bool:
    """Says, once it is clear, that the device waits for images; returns whether it said so."""
    if wait.share() < INPUT_BOUND or wait.elapsed() < CLEAR_AFTER_SECONDS:
        return False
    count = default_workers() if workers is None else workers
    say(
        f"input-bound: the device waited for images {wait.share():.0%} of the time. data.workers "
        f"is {count}; more of them, smaller files or a lighter view help, and `doctor` says how "
        "many cores would do"
    )
    return True
