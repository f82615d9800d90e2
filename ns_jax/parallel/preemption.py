"""The notice that this machine will be taken away: SIGTERM, as clouds and clusters send it.

A thread waits for the signal, so that neither a compilation nor a message between devices holds the
notice up. It interrupts the program as Ctrl-C would, except where work is worth bringing to a good
end: there the program looks for the notice itself. Whatever it does, it is over in the time that a
machine is given, for what is written is whole or not there at any moment.
"""

import contextlib
import os
import signal
import sys
import threading
import time

WAKING = signal.SIGURG  # tells the main thread; nobody else uses it, and it ends nothing
STATUS = 143  # of the process, as a shell has it for one that SIGTERM ended: start it again

_notice = threading.Event()
_lost = threading.Event()  # Preempted was raised where nothing can be
_deferred = _leaving = _handed_on = False


class Preempted(SystemExit):
    """Ends the process with `STATUS`."""

    def __init__(self):
        super().__init__(STATUS)


def hold() -> None:
    """SIGTERM waits until `watch`. Called first of all, for threads and child processes inherit it.

    So the notice does not end a child process; its parent does.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for one in (signal.SIGTERM, WAKING):
        signal.signal(one, _interrupt)


def watch(grace_seconds: float) -> None:
    """From here on SIGTERM ends the process in good order, `grace_seconds` later in any order."""
    hook = sys.unraisablehook

    def note(found) -> None:
        """JAX is called back at each garbage collection: what is raised there goes nowhere."""
        if isinstance(found.exc_value, Preempted):
            _lost.set()
        else:
            hook(found)

    sys.unraisablehook = note
    arguments = (grace_seconds,)
    threading.Thread(target=_wait, args=arguments, name="preemption", daemon=True).start()


def hand_on() -> None:
    """From here on JAX gets the notice too, to tell the other processes."""
    global _handed_on
    _handed_on = True


def noticed() -> bool:
    return _notice.is_set()


def is_behind(error: Exception) -> bool:
    """Whether an error is Preempted in other clothes: of a library that was interrupted while it
    called back (JAX's comparison of trees makes it a ValueError).
    """
    chain = error
    while chain is not None and not isinstance(chain, Preempted):
        chain = chain.__cause__ or chain.__context__
    return chain is not None


@contextlib.contextmanager
def deferred():
    """The notice interrupts nothing in here, but the end of the outermost raises Preempted."""
    global _deferred
    outer, _deferred = _deferred, True
    try:
        yield
    finally:
        _deferred = outer
    if noticed():
        _interrupt()


def leave() -> None:
    """Raises Preempted: for processes that have no notice of their own, but agreed to go."""
    global _leaving
    _leaving = True
    raise Preempted


def end() -> None:
    """Ends the process now. Threads of libraries, interrupted at work, may not survive its end in
    good order: an evaluation once ended in a segmentation fault.
    """
    for stream in (sys.stdout, sys.stderr):
        with unheard():
            stream.flush()
    os._exit(STATUS)


def unheard():
    """Words that cannot be said (a full disk, a reader that was ended first) hold nothing up."""
    return contextlib.suppress(OSError, ValueError)


def _interrupt(*_) -> None:
    """In the main thread, where Python runs the handlers of signals."""
    if not (_deferred or _leaving):
        leave()


def _wait(grace_seconds: float) -> None:
    global _leaving
    signal.sigwait({signal.SIGTERM})
    end = time.monotonic() + grace_seconds
    _notice.set()
    _wake()
    with unheard():
        print(f"SIGTERM: ends within {grace_seconds:g} s, what there is is saved", file=sys.stderr)
    if _handed_on:
        # JAX has put a handler of its own in the place of ours. Of all threads this one alone
        # takes the signal. In one process it stays blocked: a second one ends nothing.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)
    while _lost.wait(max(0.0, end - time.monotonic())):
        time.sleep(0.05)  # until that place is left
        _lost.clear()
        _leaving = False
        _wake()
    os._exit(STATUS)


def _wake() -> None:
    signal.pthread_kill(threading.main_thread().ident, WAKING)
