"""The workers of a run before its first step: who is there, alike, connected, and fast enough.

A trouble is `(processes, text)`: whom it is about, and what a person reads.
"""

import collections
import importlib.metadata
import os
import pathlib
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ns_jax import config as config_lib
from ns_jax.parallel import processes, rollcall
from ns_jax.progress import say, table

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
TIMES = {  # facts, and what took so many seconds
    "files_seconds": "read and wrote a few megabytes in the workdir",
    "host_seconds": "computed on a core",
    "device_seconds": "multiplied matrices on its devices",
}
SLOW_FACTOR, SLOW_SECONDS = 3.0, 1.0  # beyond the median: both of them
STEPS = (
    "starting",
    "reaching for the coordinator's port",
    "connecting to process 0",
    "finding its devices",
    "computing on its devices",
    "computing with the others",
    "done",
)
REMEDIES = {  # facts that are to be process 0's
    "code": "put the same commit on all hosts",
    "commit": "put the same commit on all hosts",
    "versions": "install the same versions on all hosts",
    "config": "start all with the same command",
    "count": "start all with the same --num_processes",
    "workdir": "start all with the same --workdir",
    "load": "what process 0 wrote in the workdir reads differently there: mount one directory",
}
SHOWN = 5  # keys of a config that differ; the others are counted


def check(
    config,
    workdir: pathlib.Path,
    index: int,
    count: int,
    connect: Callable[[], None],
    coordinator: str | None,
) -> int:
    """Calls the roll, connects if all are alike, and says what it finds; returns the exit status.

    0 if all is well, else 2, in every process. Process 0 prints one line a worker and names those
    that are missing, stuck, slow, or not as it is; `connect()` joins the processes, at HOST:PORT
    `coordinator` if that is known. Where they have begun to connect and cannot, this process ends
    here. Raises OSError where the workdir cannot be
    written, InputError where another process 0 calls.
    """
    facts = {"workdir": str(workdir), "count": count, **_facts(config)}
    reached = coordinator if index else None  # process 0 is the one that listens there
    work = threading.Thread(target=_work, args=(connect, reached, facts), daemon=True)
    seconds = config.doctor.wait_seconds
    if index:
        troubles = rollcall.answer(workdir, index, facts, work.start, seconds)
        _say_own(troubles, index, workdir, seconds)
    else:
        troubles = _call(workdir, facts, work, seconds)
    if troubles == []:
        work.join()
        return 0
    if work.ident is not None:  # started: it may wait for ever, and so would JAX at the exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
    return 2


def _say_own(troubles: list | None, index: int, workdir: pathlib.Path, seconds: float) -> None:
    if troubles is None:
        say(
            f"error: process 0 did not write in {workdir / rollcall.DIRECTORY} for {seconds:g} s: "
            "it is not running or is stuck, or its --workdir is another directory than this one"
        )
        return
    own = [text for who, text in troubles if index in who]
    for text in own or ["process 0 names other processes"] * bool(troubles):
        say(f"error: {text}")


def _call(workdir: pathlib.Path, facts: dict, work: threading.Thread, seconds: float) -> list:
    """What process 0 does; returns the troubles, which have been said."""
    caller, count = rollcall.Caller(workdir), facts["count"]
    facts |= rollcall.try_files(caller.directory, "0")
    wanted = set(range(1, count))

    def found() -> dict[int, dict]:
        heard = {index: answer.facts for index, answer in caller.answered().items()}
        return {0: dict(facts), **dict(sorted(heard.items()))}

    def ended() -> bool:
        all_facts = found().values()
        return all(f["step"] == "done" for f in all_facts) or any("failed" in f for f in all_facts)

    caller.wait(lambda: wanted <= caller.heard.keys(), seconds)
    troubles = missing(wanted - caller.heard.keys(), workdir, seconds)
    troubles += twice(caller.heard) + different(found())
    if not troubles:
        work.start()
        caller.connect()
        caller.wait(ended, seconds)
        silent = [index for index, answer in caller.answered().items() if answer.silent()]
        troubles = unconnected(found(), silent, seconds)
    troubles += slow(found())
    _show(found(), {index: answer.clock for index, answer in caller.answered().items()})
    for _, text in troubles:
        say(f"error: {text}")
    if not troubles:
        say(f"all {count} workers are there, alike and connected, and see the same workdir")
    caller.end([[sorted(who), text] for who, text in troubles])
    return troubles


