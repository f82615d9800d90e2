"""Which GPUs a process takes, from the variables that Slurm (22.05) and Open MPI (4.1) set."""

import pytest

from ns_jax.errors import InputError
from ns_jax.parallel import gpus, processes
from ns_jax.parallel.tasks import Local


def slurm(on_node, shown=None, job=None, step=None):
    """The variables of a task; `shown`: CUDA_VISIBLE_DEVICES."""
    found = {
        "SLURM_GPUS_ON_NODE": on_node and str(on_node),
        "CUDA_VISIBLE_DEVICES": shown,
        "SLURM_JOB_GPUS": job,
        "SLURM_STEP_GPUS": step or shown,
    }
    return {name: value for name, value in found.items() if value is not None}


ALL8 = "0,1,2,3,4,5,6,7"
HALF = "4,5,6,7"
EIGHT = slurm(8, ALL8)


@pytest.mark.parametrize(
    ("environment", "local", "visible", "expected"),
    [
        # A task a GPU, all shown to all.
        (EIGHT, Local(0, 8), 8, [0]),
        (EIGHT, Local(7, 8), 8, [7]),
        # One task with all GPUs of a node.
        (EIGHT, Local(0, 1), 8, [*range(8)]),
        # Two tasks, or three: each a part; two are left.
        (EIGHT, Local(1, 2), 8, [4, 5, 6, 7]),
        (EIGHT, Local(2, 3), 8, [4, 5]),
        # --gpus-per-task and --gpu-bind: each is shown its own, numbered as on the node,
        (slurm(8, "5"), Local(5, 8), 1, [0]),
        (slurm(8, "6,7"), Local(3, 4), 2, [0, 1]),
        # or, where a control group hides the others, from 0.
        (slurm(8, "0", step="5"), Local(5, 8), 1, [0]),
        (slurm(8, "0,1", step="6,7"), Local(3, 4), 2, [0, 1]),
        # A part of the node: what is shown counts from 0, whatever its numbers.
        (slurm(4, HALF), Local(3, 4), 4, [3]),
        (slurm(4, HALF), Local(0, 1), 4, [0, 1, 2, 3]),
        (slurm(2, "6,7"), Local(1, 2), 2, [1]),
        (slurm(1, "7"), Local(0, 1), 1, [0]),
        # --gpu-bind=none: Slurm sets nothing; all of the machine are seen, the job's are named,
        (slurm(4, None, job=HALF), Local(1, 4), 8, [5]),
        (slurm(4, None, job=HALF), Local(0, 1), 8, [4, 5, 6, 7]),
        # or a control group hides what is not the job's.
        (slurm(4, None, job=HALF), Local(1, 4), 4, [1]),
        (slurm(8), Local(3, 8), 8, [3]),
        # Parts of GPUs (MIG) have names.
        (slurm(2, "MIG-a,MIG-b", step="0,1"), Local(1, 2), 2, [1]),
        # Open MPI: all see all; what was chosen for all; a wrapper that shows each its own.
        ({}, Local(3, 8), 8, [3]),
        ({}, Local(1, 2), 8, [4, 5, 6, 7]),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, Local(1, 2), 2, [1]),
        ({"CUDA_VISIBLE_DEVICES": "3"}, Local(3, 8), 1, [0]),
    ],
)
def test_a_task_takes_its_own(environment, local, visible, expected):
    assert gpus.ordinals(environment, local, visible, 8) == expected


@pytest.mark.parametrize("tasks", range(1, 9))
@pytest.mark.parametrize("environment", [{}, EIGHT])
def test_no_gpu_is_taken_twice_and_as_many_as_can_be_are_taken(tasks, environment):
    taken = [gpus.ordinals(environment, Local(i, tasks), 8, 8) for i in range(tasks)]
    assert sorted(sum(taken, [])) == [*range(8 // tasks * tasks)]
    left = {gpus.unused(environment, Local(i, tasks), 8, len(taken[i])) for i in range(tasks)}
    assert left == {8 % tasks}


@pytest.mark.parametrize(
    ("environment", "tasks", "visible", "installed"),
    [
        (slurm(2, "0,1"), 4, 2, 8),  # more tasks than GPUs
        (slurm(8, "0,1,2,3"), 8, 4, 8),  # --gpu-bind=closest: a socket's to each of its tasks
        (slurm(2, "1"), 4, 1, 8),  # --gpu-bind=single:2
        ({}, 2, 1, 1),
        ({}, 8, 4, 4),
    ],
)
def test_gpus_that_would_be_shared_are_refused(environment, tasks, visible, installed):
    with pytest.raises(InputError, match=f"{tasks} tasks.*{visible} of"):
        gpus.ordinals(environment, Local(1, tasks), visible, installed)


@pytest.mark.parametrize(
    ("environment", "local", "visible", "taken", "expected"),
    [
        (slurm(8, ALL8, job=ALL8), Local(0, 8), 8, 1, 0),
        (slurm(8, "5", job=ALL8), Local(5, 8), 1, 1, 0),
        (slurm(8, ALL8), Local(0, 3), 8, 2, 2),
        (slurm(1, "0", job=ALL8), Local(0, 1), 1, 1, 7),  # srun -n 1 --gpus-per-task=1
        (slurm(8, "5", job=ALL8), Local(5, 6), 1, 1, 2),
        ({"CUDA_VISIBLE_DEVICES": "3"}, Local(3, 8), 1, 1, 0),
    ],
)
def test_gpus_that_nobody_takes_are_counted(environment, local, visible, taken, expected):
    assert gpus.unused(environment, local, visible, taken) == expected


@pytest.mark.parametrize(
    "environment",
    [{"JAX_PLATFORMS": "cpu"}, {"JAX_PLATFORMS": "tpu"}, {"JAX_LOCAL_DEVICE_IDS": "1"}],
)
def test_what_is_chosen_otherwise_is_left_alone(monkeypatch, environment):
    monkeypatch.setattr(gpus, "count_visible", lambda: 8)
    assert gpus.choose(environment, Local(1, 8)) == (None, 0)


@pytest.mark.parametrize(
    ("tasks", "index", "ordinals", "said"),
    [(3, 0, [0, 1], True), (3, 2, [4, 5], False), (4, 0, [0, 1], False), (4, 1, [2, 3], False)],
)
def test_jax_is_told_and_one_process_of_a_host_says_what_is_left(
    monkeypatch, capsys, tasks, index, ordinals, said
):
    variables = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node",
        "SLURM_NTASKS": tasks,
        "SLURM_STEP_NUM_TASKS": tasks,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_PROCID": index,
        "SLURM_LOCALID": index,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    calls = []
    monkeypatch.setattr(gpus, "_wants_cuda", lambda environment: True)
    monkeypatch.setattr(gpus, "count_visible", lambda: 8)
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *a, **k: calls.append(k))
    monkeypatch.setattr(processes.preemption, "forward_to_jax", lambda: None)
    processes.connect(None, None, None, False)
    assert calls == [{"local_device_ids": ordinals}]
    assert ("2 GPU(s) of this node" in capsys.readouterr().err) == said
