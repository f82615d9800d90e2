"""`ns_jax.load`: what a user does with a classifier, and what it says when that cannot be done."""

import json

import cv2
import jax
import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
from PIL import Image

import ns_jax
from ns_jax import api
from ns_jax.data import decoding
from tests import rounding

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def weights(tmp_path_factory, tensors):
    """A directory as timm's users publish it: 64 pixels, so that it is fast."""
    directory = tmp_path_factory.mktemp("weights")
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    details = {
        "input_size": [3, 64, 64],
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    config = {
        "architecture": "tf_efficientnet_b0",
        "label_names": ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"],
        "pretrained_cfg": details,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def classifier(weights):
    return ns_jax.load(weights)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    directory, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(3):
        coarse = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
        picture = cv2.resize(coarse, (90, 70), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(directory / f"{number}.png"), picture)
    return sorted(directory.iterdir())


def test_predictions_are_the_softmax_of_the_logits_of_the_preprocessed_image(classifier, pictures):
    seen = [classifier.preprocessing(decoding.decode(p.read_bytes())) for p in pictures]
    logits = classifier.logits(np.stack(seen))
    assert logits.shape == (3, 7)
    expected = np.asarray(jax.nn.softmax(logits))
    for found, probs in zip(classifier.predict(pictures, top=3), expected, strict=True):
        best = np.argsort(-probs)[:3]
        assert [p.name for p in found] == [classifier.class_names[c] for c in best]
        rounding.close([p.probability for p in found], probs[best])


def test_paths_strings_and_arrays_mix_and_one_path_will_do(classifier, pictures):
    array = decoding.decode(pictures[1].read_bytes())
    mixed = classifier.predict([pictures[0], array, str(pictures[2])])
    alone = [classifier.predict(str(path))[0] for path in pictures]
    for one, other in zip(mixed, alone, strict=True):
        assert [p.name for p in one] == [p.name for p in other]
        rounding.close([p.probability for p in one], [p.probability for p in other])


def test_long_lists_are_batched_and_show_progress(classifier, monkeypatch):
    rng, shown = np.random.default_rng(1), []
    many = rng.integers(0, 256, (2 * api.BATCH_SIZE + 5, 64, 64, 3)).astype(np.uint8)
    monkeypatch.setattr(api, "LONG", len(many))
    progress = api.Progress

    def spy(*arguments, **options):
        shown.append(options["shown"])
        return progress(*arguments, **options)

    monkeypatch.setattr(api, "Progress", spy)
    logits = classifier.logits(many)
    rounding.close(logits[-3:], classifier.logits(many[-3:]))
    assert shown == [True, False]


def test_logits_take_any_size_as_it_is(classifier):
    images = np.random.default_rng(0).integers(0, 256, (1, 45, 51, 3)).astype(np.uint8)
    assert classifier.logits(images).shape == (1, 7)


def test_logits_of_images_of_all_kinds(classifier, pictures):
    array = decoding.decode(pictures[0].read_bytes())
    expected = classifier.logits(array[None])
    opened = Image.open(pictures[0])
    for one in (array, array / 255, pictures[0], pictures[0].read_bytes(), opened, [opened]):
        rounding.close(classifier.logits(one), expected)
    with pytest.raises(ValueError, match="images is empty"):
        classifier.logits(np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="one size and these have 2: 70 x 90, 8 x 8"):
        classifier.logits([array, np.zeros((8, 8), np.uint8)])
    with pytest.raises(ValueError, match=r"images\[1\]: not an image"):
        classifier.logits([array, b"no image"])


def test_predictions_are_the_same_however_an_image_is_given(classifier, pictures):
    array = decoding.decode(pictures[0].read_bytes())
    kinds = [str(pictures[0]), pictures[0].read_bytes(), Image.open(pictures[0]), array / 255]
    expected = classifier.predict(array)
    assert len(expected) == 1
    for found in classifier.predict(kind for kind in kinds):
        assert [p.name for p in found] == [p.name for p in expected[0]]


def test_bad_images_are_all_named(classifier, pictures, tmp_path):
    with pytest.raises(ValueError, match="list of images is empty"):
        classifier.predict([])
    with pytest.raises(FileNotFoundError, match=r"2 files do not exist: gone.png, away.png"):
        classifier.predict(["gone.png", pictures[0], "away.png"])
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    wrong = [pictures[0], tmp_path / "broken.jpg", b"no image either"]
    with pytest.raises(ValueError, match=r"2 images .*broken.jpg: not an image; images\[2\]: not"):
        classifier.predict(wrong)
    with pytest.raises(ValueError, match="top is 8; there are 7 classes"):
        classifier.predict(pictures, top=8)


def test_only_load_and_classifier_are_public():
    assert ns_jax.Classifier is api.Classifier
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        ns_jax.train  # noqa: B018


def test_export_writes_a_file_by_its_ending(classifier, weights, tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    classifier.export(tmp_path / "b0.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "b0.onnx")
    (found,) = session.run(None, {"images": images})
    rounding.close(found, jax.nn.softmax(classifier.logits(images)))
    classifier.export(str(tmp_path / "b0.safetensors"))
    one, other = (
        safetensors.numpy.load_file(p) for p in (*tmp_path.glob("*.s*"), *weights.glob("*.s*"))
    )
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match=r"\.onnx, \.stablehlo, \.safetensors"):
        classifier.export(tmp_path / "b0.pth")
