"""The workers of a run before its first step: which are there, alike, and connected.

Before any process connects to another they meet in files in the workdir. That needs no open port,
names who is missing where a connection would only wait, and shows that all see one directory.
Process 0 writes `.doctor/call.json`, `{token, stage, heard, troubles}`, with a fresh token; each
other one writes `.doctor/TOKEN/INDEX-NONCE.json`, its facts, whenever these change. A process
believes a call only once its own nonce stands in `heard`, so nothing that an earlier run left
confuses this one.

A trouble is `(processes, text)`: whom it is about, and what a person reads.
"""

import collections
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax import files
from ns_jax.errors import InputError
from ns_jax.parallel import processes
from ns_jax.progress import say, table

DIRECTORY = ".doctor"
POLL_SECONDS = 0.2
READ_SECONDS = 5.0  # that a process may take to read what another one wrote
CONNECT, END = "connect", "end"  # stages of a call, after the first one, ""
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
STEPS = (
    "starting",
    "reaching for the coordinator's port",
    "connecting to process 0",
    "finding its devices",
    "computing with the others",
    "done",
)
OWN = {"step", "host", "failed"}  # facts that may differ; all others are to be process 0's
SHOWN = 5  # facts that differ; the others are counted


def check(config: config_dict.ConfigDict, workdir: pathlib.Path, where: tuple) -> int:
    """Meets the other processes, connects if all are alike, and returns the exit status.

    `where` is what `processes.connect` takes. 0 if all is well, else 2, in every process. Process 0
    prints a line for each worker and names those that are missing, stuck, or not as it is. Where
    they have begun to connect and cannot, this process ends here. Raises OSError where the workdir
    cannot be written, InputError where another process 0 calls in it.
    """
    index, count = processes.place(*where)
    directory, seconds = workdir / DIRECTORY, config.doctor.wait_seconds
    facts = {
        "step": STEPS[0],
        "host": socket.gethostname(),
        "--num_processes": count,
        "--workdir": str(workdir),
        "code": processes.code_digest()[:12],
        **_versions(),
        **{f"config.{name}": value for name, value in config_lib.flat(config).items()},
    }
    work = threading.Thread(target=_work, args=(where, index, facts), daemon=True)
    troubles: list | None
    if index == 0:
        troubles = _call(directory, facts, work, seconds)
    else:
        troubles = _answer(directory, index, facts, work, seconds)
    if troubles == []:
        work.join()
        return 0
    if work.ident is not None:  # started: it may wait for ever, and so would JAX at the exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
    return 2


class _Caller:
    """Process 0's side of the meeting."""

    def __init__(self, directory: pathlib.Path):
        self._directory, self._token = directory, uuid.uuid4().hex
        self.answers: dict[int, dict] = collections.defaultdict(dict)  # index -> nonce -> facts
        files.remove_directory(directory)
        self.tell("")

    def tell(self, stage: str, troubles: Sequence = ()) -> None:
        """Writes the call for all that have been heard."""
        heard = [nonce for those in self.answers.values() for nonce in those]
        call = {"token": self._token, "stage": stage, "heard": heard, "troubles": list(troubles)}
        files.write(os.fspath(self._directory / "call.json"), json.dumps(call).encode())

    def wait(self, done: Callable[[], bool], seconds: float) -> None:
        """Reads answers until `done()`, but no longer than `seconds`."""
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            call = _read(self._directory / "call.json")
            if call and call["token"] != self._token:
                raise InputError(
                    f"another process 0 calls in {self._directory}: two workers were given that "
                    "place, or this command runs twice"
                )
            for path in self._there():
                index, _, nonce = path.stem.partition("-")
                if facts := _read(path):
                    self.answers[int(index)][nonce] = facts

    def end(self, troubles: list) -> None:
        """Tells all what was found, and removes the files once they have read it."""
        self.tell(END, troubles)
        self.wait(lambda: not self._there(), READ_SECONDS)
        files.remove_directory(self._directory)

    def _there(self) -> list[pathlib.Path]:
        return list((self._directory / self._token).glob("*.json"))


def _call(directory: pathlib.Path, facts: dict, work: threading.Thread, seconds: float) -> list:
    """What process 0 does; returns the troubles, which have been said."""
    caller, wanted = _Caller(directory), set(range(1, facts["--num_processes"]))

    def found() -> dict[int, dict]:
        others = {index: [*those.values()][-1] for index, those in sorted(caller.answers.items())}
        return {0: dict(facts), **others}

    def connected() -> bool:
        steps = [facts["step"] for facts in found().values()]
        return set(steps) == {"done"} or any("failed" in facts for facts in found().values())

    caller.wait(lambda: wanted <= caller.answers.keys(), seconds)
    troubles = missing(wanted - caller.answers.keys(), directory.parent, seconds)
    troubles += twice(caller.answers) + different(found())
    if not troubles:
        work.start()
        caller.tell(CONNECT)
        caller.wait(connected, seconds)
        troubles = unconnected(found(), seconds) or different(found()) or twice(caller.answers)
    rows = [[i, f["host"], f.get("devices", "-"), f["code"]] for i, f in found().items()]
    table("Workers", ["process", "host", "devices", "code"], [map(str, row) for row in rows])
    for _, text in troubles:
        say(f"error: {text}")
    if not troubles:
        say(f"all {len(wanted) + 1} workers are there, alike and connected, in the same workdir")
    caller.end(troubles)
    return troubles


