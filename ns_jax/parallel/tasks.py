"""What Slurm and Open MPI say of this process: how many there are, and which on this host it is."""

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Local:
    """Which of a run's processes on this host this one is, from 0, and how many there are."""

    index: int = 0
    count: int = 1


def total(environment: Mapping[str, str]) -> int:
    """The tasks of this job, on all hosts; 1 outside of a job."""
    names = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return max(int(environment.get(name, 1)) for name in names)


def local(environment: Mapping[str, str]) -> Local | None:
    """This process among those of its job on this host; None outside of a job.

    Within a job of Slurm, `mpirun` starts its processes from one task on each host: it comes first.
    """
    if "OMPI_COMM_WORLD_LOCAL_RANK" in environment:
        return Local(
            int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]),
            int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1)),
        )
    if "SLURM_STEP_TASKS_PER_NODE" in environment:
        counts = _expand(environment["SLURM_STEP_TASKS_PER_NODE"])
        node = int(environment.get("SLURM_NODEID", 0))
        return Local(int(environment.get("SLURM_LOCALID", 0)), counts[node])
    return None


def _expand(counts: str) -> list[int]:
    """`2(x3),1` -> [2, 2, 2, 1]."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(count) for count, times in found for _ in range(int(times or 1))]
