"""Self-training from published weights in one command: random ones stand in for them here."""

import dataclasses
import json

import pytest
import safetensors.numpy

from configs import folder
from ns_jax import config as config_lib
from ns_jax import trees
from ns_jax.checkpoints import checkpoint
from ns_jax.errors import InputError
from ns_jax.programs import selftrain
from ns_jax.weights import imported

pytestmark = pytest.mark.large


@pytest.fixture
def published(tmp_path, tensors):
    """A directory as timm and its hub have it: safetensors and a config.json."""
    directory = tmp_path / "tf_efficientnet_b0"
    directory.mkdir()
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    details = {
        "tag": "none",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "input_size": [3, 192, 192],
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }
    config = {"architecture": "tf_efficientnet_b0", "pretrained_cfg": details}
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def tiny(config, **sources):
    """As short and as small as the tests' digits."""
    config.data.update(
        labelled="digits:train", unlabelled="digits:unlabelled", test="digits:test", flip=False
    )
    config.train.update(epochs=1.2, batch_size=10, log_every_steps=1, save_every_steps=4)
    config.optim.warmup_epochs = 0.5
    config.label.images_per_shard = 256
    config.select.update(threshold=0.0, per_class=20)
    config.selftrain.iterations = 1
    config.selftrain.overrides.iteration_1.train.update(unlabelled_ratio=2.0, epochs=1.2)
    return config


def test_the_teacher_is_the_weights_network_and_sees_what_they_saw(published):
    config = folder.get_config(f"init={published},student=efficientnet-b1")
    assert config.model.name == "efficientnet-b0" and not config.model.small_images
    assert config.data.image_size == 192 and config.data.crop == "none"
    assert tuple(config.data.mean) == (0.5, 0.4, 0.3) and tuple(config.data.std) == (0.2, 0.3, 0.4)
    assert config.data.interpolation == "bilinear"
    assert config.train.init == published and config.train.new_head
    scratch = folder.get_config()
    assert config.train.epochs < scratch.train.epochs / 2
    assert config.optim.learning_rate_per_256 < scratch.optim.learning_rate_per_256 / 2
    student = config_lib.at_iteration(config, 1)
    assert student.train.init == "" and not student.train.new_head
    assert student.model.name == "efficientnet-b1" and student.data.image_size is None
    for section, key in (("train", "epochs"), ("optim", "learning_rate_per_256")):
        assert student[section][key] == scratch[section][key]
    teacher = folder.get_config(f"init={published},role=teacher")
    assert config_lib.flat(teacher)["train.init"] == published


def test_students_start_as_the_key_says(published, make_teacher, tmp_path):
    own = str(make_teacher(tmp_path / "own"))
    same = config_lib.at_iteration(folder.get_config(f"init={published},students=init"), 1)
    assert same.train.init == published and same.train.new_head
    assert same.train.epochs == folder.TUNED["epochs"]
    other = config_lib.at_iteration(folder.get_config(f"init={published},students={own}"), 1)
    assert other.train.init == own and other.train.new_head
    assert other.model.name == "efficientnet-pico" and other.data.image_size == 16
    taught = folder.get_config(f"init={published},students=teacher")
    assert taught.selftrain.student_init == "teacher"


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("students=init", "students and weights need init"),
        ("init=/nowhere", "/nowhere"),
        ("init={published},model=efficientnet-b3", "model=efficientnet-b3, but init="),
        ("init={published},students=init,student=efficientnet-b4", "no published weights of"),
        ("init={published},students={own},student=efficientnet-b4", "is efficientnet-pico"),
    ],
)
def test_what_does_not_go_together_is_said(arg, message, published, make_teacher, tmp_path):
    own = str(make_teacher(tmp_path / "own"))
    with pytest.raises(InputError, match=message):
        folder.get_config(arg.format(published=published, own=own))


def test_a_larger_student_has_weights_of_the_same_family():
    b3, b5 = "hf:timm/tf_efficientnet_b3.ns_jft_in1k", "hf:timm/tf_efficientnet_b5.ns_jft_in1k"
    assert folder._published(b3, "efficientnet-b3", "efficientnet-b5") == b5
    with pytest.raises(InputError, match="no published weights of efficientnet-l2"):
        folder._published(b3.replace("ns_jft", "aa"), "efficientnet-b3", "efficientnet-l2")


@pytest.mark.parametrize("students", ["scratch", "init", "teacher"])
def test_the_loop_runs_from_weights_of_other_classes(students, few_stages, make_teacher, tmp_path):
    """What a fine-tune may change, the rate, is so low here that the start shows in the result."""
    init = make_teacher(tmp_path / "init", seed=7)
    card, variables = checkpoint.load_model(init)
    classes = tuple(f"other {number}" for number in range(10))
    checkpoint.save_model(tmp_path / "w", dataclasses.replace(card, class_names=classes), variables)
    name = str(tmp_path / "w")
    config = tiny(folder.get_config(f"init={name},students={students}"))
    config.optim.learning_rate_per_256 = 1e-9
    config.selftrain.overrides.iteration_1.optim = {"learning_rate_per_256": 1e-9}
    selftrain.run(config, tmp_path / "run")
    digest = trees.digest(variables)
    teacher, student = (checkpoint.load_model(tmp_path / "run" / f"iteration_{k}") for k in (0, 1))
    assert teacher[0].inputs["init"] == digest
    assert teacher[0].class_names == tuple("0123456789")
    assert teacher[0].preprocessing == card.preprocessing
    expected = {"scratch": None, "init": digest, "teacher": trees.digest(teacher[1])}
    assert student[0].inputs.get("init") == expected[students]


def test_a_card_is_that_of_the_weights(published):
    card, variables = imported.load(published)
    assert imported.card_of(published) == card and card.architecture == "efficientnet-b0"
    assert variables["params"]["head_fc"]["kernel"].shape[-1] == 7
