"""One run at a time in a workdir, and no wait for one that was killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ns_jax.errors import InputError
from ns_jax.parallel import workdir_lock

HOLDER = """
import pathlib, subprocess, sys, time
from ns_jax.parallel import workdir_lock
from ns_jax.data import workers

lock = workdir_lock.WorkdirLock(pathlib.Path(sys.argv[1]))
lock.acquire()
child = subprocess.Popen(["sleep", "60"])  # as a data worker, it outlives a kill for a while
made = workers.Workers(lambda part, empty: {"part": part}, range(9), 1, 1, 64)
print(child.pid, next(made)["part"], flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(environment, tmp_path):
    """A process that has the lock of `tmp_path`, and children of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(process.stdout.readline().split()[0])
    yield process
    os.kill(child, signal.SIGKILL)
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_with_the_firsts_host_and_process(holder, tmp_path):
    lock = workdir_lock.WorkdirLock(tmp_path)
    began = time.monotonic()
    with pytest.raises(InputError, match=rf"process {holder.pid} on {socket.gethostname()} is at"):
        lock.acquire()
    assert time.monotonic() - began < 1
    lock.release()  # of what it does not have: nothing happens
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == holder.pid


def test_after_a_kill_the_next_run_begins_at_once(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    lock = workdir_lock.WorkdirLock(tmp_path)
    lock.acquire()
    assert time.monotonic() - began < 1
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_run_that_ended_leaves_the_workdir_to_the_next(tmp_path):
    for _ in range(3):
        lock, other = (workdir_lock.WorkdirLock(tmp_path / "new") for _ in range(2))
        lock.acquire()
        with pytest.raises(InputError, match=f"process {os.getpid()}"):
            other.acquire()
        lock.release()
        other.acquire()
        other.release()


def test_a_run_of_another_host_is_waited_for_until_it_is_gone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workdir_lock, "CRASHED_SECONDS", 1.0)
    first, second = (workdir_lock.WorkdirLock(tmp_path) for _ in range(2))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "other-host")
        first.acquire()
    began = time.monotonic()
    with pytest.raises(InputError, match=f"process {os.getpid()} on other-host is at work here"):
        second.acquire()
    assert 1.0 <= time.monotonic() - began < 5
    assert "waits 1 s for it to be gone" in capsys.readouterr().err
    first.release()
    second.acquire()
    second.release()


def test_where_nothing_can_be_locked_a_run_begins_and_says_so(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(workdir_lock.fcntl, "flock", unsupported)
    workdir_lock.WorkdirLock(tmp_path).acquire()
    assert "cannot be locked (Function not implemented)" in capsys.readouterr().err


COMMAND = ["--config=tests/few_stages.py", "--config.train.epochs=400", "--config.seed=3"]


@pytest.mark.large
def test_a_job_that_is_submitted_twice_runs_once(environment, tmp_path):
    def start(program):
        return subprocess.Popen(
            [sys.executable, "-m", "ns_jax", program, *COMMAND, f"--workdir={tmp_path}"],
            env=environment,
            cwd=environment["PYTHONPATH"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    first = start("train")
    try:
        while not (tmp_path / "config.json").exists():
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.05)
        for program in ("train", "select"):
            second = start(program)
            said, _ = second.communicate(timeout=100)
            assert second.returncode == 2, said
            assert f"process {first.pid} on {socket.gethostname()} is at work here" in said
        shares = start("label")  # workers of a labelling are many, wherever they work
        said, _ = shares.communicate(timeout=100)
        assert "there is no teacher" in said and "is at work" not in said
        first.send_signal(signal.SIGKILL)
        first.communicate()
        first = start("train")
        line = first.stdout.readline()
        while "is at work" not in line and "parameters at" not in line:
            line = first.stdout.readline()
            assert line, "it ended"
        assert "parameters at" in line
    finally:
        first.kill()
        first.communicate()
