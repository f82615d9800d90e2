"""Reads of objects in buckets: each with a time limit, made again if need be, and with an end."""

import asyncio
import concurrent.futures
import functools
import io
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

import fsspec

from ns_jax.errors import WRONG_PATH, RefusedError, UnansweredError

SECONDS = 20.0  # for the first attempt; each later one has twice the time of the one before
ATTEMPTS = 5
SLOWEST = 1 << 20  # bytes a second of a connection that counts as alive
PAUSE = 0.5  # seconds before the second attempt, and twice as many before each later one
SILENT_SECONDS = 60  # of one request of a library, which then makes it again
SMALL, LARGE = 1 << 18, 1 << 24  # bytes of a file object's first request, and of its largest

# Its own retries have their tracebacks logged in the end; what ends them is said in one line here.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)


def read(
    filesystem: fsspec.AbstractFileSystem,
    path: str,
    start: int | None = None,
    end: int | None = None,
) -> bytes:
    """Bytes `start` to `end` of an object, or all of it, in one request if all goes well.

    Raises OSError: FileNotFoundError, PermissionError where the bucket refuses, and UnansweredError
    after `ATTEMPTS` that failed, were cut short or were not answered in time.
    """

    def whole(data: bytes) -> bytes:
        if start is not None and end is not None and len(data) < end - start:
            raise ConnectionError(f"the answer has {len(data):,} of {end - start:,} bytes")
        return data

    if start is not None and start == end:
        return b""
    return whole_answer(filesystem, path, "cat_file", check=whole, start=start, end=end)


def whole_answer(
    filesystem: fsspec.AbstractFileSystem,
    path: str,
    method: str,
    arguments: tuple = (),
    check: Callable[[Any], Any] = lambda answer: answer,
    more_seconds: float = 0.0,
    is_done: Callable[[], bool] = lambda: False,
    **named: Any,
) -> Any:
    """What a method of a file system answers about a path. Raises as `read`; `check` may, too.

    `arguments`: of the method, where they are others than the path. `more_seconds`: that the first
    attempt may take beside `SECONDS`. `is_done` says after an error
    whether the bucket has acted, so that nothing but the answer is missing, which is then None.
    """
    call = functools.partial(_call, filesystem, method, arguments or (path,), named)
    limit, pause, why = SECONDS + more_seconds, PAUSE, ""
    for attempt in itertools.count(1):
        try:
            return check(call(limit))
        except (TypeError, AttributeError, MemoryError):
            raise
        except Exception as error:
            if is_done():
                return None
            if isinstance(error, WRONG_PATH):
                raise
            why = _why(error, limit)
            if is_refusal(error):
                raise refusal(path, error) from None
            if attempt == ATTEMPTS:
                raise UnansweredError(
                    f"{path}: {why}; {attempt} attempts failed. What was finished is kept: start "
                    "the same command again when the bucket answers"
                ) from None
        time.sleep(pause)
        limit, pause = 2 * limit, 2 * pause
    raise AssertionError


def _call(
    filesystem: fsspec.AbstractFileSystem,
    method: str,
    arguments: tuple,
    named: dict,
    limit: float,
) -> Any:
    if not filesystem.async_impl:
        return getattr(filesystem, method)(*arguments, **named)
    work = getattr(filesystem, f"_{method}")(*arguments, **named)
    answer = asyncio.run_coroutine_threadsafe(work, filesystem.loop)
    try:
        return answer.result(limit)
    except concurrent.futures.TimeoutError:
        answer.cancel()
        raise


def is_refusal(error: Exception) -> bool:
    """Whether a bucket says that these credentials, or none, may not do this; or their issuer."""
    code, kind = getattr(error, "code", None), type(error).__name__
    return (
        code in (401, 403, "401", "403")
        or str(error).startswith("Forbidden")
        or kind == "NoCredentialsError"  # of botocore
        or (kind == "RefreshError" and not getattr(error, "retryable", False))  # of google.auth
    )


def refusal(path: str, error: Exception) -> RefusedError:
    """What to raise instead of an error that `is_refusal`."""
    said = " ".join(str(error).split())
    return RefusedError(
        f"{path} may not be used with these credentials ({said}); log in again, or ask for the "
        "right to read objects there and, for a --workdir, to create and delete them"
    )


def _why(error: Exception, limit: float) -> str:
    if isinstance(error, TimeoutError | concurrent.futures.TimeoutError):
        return f"no answer in {limit:.0f} s"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


class ObjectFile(io.RawIOBase):
    """An object to read from here and there; what is read in order is asked for in large pieces."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str, size: int):
        self._filesystem, self._path, self._size = filesystem, path, size
        self._place, self._start, self._held, self._ask = 0, 0, b"", SMALL

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, count: int | None = -1) -> bytes:
        """Raises as `read` of this module."""
        left = max(0, self._size - self._place)
        count = left if count is None or count < 0 else min(count, left)
        if not count:
            return b""
        inside = self._place - self._start
        if not 0 <= inside <= inside + count <= len(self._held):
            # Onwards, and not far: whoever does so will go on.
            goes_on = 0 <= inside - len(self._held) <= self._ask or 0 < inside < len(self._held)
            self._ask = min(2 * self._ask, LARGE) if goes_on else SMALL
            end = min(self._size, self._place + max(count, self._ask))
            self._start = self._place
            if end == self._size:  # what ends there is often read backwards: a footer
                self._start = max(0, min(self._place, end - self._ask))
            self._held = read(self._filesystem, self._path, self._start, end)
            inside = self._place - self._start
        self._place += count
        return self._held[inside : inside + count]

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
