"""Three workers on one pool, killed at random: the final set is an undisturbed run's."""

import os
import random
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.large

KILLS, WORKERS = 20, 3
POOL = "+".join(["digits:unlabelled"] * 12)  # 13,776 images


def start(workdir, teacher, environment, worker):
    flags = {
        "model.name": "efficientnet-pico",
        "data.unlabelled": POOL,
        "label.checkpoint": teacher,
        "label.batch_size": 64,
        "label.images_per_shard": 128,
        "label.lease_seconds": 2.0,
        "label.worker": f"{worker}/{WORKERS}",
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ns_jax", "label", "--config=configs/digits.py"),
            f"--workdir={workdir}",
            *(f"--config.{name}={value}" for name, value in flags.items()),
        ],
        env={**environment, "JAX_NUM_CPU_DEVICES": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def content(workdir):
    """The bytes of all shards."""
    return {path.name: path.read_bytes() for path in (workdir / "labels").glob("*.parquet")}


@pytest.mark.chaos
def test_workers_killed_at_random_leave_the_set_of_an_undisturbed_run(
    make_teacher, environment, tmp_path
):
    seed = int(os.environ.get("NS_JAX_TEST_SEED", time.time_ns() % 2**32))
    print(f"NS_JAX_TEST_SEED={seed}")
    chance = random.Random(seed)
    teacher = make_teacher(tmp_path / "teacher")
    began = time.monotonic()
    undisturbed = start(tmp_path / "alone", teacher, environment, 0)
    output, _ = undisturbed.communicate(timeout=500)
    alone_seconds = time.monotonic() - began  # most of it loading, in which a kill tells nothing
    assert undisturbed.returncode == 0, output[-3000:]

    workdir = tmp_path / "disturbed"
    workers = {n: start(workdir, teacher, environment, n) for n in range(WORKERS)}
    killed = at_work = 0
    while killed < KILLS:
        time.sleep(chance.uniform(0.2, min(max(2.0, alone_seconds), 10.0)))
        number = chance.randrange(WORKERS)
        if (workdir / "labels" / "manifest.json").exists():  # done too soon: a third is undone
            (workdir / "labels" / "manifest.json").unlink()
            for path in chance.sample(sorted((workdir / "labels").glob("*.parquet")), 36):
                path.unlink()
        if workers[number].poll() is None:
            at_work += bool(list((workdir / "labels").glob("leases/*")))
            workers[number].kill()
            killed += 1
        workers[number].communicate()
        workers[number] = start(workdir, teacher, environment, number)
    for worker in workers.values():
        output, _ = worker.communicate(timeout=500)
        assert worker.returncode == 0, output[-3000:]
    print(f"{killed} kills, {at_work} of them while shards were being computed")
    assert at_work > KILLS / 4
    ours, theirs = content(workdir), content(tmp_path / "alone")
    assert ours.keys() == theirs.keys() and len(theirs) == 108
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    assert not list((workdir / "labels" / "leases").iterdir())
