"""Slurm, Kubernetes and Docker: what can be checked of them where there is none."""

import importlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import yaml

from ns_jax.__main__ import PROGRAMS
from tests.conftest import ROOT

pytestmark = pytest.mark.large

LAUNCH = ROOT / "launch"
JOBS = list(yaml.safe_load_all((LAUNCH / "gke.yaml").read_text()))


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse_and_may_be_run(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) == script.read_text().startswith("#!")


@pytest.fixture
def slurm(tmp_path):
    """`slurm(python, preempted)` starts launch/slurm.sh; srun runs one task, scontrol is noted."""

    def start(python, *arguments, preempted="None"):
        state = f"JobState=RUNNING PreemptTime={preempted}"
        commands = {
            "srun": '[ "$1" = --kill-on-bad-exit=1 ] && shift && exec "$@"',
            "scontrol": f'[ "$1" = show ] && echo "{state}" || echo "$@" >{tmp_path}/noted',
        }
        for name, body in commands.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.Popen(
            [LAUNCH / "slurm.sh", *arguments],
            env={**os.environ, "PYTHON": str(python), "SLURM_JOB_ID": "7", "PATH": path},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def test_slurm_passes_arguments_and_status_on(slurm, tmp_path):
    child = slurm(sys.executable, "train", "--config=configs/no 'such'.py", "--workdir=/no/run")
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 2 and "configs/no 'such'.py" in output
    assert not (tmp_path / "noted").exists()


@pytest.mark.parametrize(
    ("to", "number", "preempted", "requeued"),
    [
        ("script", signal.SIGUSR1, "None", True),  # the time limit is near
        ("task", signal.SIGTERM, "2026-11-25T15:03:10", True),  # notice of a preemption
        ("script", signal.SIGTERM, "None", False),  # scancel
        ("task", signal.SIGTERM, "None", False),
    ],
)
def test_slurm_requeues_what_had_notice(slurm, tmp_path, to, number, preempted, requeued):
    program, pid = tmp_path / "program", tmp_path / "pid"
    stopped = f"trap 'touch {tmp_path}/saved; exit 143' TERM"
    program.write_text(f"#!/bin/bash\n{stopped}\necho $$ >{pid}\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    child = slurm(program, "train", preempted=preempted)
    deadline = time.monotonic() + 20
    while not (pid.exists() and pid.read_text()):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid if to == "script" else int(pid.read_text()), number)
    child.communicate(timeout=20)
    assert child.returncode == 143 and (tmp_path / "saved").exists()
    noted = tmp_path / "noted"
    assert (noted.read_text() if noted.exists() else "") == ("requeue 7\n" if requeued else "")


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["metadata"]["name"])
def test_jobs_of_kubernetes_name_what_there_is(job):
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = job["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy wants it
    assert pod["terminationGracePeriodSeconds"] > 25  # what saving may take
    rule = spec["podFailurePolicy"]["rules"][0]
    assert rule["onExitCodes"]["values"] == [2]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}

    program, *flags = container["args"]
    assert program in PROGRAMS
    values = dict(flag.removeprefix("--").split("=", 1) for flag in flags if "=" in flag)
    file, _, argument = values.pop("config").partition(":")
    assert (ROOT / file).exists()
    config = importlib.import_module(f"configs.{pathlib.Path(file).stem}").get_config(argument)
    workdir = values.pop("workdir")
    assert workdir.startswith("/bucket/") or program == "label"
    for key in values:
        section, name = key.removeprefix("config.").split(".")
        assert name in config[section]

    x, y = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    if "--distributed" in flags:  # the pods are one slice
        assert x * y == chips * spec["completions"]
    else:  # each is one, and labels apart
        assert x * y == chips
        assert values["config.label.worker"] == f"$(JOB_COMPLETION_INDEX)/{spec['completions']}"


def test_the_image_is_made_of_what_there_is():
    text = (LAUNCH / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert re.search(r"^ARG EXTRA=(\w+)$", text, re.MULTILINE)[1] in extras
    assert 'ENTRYPOINT ["python", "-m", "ns_jax"]' in text