def _facts(config) -> dict:
    """Of this process, before anything touches a device."""
    began = time.perf_counter()
    sum(number * number for number in range(2_000_000))
    return {
        "host_seconds": time.perf_counter() - began,
        "host": socket.gethostname(),
        "commit": _commit(),
        "code": processes.code_digest(),
        "versions": {"python": platform.python_version(), **_versions()},
        "config": config_lib.flat(config),
        "step": STEPS[0],
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "-"
    return found


def _commit() -> str:
    """Of the repository that tracks this package, `+changes` if it has any; "" without one."""
    package = pathlib.Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # it may be installed inside of another
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _work(connect: Callable[[], None], coordinator: str | None, facts: dict) -> None:
    """Connects, computes, and computes together; `facts["step"]` says how far it has come."""
    try:
        if coordinator:  # tried apart: JAX does not say which process it waits for
            facts["step"] = "reaching for the coordinator's port"
            _reach(coordinator)
        facts["step"] = "connecting to process 0"
        connect()
        facts["step"] = "finding its devices"
        devices = jax.local_devices()
        facts |= {"devices": f"{len(devices)} x {devices[0].device_kind}"}
        facts["step"] = "computing on its devices"
        facts["device_seconds"] = max(map(_device_seconds, devices))
        facts["step"] = "computing with the others"
        processes.gather(np.zeros(1))
        facts["step"] = "done"
    except Exception as error:  # whatever it is, process 0 is to say it
        first = (str(error).splitlines() or [""])[0]
        facts["failed"] = f"{type(error).__name__}: {first}"


def _reach(coordinator: str) -> None:
    """Returns once something takes connections there."""
    host, _, port = coordinator.rpartition(":")
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)


@jax.jit
def _products(matrix):
    return jax.lax.fori_loop(0, 8, lambda _, product: jnp.tanh(product @ matrix), matrix)


def _device_seconds(device) -> float:
    """Of a few products of matrices, the compilation apart."""
    matrix = jax.device_put(jnp.eye(512), device)
    _products(matrix).block_until_ready()
    began = time.perf_counter()
    _products(matrix).block_until_ready()
    return time.perf_counter() - began


def missing(indices: set[int], workdir: pathlib.Path, seconds: float) -> list:
    """Troubles of those that did not answer."""
    if not indices:
        return []
    text = (
        f"no answer within {seconds:g} s: not started, stuck, or its workdir is another directory "
        f"than process 0's {workdir}; the worker's own output says which"
    )
    return [(sorted(indices), f"{_named(indices)}: {text}")]


def twice(heard: dict[int, dict[str, rollcall.Answer]]) -> list:
    """Troubles of several that were started as the same one."""
    troubles = []
    for index, those in sorted(heard.items()):
        if len(those) > 1:
            hosts = " and ".join(sorted(answer.facts["host"] for answer in those.values()))
            text = f"process {index} is there {len(those)} times, on {hosts}; give each worker a "
            text += "--process_id of its own, and end what is left of earlier runs"
            troubles.append(([index], text))
    return troubles


def different(found: dict[int, dict]) -> list:
    """Troubles of those whose facts are not process 0's, with what differs and what to do."""
    groups = collections.defaultdict(list)  # by what to say, processes
    for index, facts in found.items():
        for what, remedy in REMEDIES.items():
            text = _difference(what, found[0][what], facts[what])
            if text:
                groups[f"{text}; {remedy}"].append(index)
    return [(who, f"{_named(who, found)}: {text}") for text, who in groups.items()]


