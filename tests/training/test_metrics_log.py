"""metrics.jsonl, TensorBoard's events and Weights & Biases, as a resumed training leaves them."""

import json
import sys

import pytest

from ns_jax.errors import InputError
from ns_jax.training.metrics_log import MetricsLog


def read(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def write_steps(workdir, start, stop, **options):
    log = MetricsLog(workdir, start, **options)
    for step in range(start + 1, stop + 1):
        log.write(step, {"train/loss": step / 2 + start})
    log.close()


def test_a_resumed_log_drops_what_will_be_done_again(tmp_path):
    write_steps(tmp_path, 0, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "tra')  # a kill in the middle of a line
    write_steps(tmp_path, 3, 4)
    lines = read(tmp_path)
    expected = [(1, 0.5), (2, 1.0), (3, 1.5), (4, 5.0)]
    assert [(line["step"], line["train/loss"]) for line in lines] == expected
    assert all(line["time"] > 1e9 for line in lines)


def test_processes_but_the_first_write_nothing(tmp_path):
    write_steps(tmp_path, 0, 2, write=False, tensorboard=True)
    assert not list(tmp_path.iterdir())


def test_tensorboard_reads_its_events(tmp_path):
    """As its own reader has them: what was written after the step resumed from is purged."""
    write_steps(tmp_path, 0, 5, tensorboard=True)
    write_steps(tmp_path, 3, 6, tensorboard=True)
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [(one.step, one.value) for one in found] == [
        *((step, step / 2) for step in (1, 2, 3)),
        *((step, step / 2 + 3) for step in (4, 5, 6)),
    ]


def test_without_its_library_wandb_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'ns-jax\[wandb\]'"):
        MetricsLog(tmp_path, 0, wandb="project")


def test_wandb_keeps_one_run_for_a_workdir(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    names = []
    for start in (0, 3):
        log = MetricsLog(tmp_path, start, wandb="project")
        names.append(wandb.run.id)
        log.write(start + 1, {"train/loss": 1.0})
        log.close()
    assert names[0] == names[1] and list((tmp_path / "wandb").glob("offline-run-*"))
