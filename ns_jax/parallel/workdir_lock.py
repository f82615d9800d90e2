"""One run at a time in a workdir: a lock that the kernel gives back when its holder is gone.

However a process ends, its lock ends with it, so a run that was killed starts again at once. Files
on a network (NFS) are locked for all hosts; where a file system keeps locks to each host (mounts of
buckets), runs of two hosts do not see each other. A bucket itself has no locks: there it is a
lease, which its holder renews and which ends by itself.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import time

from ns_jax import files
from ns_jax.buckets import client
from ns_jax.errors import InputError, paths_of_the_user
from ns_jax.parallel import leases
from ns_jax.progress import say

NAME = ".lock"  # in the workdir, while a run is there or was killed
POLL_SECONDS = 0.2
WRITE_SECONDS = 1.0  # in which a holder has written who it is
# A file server keeps the locks of a host that crashed or was taken away for so long, at most.
CRASHED_SECONDS = 100.0
RUN = "run"  # the name of the lease
LEASE_SECONDS = 60.0  # that a lease outlives a host which was taken away
PATIENCE_SECONDS = 2.0  # between two looks at it


def of(workdir: pathlib.Path) -> "WorkdirLock | WorkdirLease":
    return (WorkdirLease if files.is_remote(os.fspath(workdir)) else WorkdirLock)(workdir)


class WorkdirLease:
    """The lock of a workdir in a bucket: of all who create it, one does."""

    def __init__(self, workdir: pathlib.Path):
        self._workdir = workdir
        self._leases = leases.Leases(f"{workdir}/{NAME}", LEASE_SECONDS)
        self._held = contextlib.ExitStack()

    def acquire(self) -> None:
        """Raises InputError for a bucket that cannot be written to, and as `WorkdirLock`."""
        began, told = time.monotonic(), False
        while not self._try():
            waited, holder = time.monotonic() - began, self._leases.holder(RUN) or {}
            host, pid = holder.get("host", "another host"), holder.get("pid", "?")
            refusal = _refusal(self._workdir, {"host": host.split()[0], "pid": pid})
            if waited > LEASE_SECONDS + PATIENCE_SECONDS or host == leases.host():
                raise InputError(refusal)
            if not told:
                told = True
                say(f"{refusal}; waits {LEASE_SECONDS:g} s for it to be gone")
            time.sleep(PATIENCE_SECONDS)
        self._held.enter_context(self._leases)

    def release(self) -> None:
        """Gives it back, if this process has it."""
        self._held.close()

    def _try(self) -> bool:
        with client.of_the_user(os.fspath(self._workdir)):
            return self._leases.claim(RUN)


class WorkdirLock:
    """The lock of a workdir. Child processes do not inherit it."""

    def __init__(self, workdir: pathlib.Path):
        self._workdir, self._path = workdir, workdir / NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises InputError that names the run which has it, once that is known not to be gone."""
        us = {"host": socket.gethostname(), "pid": os.getpid()}
        began, told = time.monotonic(), False
        while not self._try(us):
            waited, holder = time.monotonic() - began, self._holder()
            patience = CRASHED_SECONDS if holder else WRITE_SECONDS
            if waited >= patience or (holder and holder["host"] == us["host"]):
                raise InputError(_refusal(self._workdir, holder))
            if holder and not told:
                told = True
                refusal = _refusal(self._workdir, holder)
                say(f"{refusal}; waits {CRASHED_SECONDS:g} s for it to be gone")
            time.sleep(POLL_SECONDS)

    def release(self) -> None:
        """Gives it back, if this process has it."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)  # before another process can take it
            os.close(self._descriptor)
            self._descriptor = None

    def _try(self, us: dict) -> bool:
        with paths_of_the_user():
            self._workdir.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:  # of a file system without locks
            os.close(descriptor)
            say(f"{self._path} cannot be locked ({error.strerror}); start one run at a time there")
            return True
        if not self._is_ours(descriptor):  # it was released, and removed, before we had it
            os.close(descriptor)
            return self._try(us)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(us).encode(), 0)
        self._descriptor = descriptor
        return True

    def _is_ours(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def _holder(self) -> dict | None:
        """Who has the lock; None where it has not been written yet."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            found = json.loads(self._path.read_text())
            return {"host": found["host"], "pid": found["pid"]}
        return None


def _refusal(workdir: pathlib.Path, holder: dict | None) -> str:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return f"{workdir}: {who} is at work here; let it finish, end it, or take another --workdir"
