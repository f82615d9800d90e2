"""A training on two hosts that are preempted ten times ends in the bits of an undisturbed one."""

import json
import os
import random
import re
import time

import pytest

from tests.launch.conftest import NAME, PAIR
from tests.launch.test_tpu_pod import train

pytestmark = pytest.mark.large

PREEMPTIONS = 10
STEPS = {"train.epochs": 9.6}  # 60 steps
LEFT = [  # states of the queued resource and its node as a preemption leaves them; "": gone
    ("SUSPENDED", "PREEMPTED"),
    ("SUSPENDING", "STOPPED"),
    ("SUSPENDED", ""),
    ("ACTIVE", "TERMINATED"),
    ("ACTIVE", ""),
    ("", ""),
]
NOTICES = [(), ("0",), ("1",), ("0", "1")]  # hosts that get SIGTERM first; the others vanish


def checkpoints(workdir):
    return {path.name for path in (workdir / "checkpoints").glob("[0-9]*") if path.name.isdigit()}


def result(workdir):
    """What a training leaves: digest of the weights, inputs, the loss of every step."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = {line["step"]: line["train/loss"] for line in lines}
    return json.loads((workdir / "manifest.json").read_text()), losses


@pytest.mark.chaos
def test_ten_preemptions_change_nothing(launcher, tmp_path):
    seed = int(os.environ.get("NS_JAX_TEST_SEED", time.time_ns() % 2**32))
    print(f"NS_JAX_TEST_SEED={seed}")
    chance, began = random.Random(seed), time.monotonic()
    alone, workdir = tmp_path / "alone", tmp_path / "disturbed"
    status, output = launcher.run(*PAIR, *train(alone, **STEPS), timeout=900)
    assert status == 0, output
    undisturbed_seconds = time.monotonic() - began

    cloud, began = launcher.cloud, time.monotonic()
    log = (tmp_path / "log").open("w+")
    child = launcher.start(*PAIR, "--spot", *train(workdir, **STEPS), stdout=log)
    wanted = len(cloud.calls("create"))  # slices made so far, by the undisturbed run as well
    at_work = with_notice = 0
    for number in range(PREEMPTIONS):
        wanted += 1
        deadline = time.monotonic() + 600
        before = checkpoints(workdir)
        while len(cloud.calls("create")) < wanted or not cloud.hosts(NAME):
            assert child.poll() is None and time.monotonic() < deadline, log.seek(0) or log.read()
            time.sleep(0.05)
        if number % 2:  # at work: after a new checkpoint
            while not checkpoints(workdir) - before:
                assert child.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 0.5))
        else:  # any time from waiting for the slice to compiling
            time.sleep(chance.uniform(0, 10))
        assert child.poll() is None, "the training ended too soon"
        warned, seconds = chance.choice(NOTICES), chance.uniform(0.5, 4)
        ended = cloud.preempt(NAME, *chance.choice(LEFT), warned, seconds if warned else 0)
        at_work += bool(ended)
        with_notice += bool(ended and warned)
    assert child.wait(timeout=900) == 0, log.seek(0) or log.read()
    seconds = time.monotonic() - began
    log.seek(0)
    output = log.read()

    restarts = output.count("resuming from step")
    print(
        f"{PREEMPTIONS} preemptions, {at_work} of them while the hosts worked, {with_notice} of "
        f"these with notice to a host; {restarts} restarts from a checkpoint: {seconds:.0f} s; "
        f"undisturbed {undisturbed_seconds:.0f} s"
    )
    assert f"{PREEMPTIONS} slices were lost" in output
    assert at_work >= PREEMPTIONS / 2 and restarts >= PREEMPTIONS / 2
    (ours, losses), (theirs, expected) = result(workdir), result(alone)
    assert len(expected) == 60 and losses.keys() == expected.keys()
    differing = [step for step, loss in expected.items() if losses[step] != loss]
    starts = re.findall(r"resuming from step (\d+)", output)
    assert not differing and ours == theirs, f"from step {differing[:1]}; restarts at {starts}"
    assert launcher.nothing_is_left()
