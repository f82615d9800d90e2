"""The model card: its JSON is what all versions read, and what is no card is said to be damaged."""

import dataclasses
import json

import numpy as np
import pytest

from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.errors import DamagedError, InputError
from ns_jax.model_card import ModelCard, TrainingCounts, with_classes

CARD = ModelCard(
    architecture="efficientnet-pico",
    small_images=True,
    class_names=("ant", "bee"),
    preprocessing=crops.Preprocessing(16, "none", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bilinear"),
    inputs={"labelled": "a", "teacher": "b"},
    stat_groups=4,
    counts=TrainingCounts(attempt=1, nonfinite=2, bad=((3, 4), (5,))),
)
ON_DISK = {
    "model": {"name": "efficientnet-pico", "num_classes": 2, "small_images": True},
    "class_names": ["ant", "bee"],
    "preprocessing": {
        "size": 16,
        "crop": "none",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "interpolation": "bilinear",
    },
    "inputs": {"labelled": "a", "teacher": "b"},
    "stat_groups": 4,
    "so_far": {"attempt": 1, "nonfinite": 2, "bad": [[3, 4], [5]]},
}


def without(content, *keys):
    return {name: value for name, value in content.items() if name not in keys}


def test_the_json_on_disk_is_what_every_version_knows():
    assert json.loads(json.dumps(CARD.to_json())) == ON_DISK
    assert ModelCard.from_json(ON_DISK) == CARD
    assert ModelCard.from_json({**ON_DISK, "of a later version": 1}) == CARD


def test_an_old_model_json_without_newer_fields_is_read(tmp_path):
    old = without(ON_DISK, "inputs", "stat_groups", "so_far")  # nor checksums, nor a seal
    old["model"] = without(old["model"], "small_images")
    old["preprocessing"] = without(old["preprocessing"], "interpolation")
    (tmp_path / "model").mkdir()
    (tmp_path / "description").mkdir()
    (tmp_path / "description" / "model.json").write_text(json.dumps(old))
    card = checkpoint.load_card(tmp_path)
    assert (card.architecture, card.small_images) == ("efficientnet-pico", False)
    assert card.preprocessing == dataclasses.replace(CARD.preprocessing, interpolation="bicubic")
    assert (card.inputs, card.stat_groups, card.counts) == ({}, None, None)
    # What is not known is not written either.
    assert without(card.to_json(), "model", "preprocessing") == {"class_names": ("ant", "bee")}


def test_a_convention_other_than_tensorflows_travels_with_the_weights():
    own = dataclasses.replace(CARD, padding="symmetric", bn_epsilon=1e-5)
    on_disk = json.loads(json.dumps(own.to_json()))
    expected = {**ON_DISK["model"], "padding": "symmetric", "bn_epsilon": 1e-5}
    assert on_disk["model"] == expected
    assert ModelCard.from_json(on_disk) == own
    model = own.build()
    assert (model.padding, model.bn_epsilon) == ("symmetric", 1e-5)
    old = ModelCard.from_json(ON_DISK).build()
    assert (old.padding, old.bn_epsilon) == ("same", 1e-3)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        "a card",
        {},
        without(ON_DISK, "model"),
        without(ON_DISK, "class_names"),
        {**ON_DISK, "preprocessing": {**ON_DISK["preprocessing"], "crop": "cut off"}},
        {**ON_DISK, "preprocessing": without(ON_DISK["preprocessing"], "mean")},
        {**ON_DISK, "class_names": ["ant"]},
        {**ON_DISK, "so_far": 3},
    ],
)
def test_what_is_no_card_is_damaged(content):
    with pytest.raises(DamagedError):
        ModelCard.from_json(content)


def test_a_card_builds_its_network():
    model = CARD.build(dtype="bfloat16")
    assert (model.name, model.num_classes, model.small_images) == ("efficientnet-pico", 2, True)
    assert model.dtype == "bfloat16"
    with pytest.raises(InputError, match="unknown model 'b99'"):
        dataclasses.replace(CARD, architecture="b99").build()


def test_a_network_takes_its_classes_in_another_order():
    head = {"kernel": np.array([[1.0, 2.0], [3.0, 4.0]]), "bias": np.array([5.0, 6.0])}
    network = CARD, {"params": {"head_fc": head, "stem": {}}, "batch_stats": {}}
    assert with_classes(network, CARD.class_names, "a", "b") is network
    card, variables = with_classes(network, ("bee", "ant"), "a", "b")
    assert card == dataclasses.replace(CARD, class_names=("bee", "ant"))
    assert variables["params"]["head_fc"]["kernel"].tolist() == [[2, 1], [4, 3]]
    assert variables["params"]["head_fc"]["bias"].tolist() == [6, 5]
    assert variables["params"]["stem"] == {}
    for names, difference in (
        (("ant",), "missing: none; surplus: bee"),
        (("ant", "cat"), "missing: cat; surplus: bee"),
        (("bee", "ant", "cat"), "missing: cat; surplus: none"),
    ):
        with pytest.raises(InputError, match=difference):
            with_classes(network, names, "a", "b")
