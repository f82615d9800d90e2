"""Kubernetes and Docker: what can be checked of them where there is none; all shell scripts."""

import importlib
import os
import pathlib
import re
import subprocess
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
