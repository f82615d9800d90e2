"""A self-training whose first teacher is a file of predictions."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from ns_jax import workdir as workdir_lib
from ns_jax.data import open as open_lib
from ns_jax.errors import InputError
from ns_jax.programs import evaluate, selftrain

pytestmark = pytest.mark.large


@pytest.fixture
def write(tiny_config, tmp_path):
    """`write(name, *which)`: predictions of these sources, right on 9 of 10 images, as a CSV."""

    def make(name, *which):
        keys, truth = [], []
        for one in which:
            source = open_lib.open_from_config(tiny_config, one)
            keys += [source[index]["key"] for index in range(len(source))]
            truth += (source.labels if source.truth is None else source.truth).tolist()
        probs = np.full((len(keys), 10), 0.04)
        said = (np.asarray(truth) + (np.arange(len(keys)) % 10 == 0)) % 10
        probs[np.arange(len(keys)), said] = 0.64
        columns = {"key": keys, **{str(c): probs[:, c] for c in range(10)}}
        pa.csv.write_csv(pa.table(columns), tmp_path / name)
        return str(tmp_path / name)

    return make


def test_the_first_iteration_is_taught_by_the_file_and_the_next_by_its_student(
    few_stages, tiny_config, write, tmp_path
):
    tiny_config.selftrain.teacher = write("p.csv", "unlabelled", "test")
    tiny_config.selftrain.iterations = 2
    summaries = selftrain.run(tiny_config, tmp_path / "run")
    assert summaries[0]["model"] == "predictions" and "training" not in summaries[0]
    wrong = len(open_lib.open_from_config(tiny_config, "test"))
    assert summaries[0]["evaluation"]["top1"] == pytest.approx(0.9, abs=1 / wrong + 0.002)
    assert summaries[1]["labels"]["accuracy"] == pytest.approx(0.9, abs=0.003)
    teachers = [
        workdir_lib.read_manifest(tmp_path / "run" / f"iteration_{k}" / "labels")["inputs"]
        for k in (1, 2)
    ]
    assert teachers[0]["preprocessing"] == [] and len(teachers[1]["preprocessing"]) == 1
    assert selftrain.run(tiny_config, tmp_path / "run")[2]["labels"] == summaries[2]["labels"]


def test_a_file_without_test_images_teaches_but_is_not_evaluated(
    few_stages, tiny_config, write, tmp_path, capfd
):
    tiny_config.selftrain.teacher = path = write("p.csv", "unlabelled")
    summaries = selftrain.run(tiny_config, tmp_path / "run")
    assert "evaluation" not in summaries[0] and "top1" in summaries[1]["evaluation"]
    assert "the teacher is not evaluated" in capfd.readouterr().err
    assert not (tmp_path / "run" / "iteration_0" / "eval.json").exists()
    tiny_config.evaluate.checkpoint = path
    with pytest.raises(InputError, match="no prediction of any of the 599 images"):
        evaluate.run(tiny_config, tmp_path / "alone")


def test_predictions_are_evaluated_as_a_checkpoint_is(tiny_config, write, tmp_path):
    tiny_config.evaluate.checkpoint = write("p.csv", "test")
    found = evaluate.run(tiny_config, tmp_path)
    assert found["num_images"] == 599 and found["top1"] == pytest.approx(0.9, abs=0.003)
    assert json.loads((tmp_path / "eval.json").read_text())["top1"] == found["top1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.teacher": "previous"}, "cannot label in the step"),
        ({"selftrain.student_init": "teacher"}, "holds no weights to start from"),
        ({"label.predictions": "others.csv"}, "name all in one"),
        (
            {"label.weights": (1.0, 2.0)},
            "0 exported files and 1 predictions",
        ),
        ({"selftrain.teacher": "missing.csv"}, "no file matches"),
        ({"label.class_map": "map.csv"}, "map.csv"),
    ],
)
def test_what_a_file_cannot_do_is_said_at_once(changes, message, tiny_config, write, tmp_path):
    tiny_config.selftrain.teacher = write("p.csv", "unlabelled")
    for name, value in changes.items():
        section, key = name.split(".")
        tiny_config[section][key] = value
    with pytest.raises(InputError, match=message):
        selftrain.run(tiny_config, tmp_path / "run")


def test_a_file_filters_for_a_teacher_that_is_a_file_too(few_stages, tiny_config, write, tmp_path):
    tiny_config.selftrain.filter = write("filter.csv", "unlabelled")
    given = (tiny_config.selftrain.filter, write("t.csv", "unlabelled", "test"))
    for number, teacher in enumerate(given):
        tiny_config.selftrain.teacher = teacher
        selftrain.run(tiny_config, tmp_path / str(number))
        chosen = workdir_lib.read_manifest(tmp_path / str(number) / "filter" / "labels")
        again = workdir_lib.read_manifest(tmp_path / str(number) / "iteration_1" / "labels")
        assert chosen["inputs"]["preprocessing"] == again["inputs"]["preprocessing"] == []
        assert chosen["inputs"]["subset"] is None and again["inputs"]["subset"]
        assert again["outputs"]["num_images"] < chosen["outputs"]["num_images"] == 1148
