"""Cores of a process: made-up trees of control groups, a real quota, a real affinity, shares."""

import contextlib
import math
import os
import pathlib
import subprocess
import sys
import uuid

import pytest

from ns_jax import cores
from tests.conftest import ROOT

V1 = "30 29 0:30 {root} /sys/fs/cgroup/{name} rw,nosuid - cgroup cgroup rw,{name}"
V2 = "30 29 0:30 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
CPU = "cpu,cpuacct"


def tree(root, memberships, mounts, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in memberships))
    mounts = ["22 1 8:1 / / rw - ext4 /dev/sda rw", *mounts]
    (root / "proc/self/mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("memberships", "mounts", "files", "expected"),
    [
        (["0::/"], [V2.format(root="/")], {}, math.inf),  # the topmost one has no such file
        (["0::/"], [V2.format(root="/")], {"cpu.max": "200000 100000"}, 2),  # of a container
        (["0::/"], [V2.format(root="/")], {"cpu.max": "max 100000"}, math.inf),
        (["0::/a/b"], [V2.format(root="/")], {"a/cpu.max": "150000 100000"}, 1.5),
        (  # the smallest of all around it, not of those beside it
            ["0::/a/b/c"],
            [V2.format(root="/")],
            {
                "a/cpu.max": "300000 100000",
                "a/b/cpu.max": "100000 50000",
                "a/b/c/cpu.max": "max 100000",
                "a/d/cpu.max": "1000 100000",
            },
            2,
        ),
        (  # version 1
            ["4:memory:/m", f"3:{CPU}:/a/b", "0::/"],
            [V1.format(root="/", name="memory"), V1.format(root="/", name=CPU)],
            {
                f"{CPU}/cpu.cfs_quota_us": "-1",
                f"{CPU}/a/cpu.cfs_quota_us": "400000",
                f"{CPU}/a/cpu.cfs_period_us": "100000",
                f"{CPU}/a/b/cpu.cfs_quota_us": "-1",
                f"{CPU}/a/b/cpu.cfs_period_us": "100000",
                "memory/m/cpu.cfs_quota_us": "1",
                "memory/m/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (  # a container of version 1, which has its own group mounted where the topmost one was
            [f"3:{CPU}:/docker/8f3e"],
            [V1.format(root="/docker/8f3e", name=CPU)],
            {f"{CPU}/cpu.cfs_quota_us": "250000", f"{CPU}/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        (  # both versions at once
            ["1:cpu:/a", "0::/b"],
            [
                V1.format(root="/", name="cpu"),
                "31 29 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
            ],
            {
                "cpu/a/cpu.cfs_quota_us": "300000",
                "cpu/a/cpu.cfs_period_us": "100000",
                "unified/b/cpu.max": "100000 100000",
            },
            1,
        ),
        (["0::/../elsewhere"], [V2.format(root="/")], {"cpu.max": "300000 100000"}, 3),
        (["0::/x y"], [V2.format(root="/x\\040y")], {"cpu.max": "300000 100000"}, 3),
        (["0::/a"], [V2.format(root="/")], {"a/cpu.max": "nonsense"}, math.inf),
    ],
)
def test_the_smallest_quota_on_the_way_counts(tmp_path, memberships, mounts, files, expected):
    tree(tmp_path, memberships, mounts, files)
    assert cores.quota(tmp_path) == expected


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path):
    assert cores.quota(tmp_path) == math.inf


def slurm(on_node, per_task=None):
    tasks = {} if per_task is None else {"SLURM_CPUS_PER_TASK": str(per_task)}
    return {"SLURM_CPUS_ON_NODE": str(on_node), **tasks}


@pytest.mark.parametrize(
    ("own", "run", "quota", "environment", "shared_by", "expected"),
    [
        (64, 64, math.inf, {}, 1, 64),
        (64, 64, 2, {}, 1, 2),  # a container with 2 of 64 cores
        (64, 64, 2, {}, 2, 1),
        (64, 64, 2.9, {}, 1, 2),
        (64, 64, 0.5, {}, 1, 1),
        (2, 2, math.inf, {}, 2, 1),
        (2, 2, math.inf, {}, 8, 1),
        (64, 64, math.inf, {}, 8, 8),
        (1, 64, math.inf, {}, 8, 1),  # mpirun has bound each to a core,
        (32, 64, math.inf, {}, 4, 16),  # or to a socket that two share
        (64, 64, math.inf, slurm(16), 1, 16),
        (64, 64, math.inf, slurm(16), 4, 4),
        (64, 64, math.inf, slurm(96, 12), 8, 8),  # the smallest of all
        (96, 96, math.inf, slurm(96, 12), 2, 12),
        (1, 1, math.inf, slurm(96, 12), 8, 1),
        (64, 64, math.inf, {"SLURM_CPUS_ON_NODE": "72(x2)"}, 1, 64),  # not a number
    ],
)
def test_the_share_of_a_process(own, run, quota, environment, shared_by, expected):
    assert cores.own_share(own, run, quota, environment, shared_by) == expected


def count(before="", command=(), **variables):
    """As a process of its own counts."""
    code = f"from ns_jax import cores; import os; {before}; print(cores.count())"
    done = subprocess.run(
        [*command, sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


SEVERAL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
needs_several = pytest.mark.skipif(SEVERAL < 2, reason="one core, which nothing can be kept from")


@needs_several
def test_an_affinity_counts():
    assert count("os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])") == 1


@needs_several
def test_what_open_mpi_has_bound_is_not_divided_again():
    """Its parent stands for mpirun."""
    bind = f"os.sched_setaffinity(0, [*os.sched_getaffinity(0)][: {SEVERAL // 2}]); cores.share(2)"
    assert count(bind, OMPI_MCA_orte_bound_at_launch="1") == SEVERAL // 2
    assert count(bind) == max(1, SEVERAL // 4)


def test_threads_of_libraries_are_limited_where_cores_are(monkeypatch):
    for name in cores.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores, "_shared_by", 1)
    monkeypatch.setattr(cores, "_affinity", lambda process=0: set(range(8)))
    monkeypatch.setattr(cores, "quota", lambda root: 2.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    cores.limit_threads()
    assert (os.environ["NPROC"], os.environ["OMP_NUM_THREADS"]) == ("2", "3")


def _parent_group():
    """A directory in which we may make a control group with a quota, and its file for that."""
    for parent, name in (("cpu", "cpu.cfs_quota_us"), ("cpu,cpuacct", "cpu.cfs_quota_us")):
        group = pathlib.Path("/sys/fs/cgroup") / parent
        if os.access(group, os.W_OK) and os.geteuid() == 0 and (group / name).exists():
            return group, name, "100000"
    group = pathlib.Path("/sys/fs/cgroup")
    control = group / "cgroup.subtree_control"
    if control.exists() and os.geteuid() == 0 and "cpu" in control.read_text().split():
        return group, "cpu.max", "100000 100000"
    return None


@needs_several
def test_a_real_quota_counts():
    if not (found := _parent_group()):
        pytest.skip("no control group of ours can be made here")
    parent, name, one_core = found
    outer = parent / f"ns_jax_{uuid.uuid4().hex}"
    try:
        (outer / "inner").mkdir(parents=True)
        (outer / name).write_text(one_core)
        join = f"open({str(outer / 'inner' / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
        assert count(join) == 1
    except OSError as error:
        pytest.skip(str(error))
    finally:
        for group in (outer / "inner", outer):
            with contextlib.suppress(OSError):
                group.rmdir()