def _answer(
    directory: pathlib.Path, index: int, facts: dict, work: threading.Thread, seconds: float
) -> list | None:
    """What the others do; returns the troubles, or None if process 0 said nothing for `seconds`."""
    nonce, seen, written = uuid.uuid4().hex, None, None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        call = _read(directory / "call.json")
        if call and call != seen:
            seen, written = call, None
            end = time.monotonic() + seconds + READ_SECONDS
        if call and nonce in call["heard"]:
            if call["stage"] == END:
                files.remove(os.fspath(directory / call["token"] / f"{index}-{nonce}.json"))
                own = [text for who, text in call["troubles"] if index in who]
                for text in own or ["process 0 names other processes"] * bool(call["troubles"]):
                    say(f"error: {text}")
                return call["troubles"]
            if call["stage"] == CONNECT and work.ident is None:
                work.start()
        if call and facts != written:
            written = dict(facts)
            path = directory / call["token"] / f"{index}-{nonce}.json"
            files.write(os.fspath(path), json.dumps(written).encode())
        time.sleep(POLL_SECONDS)
    say(
        f"error: process 0 said nothing in {directory} for {seconds:g} s: it is not running or is "
        "stuck, or its --workdir is another directory than this one"
    )
    return None


def _read(path: pathlib.Path) -> dict | None:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):  # not there, or a view of it that is behind
        return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "-"
    return found


def _work(where: tuple, index: int, facts: dict) -> None:
    """Connects and computes with the others; `facts["step"]` says how far it has come."""
    try:
        if index and where[0]:  # tried apart: JAX does not say which process it waits for
            facts["step"] = "reaching for the coordinator's port"
            _reach(where[0])
        facts["step"] = "connecting to process 0"
        processes.connect(*where)
        facts["step"] = "finding its devices"
        devices = jax.local_devices()
        facts["devices"] = f"{len(devices)} x {devices[0].device_kind}"
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
            time.sleep(POLL_SECONDS)


def missing(indices: set[int], workdir: pathlib.Path, seconds: float) -> list:
    """Troubles of those that did not answer."""
    if not indices:
        return []
    who = sorted(indices)
    text = (
        f"no answer within {seconds:g} s: not started, stuck, or its workdir is another directory "
        f"than process 0's {workdir}; the worker's own output says which"
    )
    return [(who, f"{_named(who, {})}: {text}")]


def twice(answers: dict[int, dict[str, dict]]) -> list:
    """Troubles of several that were started as the same one."""
    return [
        (
            [index],
            f"process {index} is there {len(those)} times, on "
            f"{' and '.join(sorted(facts['host'] for facts in those.values()))}; give each worker "
            "a --process_id of its own, and end what is left of earlier runs",
        )
        for index, those in sorted(answers.items())
        if len(those) > 1
    ]


def different(found: dict[int, dict]) -> list:
    """Troubles of those whose facts are not process 0's, with what differs and what to do."""
    groups, ours = collections.defaultdict(list), found[0]  # groups: what differs -> processes
    for index, theirs in found.items():
        names = sorted((ours.keys() | theirs.keys()) - OWN)
        texts = [
            f"{name} is {str(theirs.get(name))[:60]}, of process 0 {str(ours.get(name))[:60]}"
            for name in names
            if ours.get(name) != theirs.get(name)
        ]
        if texts[SHOWN:]:
            texts[SHOWN:] = [f"and {len(texts) - SHOWN} more"]
        if texts:
            groups[", ".join(texts)].append(index)
    remedy = "start all with the same command on the same commit, versions and kind of host"
    return [(who, f"{_named(who, found)}: {text}; {remedy}") for text, who in groups.items()]


def unconnected(found: dict[int, dict], seconds: float) -> list:
    """Troubles of those that failed; if none did, of those furthest behind."""
    steps = {index: STEPS.index(facts["step"]) for index, facts in found.items()}
    behind = [index for index in found if steps[index] == min(steps.values())]
    why = (
        f"after {seconds:g} s: stuck, or ended, or out of reach; see its own output, and whether "
        "the hosts reach each other: names, firewalls, the same --coordinator"
    )
    troubles = [
        ([i], f"{_named([i], found)}: failed while {facts['step']}: {facts['failed']}")
        for i, facts in found.items()
        if "failed" in facts
    ]
    if not troubles and found[behind[0]]["step"] != "done":  # the others wait for these
        troubles = [(behind, f"{_named(behind, found)}: still {found[behind[0]]['step']} {why}")]
    return troubles


def _named(indices: list[int], found: dict[int, dict]) -> str:
    """`process 3 (host)`, `processes 0, 1, 5`."""
    if len(indices) > 1:
        return f"processes {', '.join(map(str, indices))}"
    host = f" ({found[indices[0]]['host']})" if indices[0] in found else ""
    return f"process {indices[0]}{host}"
