"""How long the device waited for its next step: exactly, and without making it wait."""

import concurrent.futures
import time

import jax


class IdleTime:
    """Seconds between the end of each step on the device and the dispatch of the next one."""

    def __init__(self):
        self.seconds = 0.0
        self._started = self._finished = None
        self._watcher = concurrent.futures.ThreadPoolExecutor(1, "idle-time")

    def dispatched(self, result) -> None:
        """Called right after a step was dispatched, with some array of its result."""
        now = time.monotonic()
        if self._finished is None:
            self._started = now  # the first step compiles: time before it does not count
        elif self._finished.done():
            self.seconds += max(0.0, now - self._finished.result())
        self._finished = self._watcher.submit(_finish_time, result)

    def elapsed(self) -> float:
        """Seconds since the first step was dispatched."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def share(self) -> float:
        """Of these seconds, those that the device waited."""
        return self.seconds / max(self.elapsed(), 1e-9)

    def close(self) -> None:
        self._watcher.shutdown()


def _finish_time(result) -> float:
    jax.block_until_ready(result)
    return time.monotonic()
