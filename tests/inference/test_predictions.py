"""What is written of each image that was scored."""

import json

import numpy as np
import pytest

from ns_jax.data import open as open_lib
from ns_jax.errors import DamagedError
from ns_jax.inference import metrics, predictions
from ns_jax.programs import evaluate


@pytest.mark.large
def test_an_evaluations_scores_follow_from_its_predictions(tiny_config, make_teacher, tmp_path):
    tiny_config.evaluate.checkpoint = str(make_teacher(tmp_path / "teacher"))
    scores = evaluate.run(tiny_config, tmp_path)
    found = predictions.read(tmp_path)
    assert {name: found[name].dtype for name in found} == predictions.DTYPES
    source = open_lib.open_from_config(tiny_config, "test")
    np.testing.assert_array_equal(found["index"], np.arange(len(source)))
    np.testing.assert_array_equal(found["label"], source.labels)
    right = found["predicted"] == found["label"]
    assert right.mean() == scores["top1"]
    assert metrics.calibration_error(found["confidence"], right) == pytest.approx(scores["ece"])
    assert json.loads((tmp_path / "eval.json").read_text()) == scores


def test_what_is_not_there_is_none_and_what_is_damaged_is_said(tmp_path):
    assert predictions.read(tmp_path) is None
    (tmp_path / predictions.NAME).write_bytes(b"PAR1 no more")
    with pytest.raises(DamagedError, match="evaluate again"):
        predictions.read(tmp_path)
