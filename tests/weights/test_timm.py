"""timm's tensors in and out, to the bit; timm's logits."""

import dataclasses
import json
import os
import pathlib
import subprocess

import jax
import numpy as np
import pytest
import safetensors.numpy

from ns_jax import trees
from ns_jax.data import crops
from ns_jax.inference import step as inference_step
from ns_jax.model_card import ModelCard
from ns_jax.models import efficientnet
from ns_jax.weights import hub_config, layout, names, published, timm
from tests import rounding
from tests.weights import random_weights

pytestmark = pytest.mark.large

HERE = pathlib.Path(__file__).parent
SIZE = (131, 97)
B0 = "efficientnet-b0"


@pytest.fixture
def file(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path


def card_of(architecture, num_classes, small_images=False):
    preprocessing = crops.Preprocessing(224, "padded", (0.5,) * 3, (0.5,) * 3)
    names = tuple(map(str, range(num_classes)))
    return ModelCard(architecture, small_images, names, preprocessing)


def timm_tensors(model) -> dict[str, np.ndarray]:
    """Every tensor of timm's network of this architecture, random but reproducible."""
    names = layout.their_shapes(model, timm.entries(model))
    return {name: random_weights.tensor(name, shape) for name, shape in names.items()}


def our_logits(model, variables):
    mean, std = published.IMAGENET
    step = jax.jit(lambda v, x: inference_step.logits_step(v, x, model=model, mean=mean, std=std))
    return np.asarray(step(variables, random_weights.images(SIZE)))


OWN = ("efficientnet_b0", "efficientnet_b1", "efficientnet_b4")


def assert_timms_logits(network):
    name = names.parse(network if network in OWN else f"tf_efficientnet_{network}")
    model = efficientnet.build(
        name.architecture, 1000, padding=name.padding, bn_epsilon=name.bn_epsilon
    )
    variables = layout.to_tree(model, timm.entries(model), timm_tensors(model), "random")
    expected = np.load(HERE / "timm_logits.npz")[network]
    found = our_logits(model, variables)
    difference = np.abs(found - expected).max() / expected.std()
    print(f"{network}: largest difference {difference:.1e} standard deviations of the logits")
    rounding.close(found, expected)


@pytest.mark.parametrize("network", ["b0", "efficientnet_b0"])
def test_logits_of_b0_are_timms(network):
    assert_timms_logits(network)


@pytest.mark.parity
@pytest.mark.parametrize("network", [*timm.NETWORKS[1:], *OWN[1:]])
def test_logits_are_timms(network):
    assert_timms_logits(network)


def test_round_trip_is_exact_to_the_bit(file, tensors, tmp_path):
    model, variables = timm.load(file, B0)
    assert model.num_classes == 7
    card = dataclasses.replace(card_of(B0, 7), inputs={"made": "here"})
    timm.save(tmp_path / "back.safetensors", card, variables)
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    assert back.keys() == tensors.keys()
    assert all(back[name].tobytes() == tensors[name].tobytes() for name in tensors)
    assert timm.load_card(tmp_path / "back.safetensors") == card
    assert timm.load_card(file) is None


@pytest.mark.parametrize("network", timm.NETWORKS)
def test_every_leaf_of_every_network_has_its_tensors(network):
    model = efficientnet.build(f"efficientnet-{network}", num_classes=1000)
    filled = {}
    for entry in timm.entries(model):
        filled.setdefault(entry.path, []).append(entry.layer)
    shapes = layout.shapes(model)
    assert filled.keys() == shapes.keys()
    for path, layers in filled.items():
        stacked = "/rest/" in path
        assert layers == (list(range(shapes[path].shape[0])) if stacked else [None])


def test_pytorchs_counters_are_not_weights(tmp_path, tensors):
    counted = {**tensors, "bn1.num_batches_tracked": np.zeros((), np.int64)}
    safetensors.numpy.save_file(counted, tmp_path / "model.safetensors")
    timm.load(tmp_path / "model.safetensors", B0)


def test_a_truncated_file_says_so(file):
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        timm.load(file, B0)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"\(0 bytes\) is not a whole safetensors file"):
        timm.load(file, B0)
    with pytest.raises(FileNotFoundError, match=r"no file .*gone.safetensors"):
        timm.load(file.with_name("gone.safetensors"), B0)


