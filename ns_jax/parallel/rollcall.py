"""A roll call through files in the workdir, before any process is connected to another.

Process 0 writes `.doctor/call.json` with a fresh token, the others answer in files beside it, each
under a name of its own, and both go on writing, so that either side notices when the other one
stops. It needs no open port, names who is missing where a connection would only wait, and shows
that all see the same directory. Nothing compares the clocks of two hosts.

A call is `{token, beat, stage, heard, troubles}`, an answer `{index, nonce, beat, time,
facts}`. What an earlier roll call left cannot be taken for this one's: answers lie under the token,
and a process believes a call only once its own nonce stands in `heard`.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Callable

from ns_jax import files
from ns_jax.errors import InputError

DIRECTORY = ".doctor"
LOAD_BYTES = 4 << 20  # that each process reads and writes in the workdir
POLL_SECONDS = 0.2
BEAT_SECONDS = 1.0
SILENT_SECONDS = 5.0  # after which a process that beats no more counts as stuck
FAREWELL_SECONDS = 5.0  # that process 0 waits for the others to have read its last word

CONNECT, END = "connect", "end"  # stages of a call, after the first one, ""


@dataclasses.dataclass
class Answer:
    """What process 0 knows of one process. Seconds are of process 0's own clock."""

    facts: dict
    beat: int
    changed: float  # when it was last seen to write
    clock: float  # seconds by which its clock is ahead of process 0's, about

    def silent(self) -> bool:
        return time.monotonic() - self.changed > SILENT_SECONDS


class Caller:
    """Process 0's side."""

    def __init__(self, workdir: pathlib.Path):
        """Makes the workdir if need be, and calls.

        This and what follows raise OSError where it cannot be written, and InputError where another
        process 0 calls in it.
        """
        self.directory = pathlib.Path(workdir) / DIRECTORY
        shutil.rmtree(self.directory, ignore_errors=True)
        self._token, self._beat, self._last = uuid.uuid4().hex, 0, -math.inf
        self._stage, self._troubles = "", []
        self.heard: dict[int, dict[str, Answer]] = {}  # by index, then by nonce
        files.write(os.fspath(self.directory / "load"), os.urandom(LOAD_BYTES))
        self._call()

    def answered(self) -> dict[int, Answer]:
        """The newest answer of each process but this one."""
        return {i: max(those.values(), key=lambda a: a.changed) for i, those in self.heard.items()}

    def wait(self, done: Callable[[], bool], seconds: float) -> None:
        """Listens until `done()`, but no longer than `seconds`."""
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            self._listen()
            if time.monotonic() - self._last > BEAT_SECONDS:
                self._call()

    def connect(self) -> None:
        """Tells all that answered to connect."""
        self._stage = CONNECT
        self._call()

    def end(self, troubles: list) -> None:
        """Tells all what was found, waits until they know it, and removes the files."""
        self._stage, self._troubles = END, troubles
        self._call()
        self.wait(lambda: not self._listening(), FAREWELL_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self):
        return (self.directory / self._token).glob("*.json")

    def _listening(self) -> bool:
        """Whether any has not read the last word yet, which it shows by taking its answer back."""
        there = {path.stem.partition("-")[2] for path in self._answers()}
        awake = (
            nonce
            for those in self.heard.values()
            for nonce, answer in those.items()
            if not answer.silent()
        )
        return not there.isdisjoint(awake)

    def _listen(self) -> None:
        for path in self._answers():
            answer = _read(path)
            if not answer:
                continue
            now, clock = time.monotonic(), answer["time"] - time.time()
            those = self.heard.setdefault(answer["index"], {})
            known = those.get(answer["nonce"])
            if known is None:
                those[answer["nonce"]] = Answer(answer["facts"], answer["beat"], now, clock)
                self._call()
            elif known.beat != answer["beat"]:
                known.facts, known.beat, known.changed = answer["facts"], answer["beat"], now
                known.clock = max(known.clock, clock)  # what was read late looks behind

    def _call(self) -> None:
        there = _read(self.directory / "call.json")
        if self._beat and there and there["token"] != self._token:
            raise InputError(
                f"another process 0 calls in {self.directory}: two workers were given that place, "
                "or this command runs twice"
            )
        self._beat += 1
        self._last = time.monotonic()
        call = {
            "token": self._token,
            "beat": self._beat,
            "stage": self._stage,
            "heard": [nonce for those in self.heard.values() for nonce in those],
            "troubles": self._troubles,
        }
        files.write(os.fspath(self.directory / "call.json"), json.dumps(call).encode())


def answer(
    workdir: pathlib.Path, index: int, facts: dict, connect: Callable[[], None], seconds: float
) -> list | None:
    """The side of the other processes: answers until process 0 has said what it found.

    `facts` is told at every beat, so `connect`, called once when all are to connect, may go on
    adding to it elsewhere. Returns the troubles; None if process 0 was not seen, or not seen to
    write any more, for `seconds`. Raises OSError where the workdir cannot be written.
    """
    directory, nonce = pathlib.Path(workdir) / DIRECTORY, uuid.uuid4().hex
    seen, since = None, time.monotonic()
    token, path, beat, connected = None, None, 0, False
    while time.monotonic() - since < seconds:
        call = _read(directory / "call.json")
        if call and call != seen:
            seen, since = call, time.monotonic()
        if call and call["token"] != token:
            try:
                facts |= try_files(directory, f"{index}-{nonce}")
            except FileNotFoundError:  # a call of another run, which is being cleared away
                continue
            token, path = call["token"], directory / call["token"] / f"{index}-{nonce}.json"
            last = -math.inf
        if call and nonce in call["heard"]:
            if call["stage"] == END:
                files.remove(os.fspath(path))
                _wait_for_the_end(directory, token)
                return call["troubles"]
            if call["stage"] == CONNECT and not connected:
                connected = True
                connect()
        if call and time.monotonic() - last > BEAT_SECONDS:
            beat, last = beat + 1, time.monotonic()
            content = {"index": index, "nonce": nonce, "beat": beat, "time": time.time()}
            files.write(os.fspath(path), json.dumps(content | {"facts": dict(facts)}).encode())
        time.sleep(POLL_SECONDS)
    return None


def try_files(directory: pathlib.Path, name: str) -> dict:
    """The facts of reading what process 0 wrote in `directory` and writing as much."""
    began = time.perf_counter()
    try:
        load = (directory / "load").read_bytes()
    except OSError:
        load = b""  # the digest tells
    own = directory / f"{name}.load"
    with own.open("wb") as file:
        file.write(load)
        file.flush()
        os.fsync(file.fileno())
    own.unlink()
    elapsed = time.perf_counter() - began
    return {"load": hashlib.sha256(load).hexdigest(), "files_seconds": elapsed}


def _wait_for_the_end(directory: pathlib.Path, token: str) -> None:
    """So that all end at about the same time: a launcher ends the others when one has ended."""
    end = time.monotonic() + FAREWELL_SECONDS
    while time.monotonic() < end and (_read(directory / "call.json") or {}).get("token") == token:
        time.sleep(POLL_SECONDS)


def _read(path: pathlib.Path) -> dict | None:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):  # not there, or a view of it that is behind
        return None
