"""Where weights come from and what comes with them."""

import dataclasses
import json
import shutil

import pytest
import safetensors.numpy
from huggingface_hub import constants

from ns_jax.weights import imported, timm

pytestmark = pytest.mark.large

HUB_CONFIG = {
    "architecture": "tf_efficientnet_b0",
    "num_classes": 7,
    "label_names": ["a", "b", "c", "d", "e", "f", "g"],
    "pretrained_cfg": {
        "tag": "mine",
        "input_size": [3, 192, 192],
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    },
}


@pytest.fixture
def directory(tmp_path, tensors):
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_a_bare_file_needs_a_name_and_a_published_name_brings_the_preprocessing(directory, capsys):
    path = directory / "model.safetensors"
    with pytest.raises(ValueError, match="does not say what it holds; name the published weights"):
        imported.load(path)
    card, _ = imported.load(path, "tf_efficientnet_b0.ap_in1k")
    assert card.preprocessing.mean == (0.5, 0.5, 0.5)
    assert card.class_names == tuple("0123456")
    card, _ = imported.load(path, "efficientnet-b0")
    assert card.preprocessing.mean == (0.485, 0.456, 0.406)
    assert "taken to see ImageNet's mean and std at 224 pixels" in capsys.readouterr().err
    with pytest.raises(ValueError, match="does not hold efficientnet-b1"):
        imported.load(path, "efficientnet-b1")


def test_a_hub_directory_says_all_itself(directory, monkeypatch):
    (directory / "config.json").write_text(json.dumps(HUB_CONFIG))
    expected = {"size": 192, "crop": "none", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    # A hub's cache as a download leaves it: what the library finds without a network.
    cached = directory / "hub" / "models--someone--cats"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(
        directory, cached / "snapshots" / ("0" * 40), ignore=shutil.ignore_patterns("hub")
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(directory / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for source in (directory, "hf:someone/cats"):
        card, _ = imported.load(source)
        assert card.architecture == "efficientnet-b0"
        assert card.class_names == tuple(HUB_CONFIG["label_names"])
        assert expected.items() <= vars(card.preprocessing).items()


@pytest.mark.parametrize(("share", "crop"), [(0.7, "0.7"), (0.857, "padded"), (1.0, "none")])
def test_any_crop_of_a_hub_directory_is_taken_over(directory, share, crop):
    config = {**HUB_CONFIG, "pretrained_cfg": {**HUB_CONFIG["pretrained_cfg"], "crop_pct": share}}
    (directory / "config.json").write_text(json.dumps(config))
    preprocessing = imported.load(directory)[0].preprocessing
    assert preprocessing.crop == crop
    assert preprocessing.interpolation == "bicubic_antialias"  # as timm evaluates


def test_our_own_export_needs_no_name(directory, tmp_path):
    card, variables = imported.load(directory / "model.safetensors", "tf_efficientnet_b0.ap_in1k")
    card = dataclasses.replace(card, class_names=tuple("abcdefg"))
    timm.save(tmp_path / "out" / "mine.safetensors", card, variables)
    again, _ = imported.load(tmp_path / "out" / "mine.safetensors")
    assert again == card


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        imported.load(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="no file"):
        imported.load(tmp_path / "gone.safetensors", "efficientnet-b0")
    with pytest.raises(ValueError, match="no file of weights that needs model="):
        imported.load(tmp_path, "efficientnet-b0")