def test_another_architectures_file_is_refused_with_the_difference(file):
    with pytest.raises(ValueError, match="does not hold efficientnet-b2") as error:
        timm.load(file, "efficientnet-b2")
    assert "missing: blocks.0.1.conv_dw.weight [16, 1, 3, 3]" in str(error.value)
    assert "more" in str(error.value) and "has the shape of b0" in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


def test_missing_surplus_and_misshapen_tensors_are_listed(tmp_path, tensors):
    wrong = {**tensors, "extra.weight": np.zeros((2, 2), np.float32)}
    del wrong["bn1.bias"]
    wrong["conv_head.weight"] = np.zeros((1280, 319, 1, 1), np.float32)
    safetensors.numpy.save_file(wrong, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"3 tensors differ; missing: bn1.bias \[32\]") as error:
        timm.load(tmp_path / "model.safetensors", B0)
    assert str(error.value).splitlines()[1:] == [
        "  surplus: extra.weight [2, 2]",
        "  misshapen: conv_head.weight [1280, 319, 1, 1], expected [1280, 320, 1, 1]",
    ]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, tensors, number):
    broken = {**tensors, "blocks.6.0.bn2.running_var": np.full(1152, number, np.float32)}
    safetensors.numpy.save_file(broken, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="1 tensors hold NaN or infinity: blocks.6.0.bn2.running"):
        timm.load(tmp_path / "model.safetensors", B0)


def test_networks_that_timm_does_not_have_are_not_exported(tmp_path):
    with pytest.raises(ValueError, match="timm has no efficientnet-b0 for small images"):
        timm.save(tmp_path / "x.safetensors", card_of(B0, 7, small_images=True), {})
    mixed = dataclasses.replace(card_of(B0, 7), padding="symmetric")
    with pytest.raises(ValueError, match="of symmetric padding and epsilon 0.001"):
        timm.save(tmp_path / "x.safetensors", mixed, {})
    with pytest.raises(ValueError, match="timm has no efficientnet-pico"):
        timm.save(tmp_path / "x.safetensors", card_of("efficientnet-pico", 7), {})


@pytest.mark.parity
@pytest.mark.parametrize("network", ["tf_efficientnet_b0", "tf_efficientnet_b3", "efficientnet_b0"])
def test_timm_loads_our_file_strictly_and_says_the_same(tmp_path, network):
    """Weights that were never timm's: a fresh network of ours with statistics of its own."""
    name = names.parse(network)
    convention = {"padding": name.padding, "bn_epsilon": name.bn_epsilon}
    model = efficientnet.build(name.architecture, num_classes=37, **convention)
    variables = jax.jit(lambda rng: model.init(rng, 32))(jax.random.key(0))
    noise = np.random.default_rng(0)
    leaves = {
        path: leaf * noise.uniform(0.8, 1.2, leaf.shape).astype(np.float32)
        for path, leaf in trees.by_path(variables).items()
    }
    variables = trees.from_paths(leaves)
    path = tmp_path / "ours.safetensors"
    card = dataclasses.replace(card_of(model.name, 37), **convention)
    assert str(timm.save(path, card, variables)) == network
    python = os.environ["NS_JAX_TIMM_PYTHON"]
    script = str(HERE / "timm_reference.py")
    subprocess.run([python, script, "loads", network, str(path)], check=True)
    expected = np.load(f"{path}.npy")
    rounding.close(our_logits(model, variables), expected)
    hub = tmp_path / "hub"
    hub.mkdir()
    path.rename(hub / "model.safetensors")
    hub_config.write(hub, card)
    subprocess.run([python, script, "hub", str(hub)], check=True)
    np.testing.assert_array_equal(np.load(hub / "logits.npy"), expected)
    told = json.loads((hub / "data.json").read_text())
    view = card.preprocessing
    assert told["input_size"] == [3, view.size, view.size] and told["mean"] == list(view.mean)
    assert told["crop_pct"] == view.fraction() and told["interpolation"] == "bicubic"
