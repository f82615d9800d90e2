"""Worker processes: order, shared memory, errors, death, and that none is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from ns_jax.data import workers

pytestmark = pytest.mark.large


class Squares:
    """Batch i: a large array of i, in shared memory, a small one, and a list."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at

    def __call__(self, position, empty):
        if position == self.fails_at:
            raise ValueError(f"no square of {position}")
        large = empty((300, 5), np.float32)
        large[...] = position**2
        return {"large": large, "small": np.int64(position), "names": [str(position)]}


NUM_BYTES = 300 * 5 * 4


def test_batches_come_in_order_from_any_number_of_processes():
    for count, ahead in ((1, 1), (3, 2)):
        batches = list(workers.Workers(Squares(), range(11), count, ahead, NUM_BYTES))
        assert [int(batch["small"]) for batch in batches] == list(range(11))
        for position, batch in enumerate(batches):  # none has been overwritten by a later one
            np.testing.assert_array_equal(batch["large"], np.full((300, 5), position**2))
            assert batch["large"].dtype == np.float32 and batch["names"] == [str(position)]
            batch["large"][0] = 1  # and each is the trainer's own


def test_memory_is_shared_and_used_again():
    pool = workers.Workers(Squares(), range(40), 2, 2, NUM_BYTES)
    slots = [worker._slots for worker in pool._workers]
    list(pool)
    values = {float(slot.view(np.float32)[0]) for ring in slots for slot in ring}
    assert values == {36.0**2, 37.0**2, 38.0**2, 39.0**2}


def test_an_array_that_does_not_fit_is_handed_over_all_the_same():
    batches = list(workers.Workers(Squares(), range(3), 1, 1, 64))
    assert [batch["large"][0, 0] for batch in batches] == [0, 1, 4]


def test_an_error_in_a_worker_is_raised_with_its_place():
    batches = workers.Workers(Squares(fails_at=4), range(9), 2, 1, NUM_BYTES)
    for _ in range(4):
        next(batches)
    with pytest.raises(ValueError, match="no square of 4") as error:
        next(batches)
    assert "in data-worker-0" in error.value.__notes__[0]
    batches.close()


def test_a_worker_that_is_killed_is_an_error_not_a_hang():
    batches = workers.Workers(Squares(), range(10_000), 2, 1, NUM_BYTES)
    next(batches)
    os.kill(batches.processes()[1].pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="exit code -9; .* data.workers"):
        for _ in range(4):
            next(batches)
    batches.close()


def test_closing_ends_the_processes():
    batches = workers.Workers(Squares(), range(10_000), 2, 1, NUM_BYTES)
    next(batches)
    processes = batches.processes()
    batches.close()
    assert not any(process.is_alive() for process in processes)


def test_workers_end_when_their_trainer_is_killed(environment):
    script = """
        import sys
        from ns_jax.data import workers
        from tests.data.test_workers import NUM_BYTES, Squares
        if __name__ == "__main__":
            batches = workers.Workers(Squares(), range(10_000), 2, 1, NUM_BYTES)
            next(batches)
            print(*[process.pid for process in batches.processes()], flush=True)
            sys.stdin.read()
    """
    trainer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(pids) == 2
    trainer.kill()
    trainer.wait()
    waited_until = time.monotonic() + 60
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < waited_until, "the workers outlive their trainer"
        time.sleep(0.1)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("count", "processes", "threads"), [(1, 0, 1), (2, 0, 2), (4, 0, 2), (9, 8, 2)]
)
def test_workers_and_threads_are_as_many_as_the_cores_that_are_ours(
    monkeypatch, count, processes, threads
):
    monkeypatch.setattr(workers.cores, "count", lambda: count)
    assert workers.default_workers() == processes
    assert workers.LoaderSettings().num_threads == threads
    assert workers.LoaderSettings(threads=5).num_threads == 5
