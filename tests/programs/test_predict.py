"""`predict`: the same content in every format, resumed, and without a config."""

import csv
import json
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

import ns_jax
from ns_jax.data import open as open_lib
from ns_jax.errors import InputError
from ns_jax.programs import label, predict
from tests import rounding

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, make_teacher):
    return str(make_teacher(tmp_path_factory.mktemp("teacher")))


@pytest.fixture
def photos(tmp_path):
    """Twelve images in two directories; two more files are no images."""
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "photos" / str(number % 2) / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (20, 24, 3), np.uint8))
    (tmp_path / "photos" / "0" / "broken.png").write_bytes(b"nothing of an image")
    (tmp_path / "photos" / "1" / "empty.png").write_bytes(b"")
    return f"{tmp_path / 'photos'}/*/*.png"


@pytest.fixture
def config(tiny_config, teacher, photos):
    tiny_config.predict.checkpoint = teacher
    tiny_config.predict.source = f"images:{photos}"
    tiny_config.predict.top = 3
    tiny_config.predict.images_per_part = 5
    tiny_config.label.batch_size = 4
    tiny_config.data.unlabelled = tiny_config.data.test = ""
    return tiny_config


def rows_of(path):
    """`{key: (status, [(class, probability)])}` of a file of any format."""
    if path.suffix == ".jsonl":
        lines = map(json.loads, path.read_text().splitlines())
        return {
            line["key"]: (
                line["status"],
                [(best["class"], best["probability"]) for best in line["predictions"]],
            )
            for line in lines
        }
    if path.suffix == ".parquet":
        found = pq.read_table(path).to_pylist()
    else:
        found = list(csv.DictReader(path.read_text().splitlines()))
    return {
        row["key"]: (
            row["status"],
            [
                (row[f"class_{n}"], round(float(row[f"probability_{n}"]), 5))
                for n in (1, 2, 3)
                if row[f"class_{n}"]
            ],
        )
        for row in found
    }


def test_all_formats_say_what_the_network_says(config, teacher, photos, tmp_path):
    found = {}
    for ending in ("csv", "parquet", "jsonl"):
        config.predict.target = str(tmp_path / f"out.{ending}")
        outputs = predict.run(config, tmp_path / "run")
        assert outputs == {"num_images": 14, "num_bad": 2, "num_shards": 3}
        found[ending] = rows_of(tmp_path / f"out.{ending}")
    assert found["csv"] == found["parquet"] == found["jsonl"]
    rows = found["csv"]
    assert list(rows) == sorted(rows) and len(rows) == 14
    bad = [key for key, (status, _) in rows.items() if status != "ok"]
    assert [pathlib.Path(key).name for key in bad] == ["broken.png", "empty.png"]
    assert all(not rows[key][1] and len(rows[key][0]) > 5 for key in bad)
    good = [key for key in rows if key not in bad]
    for key, expected in zip(good, ns_jax.load(teacher).predict(good, top=3), strict=True):
        status, best = rows[key]
        assert status == "ok" and [name for name, _ in best] == [p.name for p in expected]
        rounding.in_steps([p for _, p in best], [p[1] for p in expected])


def test_what_is_finished_is_not_computed_again(config, tmp_path, monkeypatch):
    predict.run(config, tmp_path / "run")
    target = tmp_path / "run" / "predictions.csv"
    whole = target.read_bytes()
    parts = sorted((tmp_path / "run" / "parts").glob("*.parquet"))
    before = {part.name: part.stat().st_mtime_ns for part in parts}
    target.unlink()
    (tmp_path / "run" / "parts" / "manifest.json").unlink()
    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-20])
    predict.run(config, tmp_path / "run")
    after = {part.name: part.stat().st_mtime_ns for part in parts}
    assert target.read_bytes() == whole
    assert [name for name in before if before[name] == after[name]] == [parts[0].name]
    target.unlink()  # all parts are there: they are joined, and nothing is loaded to compute
    monkeypatch.setattr(predict.shard_pass, "run", None)
    predict.run(config, tmp_path / "run")
    assert target.read_bytes() == whole


def test_what_is_predicted_can_teach(config, photos, tmp_path):
    config.predict.target = str(tmp_path / "out.csv")
    predict.run(config, tmp_path / "run")
    config.data.unlabelled = f"images:{photos}"
    config.label.checkpoint, config.label.predictions = "", str(tmp_path / "out.csv")
    outputs = label.run(config, tmp_path / "labelled")
    assert outputs["num_images"] == 14 and outputs["num_without_prediction"] == 2


def test_plain_paths_are_a_source(photos, config):
    source = open_lib.open_named(config, f"images:{photos}")
    keys = source.keys(np.arange(len(source))).to_pylist()
    assert keys == [source[index]["key"] for index in range(len(source))] == sorted(keys)
    with pytest.raises(InputError, match="is a directory; write folder:"):
        open_lib.open_named(config, f"images:{pathlib.Path(photos).parent.parent}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "out.xlsx"}, r"known endings are \.csv, \.parquet, \.jsonl"),
        ({"checkpoint": ""}, "predict.checkpoint is empty"),
        ({"source": ""}, "there are no images"),
        ({"source": "images:/nowhere/*.jpg"}, "no file matches"),
        ({"top": 0}, "predict.top is 0"),
    ],
)
def test_bad_settings_are_said_at_once(config, changes, message, tmp_path):
    config.predict.update(changes)
    with pytest.raises(InputError, match=message):
        predict.run(config, tmp_path)


def test_without_a_config_from_anywhere(teacher, photos, environment, tmp_path):
    def start(*more):
        command = [sys.executable, "-m", "ns_jax", "predict", f"--images={photos}", *more]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = start(f"--checkpoint={teacher}")
    assert done.returncode == 0, done.stderr
    (target,) = tmp_path.glob("runs/predict-*/predictions.csv")
    assert len(rows_of(target)) == 14 and str(target.relative_to(tmp_path)) in done.stderr
    wrong = start(f"--checkpoint={teacher}", "photos/1/01.png")
    assert wrong.returncode == 2 and "quote patterns" in wrong.stderr
