"""int8 files: attempts in order, the best one kept, what it costs measured and told."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from configs import base
from ns_jax.checkpoints import checkpoint
from ns_jax.errors import InputError
from ns_jax.foreign import onnx_graph
from ns_jax.programs import convert, evaluate
from ns_jax.weights import onnx_quantise
from tests.weights.made import card_of, weights_of

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def card():
    return card_of("efficientnet-pico", 16, True, classes=10)


@pytest.fixture(scope="module")
def student(tmp_path_factory, card):
    directory = tmp_path_factory.mktemp("student")
    checkpoint.save_model(directory, card, weights_of(card))
    return directory


def converted(student, path, workdir, data, **settings):
    config = base.get_config()
    config.convert.update(
        {"source": str(student), "target": str(path), "quantise": "int8", **settings}
    )
    config.data.update(data)
    convert.run(config, workdir)
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return json.loads(metadata["ns_jax.int8"]), metadata


@pytest.mark.parametrize("onnx_input", onnx_graph.INPUTS)
def test_without_labels_it_is_measured_by_the_float_network(student, tmp_path, onnx_input):
    target = tmp_path / "student.onnx"
    told, metadata = converted(
        student,
        target,
        tmp_path,
        {"unlabelled": "digits:unlabelled"},
        onnx_input=onnx_input,
        calibration_images=30,
    )
    assert told["measure"] == "agreement with float32"
    assert told["float32"] == 1.0
    assert told["images"] == 1148 - 30  # the others of the pool
    assert told["int8"] == max(told["tried"].values())
    assert told["int8"] > 0.9
    assert metadata["ns_jax.onnx_input"] == onnx_input
    session = onnxruntime.InferenceSession(target)
    assert (
        session.get_inputs()[0].type == {"u": "tensor(uint8)", "f": "tensor(float)"}[onnx_input[0]]
    )


def test_with_labels_top1_is_measured_and_evaluate_finds_the_same(
    student, tmp_path, tiny_config, capsys
):
    target, data = tmp_path / "student.onnx", {"labelled": "digits:train", "test": "digits:test"}
    told, _ = converted(student, target, tmp_path, data)
    assert told["measure"] == "top-1"
    assert told["images"] == 599
    assert (
        f"{100 * (told['float32'] - told['int8']):.2f} points of top-1" in capsys.readouterr().err
    )
    tiny_config.evaluate.checkpoint = str(target)
    result = evaluate.run(tiny_config, tmp_path / "eval")
    assert result["top1"] == pytest.approx(told["int8"], abs=1e-9)
    assert result["file_bytes"] == target.stat().st_size
    floats = sum(
        leaf.nbytes for leaf in _arrays(weights_of(card_of("efficientnet-pico", 16, True)))
    )
    assert target.stat().st_size < 0.6 * floats


def _arrays(tree):
    return sum((_arrays(v) if isinstance(v, dict) else [v] for v in tree.values()), [])


def test_attempts_end_with_the_first_that_loses_little_or_the_best_of_all(card):
    model = onnx_graph.build(card, weights_of(card))
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3)).astype(np.uint8)
    names = [attempt.name for attempt in onnx_quantise.ATTEMPTS]

    def judged(accuracies, goal):
        left = iter(accuracies)
        return onnx_quantise.quantise(model, images, lambda candidate: next(left), goal)

    found = judged([0.1, 0.8, 0.95, 0.9, 0.9], 0.9)
    assert found.attempt.name == names[2]
    assert list(found.tried) == names[:3]
    found = judged([0.1, 0.8, 0.5, 0.7, 0.6], 0.9)
    assert (found.attempt.name, found.accuracy) == (names[1], 0.8)
    assert list(found.tried) == names


def test_attempts_leave_out_what_they_say(card):
    model = onnx_graph.build(card, weights_of(card))
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3)).astype(np.uint8)
    for attempt in onnx_quantise.ATTEMPTS:
        found = onnx_quantise.quantised(model, images, attempt)
        makers = {output: node for node in found.graph.node for output in node.output}
        floats = {entry.name for entry in found.graph.initializer if entry.data_type == 1}
        kept = {
            node.name
            for node in found.graph.node
            if node.op_type in ("Conv", "Gemm") and makers.get(node.input[1]) is None
        }
        fragile = {"stem", "head_conv", "head_fc"}
        expected = fragile if attempt.excluded else set()
        assert {name for name in kept if "/se/" not in name} == expected, attempt.name
        assert any("/se/" in name for name in kept) == bool(attempt.excluded)
        scales = [
            onnx.numpy_helper.to_array(entry)
            for entry in found.graph.initializer
            if entry.name == "stage1/0/depthwise_conv/kernel_scale"
        ]
        assert (scales[0].size > 1) == attempt.per_channel
        (softmax,) = (node for node in found.graph.node if node.op_type == "Softmax")
        assert softmax.output[0] == onnx_graph.PROBABILITIES  # no rounding behind it
        assert floats


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({}, {}, "needs images to calibrate on; set --config.data.unlabelled="),
        ({}, {"test": "digits:test"}, "needs images to calibrate on"),
        ({"target": "x.stablehlo"}, {"unlabelled": "digits:train"}, "is for FILE.onnx"),
        ({"quantise": "int4"}, {}, "convert.quantise='int4'; known: \"\", int8"),
        ({"calibration_images": 0}, {}, "calibration_images is 0; it must be 1 or more"),
        ({"onnx_input": "nchw"}, {}, "known: uint8_nhwc, float_nchw"),
        ({"source": ""}, {}, "convert.source is empty"),
    ],
)
def test_what_cannot_be_is_told_before_weights_are_read(tmp_path, settings, data, message):
    with pytest.raises(InputError, match=message):
        converted(tmp_path / "nowhere", tmp_path / "x.onnx", tmp_path, data, **settings)


def test_labelled_images_of_other_classes_are_refused(tmp_path, student):
    card = card_of("efficientnet-pico", 16, True, classes=7)
    checkpoint.save_model(tmp_path / "seven", card, weights_of(card))
    data = {"unlabelled": "digits:unlabelled", "test": "digits:test"}
    with pytest.raises(InputError, match="digits:test has 10 classes, the network has 7"):
        converted(tmp_path / "seven", tmp_path / "x.onnx", tmp_path, data)
    assert not (tmp_path / "x.onnx").exists()
