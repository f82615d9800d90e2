"""`selftrain` in a bucket, killed, stopped and damaged, behind a network that misbehaves."""

import os
import time

import pytest

from tests.buckets.proxy import Behaviour
from tests.chaos import driver

pytestmark = [pytest.mark.bucket, pytest.mark.large]

SECONDS = 20.0  # within which the next disturbance comes: a start takes half of them to load
FLAGS = {
    "train.epochs": 1.2,  # 6 steps
    "train.save_every_steps": 2,
    "label.images_per_shard": 256,
    "label.batch_size": 256,
    "selftrain.iterations": 1,
}


def test_a_few_disturbances_change_nothing_in_a_bucket(google, environment, tmp_path):
    seed = int(os.environ.get("NS_JAX_TEST_SEED", time.time_ns() % 2**32))
    print(f"NS_JAX_TEST_SEED={seed}")
    config = "tests/few_stages.py"
    alone = driver.Driver(
        tmp_path / "alone", tmp_path / "alone.txt", FLAGS, environment, seed, config
    )
    alone.finish()
    workdir, output = f"{google.make_bucket(f'chaos{seed}')}/run", tmp_path / "disturbed.txt"
    google.behave(
        Behaviour(delay=0.005, unavailable=0.02, too_many=0.01, reset=0.02, cut=0.01, seed=seed)
    )
    disturbed = driver.Driver(workdir, output, FLAGS, environment, seed, config)
    disturbed.disturb(5, seconds=SECONDS, disk_full=False)
    counts = google.counts()
    assert min(counts.get(fate, 0) for fate in ("unavailable", "reset after", "cut")) > 0, counts
    google.behave()
    ours, theirs = driver.outcome(disturbed.workdir), driver.outcome(alone.workdir)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    assert disturbed.lost_to_notice == 0
    assert "Traceback" not in output.read_text()
    print(counts, disturbed.counts)
