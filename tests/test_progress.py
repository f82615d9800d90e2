import io

import rich.console

from ns_jax import progress


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
