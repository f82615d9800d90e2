"""An ONNX file of somebody else as the teacher, as what is evaluated, and in the whole loop."""

import json

import numpy as np
import pytest
from sklearn import linear_model

from ns_jax import workdir as workdir_lib
from ns_jax.data import decoding
from ns_jax.data import open as open_lib
from ns_jax.errors import InputError
from ns_jax.programs import evaluate, label, predict, robustness, selftrain, train
from tests.foreign.made import write_linear
from tests.programs.test_label_predictions import dense, read

NAMES = [f"the {n}" for n in range(10)]


@pytest.fixture(scope="module")
def weights():
    """`[256, 10]`: logistic regression on the pixels of the labelled digits, 0..1, and the pool's
    own labels, so that it is right most of the time.
    """
    from configs import digits

    source = open_lib.open_from_config(digits.get_config(), "unlabelled")
    view = open_lib.open_from_config(digits.get_config(), "labelled")
    x = np.stack([pixels(source, n) for n in range(len(source))])
    model = linear_model.LogisticRegression(max_iter=300, fit_intercept=False)
    assert view.class_names == source.class_names
    return model.fit(x.reshape(len(x), -1), source.truth).coef_.T


def pixels(source, index):
    """float `[16, 16]`, 0..1, as evaluation sees a digit."""
    import cv2

    image = decoding.decode(source[index]["image"])
    return cv2.resize(image, (16, 16), interpolation=cv2.INTER_CUBIC)[..., 0] / 255


