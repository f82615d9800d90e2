"""Names of classes and files are other people's: kept as they are, shown as text, never obeyed."""

import dataclasses
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rich.console

from ns_jax import progress
from ns_jax.checkpoints import checkpoint
from ns_jax.data import open as open_lib
from ns_jax.labelling import shards as shards_lib
from ns_jax.programs import evaluate, label, select
from tests.data import made

NAMES = sorted(
    [
        "<script>alert(1)</script>",
        "\"; DROP TABLE labels; -- '",
        "[red]x[/red]",
        "[/closed before it was opened]",
        "\x1b[31mred\x1b]0;title\x07\r\nforged line: all is well",
        "{config.seed} %s {{ 7 * 7 }}",
        "../../etc/passwd",
        "猫　ねこ \u202egnp.tac",
        "&amp;<b>",
        "a`whoami`$(id)",
    ]
)


def shown(capsys):
    out, err = capsys.readouterr()
    text = out + err
    assert not any(c in text for c in "\x1b\x07\r\u202e")  # nothing that a terminal obeys
    return text


@pytest.fixture
def config(tiny_config, tmp_path, make_teacher):
    """Images with such names, labelled with such names, and a teacher that has learnt them."""
    keys = [f"{number}{NAMES[number % len(NAMES)]}" for number in range(24)]
    pictures = [{"bytes": made.encoded(n), "path": key} for n, key in enumerate(keys)]
    named = [NAMES[number % len(NAMES)] for number in range(24)]
    pq.write_table(pa.table({"image": pictures, "label": named}), tmp_path / "all.parquet")
    pictures.append({"bytes": b"no image", "path": f"bad {NAMES[0]} \x1b[2J [/x]"})
    pq.write_table(pa.table({"image": pictures}), tmp_path / "pool.parquet")
    tiny_config.data.labelled = tiny_config.data.test = f"parquet:{tmp_path}/all.parquet"
    tiny_config.data.unlabelled = f"parquet:{tmp_path}/pool.parquet"
    tiny_config.data.max_bad_fraction = 0.1
    tiny_config.label.batch_size = 64
    tiny_config.evaluate.batch_size = 32
    card, variables = checkpoint.load_model(make_teacher(tmp_path / "ten"))
    card = dataclasses.replace(card, class_names=tuple(NAMES))
    checkpoint.save_model(tmp_path / "net", card, variables)
    tiny_config.label.checkpoint = tiny_config.evaluate.checkpoint = str(tmp_path / "net")
    return tiny_config


def test_they_go_through_all_programs_unchanged_and_are_shown_as_text(config, tmp_path, capsys):
    label.run(config, tmp_path)
    config.select.labels = str(tmp_path / "labels")
    select.run(config, tmp_path)
    result = evaluate.run(config, tmp_path)
    pool = open_lib.open_from_config(config, "unlabelled")
    [shard] = sorted((tmp_path / "labels").glob("*.parquet"))
    assert shards_lib.Shard(shard).metadata["class_names"] == NAMES
    keys = shards_lib.Shard(shard).keys().tolist()
    assert keys == [pool[i]["key"] for i in range(25)] and "\x1b[2J [/x]" in keys[-1]
    report = json.loads((tmp_path / "selection" / "report.json").read_text())
    assert [entry["name"] for entry in report["classes"]] == NAMES
    text = (tmp_path / "selection" / "report.txt").read_text()
    assert len(text.splitlines()) == len(NAMES) + 2
    assert not any(c in text for c in "\x1b\x07\r\u202e")
    assert len(result["per_class"]) == len(NAMES)
    text = shown(capsys)
    assert r"\x1b[2J [/x]: not an image" in text and "[red]x[/red]" in text
    assert "\nforged line" not in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_name_is_shown_as_text(monkeypatch, capsys, name, terminal):
    out = io.StringIO()
    console = rich.console.Console(file=out, force_terminal=terminal, width=200, highlight=False)
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(progress, "PLAIN_EVERY_SECONDS", 0)
    plain = name.replace("\r\n", "").isprintable()
    with progress.Progress(name, total_images=9) as bar:
        bar.advance(3)
    progress.say(name)
    lines = out.getvalue()
    assert "\x1b[31m" not in lines and "\x1b]0;" not in lines and "\u202e" not in lines
    assert name in lines or not plain
    progress.table(name, [name, "b"], [[name, "c"]])
    table = shown(capsys)
    assert name in table or not plain


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\n\tb", "a\n\tb"),
        ("\x1b[31m\x07\r\x00\x7f\x9b", r"\x1b[31m\x07\r\x00\x7f\x9b"),
        ("猫　é €", "猫　é €"),
        ("a\u202eb\u200b\udcff", r"a\u202eb\u200b\udcff"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text, seen):
    assert progress.visible(text) == seen


def test_an_error_shows_names_as_text(tmp_path, capsys):
    from ns_jax import __main__

    __main__._fail(ValueError("no \x1b[2J file\nof that name"))
    assert capsys.readouterr().err == "error: no \\x1b[2J file\nof that name\n"


def test_json_keeps_them(tmp_path):
    from ns_jax import workdir as workdir_lib

    workdir_lib.write_json(tmp_path / "a.json", NAMES)
    assert json.loads((tmp_path / "a.json").read_bytes()) == NAMES
