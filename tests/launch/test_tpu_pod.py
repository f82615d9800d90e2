"""The launcher of TPU slices on a cloud that stands in for Google's: real hosts are processes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.conftest import NAME, PAIR, POD

TRAIN = {
    "model.name": "efficientnet-pico",
    "train.batch_size": 8,
    "train.epochs": 0.8,  # 5 steps
    "train.log_every_steps": 1,
    "train.save_every_steps": 2,
    "optim.warmup_epochs": 0.5,
}


def train(workdir, **changes):
    flags = {**TRAIN, **changes}
    return [
        *("--", "train", "--config=configs/digits.py:role=teacher", f"--workdir={workdir}"),
        *(f"--config.{name}={value}" for name, value in flags.items()),
    ]


def bad_input(workdir):
    """Ends with status 2 before JAX is imported."""
    return ["--", "train", "--config=configs/no_such.py", f"--workdir={workdir}"]


def crash(workdir):
    """Ends with status 1: with -v=1 an error is not caught."""
    return train(workdir, **{"data.labelled": "nowhere:at all"}) + ["-v=1"]


def test_a_job_runs_to_its_end_and_arguments_arrive_as_they_are(launcher, tmp_path):
    workdir = tmp_path / """it's a "run" $HOME; $(exit 3) *"""
    status, output = launcher.run(*PAIR, "--spot", "--env=A_VARIABLE=a 'b' $c", *train(workdir))
    assert status == 0, output
    assert launcher.nothing_is_left()
    assert (workdir / "DONE").read_text() == " ".join([*train(workdir)[1:], "--distributed"])
    assert json.loads((workdir / "manifest.json").read_text())["outputs"]["step"] == 5
    assert "on 2 device(s)" in output and output.count("5 steps of") == 1  # host 0's log alone
    assert "is waiting" in output and "is ready" in output
    (made,) = launcher.cloud.calls("create")
    assert {"--spot", "--accelerator-type=v3-16", "--runtime-version=tpu-ubuntu2204-base"} < {*made}

    status, output = launcher.run(*PAIR, *train(workdir))  # DONE stands
    assert status == 0 and len(launcher.cloud.calls("create")) == 1, output
