"""What Slurm and Open MPI say of a process, as they were seen to say it."""

import pytest

from ns_jax.parallel import tasks
from ns_jax.parallel.tasks import Local

MPI = {"OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}


def slurm(counts, node, index, total):
    return {
        "SLURM_STEP_NUM_TASKS": total,
        "SLURM_STEP_TASKS_PER_NODE": counts,
        "SLURM_NODEID": node,
        "SLURM_LOCALID": index,
    }


@pytest.mark.parametrize(
    ("environment", "local", "total"),
    [
        ({}, None, 1),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, None, 1),  # no step
        (slurm("2", "0", "1", "2"), Local(1, 2), 2),
        (slurm("8(x64)", "63", "7", "512"), Local(7, 8), 512),
        (slurm("4(x2),3,1(x2)", "2", "0", "13"), Local(0, 3), 13),
        (slurm("4(x2),3,1(x2)", "4", "0", "13"), Local(0, 1), 13),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, Local(2, 3), 6),
        # mpirun within a job: Slurm has started one task on each node.
        (
            {**slurm("1(x2)", "1", "0", "2"), **MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "3"},
            Local(2, 3),
            6,
        ),
    ],
)
def test_a_process_among_those_of_its_host_and_of_its_job(environment, local, total):
    assert tasks.local(environment) == local and tasks.total(environment) == total
