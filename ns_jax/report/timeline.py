"""When each stage of a self-training began and ended: `timeline.jsonl`, a line for each event."""

import contextlib
import functools
import importlib.metadata
import json
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator

from ns_jax import files

NAME = "timeline.jsonl"
START, BEGIN, END = "start", "begin", "end"
REDONE_SECONDS = 10.0  # a stage that has nothing to do takes less
PACKAGES = ("ns-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Timeline:
    """Writes lines `{"time": unix seconds, "stage": ..., "event": start, begin or end}`."""

    def __init__(self, workdir: pathlib.Path, devices: str, write: bool = True):
        """`devices`: what it runs on. `write`: of many processes the first one does."""
        self._path = workdir / NAME
        self._writes, self._devices, self._started = write, devices, False

    @contextlib.contextmanager
    def stage(self, name: str, was_done: bool) -> Iterator[list]:
        """A stage; one that is left by an error or a signal has no end. Gives a list, which is
        empty afterwards if there was nothing to do.

        One that `was_done` before is written down only if it was at work all the same, after
        damage. Before the first stage of a process stands a start: with which command, which code.
        """
        began = time.time()
        worked: list = []
        if not was_done:
            self._add(began, name, BEGIN)
        yield worked
        now = time.time()
        if was_done:
            if now - began < REDONE_SECONDS:
                return
            self._add(began, name, BEGIN)
        self._add(now, name, END)
        worked.append(name)

    def _add(self, when: float, stage: str, event: str, **more: object) -> None:
        if not self._writes:
            return
        if not self._started:
            self._started = True
            command = shlex.join(["python", "-m", "ns_jax", *sys.argv[1:]])
            self._add(when, "run", START, command=command, devices=self._devices, **code())
        line = {"time": when, "stage": stage, "event": event, **more}
        with contextlib.closing(files.Appender(self._path)) as file:
            file.write(json.dumps(line) + "\n")


def read(path: pathlib.Path) -> list[dict]:
    """The lines that are whole; none without a file."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().decode(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # one that a kill cut in two
                content = json.loads(line)
                if isinstance(content, dict) and {"time", "stage", "event"} <= content.keys():
                    found.append(content)
    return found


@functools.cache  # of a process it stays the same
def code() -> dict:
    """`versions` of the packages that matter, and the `commit` where the package is a checkout."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"versions": {"python": sys.version.split()[0], **versions}, "commit": _commit()}


def _commit() -> str | None:
    """With a + where files differ from it; None if the package is not in a repository of its own"""
    root = pathlib.Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    found = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        found.append(done.stdout.strip())
    return f"{found[0]}{'+' if found[1] else ''}"


def spans(lines: list[dict]) -> list[dict]:
    """`{"stage", "begin", "end", "resumed"}` of each time that a stage was at work, in order.

    `end` is None where it was interrupted, or is at work; `resumed`: not the first time.
    """
    found: list[dict] = []
    unfinished: set[str] = set()
    for line in lines:
        stage, event = line["stage"], line["event"]
        if event == BEGIN:
            resumed = stage in unfinished
            unfinished.add(stage)
            found.append({"stage": stage, "begin": line["time"], "end": None, "resumed": resumed})
        elif event == END:
            unfinished.discard(stage)
            for span in reversed(found):
                if span["stage"] == stage:
                    span["end"] = line["time"]
                    break
    return found
