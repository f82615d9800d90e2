"""doctor --distributed: real processes that are well, missing, stuck, elsewhere or not alike."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ns_jax.parallel import preflight, processes, rollcall
from tests.conftest import ROOT

pytestmark = pytest.mark.large


class Fleet:
    """Processes of `doctor`, of `count`; what they print is read at the end."""

    def __init__(self, environment, workdir, count):
        self.environment, self.workdir, self.count, self.children = environment, workdir, count, {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.coordinator = f"127.0.0.1:{free.getsockname()[1]}"

    def start(self, name, *flags, index=None, workdir=None, coordinator=None):
        command = [
            *(sys.executable, "-m", "ns_jax", "doctor", "--config=configs/digits.py"),
            *(
                f"--workdir={workdir or self.workdir}",
                f"--coordinator={coordinator or self.coordinator}",
            ),
            *(f"--num_processes={self.count}", f"--process_id={name if index is None else index}"),
        ]
        self.children[name] = subprocess.Popen(
            [*command, *flags],
            env={**self.environment, "JAX_NUM_CPU_DEVICES": "2"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, name):
        """(exit status, output)."""
        output, _ = self.children[name].communicate(timeout=100)
        return self.children[name].returncode, output

    def stop(self):
        for child in self.children.values():
            child.kill()
            child.communicate()


@pytest.fixture
def launch(environment, tmp_path):
    fleets = []

    def make(count):
        fleets.append(Fleet(environment, tmp_path / "run", count))
        return fleets[-1]

    yield make
    for made in fleets:
        made.stop()


def stale(workdir):
    """What a run that was killed leaves: its last word, and an answer."""
    directory = workdir / rollcall.DIRECTORY
    (directory / "old").mkdir(parents=True)
    call = {"token": "old", "beat": 9, "stage": rollcall.END, "heard": ["x"], "troubles": []}
    (directory / "call.json").write_text(json.dumps(call))
    (directory / "old" / "1-x.json").write_text("{}")


def test_workers_that_are_well_have_a_line_each(launch, tmp_path):
    stale(tmp_path / "run")
    preflight = launch(3)
    for index in (2, 1, 0):
        preflight.start(index)
    status, output = preflight.end(0)
    assert status == 0, output
    lines = [line.split("│")[1:-1] for line in output.splitlines() if "2 x cpu" in line]
    assert [line[0].strip() for line in lines] == ["0", "1", "2"]
    assert all(line[1].strip() == socket.gethostname() for line in lines)
    assert "processes 0-2" in output and "all 3 workers are there, alike and connected" in output
    assert [preflight.end(index)[0] for index in (1, 2)] == [0, 0]
    assert not list((tmp_path / "run").iterdir())  # nothing is left


def test_the_missing_and_the_different_are_named(launch, tmp_path):
    preflight = launch(5)
    wait = "--config.doctor.wait_seconds=7"
    preflight.start(1, wait, "--config.seed=1")
    preflight.start(2, wait, workdir=tmp_path / "elsewhere")
    preflight.start(3, wait)
    preflight.start("twin", wait, index=3)  # and no process 4
    preflight.start(0, wait)
    status, output = preflight.end(0)
    host = socket.gethostname()
    assert status == 2
    for line in (
        "error: processes 2, 4: no answer within 7 s: not started, stuck, or its workdir is anoth",
        f"error: process 1 ({host}): config.seed is 1, of process 0 0; start all with the same com",
        f"error: process 3 is there 2 times, on {host} and {host}; give each worker a --process_id",
    ):
        assert line in output, output
    assert output.count("error: ") == 3
    status, output = preflight.end(1)
    assert status == 2 and "config.seed is 1" in output
    status, output = preflight.end(2)
    assert (
        status == 2 and f"did not write in {tmp_path / 'elsewhere' / '.doctor'} for 7 s" in output
    )
    for name in (3, "twin"):
        status, output = preflight.end(name)
        assert status == 2 and "process 3 is there 2 times" in output
    assert not (tmp_path / "elsewhere").exists() and not list((tmp_path / "run").iterdir())


def test_a_stuck_worker_is_named(launch, tmp_path):
    preflight = launch(3)
    flags = ["--config.doctor.wait_seconds=7"]
    preflight.start(0, *flags)
    preflight.start(2, *flags)
    preflight.start(1, *flags)
    directory = tmp_path / "run" / rollcall.DIRECTORY
    end = time.monotonic() + 60
    while not list(directory.glob("*/1-*.json")):
        assert time.monotonic() < end and preflight.children[1].poll() is None
        time.sleep(0.02)
    os.kill(preflight.children[1].pid, signal.SIGSTOP)
    status, output = preflight.end(0)
    assert status == 2, output
    assert f"process 1 ({socket.gethostname()}): stuck, or ended, while starting" in output
    assert output.count("error: ") == 1
    status, output = preflight.end(2)
    assert status == 2 and "error: process 0 names other processes" in output


def test_who_cannot_reach_the_coordinator_is_named(launch):
    preflight = launch(3)
    flags = ["--config.doctor.wait_seconds=5"]
    preflight.start(1, *flags, coordinator="127.0.0.1:1")  # nothing listens there
    preflight.start(2, *flags)
    preflight.start(0, *flags)
    status, output = preflight.end(0)
    assert status == 2 and output.count("error: ") == 1, output
    assert f"process 1 ({socket.gethostname()}): still reaching for the coordinator's" in output
    assert [preflight.end(index)[0] for index in (1, 2)] == [2, 2]


def facts(**changes):
    same = {
        **{"host": "a", "commit": "1", "code": "c" * 64, "count": 3, "workdir": "/w", "load": "l"},
        **{"versions": {"jax": "1"}, "config": {"seed": 0, "train.epochs": 1.0}, "step": "done"},
        **{"files_seconds": 0.1, "host_seconds": 0.1, "device_seconds": 0.1},
    }
    return {**same, **changes}


def test_what_differs_is_said_once_for_all_alike():
    other = facts(host="b", versions={"jax": "2"}, commit="")
    found = {0: facts(), 1: other, 2: other, 3: facts(commit="2", load="m", host="d")}
    assert preflight.different(found) == [
        (
            [1, 2],
            "processes 1-2: jax is 2, of process 0 1; install the same versions on all hosts",
        ),
        ([3], "process 3 (d): commit is 2, of process 0 1; put the same commit on all hosts"),
        (
            [3],
            "process 3 (d): load is m, of process 0 l; what process 0 wrote in the workdir reads "
            "differently there: mount one directory",
        ),
    ]
    many = {0: facts(), 1: facts(config={f"key{n}": n for n in range(9)}, host="b")}
    [(_, text)] = preflight.different(many)
    assert "config.key0 is 0, of process 0 None, " in text and "and 6 more" in text


def test_the_slow_are_those_clearly_beyond_the_median():
    found = {0: facts(), 1: facts(files_seconds=4.0, host="b"), 2: facts(device_seconds=1.0)}
    assert preflight.slow(found) == [
        (
            [1],
            "process 1 (b): slow: it read and wrote a few megabytes in the workdir in 4.0 s, the "
            "median is 0.10 s; see what else runs there, or take that host out",
        )
    ]


def test_who_waits_is_not_to_blame_for_it():
    found = {
        0: facts(step="computing with the others"),
        1: facts(step="finding its devices", host="b"),
        2: facts(step="computing with the others"),
    }
    [(who, text)] = preflight.unconnected(found, [], 50)
    assert who == [1] and "process 1 (b): still finding its devices after 50 s" in text
    [(who, text)] = preflight.unconnected(found, [2], 50)
    assert who == [2] and "stuck, or ended, while computing with the others" in text
    found[1]["failed"] = "RuntimeError: no"
    [(who, text)] = preflight.unconnected(found, [2], 50)
    assert who == [1] and "failed while finding its devices: RuntimeError: no" in text


def test_a_second_process_0_is_noticed(tmp_path):
    first = rollcall.Caller(tmp_path)
    rollcall.Caller(tmp_path)
    with pytest.raises(ValueError, match="another process 0 calls in"):
        first.connect()


def test_the_place_is_known_before_anything_is_connected(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert processes.place(None, None, None, False) == (0, 1)
    assert processes.place("host:1", 4, 3, False) == (3, 4)
    with pytest.raises(ValueError, match="there are processes 0 to 3"):
        processes.place("host:1", 4, 4, False)
    with pytest.raises(ValueError, match="neither Cloud TPU nor Slurm nor Open MPI"):
        processes.place(None, None, None, True)
    job = {"JOB_ID": 7, "STEP_NODELIST": "n[1-2]", "NTASKS": 2, "PROCID": 1, "LOCALID": 0}
    for name, value in {**job, "STEP_NUM_TASKS": 2}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert processes.place(None, None, None, False) == (1, 2)


@pytest.mark.parametrize(
    ("address", "alone"),
    [
        *(("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("127.1.2.3:1", True)),
        *(("10.0.0.2:1", False), ("host-0:1", False), ("0.0.0.0:1", False)),
    ],
)
def test_an_address_of_loopback_is_known(address, alone):
    assert processes.on_loopback(address) == alone
