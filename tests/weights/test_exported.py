"""Exported networks at work: ONNX files of anybody, StableHLO, and what is said of others."""

import functools
import json

import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ns_jax
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.errors import InputError
from ns_jax.models import efficientnet
from ns_jax.programs import evaluate
from ns_jax.weights import exported
from tests.weights.made import card_of, weights_of

CLASSES = tuple("0123456789")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.2)
WEIGHTS = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
KINDS = {
    np.uint8: TensorProto.UINT8,
    np.float32: TensorProto.FLOAT,
    np.float16: TensorProto.FLOAT16,
}
VIEW = functools.partial(crops.Preprocessing, crop="none", mean=MEAN, std=STD)


def write(
    path, shape=("b", 3, "h", "w"), dtype=np.float32, weights=WEIGHTS, softmax=False, rank=2, **more
):
    """A network as somebody else may write it: the mean colour, times a matrix."""
    kind, nodes, x = KINDS.get(dtype, TensorProto.INT32), [], "x"
    add = lambda op, *inputs, **attributes: nodes.append(  # noqa: E731
        helper.make_node(op, list(inputs), [f"{op}{len(nodes)}"], **attributes)
    )
    add("Cast", x, to=TensorProto.FLOAT)
    if len(shape) == 4:
        add("ReduceMean", nodes[-1].output[0], axes=(2, 3) if shape[1] == 3 else (1, 2), keepdims=0)
        add("MatMul", nodes[-1].output[0], "weights")
    if softmax:
        add("Softmax", nodes[-1].output[0], axis=1)
    if rank == 3:
        add("Unsqueeze", nodes[-1].output[0], "axes")
    inputs = [helper.make_tensor_value_info(x, kind, shape)]
    if more.get("second"):
        inputs.append(helper.make_tensor_value_info("y", kind, shape))
    graph = helper.make_graph(
        nodes,
        "other",
        inputs,
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.asarray([2]), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def assumed(size=None, classes=CLASSES):
    return exported.Assumed(classes, size, VIEW)


@pytest.mark.parametrize(
    ("shape", "dtype", "softmax"),
    [
        (("b", 3, "h", "w"), np.float32, False),
        ((1, 3, 12, 12), np.float32, True),
        (("b", 12, 12, 3), np.float32, False),
        ((4, 12, 12, 3), np.uint8, True),
        (("b", 3, 12, 12), np.uint8, False),
        ((None, "h", "w", 3), np.uint8, False),
        (("b", 3, 12, 12), np.float16, True),
    ],
)
def test_files_of_somebody_else_in_every_form(tmp_path, shape, dtype, softmax, capsys):
    path = write(tmp_path / "other.onnx", shape, dtype, WEIGHTS / 100, softmax)
    network = exported.open_network(path, assumed(12))
    images = np.random.default_rng(1).integers(0, 256, (9, 12, 12, 3)).astype(np.uint8)
    pixels = images if dtype == np.uint8 else (images / 255 - np.asarray(MEAN)) / np.asarray(STD)
    probs = np.asarray(jax.nn.softmax(pixels.mean((1, 2)) @ WEIGHTS / 100, axis=-1))
    tolerance = 2e-3 if dtype == np.float16 else 1e-5
    np.testing.assert_allclose(network.probabilities(images, 4), probs, rtol=tolerance)
    assert network.class_names == CLASSES
    assert "names neither classes nor preprocessing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        (
            {"shape": ("b", 12, 12, 1), "weights": WEIGHTS[:1]},
            12,
            r"takes x tensor\(float\).*a batch of",
        ),
        ({"shape": ("b", 3, 12, 14)}, 12, "square RGB"),
        ({"shape": ("b", 3)}, 12, "square RGB"),
        ({"dtype": np.int32}, 12, "as uint8 or float"),
        ({"second": True}, 12, "needs one input"),
        ({}, None, r"images of any size; choose one: --config.data.image_size="),
        ({"shape": ("b", 3, 12, 12)}, 16, r"takes images of 12 pixels; data.image_size is 16"),
        ({"weights": WEIGHTS[:, :7]}, 12, r"gives 7 scores an image; there are 10 classes"),
        ({"rank": 3}, 12, r"gives float32\[1, 10, 1\] for 1 images.*one score a class"),
        ({"weights": WEIGHTS * np.nan}, 12, "NaN or infinity"),
    ],
)
def test_what_is_no_classifier_of_images_is_told_in_a_sentence(tmp_path, options, size, message):
    path = write(tmp_path / "other.onnx", **options)
    with pytest.raises(InputError, match=message) as error:
        exported.open_network(path, assumed(size))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".onnx", ".stablehlo"])
@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x08\x12\x00"])
def test_other_files_are_told_in_a_sentence(tmp_path, ending, content):
    path = tmp_path / f"other{ending}"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        exported.open_network(path, assumed(12))
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot run it|cannot be read"):
        exported.open_network(path, assumed(12))


def test_a_damaged_card_is_told(tmp_path):
    model = onnx.load(write(tmp_path / "other.onnx"))
    model.metadata_props.add(key="ns_jax.model.json", value="{}")
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="ns_jax.model.json is damaged"):
        exported.open_network(tmp_path / "other.onnx", assumed(12))


@pytest.mark.large
@pytest.mark.parametrize("ending", ["onnx", "stablehlo", "safetensors"])
def test_evaluate_runs_what_was_exported(tiny_config, tmp_path, ending, monkeypatch):
    # A name that timm knows, for a network that is quickly compiled.
    monkeypatch.setitem(efficientnet.SCALING, "efficientnet-b0", (0.25, 0.33, 32, 0.2))
    card = card_of("efficientnet-b0", 16, False, classes=10)
    checkpoint.save_model(tmp_path / "b0", card, weights_of(card))
    path = tmp_path / f"student.{ending}"
    ns_jax.load(tmp_path / "b0").export(path)
    tiny_config.data.update({"image_size": 16, "crop": "none"})  # which StableHLO does not say
    tiny_config.evaluate.checkpoint = str(tmp_path / "b0")
    floats = evaluate.run(tiny_config, tmp_path / "floats")
    tiny_config.evaluate.update({"checkpoint": str(path), "against": str(tmp_path / "b0")})
    result = evaluate.run(tiny_config, tmp_path / "exported")
    assert result["num_images"] == floats["num_images"] == 599
    assert result["agreement"] > 0.999
    assert abs(result["top1"] - floats["top1"]) < 0.002
    np.testing.assert_allclose(result["ece"], floats["ece"], rtol=1e-2)
    if ending != "safetensors":
        assert result["file_bytes"] == path.stat().st_size
        assert 0 < result["ms_one"] < 1e4 and 0 < result["ms_per_image"] < 1e4
    written = json.loads((tmp_path / "exported" / "eval.json").read_text())
    assert written == result
    assert evaluate.run(tiny_config, tmp_path / "exported") == result
    tiny_config.evaluate.against = ""
    with pytest.raises(InputError, match="against"):
        evaluate.run(tiny_config, tmp_path / "exported")
