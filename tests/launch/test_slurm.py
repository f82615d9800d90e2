"""`launch/slurm.sh` in a Slurm of two nodes, which starts with the first test that needs it."""

import json
import sys

import pytest

from tests.launch import slurm_cluster
from tests.launch.test_preemptions import checkpoints, result
from tests.launch.test_tpu_pod import TRAIN

pytestmark = pytest.mark.slurm

STEPS = 20
PAIR = ("--nodes=1", "--ntasks=2")
# A program whose life is a line of bash; each start is noted.
PROGRAM = """#!/usr/bin/env bash
[[ $SLURM_PROCID != 0 ]] || echo >>"$HERE/starts"
eval "$LIFE"
"""
WORKS = "while :; do sleep 0.1; done"


@pytest.fixture(scope="session")
def slurm(environment):
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    # Compiled in two thirds of the time.
    plain = {**environment, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    with slurm_cluster.running(plain) as slurm:
        yield slurm


def train(workdir):
    flags = {**TRAIN, "train.epochs": STEPS * 8 / 50}
    del flags["model.name"]  # tests/few_stages.py has chosen it
    return [
        *("train", "--config=tests/launch/held.py:role=teacher", f"--workdir={workdir}"),
        *(f"--config.{name}={value}" for name, value in flags.items()),
    ]


@pytest.fixture(scope="session")
def undisturbed(slurm, tmp_path_factory):
    """A training of two tasks that nobody disturbs."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    job = slurm.submit(*PAIR, *train(workdir))
    job.wait_for("COMPLETED", 300)
    assert "on 2 device(s)" in job.output  # each task has one of the two cores
    assert job["Restarts"] == "0" and len(result(workdir)[1]) == STEPS
    return result(workdir)


class Held:
    """A training of two tasks that waits after its third step."""

    def __init__(self, slurm, directory, *options):
        self._directory, self.workdir = directory, directory / "run"
        (directory / "hold").touch()
        self._slurm, self._options = slurm, options
        self.job = self.submit()
        self.wait()

    def wait(self):
        """Until both tasks wait, with a checkpoint on the disk; for the next time, forgets it."""
        held = [self._directory / f"held.{number}" for number in range(2)]
        self._slurm.wait_until(
            lambda: all(path.exists() for path in held) and checkpoints(self.workdir), 240
        )
        for path in held:
            path.unlink()

    def last_step(self):
        return max(map(int, checkpoints(self.workdir)))

    def submit(self):
        hold = {"NS_JAX_TEST_HOLD": str(self._directory / "hold")}
        return self._slurm.submit(*PAIR, *self._options, *train(self.workdir), **hold)

    def release(self):
        (self._directory / "hold").unlink()


@pytest.fixture
def held(slurm, tmp_path):
    return lambda *options: Held(slurm, tmp_path, *options)


def preempt(slurm, job):
    """A job of higher priority wants all nodes, and is done at once."""
    done = ["--parsable", "--partition=high", "--exclusive", "--nodes=2", "--wrap=true"]
    other = slurm_cluster.Job(slurm, slurm.run("sbatch", "--output=/dev/null", *done).strip())
    slurm.wait_until(lambda: job["JobState"] != "RUNNING", 90)
    other.wait_for("COMPLETED")


def test_at_its_time_limit_a_job_saves_and_is_requeued(slurm, held, undisturbed):
    training = held("--time=20", "--signal=B:USR1@60")
    job = training.job
    slurm.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=2")  # heeded in half a minute
    slurm.wait_until(lambda: job["JobState"] == "PENDING", 90)
    slurm.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=20")
    saved = training.last_step()
    training.release()
    job.wait_for("COMPLETED", 300)
    assert job["Restarts"] == "1" and f"resuming from step {saved}\n" in job.output
    assert 3 <= saved < STEPS
    assert result(training.workdir) == undisturbed


def test_a_job_that_is_preempted_at_once_saves_before_it_is_killed(slurm, held, undisturbed):
    training = held()  # Slurm sends SIGTERM, and kills after KillWait
    preempt(slurm, training.job)
    saved = training.last_step()
    training.release()
    training.job.wait_for("COMPLETED", 300)
    assert training.job["Restarts"] == "1" and 3 <= saved < STEPS
    assert f"resuming from step {saved}\n" in training.job.output
    assert result(training.workdir) == undisturbed


def test_a_job_saves_at_a_notice_of_preemption_and_at_scancel_which_is_for_good(
    slurm, held, undisturbed
):
    training = held("--partition=graceful")
    preempt(slurm, training.job)
    first = training.last_step()
    training.wait()
    slurm.run("scancel", training.job.number)  # not taken for a second preemption
    training.job.wait_for("CANCELLED")
    second = training.last_step()
    assert training.job["Restarts"] == "1" and 3 <= first < second < STEPS
    training.release()
    again = training.submit()
    again.wait_for("COMPLETED")
    assert f"resuming from step {second}\n" in again.output
    assert result(training.workdir) == undisturbed


def test_a_node_that_dies_and_comes_back(slurm, held, undisturbed):
    training = held(f"--nodelist={slurm_cluster.NODES[0]}")
    slurm.kill_node(slurm_cluster.NODES[0])
    slurm.wait_until(lambda: training.job["JobState"] == "PENDING")
    training.release()
    slurm.start_node(slurm_cluster.NODES[0])
    training.job.wait_for("COMPLETED", 300)
    assert training.job["Restarts"] == "1" and "resuming from step 2\n" in training.job.output
    assert result(training.workdir) == undisturbed


def test_arguments_arrive_as_they_are(slurm):
    job = slurm.submit(*PAIR, "train", "--config=configs/no 'such' $HOME.py", "--workdir=/no/run")
    job.wait_for("FAILED")
    assert job["ExitCode"] == "2:0" and "configs/no 'such' $HOME.py" in job.output


def test_two_nodes_train_as_one(slurm, tmp_path, undisturbed):
    job = slurm.submit("--nodes=2", "--ntasks=2", *train(tmp_path))
    job.wait_for("COMPLETED", 300)
    assert "on 2 device(s)" in job.output and result(tmp_path) == undisturbed


@pytest.fixture
def live(slurm, tmp_path):
    """`live(life)` starts a job of two tasks, whose program is a line of bash."""

    def start(life, **variables):
        program = tmp_path / "program"
        program.write_text(PROGRAM)
        program.chmod(0o755)
        variables |= {"PYTHON": str(program), "HERE": str(tmp_path), "LIFE": life}
        return slurm.submit(*PAIR, "train", **variables)

    return start


def starts(directory):
    return len((directory / "starts").read_text().splitlines())


def test_input_that_one_task_refuses_is_never_tried_again(live, tmp_path):
    """Though the other one ends with another status, as it is stopped."""
    job = live(f"((SLURM_PROCID)) || exit 2; trap 'exit 143' TERM; {WORKS}")
    job.wait_for("FAILED")
    assert job["ExitCode"] == "2:0" and job["Restarts"] == "0" and starts(tmp_path) == 1


def test_a_failure_of_one_task_is_tried_again_for_a_while(live, tmp_path):
    job = live(f"((SLURM_PROCID)) || exit 1; trap 'exit 143' TERM; {WORKS}", RETRIES="2")
    job.wait_for("FAILED")
    assert job["ExitCode"] == "1:0" and starts(tmp_path) == 3


def test_a_failure_that_passes_is_none(live, tmp_path):
    job = live("((SLURM_PROCID)) || (($(wc -l <$HERE/starts) > 1))")
    job.wait_for("COMPLETED", 300)
    assert starts(tmp_path) == 2


ORDINALS = """
import json, os
from ns_jax.parallel import gpus, tasks
seen, local = os.environ["CUDA_VISIBLE_DEVICES"].split(","), tasks.local(os.environ)
mine = gpus.ordinals(os.environ, local, len(seen), 4)
unused = gpus.unused(os.environ, local, len(seen), len(mine))
print(json.dumps([[seen[number] for number in mine], unused]))
"""


@pytest.mark.parametrize(
    ("flags", "expected", "unused"),
    [
        ("--nodes=1 --ntasks=4 --gpus-per-node=4", ["0", "1", "2", "3"], 0),
        ("--nodes=1 --ntasks=1 --gpus-per-node=4", ["0,1,2,3"], 0),
        ("--nodes=1 --ntasks=2 --gpus-per-node=4", ["0,1", "2,3"], 0),
        ("--nodes=1 --ntasks=3 --gpus-per-node=4", ["0", "1", "2"], 1),
        ("--nodes=1 --ntasks=4 --gpus-per-task=1", ["0", "1", "2", "3"], 0),
        ("--nodes=1 --ntasks=2 --gpus-per-task=2", ["0,1", "2,3"], 0),
        ("--nodes=1 --ntasks=4 --gpus-per-node=4 --gpu-bind=single:1", ["0", "1", "2", "3"], 0),
        ("--nodes=2 --ntasks-per-node=2 --gpus-per-node=2", ["0", "0", "1", "1"], 0),
    ],
)
def test_each_task_takes_its_own_of_the_gpus_that_slurm_shows_it(slurm, flags, expected, unused):
    command = ["srun", *flags.split(), sys.executable, "-c", ORDINALS]
    found = [json.loads(line) for line in slurm.run(*command).splitlines()]
    assert sorted(",".join(ids) for ids, _ in found) == expected
    assert {left for _, left in found} == {unused}
