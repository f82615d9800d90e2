"""The released TensorFlow 1 checkpoints: their names, and real files where TensorFlow is there."""

import pathlib

import numpy as np
import pytest

from ns_jax import trees
from ns_jax.models import efficientnet
from ns_jax.weights import layout, tf_checkpoint, timm

pytestmark = pytest.mark.large

B0 = "efficientnet-b0"


def test_names_are_the_official_codes_in_the_order_of_its_calls():
    model = efficientnet.build(B0, num_classes=1000)
    entries = {entry.name: entry for entry in tf_checkpoint.entries(model)}
    # Block 0 expands nothing, so its projection is the scope's first convolution.
    assert entries["blocks_0/conv2d/kernel"].path == "params/stage1/first/project_conv/kernel"
    assert "blocks_0/conv2d_1/kernel" not in entries
    assert entries["blocks_0/tpu_batch_normalization_1/gamma"].path.endswith("project_bn/scale")
    assert entries["blocks_1/conv2d/kernel"].path == "params/stage2/first/expand_conv/kernel"
    assert entries["blocks_15/conv2d_1/kernel"].path == "params/stage7/first/project_conv/kernel"
    third = entries["blocks_4/tpu_batch_normalization_2/moving_variance"]
    assert (third.path, third.layer) == ("batch_stats/stage3/rest/project_bn/var", 0)
    assert len(entries) == len(timm.entries(model))


@pytest.mark.parametrize("network", timm.NETWORKS)
def test_every_leaf_has_its_variables(network):
    model = efficientnet.build(f"efficientnet-{network}", num_classes=1000)
    ours = {(e.path, e.layer) for e in timm.entries(model)}
    assert {(e.path, e.layer) for e in tf_checkpoint.entries(model)} == ours


def test_without_tensorflow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"pip install 'ns-jax\[tf\]'"):
        tf_checkpoint.load(pathlib.Path("anywhere"))


def _write(directory: pathlib.Path, variables: dict[str, np.ndarray]) -> None:
    import tensorflow as tf

    directory.mkdir()
    names = list(variables)
    tf.raw_ops.SaveV2(
        prefix=str(directory / "model.ckpt"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(variables[name]) for name in names],
    )
    (directory / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')


def _variables(tensors) -> tuple[dict, dict]:
    """(our tree, a training checkpoint with averages, raw variables, slots and a teacher)."""
    model = efficientnet.build(B0, num_classes=7)
    tree = layout.to_tree(model, timm.entries(model), tensors, "random")
    found = layout.from_tree(tf_checkpoint.entries(model), tree)
    variables = {"global_step": np.int64(7)}
    for name, value in found.items():
        for scope in (B0, f"teacher_model/{B0}"):
            wrong = value + 1 if scope != B0 else value
            variables[f"{scope}/{name}"] = value * 0 - 1
            variables[f"{scope}/{name}/RMSProp"] = np.ones_like(value)
            variables[f"{scope}/{name}/ExponentialMovingAverage"] = wrong
    return tree, variables


@pytest.mark.parity
def test_a_training_checkpoint_gives_its_averages(tmp_path, tensors):
    tree, variables = _variables(tensors)
    _write(tmp_path / "ckpt", variables)
    for path in (tmp_path / "ckpt", tmp_path / "ckpt" / "model.ckpt"):
        model, loaded = tf_checkpoint.load(path)
        assert (model.name, model.num_classes) == (B0, 7)
        assert trees.digest(loaded) == trees.digest(tree)


@pytest.mark.parity
def test_a_checkpoint_that_lacks_something_lists_it(tmp_path, tensors):
    _, variables = _variables(tensors)
    del variables[f"{B0}/blocks_3/se/conv2d_1/bias/ExponentialMovingAverage"]
    _write(tmp_path / "ckpt", variables)
    with pytest.raises(ValueError, match=r"missing: blocks_3/se/conv2d_1/bias \[144\]"):
        tf_checkpoint.load(tmp_path / "ckpt")
    only_raw = {n: v for n, v in variables.items() if not n.endswith("Average")}
    _write(tmp_path / "raw", only_raw)
    with pytest.raises(ValueError, match="holds 0 EfficientNets with moving averages"):
        tf_checkpoint.load(tmp_path / "raw")
    with pytest.raises(FileNotFoundError, match="no TensorFlow checkpoint"):
        tf_checkpoint.load(tmp_path / "gone")
