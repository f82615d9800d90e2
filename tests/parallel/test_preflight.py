"""doctor --distributed: real processes that are well, missing, stuck, elsewhere or not alike."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ns_jax.parallel import preflight, processes
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
    directory = workdir / preflight.DIRECTORY
    (directory / "old").mkdir(parents=True)
    call = {"token": "old", "stage": preflight.END, "heard": ["x"], "troubles": []}
    (directory / "call.json").write_text(json.dumps(call))
    (directory / "old" / "1-x.json").write_text("{}")


def test_workers_that_are_well_have_a_line_each(launch, tmp_path):
    stale(tmp_path / "run")
    fleet = launch(3)
    for index in (2, 1, 0):
        fleet.start(index)
    status, output = fleet.end(0)
    assert status == 0, output
    lines = [line.split("│")[1:-1] for line in output.splitlines() if "2 x cpu" in line]
    assert [line[0].strip() for line in lines] == ["0", "1", "2"]
    assert all(line[1].strip() == socket.gethostname() for line in lines)
    assert "all 3 workers are there, alike and connected" in output
    assert [fleet.end(index)[0] for index in (1, 2)] == [0, 0]
    assert not list((tmp_path / "run").iterdir())  # nothing is left


def test_the_missing_and_the_different_are_named(launch, tmp_path):
    fleet = launch(5)
    wait = "--config.doctor.wait_seconds=7"
    fleet.start(1, wait, "--config.seed=1")
    fleet.start(2, wait, workdir=tmp_path / "elsewhere")
    fleet.start(3, wait)
    fleet.start("twin", wait, index=3)  # and no process 4
    fleet.start(0, wait)
    status, output = fleet.end(0)
    host = socket.gethostname()
    assert status == 2
    for line in (
        "error: processes 2, 4: no answer within 7 s: not started, stuck, or its workdir is anoth",
        f"error: process 1 ({host}): config.seed is 1, of process 0 0; start all with the same com",
        f"error: process 3 is there 2 times, on {host} and {host}; give each worker a --process_id",
    ):
        assert line in output, output
    assert output.count("error: ") == 3
    status, output = fleet.end(1)
    assert status == 2 and "config.seed is 1" in output
    status, output = fleet.end(2)
    assert status == 2 and f"said nothing in {tmp_path / 'elsewhere' / '.doctor'} for 7 s" in output
    for name in (3, "twin"):
        status, output = fleet.end(name)
        assert status == 2 and "process 3 is there 2 times" in output
    assert not (tmp_path / "elsewhere").exists() and not list((tmp_path / "run").iterdir())


def test_a_stuck_worker_is_named(launch, tmp_path):
    fleet = launch(3)
    flags = ["--config.doctor.wait_seconds=7"]
    fleet.start(0, *flags)
    fleet.start(2, *flags)
    fleet.start(1, *flags)
    directory = tmp_path / "run" / preflight.DIRECTORY
    end = time.monotonic() + 60
    while not list(directory.glob("*/1-*.json")):
        assert time.monotonic() < end and fleet.children[1].poll() is None
        time.sleep(0.02)
    os.kill(fleet.children[1].pid, signal.SIGSTOP)
    status, output = fleet.end(0)
    assert status == 2, output
    assert f"process 1 ({socket.gethostname()}): still starting after 7 s: stuck, or" in output
    assert output.count("error: ") == 1
    status, output = fleet.end(2)
    assert status == 2 and "error: process 0 names other processes" in output


def test_who_cannot_reach_the_coordinator_is_named(launch):
    fleet = launch(3)
    flags = ["--config.doctor.wait_seconds=5"]
    fleet.start(1, *flags, coordinator="127.0.0.1:1")  # nothing listens there
    fleet.start(2, *flags)
    fleet.start(0, *flags)
    status, output = fleet.end(0)
    assert status == 2 and output.count("error: ") == 1, output
    assert f"process 1 ({socket.gethostname()}): still reaching for the coordinator's" in output
    assert [fleet.end(index)[0] for index in (1, 2)] == [2, 2]


def facts(**changes):
    return {"step": "done", "host": "a", "code": "c", "jax": "1", "config.seed": 0, **changes}


def test_what_differs_is_said_once_for_all_alike():
    other = facts(host="b", jax="2", step="starting")
    found = {0: facts(), 1: other, 2: other, 3: facts(code="d", host="d", devices="4 x TPU v4")}
    remedy = "start all with the same command on the same commit, versions and kind of host"
    assert preflight.different(found) == [
        ([1, 2], f"processes 1, 2: jax is 2, of process 0 1; {remedy}"),
        (
            [3],
            "process 3 (d): code is d, of process 0 c, devices is 4 x TPU v4, of process 0 None; "
            + remedy,
        ),
    ]
    many = {0: facts(), 1: facts(host="b", **{f"config.key{n}": n for n in range(9)})}
    [(_, text)] = preflight.different(many)
    assert "config.key0 is 0, of process 0 None, " in text and "and 4 more" in text


def test_who_waits_is_not_to_blame_for_it():
    found = {
        0: facts(step="computing with the others"),
        1: facts(step="finding its devices", host="b"),
        2: facts(step="computing with the others"),
    }
    [(who, text)] = preflight.unconnected(found, 50)
    assert who == [1] and "process 1 (b): still finding its devices after 50 s" in text
    found[1]["failed"] = "RuntimeError: no"
    [(who, text)] = preflight.unconnected(found, 50)
    assert who == [1] and "failed while finding its devices: RuntimeError: no" in text


def test_a_second_process_0_is_noticed(tmp_path):
    first = preflight._Caller(tmp_path / preflight.DIRECTORY)
    preflight._Caller(tmp_path / preflight.DIRECTORY)
    with pytest.raises(ValueError, match="another process 0 calls in"):
        first.wait(lambda: False, 5)


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
