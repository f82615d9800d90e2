"""Who works on what, among workers that share nothing but a directory: leases with a heartbeat.

A lease is a file that only one worker can create. Its holder rewrites it now and then; one that
has not changed for a while belongs to a worker that is gone, and the next generation of the lease
may be created, again by one worker alone. No worker reads another's clock: each watches, by its
own, how long a lease stays the same. Leases save work; what is right never depends on them.
"""

import collections
import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterable

from ns_jax import files

BEATS = 4  # signs of life within the time after which a holder is taken for gone


class Leases:
    """This worker's leases in `directory`, renewed by a thread. A context manager."""

    def __init__(self, directory: str, seconds: float):
        """`seconds`: how long a lease of another host must stay the same to be taken over.

        One of a process on this host that runs no more is taken over at once.
        """
        self._directory, self._seconds = directory, seconds
        self._holder = {"worker": uuid.uuid4().hex, **_process()}
        self._held: dict[str, str] = {}  # file of each name
        self._seen: dict[str, tuple[bytes, float]] = {}  # file -> content, and since when
        self._beat, self._lock, self._over = 0, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)

    def __enter__(self) -> "Leases":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for name in list(self._held):
            self.release(name)

    def claim(self, name: str) -> bool:
        """Whether `name` is this worker's from now on. Raises OSError."""
        return self.claim_first([name]) is not None

    def claim_first(self, names: Iterable[str]) -> str | None:
        """The first of `names` that could be claimed; one listing of the directory for all."""
        generations = self._generations()
        for name in names:
            newest = generations[name]
            if newest >= 0 and self._is_alive(self._file(name, newest)):
                continue
            file = self._file(name, newest + 1)
            content = self._content()
            if files.create(file, content):
                with self._lock:
                    self._held[name] = file
                return name
        return None

    def holder(self, name: str) -> dict | None:
        """Who has it: `worker`, `host`, `pid`; None if nobody."""
        newest = self._generations()[name]
        with contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads(files.read(self._file(name, newest)))
        return None

    def release(self, name: str) -> None:
        with self._lock:
            newest = self._held.pop(name)
            for generation in range(int(newest.rpartition(".")[2]) + 1):
                files.remove(self._file(name, generation))

    def _file(self, name: str, generation: int) -> str:
        return f"{self._directory}/{name}.{generation}"

    def _generations(self) -> dict[str, int]:
        """The newest generation of each lease that is there; -1 of others."""
        newest: dict[str, int] = collections.defaultdict(lambda: -1)
        for file in files.names(self._directory):
            name, _, generation = file.rpartition(".")
            if generation.isdigit():
                newest[name] = max(newest[name], int(generation))
        return newest

    def _is_alive(self, file: str) -> bool:
        try:
            content = files.read(file)
        except FileNotFoundError:
            return False  # released since the directory was listed
        now = time.monotonic()
        before, since = self._seen.get(file, (None, now))
        if content != before:
            self._seen[file] = content, now
            return not _is_over(content)
        return now - since < self._seconds and not _is_over(content)

    def _content(self) -> bytes:
        self._beat += 1
        return json.dumps({**self._holder, "beat": self._beat}).encode()

    def _renew(self) -> None:
        while not self._over.wait(self._seconds / BEATS):
            with self._lock:
                for file in self._held.values():
                    try:
                        files.write(file, self._content())
                    except OSError:
                        continue  # of a disk that is full or away for a moment; the next beat will


def _process() -> dict:
    """This process among all of all hosts and their restarts."""
    return {"host": host(), "pid": os.getpid(), "started": _started(os.getpid())}


def host() -> str:
    """The machine since its start, and its processes as seen from here: containers may share it."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
    processes = pathlib.Path("/proc/self/ns/pid")
    if not (boot.exists() and processes.is_symlink()):
        return socket.gethostname()
    return f"{socket.gethostname()} {boot.read_text().strip()} {os.readlink(processes)}"


def _started(pid: int) -> str | None:
    """When a process of this host began, in ticks since the host did; None of one that is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_over(content: bytes) -> bool:
    """Whether the holder was a process of this host and runs no more."""
    try:
        holder = json.loads(content)
    except ValueError:  # torn by a file system that cannot replace files
        return False
    if holder["host"] != host() or not pathlib.Path("/proc/self/stat").exists():
        return False
    return _started(holder["pid"]) != holder["started"]
