"""Examples: what runs here is run; of all others the syntax, their length and what they say."""

import ast
import importlib.util

import cv2
import pytest
from sklearn import datasets

from ns_jax.programs import label
from tests.conftest import ROOT
from tests.programs.test_label_predictions import read

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
RUN_HERE = {"teacher_sklearn", "onnx_sklearn"}
MOST_LINES = 40


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_say_whether_they_were_run(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES
    said = "not run here" in ast.get_docstring(ast.parse(path.read_text()))
    assert said != (path.stem in RUN_HERE)


@pytest.fixture
def folders(tiny_config, tmp_path):
    """200 labelled digits in a folder for each class, 300 to label, as the config's sources."""
    digits = datasets.load_digits()
    for number, (image, c) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = f"labelled/{c}" if number < 200 else "pool"
        if number >= 500:
            break
        path = tmp_path / place / f"{number:04d}-{c}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image * 15)
    tiny_config.data.labelled = f"folder:{tmp_path / 'labelled'}"
    tiny_config.data.unlabelled = f"folder:{tmp_path / 'pool'}"
    return tmp_path


def run(name, *arguments):
    spec = importlib.util.spec_from_file_location("example", ROOT / f"examples/{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(*map(str, arguments))


def accuracy(workdir):
    rows = read(workdir)
    return (rows["label"] == [int(key[-5]) for key in rows["key"]]).mean()


def test_a_scikit_learn_model_teaches(tiny_config, folders):
    target = folders / "predictions.csv"
    run("teacher_sklearn", folders / "labelled", folders / "pool", target)
    tiny_config.label.predictions = str(target)
    outputs = label.run(tiny_config, folders / "run")
    assert outputs["num_images"] == 300 and outputs["num_without_prediction"] == 0
    assert accuracy(folders / "run") > 0.8


def test_a_scikit_learn_model_teaches_as_an_onnx_file(tiny_config, folders):
    run("onnx_sklearn", folders / "labelled", folders / "teacher.onnx")
    tiny_config.label.checkpoint = str(folders / "teacher.onnx")
    tiny_config.foreign.mean, tiny_config.foreign.std = (0.0,) * 3, (1.0,) * 3
    assert label.run(tiny_config, folders / "run")["num_images"] == 300
    assert accuracy(folders / "run") > 0.8
