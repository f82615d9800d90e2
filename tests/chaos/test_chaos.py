"""`selftrain`, killed, stopped and damaged at random, ends in the bits of an undisturbed run."""

import contextlib
import os
import shutil
import subprocess
import time

import pytest

from tests.chaos import driver

pytestmark = pytest.mark.large


@pytest.fixture
def seed():
    """NS_JAX_TEST_SEED repeats a run, as far as the machine's own timing lets it."""
    seed = int(os.environ.get("NS_JAX_TEST_SEED", time.time_ns() % 2**32))
    print(f"NS_JAX_TEST_SEED={seed}")
    return seed


@contextlib.contextmanager
def small_disk(directory):
    """A disk of its own in memory, if this machine lets us have one."""
    directory.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={driver.SMALL_DISK}", "tmpfs", str(directory)]
    mounted = shutil.which("mount") is not None
    if mounted:
        done = subprocess.run(["mount", *options], check=False, capture_output=True)
        mounted = done.returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []


def test_a_few_disturbances_change_nothing(environment, tmp_path, seed):
    flags = {
        "train.epochs": 1.2,  # 6 steps
        "train.save_every_steps": 2,
        "label.images_per_shard": 256,
        "selftrain.iterations": 1,
    }
    alone = driver.Driver(tmp_path / "alone", tmp_path / "alone.txt", flags, environment, seed)
    alone.finish()
    output = tmp_path / "disturbed.txt"
    disturbed = driver.Driver(tmp_path / "disturbed", output, flags, environment, seed)
    disturbed.disturb(5, seconds=9.0, disk_full=False)
    assert_same(driver.outcome(disturbed.workdir), driver.outcome(alone.workdir))
    assert disturbed.lost_to_notice == 0


@pytest.mark.chaos
def test_fifty_disturbances_change_nothing(environment, tmp_path, seed, capsys):
    flags = {
        "train.epochs": 40.0,  # 200 steps
        "train.save_every_steps": 10,
        "label.images_per_shard": 128,
        "selftrain.iterations": 2,
    }
    began = time.monotonic()
    alone = driver.Driver(tmp_path / "alone", tmp_path / "alone.txt", flags, environment, seed)
    alone.finish()
    alone_seconds, began = time.monotonic() - began, time.monotonic()
    with small_disk(tmp_path / "disk") as is_small:
        workdir, output = tmp_path / "disk" / "disturbed", tmp_path / "disturbed.txt"
        workdir.mkdir()
        disturbed = driver.Driver(workdir, output, flags, environment, seed)
        # On a slow machine, too, a start must come further than its loading now and then.
        disturbed.disturb(50, seconds=max(12.0, alone_seconds / 6), disk_full=is_small)
        assert_same(driver.outcome(workdir), driver.outcome(alone.workdir))
    with capsys.disabled():
        print(f"\nNS_JAX_TEST_SEED={seed}")
        for kind, count in disturbed.counts.items():
            print(f"  {kind:12} {count}")
        print(
            f"  starts {disturbed.starts}, {disturbed.in_training} of them came to a training; "
            f"steps done again {disturbed.lost} (most at once {disturbed.most_lost}, after a "
            f"notice {disturbed.lost_to_notice}); {time.monotonic() - began:.0f} s, alone "
            f"{alone_seconds:.0f} s; result identical: yes"
        )
    assert sum(disturbed.counts.values()) >= 50
    # Since the last checkpoint, while the next one is being written; and one that was damaged.
    assert disturbed.most_lost["sound"] <= 2 * 10 and disturbed.most_lost["damaged"] <= 3 * 10
    assert disturbed.lost_to_notice == 0
    assert disturbed.counts["checkpoint"] and disturbed.counts["shard"]
    assert disturbed.counts["disk full"] or not is_small
