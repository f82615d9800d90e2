"""Weights through the converter, and what an imported teacher is good for."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import base
from ns_jax import trees
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.model_card import ModelCard
from ns_jax.programs import convert, evaluate, label, selftrain, train
from ns_jax.weights import imported
from tests import rounding

pytestmark = pytest.mark.large

PREPROCESSING = crops.Preprocessing(16, "none", (0.5,) * 3, (0.5,) * 3)
PICO = ModelCard("efficientnet-pico", True, tuple("0123456789"), PREPROCESSING)


def _convert(workdir, **settings):
    config = base.get_config()
    config.convert.update(settings)
    return convert.run(config, workdir)


@pytest.fixture(scope="module")
def b0(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("b0") / "model.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A checkpoint of weights alone for the digits, as an import leaves it."""
    directory = tmp_path_factory.mktemp("teacher")
    model = PICO.build()
    variables = jax.jit(lambda rng: model.init(rng, 16))(jax.random.key(0))
    card = dataclasses.replace(PICO, inputs={"imported": "here"})
    checkpoint.save_model(directory, card, jax.tree.map(np.asarray, variables))
    return directory


def test_timm_to_checkpoint_to_timm_is_exact(b0, tensors, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefg"))
    settings = {"source": str(b0), "model": "tf_efficientnet_b0.ap_in1k"}
    for _ in range(2):  # a second time there is nothing to do
        _convert(tmp_path / "checkpoint", class_names=str(names), **settings)
    out = tmp_path / "out" / "back.safetensors"
    assert _convert(tmp_path, source=str(tmp_path / "checkpoint"), target=str(out)) == out
    back = safetensors.numpy.load_file(out)
    assert all(back[name].tobytes() == tensors[name].tobytes() for name in tensors)
    card, _ = imported.load(out)
    assert card.class_names == tuple("abcdefg")
    assert card.preprocessing.mean == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="holds another checkpoint"):
        _convert(tmp_path / "checkpoint", **settings)
    names.write_text("one")
    with pytest.raises(ValueError, match="has 1 lines, the weights have 7 classes"):
        _convert(tmp_path / "other", class_names=str(names), **settings)
    with pytest.raises(ValueError, match=r"convert.source is empty"):
        _convert(tmp_path / "other")


def test_stablehlo_takes_any_batch_and_gives_the_logits(teacher, tmp_path):
    import ns_jax

    path = _convert(tmp_path, source=str(teacher), target=str(tmp_path / "pico.stablehlo"))
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    expected = ns_jax.load(teacher).logits(images)
    for count in (1, 5):
        found = exported.call(images[:count])
        rounding.close(found, expected[:count])


def test_an_imported_teacher_labels_and_is_evaluated_with_its_own_preprocessing(
    teacher, tiny_config, tmp_path
):
    tiny_config.data.image_size = 32  # of trainings; the teacher's 16 came with its weights
    tiny_config.label.checkpoint = tiny_config.evaluate.checkpoint = str(teacher)
    outputs = label.run(tiny_config, tmp_path)
    assert outputs["num_images"] == 1148
    assert evaluate.run(tiny_config, tmp_path)["num_images"] == 599


def test_selftrain_begins_with_a_given_teacher(teacher, tiny_config, tmp_path):
    tiny_config.selftrain.teacher = str(teacher)
    tiny_config.selftrain.student_init = "teacher"
    summaries = selftrain.run(tiny_config, tmp_path)
    assert [summary["iteration"] for summary in summaries] == [0, 1]
    assert "training" not in summaries[0]
    assert not (tmp_path / "iteration_0" / "checkpoints").exists()
    assert (tmp_path / "iteration_0" / "eval.json").exists()
    assert (tmp_path / "iteration_1" / "eval.json").exists()


def test_a_training_keeps_the_padding_and_epsilon_of_its_first_weights(tiny_config, tmp_path):
    own = {"padding": "symmetric", "bn_epsilon": 1e-5}
    card = dataclasses.replace(PICO, **own)
    model = card.build()
    variables = jax.jit(lambda rng: model.init(rng, 16))(jax.random.key(0))
    variables = jax.tree.map(np.asarray, variables)
    del variables["params"]["head_fc"]  # as of a network without a classifier
    checkpoint.save_model(tmp_path / "own", dataclasses.replace(card, class_names=()), variables)
    tiny_config.train.init = str(tmp_path / "own")
    tiny_config.model.padding = "same"
    with pytest.raises(ValueError, match="model.padding is same, but the weights of train.init"):
        train.run(tiny_config, tmp_path / "refused")
    tiny_config.model.padding = None
    tiny_config.train.new_head = True
    train.run(tiny_config, tmp_path / "trained")
    trained = checkpoint.load_card(tmp_path / "trained")
    assert {name: getattr(trained, name) for name in own} == own
    path = _convert(
        tmp_path, source=str(tmp_path / "trained"), target=str(tmp_path / "x.stablehlo")
    )
    import ns_jax

    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    found = jax.export.deserialize(bytearray(path.read_bytes())).call(images)
    expected = ns_jax.load(tmp_path / "trained").logits(images)
    rounding.close(found, expected)


def test_a_teacher_of_other_classes_is_refused_at_once(tiny_config, tmp_path, b0):
    _convert(tmp_path / "b0", source=str(b0), model="tf_efficientnet_b0")
    tiny_config.selftrain.teacher = str(tmp_path / "b0")
    with pytest.raises(ValueError, match="digits:train has 10 classes, .*b0 has 7"):
        selftrain.run(tiny_config, tmp_path / "run")


def test_other_classes_need_a_new_head_and_only_that_is_new(tiny_config, tmp_path, capsys):
    card = dataclasses.replace(PICO, class_names=tuple("abcdefg"))
    seven = card.build()
    variables = jax.tree.map(
        np.asarray, jax.jit(lambda rng: seven.init(rng, 16))(jax.random.key(3))
    )
    checkpoint.save_model(tmp_path / "seven", card, variables)
    tiny_config.train.init = str(tmp_path / "seven")
    tiny_config.optim.learning_rate_per_256 = 0.0
    with pytest.raises(ValueError, match=r"train.new_head"):
        train.run(tiny_config, tmp_path / "refused")
    tiny_config.train.new_head = True
    train.run(tiny_config, tmp_path / "trained")
    assert "the classifier starts afresh, for 10 classes" in capsys.readouterr().err
    trained = trees.by_path(checkpoint.load_model(tmp_path / "trained")[1]["params"])
    for path, before in trees.by_path(variables["params"]).items():
        if path.startswith("head_fc"):
            assert trained[path].shape == (*before.shape[:-1], 10)
        else:
            rounding.close(trained[path], before, name=path)
