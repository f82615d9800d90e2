"""Where weights come from and what comes with them."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants

from ns_jax.checkpoints import checkpoint
from ns_jax.models import efficientnet
from ns_jax.weights import imported, timm
from ns_jax.weights import tensors as tensors_lib

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
    with pytest.raises(
        ValueError, match="does not say what it holds; it may be tf_efficientnet_b0"
    ):
        imported.load(path)
    card, _ = imported.load(path, "tf_efficientnet_b0.ap_in1k")
    assert card.preprocessing.mean == (0.5, 0.5, 0.5)
    assert card.class_names == tuple("0123456")
    assert (card.padding, card.bn_epsilon) == ("same", 1e-3)
    card, _ = imported.load(path, "tf_efficientnet_b0")
    assert card.preprocessing.mean == (0.485, 0.456, 0.406)
    assert "taken to see ImageNet's mean and std at 224 pixels" in capsys.readouterr().err
    with pytest.raises(ValueError, match="does not hold efficientnet-b1"):
        imported.load(path, "tf_efficientnet_b1")
    with pytest.raises(
        ValueError, match="may be tf_efficientnet_b0, .* or timm's own efficientnet"
    ):
        imported.load(path, "efficientnet-b0")


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
        assert (card.padding, card.bn_epsilon) == ("same", 1e-3)
    own = {**HUB_CONFIG, "architecture": "efficientnet_b0"}
    (directory / "config.json").write_text(json.dumps(own))
    card, _ = imported.load(directory)
    assert (card.padding, card.bn_epsilon) == ("symmetric", 1e-5)


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


def test_timms_own_network_comes_back_as_what_it_was(directory, tmp_path, capsys):
    card, variables = imported.load(directory / "model.safetensors", "efficientnet_b0.ra_in1k")
    assert (card.padding, card.bn_epsilon) == ("symmetric", 1e-5)
    model = card.build()
    assert (model.padding, model.bn_epsilon) == ("symmetric", 1e-5)
    timm.save(tmp_path / "own.safetensors", card, variables)
    again, _ = imported.load(tmp_path / "own.safetensors")
    assert again == card
    assert tensors_lib.metadata(tmp_path / "own.safetensors")["architecture"] == "efficientnet_b0"


WRAPPED = {
    "DistributedDataParallel": lambda t: {f"module.{n}": v for n, v in t.items()},
    "compiled": lambda t: {f"_orig_mod.{n}": v for n, v in t.items()},
    "compiled and wrapped": lambda t: {f"module._orig_mod.{n}": v for n, v in t.items()},
    "Lightning": lambda t: {f"model.{n}": v for n, v in t.items()} | {"loss.w": np.ones(3)},
    "SWA": lambda t: {f"module.{n}": v for n, v in t.items()} | {"n_averaged": np.ones(1)},
    "an average beside it": lambda t: (
        {f"model.{n}": v * 0 for n, v in t.items()} | {f"ema.module.{n}": v for n, v in t.items()}
    ),
    "an average inside it": lambda t: (
        {n: v * 0 for n, v in t.items()} | {f"model_ema.{n}": v for n, v in t.items()}
    ),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_prefix_is_taken_off(tensors, tmp_path, how, capsys):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(WRAPPED[how](tensors), path)
    _, variables = timm.load(path, "efficientnet-b0")
    np.testing.assert_array_equal(
        variables["params"]["head_fc"]["bias"], tensors["classifier.bias"]
    )
    assert "are taken" in capsys.readouterr().err


def test_weights_without_a_classifier_are_good_to_start_from(tensors, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    for other in ({}, {"head.fc.weight": np.ones((3, 1280), np.float32)}):
        body = {n: v for n, v in tensors.items() if not n.startswith("classifier")} | other
        safetensors.numpy.save_file({f"backbone.{n}": v for n, v in body.items()}, path)
        card, variables = imported.load(path, "tf_efficientnet_b0")
        assert "train.new_head=True" in capsys.readouterr().err
        assert card.class_names == () and "head_fc" not in variables["params"]
    checkpoint.save_model(tmp_path / "checkpoint", card, variables)
    card, variables = checkpoint.load_model(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"no classifier: .*train.new_head=True"):
        card.build()
    model = efficientnet.build("efficientnet-b0", num_classes=5)
    with_head = model.with_new_head(variables, jax.random.key(0))
    assert with_head["params"]["head_fc"]["kernel"].shape == (1280, 5)
    timm.save(tmp_path / "back.safetensors", card, variables)
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    assert back.keys() == {n for n in tensors if not n.startswith("classifier")}


def write_shards(tensors, directory, index):
    names = sorted(tensors)
    files = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    where = {name: files[number % 2] for number, name in enumerate(names)}
    for file in files:
        part = {name: tensors[name] for name in names if where[name] == file}
        safetensors.numpy.save_file(part, directory / file)
    if index:
        content = json.dumps({"weight_map": where})
        (directory / "model.safetensors.index.json").write_text(content)
    return directory / files[1]


@pytest.mark.parametrize("index", [True, False])
def test_shards_are_put_together(tensors, tmp_path, index):
    shard = write_shards(tensors, tmp_path, index)
    sources = [tmp_path, shard] + [tmp_path / "model.safetensors.index.json"] * index
    for source in sources:
        _, variables = imported.load(source, "tf_efficientnet_b0")
        found = variables["params"]["head_fc"]["bias"]
        np.testing.assert_array_equal(found, tensors["classifier.bias"])
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002"):
        imported.load(tmp_path, "tf_efficientnet_b0")


def test_of_several_files_the_usual_one_is_meant(directory, tensors):
    safetensors.numpy.save_file({"a": np.ones(1)}, directory / "other.safetensors")
    imported.load(directory, "tf_efficientnet_b0")
    (directory / "model.safetensors").rename(directory / "one.safetensors")
    with pytest.raises(ValueError, match="2 safetensors files; .*: one.safetensors, other.safete"):
        imported.load(directory, "tf_efficientnet_b0")


OTHERS = {
    "features.0.0.weight": "torchvision",
    "module._conv_stem.weight": "efficientnet_pytorch",
    "efficientnet.embeddings.convolution.weight": "transformers",
    "layer1.0.conv1.weight": "called layer1.0.conv1.weight",
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("model", ["", "efficientnet_b0.ra_in1k"])
def test_other_networks_are_named_for_what_they_are(tmp_path, name, model):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({name: np.ones((3, 3), np.float32)}, path)
    with pytest.raises(ValueError, match=OTHERS[name]) as error:
        imported.load(path, model)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\3\4" + bytes(100), "pickle"),
        (b"\x80\2}q\0." + bytes(100), "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"<!DOCTYPE html><html>", "page of the web"),
    ],
)
def test_what_only_has_the_name_of_a_safetensors_file_is_named(tmp_path, content, reason):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    for model in ("", "tf_efficientnet_b0"):
        with pytest.raises(ValueError, match=f"not a whole safetensors file: .*{reason}"):
            imported.load(path, model)


def test_a_pickle_comes_with_the_way_out(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\3\4")
    for source in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(ValueError, match="safetensors.torch") as error:
            imported.load(source)
        assert len(str(error.value).splitlines()) <= 3


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        imported.load(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="no file"):
        imported.load(tmp_path / "gone.safetensors", "tf_efficientnet_b0")
    with pytest.raises(ValueError, match="no file of weights that needs model="):
        imported.load(tmp_path, "efficientnet-b0")
