"""SIGTERM, the notice that this machine will be taken away, as clouds and clusters send it.

A thread of its own waits for the signal, so neither a compilation nor a collective delays it. The
process then ends at once, for every file is written atomically and nothing has to be unwound; only
a section that is worth finishing defers the end, and looks for the notice itself. Nothing defers it
beyond the grace time.
"""

import contextlib
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

STATUS = 143  # of the process, as a shell has it for one that SIGTERM ended: start it again
POLL_SECONDS = 0.05
PRINT_SECONDS = 1.0  # that it may take to print the last words
SHOW_CURSOR = "\x1b[?25h"  # which a progress bar hides

_notice = threading.Event()
_deferred = 0  # sections that the main thread is in
_forwards = False


def block_sigterm() -> None:
    """SIGTERM waits for `start_watcher`. Called first of all: threads and children inherit it.

    So the notice does not end a child process; its parent does.
    """
    # With the first child process it would start this one, and then unblock SIGTERM.
    multiprocessing.resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # one that is ignored never arrives


def start_watcher(grace_seconds: float) -> None:
    """From here on SIGTERM ends the process with `STATUS`, within `grace_seconds`."""
    arguments = (grace_seconds,)
    threading.Thread(target=_watch, args=arguments, name="preemption", daemon=True).start()


def forward_to_jax() -> None:
    """From here on JAX gets the notice too, to tell the processes that it has connected."""
    global _forwards
    _forwards = True


def noticed() -> bool:
    return _notice.is_set()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A section that is brought to its end, if the grace time allows; the process ends with it.

    Of nested sections the outermost counts. For the main thread alone.
    """
    global _deferred
    _deferred += 1
    try:
        if _deferred == 1 and noticed():
            exit_now()
        yield
        if _deferred == 1 and noticed():
            leave()
    except Exception as error:
        if _deferred == 1 and noticed():
            _print(f"error: {error}")
            exit_now()
        raise
    finally:
        _deferred -= 1


def leave() -> NoReturn:
    """Ends the process in good order: of connected ones each waits until all are leaving, since the
    end of one breaks off what the others do. For use in a deferred section.
    """
    try:
        if _forwards:
            import jax

            jax.distributed.shutdown()
    finally:
        exit_now()


def exit_now() -> NoReturn:
    """Ends the process and its children. Nothing is unwound: an interpreter that shuts down while
    threads of libraries are at work may crash.
    """
    with contextlib.suppress(Exception):  # a full disk, a closed pipe, none at all
        if sys.__stderr__.isatty():  # type: ignore[union-attr]
            sys.__stderr__.write(SHOW_CURSOR)  # type: ignore[union-attr]
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        with contextlib.suppress(Exception):
            stream.flush()  # type: ignore[union-attr]
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(STATUS)


def _watch(grace_seconds: float) -> None:
    signal.sigwait({signal.SIGTERM})
    end = time.monotonic() + grace_seconds
    # Printing waits for a reader that does not read.
    timer = threading.Timer(grace_seconds + PRINT_SECONDS, os._exit, (STATUS,))
    timer.daemon = True
    timer.start()
    _notice.set()
    if _forwards:
        # JAX has put a handler of its own in the place of ours. Of all threads this one alone
        # takes the signal. In one process it stays blocked: a second one ends nothing.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)
    _print(f"SIGTERM: ends within {grace_seconds:g} s, what there is is saved")
    while _deferred and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    exit_now()


def _print(text: str) -> None:
    """On stderr, if it can be written."""
    from ns_jax import progress

    with contextlib.suppress(Exception):
        print(progress.visible(text), file=sys.stderr)