@pytest.fixture
def config(tiny_config, weights, tmp_path):
    """`label.checkpoint` is the file, which says its class names and nothing else."""
    write_linear(tmp_path / "other.onnx", weights)
    tiny_config.label.checkpoint = str(tmp_path / "other.onnx")
    tiny_config.label.class_names = str(tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("\n".join(map(str, range(10))))
    tiny_config.foreign.mean, tiny_config.foreign.std = (0.0,) * 3, (1.0,) * 3
    return tiny_config


def expected(config, weights, which="unlabelled"):
    source = open_lib.open_from_config(config, which)
    x = np.stack([pixels(source, n).ravel() for n in range(len(source))])
    scores = np.exp(x @ weights)
    return scores / scores.sum(1, keepdims=True)


def test_it_labels_the_pool_as_by_hand_and_once(config, weights, tmp_path, capfd):
    outputs = label.run(config, tmp_path)
    assert outputs["accuracy"] > 0.9
    rows = read(tmp_path)
    assert np.abs(dense(rows) - expected(config, weights)).max() < 2e-5  # stored in 16 bits
    made_of = workdir_lib.read_manifest(tmp_path / "labels")["inputs"]
    assert made_of["preprocessing"][0]["mean"] == [0, 0, 0]
    assert label.run(config, tmp_path) == outputs
    said = capfd.readouterr().err
    assert "labelled already" in said and "run by onnxruntime" in said
    config.foreign.mean = (0.5,) * 3
    with pytest.raises(InputError, match="teacher"):
        label.run(config, tmp_path)


def test_it_is_averaged_with_another_by_weights_and_over_mirror_images(config, weights, tmp_path):
    other = tmp_path / "second.onnx"
    write_linear(other, -weights / 2, softmax=False)
    config.label.checkpoint = f"{config.label.checkpoint},{other}"
    config.label.weights, config.label.flip = (3.0, 1.0), True
    label.run(config, tmp_path)

    def mirrored(w):
        w = w.reshape(16, 16, 10)[:, ::-1].reshape(256, 10)
        return expected(config, w)

    each = [(expected(config, w) + mirrored(w)) / 2 for w in (weights, -weights / 2)]
    assert np.abs(dense(read(tmp_path)) - (3 * each[0] + each[1]) / 4).max() < 2e-5


def test_it_is_calibrated_on_a_hold_out(config, tmp_path):
    config.data.holdout = config.data.test
    label.run(config, tmp_path)
    found = json.loads((tmp_path / "labels" / "calibration.json").read_text())
    assert found["after"]["cross_entropy"] < found["before"]["cross_entropy"]


def test_its_classes_may_be_called_otherwise(config, weights, tmp_path):
    label.run(config, tmp_path / "first")
    write_linear(tmp_path / "other.onnx", weights[:, ::-1], names=NAMES[::-1])
    config.label.class_names = ""
    with pytest.raises(InputError, match="10 classes that the labels do not have"):
        label.run(config, tmp_path / "second")
    config.label.class_map = str(tmp_path / "map.csv")
    (tmp_path / "map.csv").write_text("\n".join(f"the {n},{n}" for n in range(10)))
    label.run(config, tmp_path / "second")
    first, second = (dense(read(tmp_path / name)) for name in ("first", "second"))
    np.testing.assert_allclose(first, second, atol=2e-5)


def test_evaluate_and_predict_say_the_same(config, weights, tmp_path):
    config.evaluate.checkpoint = config.predict.checkpoint = config.label.checkpoint
    found = evaluate.run(config, tmp_path)
    labels = open_lib.open_from_config(config, "test").labels
    best = expected(config, weights, "test").argmax(1)
    assert found["top1"] == pytest.approx((best == labels).mean(), abs=1e-9)
    config.predict.source, config.predict.target = config.data.test, str(tmp_path / "p.csv")
    predict.run(config, tmp_path / "predicted")
    lines = (tmp_path / "p.csv").read_text().splitlines()[1:]
    assert len(lines) == len(labels)


def test_robustness_without_gradients(config, tmp_path):
    config.robustness.checkpoint = config.label.checkpoint
    config.robustness.suites, config.robustness.corruptions = "own", "contrast"
    config.robustness.perturbations, config.robustness.max_images = "none", 40
    found = robustness.run(config, tmp_path)["suites"]["own"]["checkpoint"]
    assert 0 < found["mean_error"] < 100
    config.robustness.suites = "own,fgsm"
    with pytest.raises(InputError, match="fgsm need gradients"):
        robustness.run(config, tmp_path / "attacked")


@pytest.mark.large
def test_the_loop_begins_with_it(few_stages, config, tmp_path):
    config.selftrain.teacher, config.label.checkpoint = config.label.checkpoint, ""
    config.selftrain.iterations = 2
    summaries = selftrain.run(config, tmp_path / "run")
    assert summaries[0]["model"] == "exported" and "training" not in summaries[0]
    assert summaries[0]["evaluation"]["top1"] > 0.85
    assert summaries[1]["labels"]["accuracy"] > 0.9
    assert selftrain.run(config, tmp_path / "run")[2]["labels"] == summaries[2]["labels"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.teacher": "previous"}, "cannot label in the step"),
        ({"selftrain.student_init": "teacher"}, "holds no weights to start from"),
        ({"selftrain.robustness": ("own", "fgsm")}, "fgsm, which need gradients"),
        ({"label.class_names": ""}, None),
        ({"label.weights": (1.0, 2.0)}, "2 numbers for 0 checkpoints, 1 exported files and 0"),
        ({"selftrain.teacher": "missing.onnx"}, "there is no file missing.onnx"),
        ({"label.class_map": "map.csv"}, "map.csv"),
        ({"foreign.mean": (0.0, 0.0)}, "foreign.mean"),
    ],
)
def test_what_it_cannot_do_is_said_before_the_first_step(changes, message, config, tmp_path):
    config.selftrain.teacher, config.label.checkpoint = config.label.checkpoint, ""
    for name, value in changes.items():
        section, key = name.split(".")
        config[section][key] = value
    config.selftrain.iterations = 1
    from ns_jax.programs import selftrain as program

    if message is None:  # it names none: those of the labels are taken
        configs = [program._iteration_config(config, tmp_path, k) for k in range(2)]
        program._validate(configs)
        return
    with pytest.raises(InputError, match=message):
        selftrain.run(config, tmp_path / "run")


def test_it_cannot_teach_in_the_step(config, tmp_path):
    config.train.teacher = config.label.checkpoint
    config.train.unlabelled_ratio = 1.0
    with pytest.raises(InputError, match="cannot label in the step, which takes a checkpoint"):
        train.run(config, tmp_path)
