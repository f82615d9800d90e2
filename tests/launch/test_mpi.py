"""Two processes that Open MPI starts, with no flag and no setting."""

import shutil
import subprocess
import sys

import pytest

from tests.children import ends_with_its_parent
from tests.conftest import ROOT
from tests.launch.test_preemptions import result
from tests.launch.test_tpu_pod import TRAIN

pytestmark = pytest.mark.slurm


def test_two_processes_of_open_mpi_are_one_training_on_two_devices(environment, tmp_path):
    if not shutil.which("mpirun"):
        pytest.skip("no mpirun: apt-get install openmpi-bin")
    flags = {name: value for name, value in TRAIN.items() if name != "model.name"}
    mark = f"NS_JAX_TEST_MPI={tmp_path}"
    try:
        done = subprocess.run(
            [
                *("mpirun", "--allow-run-as-root", "--oversubscribe", "-x", mark, "-n", "2"),
                *(sys.executable, "-m", "ns_jax", "train", f"--workdir={tmp_path}"),
                "--config=tests/launch/held.py:role=teacher",
                *(f"--config.{name}={value}" for name, value in flags.items()),
            ],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
    finally:
        ends_with_its_parent.kill({mark.encode()})  # which outlive mpirun if that is killed
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("on 2 device(s)") == 1
    assert len(result(tmp_path)[1]) == 5
