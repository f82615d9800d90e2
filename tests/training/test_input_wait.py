"""With a clock that the test turns: no test waits for a real one."""

import pytest

from ns_jax.training import input_wait


@pytest.fixture
def clock(monkeypatch):
    """Steps finish at the time that stands in for their result."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(input_wait, "time", clock)
    monkeypatch.setattr(input_wait, "_finish_time", lambda result: result)
    return clock


def dispatch(found, clock, at, finishes):
    clock.now = at
    found.dispatched(finishes)
    found._finished.result()


def test_only_the_time_between_a_steps_end_and_the_next_dispatch_counts(clock):
    found = input_wait.InputWait()
    assert found.share() == 0
    dispatch(found, clock, at=100, finishes=103)  # the first one: what was before does not count
    dispatch(found, clock, at=105, finishes=108)  # two seconds late
    dispatch(found, clock, at=107, finishes=111)  # in time: the device was still busy
    dispatch(found, clock, at=112, finishes=115)  # one second late
    assert found.seconds == 3
    clock.now = 130
    assert found.share() == pytest.approx(3 / 30)
    found.close()


def test_an_evaluation_between_two_steps_is_no_wait_for_images(clock):
    found = input_wait.InputWait()
    dispatch(found, clock, at=100, finishes=103)
    clock.now = 150
    found.leave_out(50)
    dispatch(found, clock, at=150, finishes=153)
    clock.now = 160
    assert found.seconds == 0 and found.elapsed() == 10
    found.close()


def test_a_step_that_still_runs_is_not_waited_for(monkeypatch):
    import threading

    release = threading.Event()
    monkeypatch.setattr(input_wait, "_finish_time", lambda _: release.wait() and 0.0)
    found = input_wait.InputWait()
    found.dispatched(None)
    found.dispatched(None)  # would hang if it waited
    assert found.seconds == 0
    release.set()
    found.close()


def test_the_end_of_a_step_is_when_its_result_is_there():
    import jax.numpy as jnp

    before = input_wait.time.monotonic()
    assert before <= input_wait._finish_time(jnp.zeros(3)) <= input_wait.time.monotonic()


class Share:
    def __init__(self, share, elapsed=31.0):
        self._share, self._elapsed = share, elapsed

    def elapsed(self):
        return self._elapsed

    def share(self):
        return self._share


def test_a_device_that_waits_for_images_is_said_once_with_its_share(capsys):
    assert not input_wait.warn_if_input_bound(Share(0.09), None)
    assert not input_wait.warn_if_input_bound(Share(0.9, elapsed=5.0), None)  # too early to say
    assert not capsys.readouterr().err
    assert input_wait.warn_if_input_bound(Share(0.375), 3)
    said = capsys.readouterr().err
    assert "input-bound: the device waited for images 38% of the time" in said
    assert "data.workers is 3" in said