def _difference(what: str, ours, theirs) -> str:
    """What to say of a fact of process 0 and of another one; "" if nothing."""
    if ours == theirs or (what == "commit" and not (ours and theirs)):  # the code's digest tells
        return ""
    if what in ("code", "load"):
        ours, theirs = ours[:12], theirs[:12]
    if not isinstance(ours, dict):
        return f"{what} is {theirs}, of process 0 {ours}"
    names = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
    prefix = "config." if what == "config" else ""
    texts = [
        f"{prefix}{name} is {str(theirs.get(name))[:60]}, of process 0 {str(ours.get(name))[:60]}"
        for name in names[:SHOWN]
    ]
    if names[SHOWN:]:
        texts.append(f"and {len(names) - SHOWN} more")
    return ", ".join(texts)


def unconnected(found: dict[int, dict], silent: list[int], seconds: float) -> list:
    """Troubles of those that did not get to the end: failed, else stuck, else furthest behind."""
    failed = [index for index, facts in found.items() if "failed" in facts]
    if failed:
        return [
            ([i], f"{_named([i], found)}: failed while {found[i]['step']}: {found[i]['failed']}")
            for i in failed
        ]
    waiting = [index for index, facts in found.items() if facts["step"] != "done"]
    stuck = [index for index in waiting if index in silent]
    if stuck:
        return [
            (
                [i],
                f"{_named([i], found)}: stuck, or ended, while {found[i]['step']}; it does not "
                "answer any more, look after it there",
            )
            for i in stuck
        ]
    if not waiting:
        return []
    first = min(STEPS.index(found[i]["step"]) for i in waiting)  # the others wait for these
    behind = [i for i in waiting if STEPS.index(found[i]["step"]) == first]
    text = (
        f"still {STEPS[first]} after {seconds:g} s; see whether the hosts reach each other: names, "
        "firewalls, and the same --coordinator for all"
    )
    return [(behind, f"{_named(behind, found)}: {text}")]


def slow(found: dict[int, dict]) -> list:
    """Troubles of those that took clearly longer than the others do."""
    troubles = []
    for name, what in TIMES.items():
        times = {index: facts[name] for index, facts in found.items() if name in facts}
        median = statistics.median(times.values()) if times else 0.0
        for index, value in times.items():
            if value > SLOW_FACTOR * median and value > median + SLOW_SECONDS:
                text = f"slow: it {what} in {value:.1f} s, the median is {median:.2f} s; see what "
                text += "else runs there, or take that host out"
                troubles.append(([index], f"{_named([index], found)}: {text}"))
    return troubles


def _named(indices, found: dict[int, dict] | None = None) -> str:
    """`process 3 (host)`, `processes 0-2, 5`."""
    runs = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    text = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
    if len(indices) > 1:
        return f"processes {text}"
    return f"process {text}" + (f" ({found[indices[0]]['host']})" if found else "")


def _show(found: dict[int, dict], clocks: dict[int, float]) -> None:
    """A line a worker, and a line for each set of versions."""
    rows = []
    for index, facts in found.items():
        times = (f"{facts[name]:.2f} s" if name in facts else "-" for name in TIMES)
        clock = f"{clocks[index]:+.1f} s" if index in clocks else "-"
        commit = facts["commit"] or f"code {facts['code'][:12]}"
        rows.append([f"{index}", facts["host"], facts.get("devices", "-"), commit, *times, clock])
    columns = ["process", "host", "devices", "commit", "files", "core", "device", "clock"]
    table("Workers", columns, rows)
    groups = collections.defaultdict(list)
    for index, facts in found.items():
        groups[tuple(facts["versions"].items())].append(index)
    names = ["python", *PACKAGES]
    rows = [[_named(who), *(dict(v)[name] for name in names)] for v, who in groups.items()]
    table("Versions", ["", *names], rows)
