"""Processes on one machine: who is told to stop, who is waited for, what the status says."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.large

# A program whose life is written in a file for each process: a line of bash.
PROGRAM = f"""#!/usr/bin/env bash
[[ $1 != -c ]] || exec {sys.executable} "$@"
number=${{*: -1}} number=${{number#--process_id=}}
cd "$(dirname "$0")"
echo $$ >pid.$number
echo "this is process $number"
. ./life.$number
"""
UNTIL_TOLD = "trap 'sleep 0.4; touch saved.$number; exit 143' TERM; touch up.$number; "
WORKS = UNTIL_TOLD + "while :; do sleep 0.05; done"
DEAF = "trap '' TERM; touch up.$number; while :; do sleep 0.05; done"


@pytest.fixture
def local(tmp_path):
    """`local(life, life)` starts launch/local.sh with a process for each."""

    def start(*lives):
        program = tmp_path / "program"
        program.write_text(PROGRAM)
        program.chmod(0o755)
        for number, life in enumerate(lives):
            (tmp_path / f"life.{number}").write_text(life + "\n")
        child = subprocess.Popen(
            [ROOT / "launch" / "local.sh", str(len(lives)), "train"],
            env={**os.environ, "PYTHON": str(program), "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        working = [n for n, life in enumerate(lives) if "up.$number" in life]
        deadline = time.monotonic() + 20
        while not all((tmp_path / f"up.{number}").exists() for number in working):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return child

    return start


def pid(directory, number):
    return int((directory / f"pid.{number}").read_text())


def all_are_gone(directory):
    return not any(
        pathlib.Path(f"/proc/{path.read_text().strip()}").exists()
        for path in directory.glob("pid.*")
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_notice_reaches_all_processes_which_are_waited_for(local, tmp_path, number):
    child = local(WORKS, WORKS, WORKS)
    child.send_signal(number)
    child.communicate(timeout=20)
    assert child.returncode == 143
    assert len([*tmp_path.glob("saved.*")]) == 3 and all_are_gone(tmp_path)
    assert not [*tmp_path.glob("tmp.*")]  # nor the logs


def test_a_second_interrupt_kills(local, tmp_path):
    child = local(WORKS, DEAF)
    child.send_signal(signal.SIGINT)
    while not (tmp_path / "saved.0").exists():
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode != 0 and all_are_gone(tmp_path)


def test_when_one_process_had_notice_the_others_may_end_alike(local, tmp_path):
    # Those that agreed with it follow by themselves; what befalls them then is no failure.
    follows = "while [[ ! -e saved.1 ]]; do sleep 0.02; done; sleep 0.4; touch saved.0; exit 143"
    left_alone = "while [[ ! -e saved.1 ]]; do sleep 0.02; done; sleep 0.2; exit 134"
    child = local(follows, WORKS, left_alone)
    os.kill(pid(tmp_path, 1), signal.SIGTERM)
    child.communicate(timeout=20)
    assert child.returncode == 143
    assert len([*tmp_path.glob("saved.*")]) == 2 and all_are_gone(tmp_path)


def test_the_first_to_fail_ends_all_and_is_shown(local, tmp_path):
    child = local(DEAF, "until [[ -e up.0 ]]; do sleep 0.02; done; echo it went wrong; exit 3")
    output, _ = child.communicate(timeout=20)
    assert child.returncode == 3 and all_are_gone(tmp_path)
    assert "process 1 ended with status 3" in output and "it went wrong" in output


def test_all_that_end_well_end_it_well(local, tmp_path):
    child = local("exit 0", "sleep 0.2; exit 0")
    output, _ = child.communicate(timeout=20)
    assert child.returncode == 0 and output == "this is process 0\n"
