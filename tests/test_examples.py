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
RUN_HERE = {"teacher_sklearn"}
MOST_LINES = 40


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_say_whether_they_were_run(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES
    said = "not run here" in ast.get_docstring(ast.parse(path.read_text()))
    assert said != (path.stem in RUN_HERE)


def test_a_scikit_learn_model_teaches(tiny_config, tmp_path):
    digits = datasets.load_digits()
    for number, (image, c) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = f"labelled/{c}" if number < 200 else "pool"
        if number >= 500:
            break
        path = tmp_path / place / f"{number:04d}-{c}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image * 15)
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples/teacher_sklearn.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    target = str(tmp_path / "predictions.csv")
    example.main(str(tmp_path / "labelled"), str(tmp_path / "pool"), target)
    tiny_config.data.labelled = f"folder:{tmp_path / 'labelled'}"
    tiny_config.data.unlabelled = f"folder:{tmp_path / 'pool'}"
    tiny_config.label.predictions = target
    outputs = label.run(tiny_config, tmp_path / "run")
    assert outputs["num_images"] == 300 and outputs["num_without_prediction"] == 0
    rows = read(tmp_path / "run")
    truth = [int(key[-5]) for key in rows["key"]]
    assert (rows["label"] == truth).mean() > 0.8
