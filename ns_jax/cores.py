"""The processor cores that this process may use.

The machine's, less what is kept from it by its affinity, the CPU quotas of its control groups and
Slurm; what the processes of one run on a host have together, each of them has its share of.
"""

import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping

# Of libraries that would start a thread for each core of the affinity: XLA's own pool, OpenMP.
THREADS = ("NPROC", "OMP_NUM_THREADS")

_shared_by = 1  # processes of this run on this host


def share(processes: int) -> None:
    """From here on `count` is the share of one of so many processes on this host."""
    global _shared_by
    _shared_by = processes


def count() -> int:
    """Those of this process alone: at least 1."""
    run = len(_affinity_of_run(os.environ))
    return own_share(len(_affinity()), run, quota(pathlib.Path("/")), os.environ, _shared_by)


def limit_threads() -> None:
    """Libraries that are loaded from here on start no more threads than `count`."""
    if count() < len(_affinity()):
        for name in THREADS:
            os.environ.setdefault(name, str(count()))


def own_share(
    own: int, run: int, quota: float, environment: Mapping[str, str], shared_by: int
) -> int:
    """The cores of one of `shared_by` processes of a run on this host.

    `own`: cores that it may run on; `run`: that all of them may run on; `quota`: cores' worth of
    time that they have together, or infinity.
    """
    limits = [own, run / shared_by, quota / shared_by]
    for name, parts in (("SLURM_CPUS_PER_TASK", 1), ("SLURM_CPUS_ON_NODE", shared_by)):
        if environment.get(name, "").isdecimal():
            limits.append(int(environment[name]) / parts)
    return max(1, math.floor(min(limits)))


def quota(root: pathlib.Path) -> float:
    """Cores' worth of time that this process's control groups allow it, of versions 1 and 2.

    Groups are nested: the smallest quota on the way counts. Infinity where there is none. `root`
    is where /proc and what it names are found.
    """
    found = [_quota_of(group) for group in _groups(root)]
    return min(found, default=math.inf)


def _quota_of(group: pathlib.Path) -> float:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((group / name).read_text().strip() for name in names)
        return int(quota) / int(period) if quota not in ("max", "-1") else math.inf
    except (OSError, ValueError):  # the topmost group has none
        return math.inf


def _groups(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Directories of this process's groups that may limit its time, and of those around them."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    paths: dict[str, pathlib.PurePosixPath] = {}  # of the group, by controller; "" of version 2
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), pathlib.PurePosixPath(path))
    for line in mounts:
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        controller = {"cgroup": "cpu", "cgroup2": ""}.get(kind)
        if controller not in paths or (controller and controller not in options.split(",")):
            continue
        top, place = map(_unescaped, left.split()[3:5])
        mounted = root / place.lstrip("/")
        # A container may have its group alone mounted, as if it were the topmost one.
        inside = paths[controller].is_relative_to(top)
        group = mounted / paths[controller].relative_to(top) if inside else mounted
        while True:
            yield group
            if group == mounted:
                break
            group = group.parent


def _unescaped(path: str) -> str:
    """mountinfo has `\\040` for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _affinity(process: int = 0) -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(process)
    return set(range(os.cpu_count() or 1))  # macOS has none


def _affinity_of_run(environment: Mapping[str, str]) -> set[int]:
    """This process's; where Open MPI has bound it to a part, what started it has more."""
    own = _affinity()
    if environment.get("OMPI_MCA_orte_bound_at_launch") != "1":
        return own
    process = os.getpid()
    try:
        while process > 1:
            if own < (theirs := _affinity(process)):
                return theirs
            status = pathlib.Path(f"/proc/{process}/stat").read_text()
            process = int(status.rpartition(")")[2].split()[1])  # the parent
    except OSError:
        pass
    return own
