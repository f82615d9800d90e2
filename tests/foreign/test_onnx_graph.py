"""ONNX graphs against our own network, run by onnxruntime."""

import functools
import json

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from ns_jax.errors import InputError, MissingPackageError
from ns_jax.foreign import onnx_file, onnx_graph, onnx_session
from ns_jax.inference import step as inference_step
from tests import rounding
from tests.weights.made import MEAN, STD, card_of, weights_of

pytestmark = pytest.mark.large

SMALL = "efficientnet-pico"


def log_probabilities(model, images):
    """Of a graph; less their mean they are the logits, less theirs."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (probabilities,) = session.run(["probabilities"], {"images": images})
    rounding.close(probabilities.sum(1), np.ones(len(images)))
    return np.log(probabilities)


def assert_equal(card, variables, onnx_input):
    size, view = card.preprocessing.size, card.preprocessing
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3)).astype(np.uint8)
    step = functools.partial(
        inference_step.logits_step, model=card.build(), mean=view.mean, std=view.std
    )
    logits = np.asarray(jax.jit(step)(variables, images))
    model = onnx_graph.build(card, variables, onnx_input)
    onnx.checker.check_model(model, full_check=True)  # against the shapes that it says it has
    assert len(model.graph.value_info) == len(model.graph.node) - 1
    seen = images
    if onnx_input == onnx_graph.FLOAT_NCHW:
        seen = ((images / 255 - np.asarray(MEAN)) / np.asarray(STD)).astype(np.float32)
        seen = seen.transpose(0, 3, 1, 2)
    for count in (1, 5):
        found, expected = log_probabilities(model, seen[:count]), logits[:count]
        difference = found - found.mean(1, keepdims=True)
        difference -= expected - expected.mean(1, keepdims=True)
        assert np.abs(difference).max() < 1e-4 * logits.std()


@pytest.mark.parametrize("onnx_input", onnx_graph.INPUTS)
# Of 45, 23 and 12 pixels SAME pads another way.
@pytest.mark.parametrize(("size", "small_images"), [(32, True), (45, False)])
def test_a_small_network_gives_our_logits(onnx_input, size, small_images):
    card = card_of(SMALL, size, small_images)
    assert_equal(card, weights_of(card), onnx_input)


def test_b0_gives_our_logits():
    card = card_of("efficientnet-b0", 64, False)
    assert_equal(card, weights_of(card), onnx_graph.UINT8_NHWC)


def test_the_file_says_what_it_holds_and_is_deterministic(tmp_path):
    card = card_of(SMALL, 32, True)
    variables = weights_of(card)
    for name in ("one.onnx", "two.onnx"):
        onnx_file.save(tmp_path / name, card, variables)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    metadata = {e.key: e.value for e in onnx.load(tmp_path / "one.onnx").metadata_props}
    assert metadata["ns_jax.onnx_input"] == "uint8_nhwc"
    told = json.loads(metadata["ns_jax.model.json"])
    assert tuple(told["class_names"]) == card.class_names
    assert told["preprocessing"]["mean"] == list(MEAN)
    assert onnx_session.card_of(metadata, tmp_path / "one.onnx") == card


def test_batch_norm_and_padding_are_no_nodes():
    card = card_of(SMALL, 32, True)
    kinds = {node.op_type for node in onnx_graph.build(card, weights_of(card)).graph.node}
    assert kinds == {
        *("Transpose", "Cast", "Sub", "Conv", "Sigmoid", "Mul", "Add"),
        *("GlobalAveragePool", "Flatten", "Gemm", "Softmax"),
    }


def test_other_forms_of_input_and_too_many_weights_are_refused():
    card = card_of(SMALL, 32, True)
    with pytest.raises(InputError, match="'float_nhwc'; known: uint8_nhwc, float_nchw"):
        onnx_graph.build(card, {}, "float_nhwc")
    shape = jax.ShapeDtypeStruct((2**29,), np.float32)
    with pytest.raises(InputError, match=r"2,147,483,648 bytes.*\.stablehlo"):
        onnx_graph.build(card, {"params": {"x": shape}})


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command(monkeypatch, missing):
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(MissingPackageError, match=rf"{missing}: pip install 'ns-jax\[onnx\]'"):
        onnx_graph.packages()
