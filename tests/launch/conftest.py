"""A cloud for `launch/tpu_pod.sh`: the stand-in for gcloud on the PATH, and what it left."""

import pathlib
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.launch import stand_in

NAME = "a-slice"
POD = str(ROOT / "launch" / "tpu_pod.sh")


@pytest.fixture(scope="session", autouse=True)
def heeded_signals():
    """A shell that was started in the background ignores these, and so does all that it starts."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


class Launcher:
    """Starts `launch/tpu_pod.sh` in a cloud of its own."""

    def __init__(self, directory: pathlib.Path, environment: dict):
        self.cloud = stand_in.Cloud(directory / "cloud")
        programs = directory / "bin"
        programs.mkdir()
        gcloud = programs / "gcloud"
        gcloud.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{stand_in.__file__}" "$@"\n')
        gcloud.chmod(0o755)
        self.environment = {
            **environment,
            "STAND_IN_GCLOUD": str(self.cloud.root),
            "PATH": f"{programs}:{environment['PATH']}",
            "TMPDIR": str(directory),
        }
        del self.environment["PYTHONPATH"]  # a host has what was sent there

    def start(self, *arguments, action="run", **options) -> subprocess.Popen:
        """`options` as of Popen; output and errors come together, as text."""
        place = [f"--name={NAME}", "--zone=europe-west4-a"]
        return subprocess.Popen(
            [POD, action, *place, *map(str, arguments)],
            env=self.environment,
            cwd=self.cloud.root,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            **{"stdout": subprocess.PIPE, **options},
        )

    def run(self, *arguments, action="run", timeout=120) -> tuple[int, str]:
        child = self.start(*arguments, action=action)
        try:
            output, _ = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            child.terminate()
            raise AssertionError(f"after {timeout} s:\n{child.communicate()[0]}") from None
        return child.returncode, output

    def nothing_is_left(self) -> bool:
        return (
            not any(
                [*(self.cloud.root / group).iterdir()] for group in ("queued", "nodes", "hosts")
            )
            and not self.processes()
        )

    def processes(self) -> list[int]:
        """Of the hosts of this cloud."""
        mine = f"STAND_IN_GCLOUD={self.cloud.root}".encode()
        return [
            pid
            for pid, words in stand_in.environments()
            if mine in words and any(word.startswith(b"STAND_IN_HOME=") for word in words)
        ]


QUICK = ("--poll=1", "--pause=1")
# Two hosts, or one, with the environment that is here.
HERE = f"--setup=ln -s '{sys.prefix}' .venv"
PAIR = ("--type=v3-16", HERE, *QUICK)
# Compiled in two thirds of the time: on CPUs the cache of compiled steps serves process 0 alone.
PLAIN = "--env=XLA_FLAGS=--xla_backend_optimization_level=0"


def acts(life: str, kind="--type=v3-8") -> list[str]:
    """Options and a program that is a line of bash, which knows its host by `$HOST`."""
    python = "mkdir -p .venv/bin && echo 'HOST=${HOME##*/}; eval \"$LIFE\"' >.venv/bin/python"
    return [
        *(kind, *QUICK, f"--setup={python} && chmod +x .venv/bin/python", f"--env=LIFE={life}"),
        *("--", "train", "--workdir=/no/such/run"),
    ]


@pytest.fixture
def launcher(tmp_path, environment):
    return Launcher(tmp_path, environment)
