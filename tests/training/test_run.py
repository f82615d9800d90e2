"""What surrounds the steps: when to save, scores while a training runs, its metrics."""

from ns_jax.training import run


def test_checkpoints_are_due_by_steps_and_by_the_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    due = run._Due(every_steps=100, every_minutes=2.0)
    assert not due.at(1, look=True)
    now[0] = 119.0
    assert not due.at(2, look=True)
    now[0] = 121.0
    assert not due.at(3, look=False)  # the clock is looked at when metrics are logged
    assert due.at(4, look=True) and not due.at(5, look=True)
    now[0] = 200.0
    assert due.at(100, look=False)
    now[0] = 300.0
    assert not due.at(101, look=True)  # 100 s after the last one
    never = run._Due(every_steps=100, every_minutes=0.0)
    now[0] = 1e9
    assert not never.at(1, look=True) and never.at(200, look=True)
