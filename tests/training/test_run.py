"""What surrounds the steps: when to save, scores while a training runs, its metrics."""

import json

import pytest

from ns_jax.checkpoints import checkpoint
from ns_jax.parallel import preemption
from ns_jax.programs import evaluate, train
from ns_jax.training import evaluation, run
from ns_jax.training import numbers as numbers_lib

pytestmark = pytest.mark.large


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_scores_while_training_are_evaluations_and_change_no_bit(few_stages, tiny_config, tmp_path):
    tiny_config.train.evaluate_every_epochs = 0.0
    undisturbed = train.run(tiny_config, tmp_path / "without")
    tiny_config.train.evaluate_every_epochs = 0.6  # every 3 of 6 steps
    outputs = train.run(tiny_config, tmp_path / "with")
    assert outputs["model"] == undisturbed["model"]
    found = lines(tmp_path / "with")
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    scored = {line["step"]: line for line in found if "test/top1" in line}
    assert list(scored) == [3, 6]
    tiny_config.evaluate.checkpoint = str(tmp_path / "with")
    last = evaluate.run(tiny_config, tmp_path / "with")
    assert [scored[6][f"test/{name}"] for name in ("top1", "top5", "ece")] == [
        last[name] for name in ("top1", "top5", "ece")
    ]
    assert not [name for line in lines(tmp_path / "without") for name in line if "test/" in name]


def test_a_notice_breaks_an_evaluation_off(make_teacher, tiny_config, tmp_path, monkeypatch):
    card, variables = checkpoint.load_model(make_teacher(tmp_path / "teacher"))
    tiny_config.train.evaluate_every_epochs = 1.0
    numbers = numbers_lib.derive(tiny_config, 50, 1)
    found = evaluation.prepare(tiny_config, numbers, card)
    assert set(found.scores(variables)) == {"test/top1", "test/top5", "test/ece"}
    monkeypatch.setattr(preemption, "noticed", lambda: True)
    assert found.scores(variables) == {}


def test_metrics_tell_labelled_rows_from_unlabelled_ones(few_stages, tiny_config, tmp_path):
    train.run(tiny_config, tmp_path)
    names = {name.removeprefix("train/") for name in lines(tmp_path)[0] if "train/" in name}
    assert {"loss", "loss_labelled", "top1_labelled", "grad_norm", "learning_rate"} <= names
    assert not [name for name in names if "unlabelled" in name]
    assert list(tmp_path.glob("events.out.tfevents.*"))


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
