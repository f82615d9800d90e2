import io
import json

import rich.console

from ns_jax import progress
from ns_jax.training import metrics_log


def shown(monkeypatch, terminal, **options):
    out = io.StringIO()
    console = rich.console.Console(file=out, force_terminal=terminal, width=120, **options)
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(progress, "PLAIN_EVERY_SECONDS", 0)
    with progress.Progress("training", total_images=100, done_images=20) as bar:
        bar.advance(10, loss=2.5)
        bar.advance(10, loss=1.25)
    return out.getvalue()


def test_without_a_terminal_there_are_plain_lines(monkeypatch):
    lines = shown(monkeypatch, terminal=False).splitlines()
    assert lines[0].startswith("training: 30 of 100 images  loss 2.5")
    assert lines[1].startswith("training: 40 of 100 images  loss 1.25")
    assert "images/s" in lines[1] and "left" in lines[1] and "\x1b" not in lines[1]


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    text = shown(monkeypatch, terminal=True)
    assert "━" in text and "40 %" in text and "images/s" in text and "left" in text


def test_a_resumed_log_drops_what_will_be_done_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = metrics_log.MetricsLog(path, start_step=0)
    for step in range(1, 6):
        log.write(step, train__loss=step / 2)
    log.close()
    with path.open("a") as file:
        file.write('{"step": 6, "tra')  # a kill in the middle of a line
    log = metrics_log.MetricsLog(path, start_step=3)
    log.write(4, train__loss=9)
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["train/loss"]) for line in lines] == [
        (1, 0.5),
        (2, 1.0),
        (3, 1.5),
        (4, 9.0),
    ]
    assert all(line["time"] > 1e9 for line in lines)
