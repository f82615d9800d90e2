"""What a process may be at when the notice comes: KIND, with GRACE seconds."""

import gc
import hashlib
import multiprocessing
import sys
import time

from ns_jax.parallel import preemption
from ns_jax.progress import Progress


def say(text: str) -> None:
    print(text, flush=True)


def in_python() -> None:
    time.sleep(60)


def in_c_code() -> None:
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)


def collecting_garbage() -> None:
    """Where an exception would go nowhere."""

    def callback(*_):
        gc.callbacks.clear()
        time.sleep(60)

    gc.callbacks.append(callback)
    gc.collect()


def showing_progress() -> None:
    with Progress("waiting", 100):
        time.sleep(60)


def with_a_child() -> None:
    """Which the notice is not for."""
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    child.start()
    say(str(child.pid))
    child.join()


def deferred() -> None:
    with preemption.deferred():
        with preemption.deferred():
            while not preemption.noticed():
                time.sleep(0.01)
        time.sleep(0.5)
        say("brought to a good end")
    say("never")


def failing() -> None:
    with preemption.deferred():
        while not preemption.noticed():
            time.sleep(0.01)
        time.sleep(0.5)
        raise OSError("no room")


def stuck_in_a_section() -> None:
    with preemption.deferred():
        in_c_code()


def in_short_sections() -> None:
    """Whoever looks for a moment between two of them finds none."""
    while True:
        with preemption.deferred():
            time.sleep(0.001)


if __name__ == "__main__":
    preemption.block_sigterm()
    preemption.start_watcher(float(sys.argv[2]))
    say("ready")
    globals()[sys.argv[1]]()
