"""Exported networks at work: ONNX files of anybody, StableHLO, and what is said of others."""

import functools
import json

import jax
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest

import ns_jax
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.errors import InputError
from ns_jax.foreign import exported
from ns_jax.models import efficientnet
from ns_jax.programs import evaluate
from tests import rounding
from tests.foreign.made import WEIGHTS, write
from tests.weights.made import card_of, weights_of

CLASSES = tuple("0123456789")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.2)
VIEW = functools.partial(crops.Preprocessing, crop="none", mean=MEAN, std=STD)


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
    rounding.close(np.exp(network.log_probs(images, 4)), probs)
    assert network.class_names == CLASSES
    said = capsys.readouterr().err
    assert "does not name its classes" in said and "does not say how it sees images" in said
    assert f"its scores are {'probabilities' if softmax else 'logits'}" in said
    assert ("one image at a time" in said) == (shape[0] == 1)


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
        ({}, None, r"images of any size; choose one: --config.foreign.image_size="),
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
    ours, theirs = (
        pq.read_table(tmp_path / name / "predictions.parquet")["confidence"].to_numpy()
        for name in ("exported", "floats")
    )
    rounding.close(ours, theirs)
    if ending != "safetensors":
        assert result["file_bytes"] == path.stat().st_size
        assert 0 < result["ms_one"] < 1e4 and 0 < result["ms_per_image"] < 1e4
    written = json.loads((tmp_path / "exported" / "eval.json").read_text())
    assert written == result
    assert evaluate.run(tiny_config, tmp_path / "exported") == result
    tiny_config.evaluate.against = ""
    with pytest.raises(InputError, match="against"):
        evaluate.run(tiny_config, tmp_path / "exported")


def test_classes_become_those_of_the_labels_and_several_may_be_one(tmp_path):
    names = ["Persian cat", "tabby", "collie", "car", "dog"]
    path = write(tmp_path / "other.onnx", weights=WEIGHTS[:, :5])
    (tmp_path / "names.txt").write_text("\n".join(names))
    (tmp_path / "map.csv").write_text("theirs,ours\nPersian cat,cat\ntabby,cat\ncollie,dog\n*,\n")
    told = exported.Settings(str(tmp_path / "names.txt"), str(tmp_path / "map.csv"))
    network = exported.open_network(path, assumed(12, ()), told, ("dog", "cat"))
    assert network.class_names == ("dog", "cat")
    images = np.random.default_rng(1).integers(0, 256, (3, 12, 12, 3)).astype(np.uint8)
    pixels = (images / 255 - np.asarray(MEAN)) / np.asarray(STD)
    theirs = np.asarray(jax.nn.softmax(pixels.mean((1, 2)) @ WEIGHTS[:, :5], axis=-1))
    ours = np.stack([theirs[:, 2] + theirs[:, 4], theirs[:, 0] + theirs[:, 1]], 1)
    ours /= ours.sum(1, keepdims=True)
    rounding.close(np.exp(network.log_probs(images, 4)), ours)


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ("", r"has 4 classes that the labels do not have: a, b, c, d"),
        ("a,cat\nb,dog\nc,\nd,\nlynx,cat\n", "1 names that .* does not have: lynx"),
        ("a,cat\nb,mouse\n*,\n", "1 classes that the labels do not have: b"),
        ("a,cat\n*,dog\n", "can be left out"),
        ("*,\n", "none of its 4 classes is one of the labels'"),
    ],
)
def test_classes_that_do_not_fit_are_named(tmp_path, class_map, message):
    path = write(tmp_path / "other.onnx", weights=WEIGHTS[:, :4])
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "map.csv").write_text(class_map)
    told = exported.Settings(
        str(tmp_path / "names.txt"), str(tmp_path / "map.csv") if class_map else ""
    )
    with pytest.raises(InputError, match=message):
        exported.open_network(path, assumed(12, ()), told, ("cat", "dog"))


def test_class_names_in_the_metadata_of_others_are_read(tmp_path):
    names = [f"thing {n}" for n in range(4)]
    for number, text in enumerate((json.dumps(names), str(dict(enumerate(names))))):
        model = onnx.load(write(tmp_path / f"{number}.onnx", weights=WEIGHTS[:, :4]))
        model.metadata_props.add(key="names", value=text)
        onnx.save(model, tmp_path / f"{number}.onnx")
        network = exported.open_network(tmp_path / f"{number}.onnx", assumed(12, ()))
        assert network.class_names == tuple(names)
    path = write(tmp_path / "none.onnx", weights=WEIGHTS[:, :4])
    with pytest.raises(InputError, match="does not name its classes; name a file"):
        exported.open_network(path, assumed(12, ()))


def test_scores_that_may_be_either_are_asked_about(tmp_path):
    path = write(tmp_path / "other.onnx", dtype=np.uint8, shape=("b", 12, 12, 3), softmax=False)
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["MatMul2"], ["each"]))
    model.graph.output[0].name = "each"
    onnx.save(model, path)
    with pytest.raises(InputError, match="not to 1; say what they are"):
        exported.open_network(path, assumed(12))
    told = exported.Settings(scores="logits")
    assert exported.open_network(path, assumed(12), told).kind == "logits"


def test_the_digest_is_of_weights_elsewhere_and_of_how_images_are_seen_too(tmp_path):
    path = write(tmp_path / "other.onnx")
    first = exported.open_network(path, assumed(12)).digest
    assert exported.open_network(path, assumed(12)).digest == first
    assert exported.open_network(path, assumed(13)).digest != first
    told = exported.Settings(mean=(0.1, 0.2, 0.3))
    assert exported.open_network(path, assumed(12), told).digest != first

    def external(weights):
        model = onnx.load(write(path, weights=weights))
        onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
        network = exported.open_network(path, assumed(12))
        assert network.num_bytes == path.stat().st_size + (tmp_path / "w.bin").stat().st_size
        return network.digest

    assert len({first, external(WEIGHTS), external(-WEIGHTS)}) == 3
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputError, match="onnxruntime cannot run it: .*w.bin"):
        exported.open_network(path, assumed(12))
