import json

import pytest

from configs import base, digits, fashion, folder
from ns_jax import config as config_lib
from ns_jax import workdir as workdir_lib
from ns_jax.errors import InputError
from ns_jax.training import numbers as numbers_lib


def test_arguments_choose_structure_with_the_types_of_their_defaults():
    parsed = config_lib.parse_arg("model=b7,fast=true,n=3", model="b0", fast=False, n=1, role="x")
    assert (parsed.model, parsed.fast, parsed.n, parsed.role) == ("b7", True, 3, "x")
    with pytest.raises(ValueError, match="unknown config argument 'modle'; known: model"):
        config_lib.parse_arg("modle=b7", model="b0")
    with pytest.raises(ValueError, match="n must be int"):
        config_lib.parse_arg("n=three", n=1)


def test_an_iteration_takes_its_overrides_or_the_nearest_before():
    config = base.get_config()
    config.selftrain.overrides = {
        "iteration_1": {"model": {"name": "efficientnet-l0"}, "train": {"unlabelled_ratio": 3.0}},
        "iteration_3": {"model": {"name": "efficientnet-l2"}},
    }
    chosen = [config_lib.at_iteration(config, k) for k in range(5)]
    names = [c.model.name.removeprefix("efficientnet-") for c in chosen]
    assert names == ["b0", "l0", "l0", "l2", "l2"]
    assert [c.train.unlabelled_ratio for c in chosen] == [0, 3, 3, 0, 0]
    assert config.model.name == "efficientnet-b0"  # the whole stays as it was


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"iteration_0": {"model": {"nmae": "x"}}}, "no key config.model.nmae"),
        ({"iteration_0": {"modle": {"name": "x"}}}, "no key config.modle.name"),
        ({"iteration_0": {"train": {"epochs": "ten"}}}, "config.train.epochs"),
        ({"first": {}}, "entries are named iteration_0"),
    ],
)
def test_overrides_are_as_strict_as_flags(overrides, message):
    config = base.get_config()
    config.selftrain.overrides = overrides
    with pytest.raises(ValueError, match=message):
        config_lib.at_iteration(config, 0)


@pytest.mark.parametrize("module", [digits, fashion, folder])
def test_configs_declare_nothing_new_and_know_their_roles(module):
    declared = dict(config_lib.leaves(base.get_config().to_dict()))
    for role, ratio in (("teacher", 0), ("student", 1)):
        config = module.get_config(f"role={role}")
        assert bool(config.train.unlabelled_ratio) == ratio
        assert not config_lib.is_chain(config)
        found = dict(config_lib.leaves(config.to_dict()))
        assert {k for k in found if not k.startswith("selftrain.overrides")} == {
            k for k in declared if not k.startswith("selftrain.overrides")
        }
    assert config_lib.is_chain(module.get_config())
    with pytest.raises(ValueError, match="known: selftrain, teacher, student"):
        module.get_config("role=parent")


def test_a_workdir_belongs_to_one_config(tmp_path):
    config = base.get_config()
    workdir_lib.claim_workdir(config, tmp_path)
    config.train.epochs = 10.0
    workdir_lib.claim_workdir(config, tmp_path)  # nothing has been made of the first one yet
    config.train.epochs = 350.0
    workdir_lib.claim_workdir(config, tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    workdir_lib.claim_workdir(config, tmp_path)
    config.mesh.fsdp = 4  # other devices
    config.selftrain.overrides.iteration_0 = {"mesh": {"fsdp": 4}}
    workdir_lib.claim_workdir(config, tmp_path)
    config.train.epochs = 10.0
    config.model.drop_rate = 0.3
    with pytest.raises(ValueError) as error:
        workdir_lib.claim_workdir(config, tmp_path)
    assert "config.train.epochs: 350.0 there, 10.0 now" in str(error.value)
    assert "config.model.drop_rate: None there, 0.3 now" in str(error.value)
    assert "config.seed" not in str(error.value)


def test_a_workdir_of_an_earlier_version_goes_on_where_common_keys_are_the_same(tmp_path):
    """What a retired key made is told apart by its stage's manifest (test_select.py)."""
    config = base.get_config()
    (tmp_path / "metrics.jsonl").touch()
    earlier = json.loads(config.to_json_best_effort())
    earlier["plan"]["search"] = True
    earlier["doctor"]["compared"] = 50
    earlier["select"]["quantile"] = 0.0
    earlier["selftrain"]["overrides"] = {"iteration_1": {"select": {"quantile": 0.0}}}
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    workdir_lib.claim_workdir(config, tmp_path)
    earlier["select"]["threshold"] = 0.5
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    with pytest.raises(InputError, match="config.select.threshold: 0.5 there, 0.3 now"):
        workdir_lib.claim_workdir(config, tmp_path)


def student(**changes):
    config = base.get_config()
    config.train.batch_size = 16
    config.train.unlabelled_ratio = 2.0
    config.train.selection = "somewhere"
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "devices", "message"),
    [
        ({"train.batch_size": 0}, 1, "train.batch_size is 0"),
        ({"train.batch_size": 17}, 8, "17 labelled . 34 unlabelled .* 8 devices"),
        ({"model.stat_groups": 3}, 1, "16 labelled images .* 3 BatchNorm groups"),
        ({"mesh.fsdp": 3}, 8, "mesh.fsdp=3 does not divide 8 devices"),
        ({"train.epochs": 0.01}, 1, "is not a single step"),
        ({"train.selection": ""}, 1, "name the directory that the select program wrote"),
        ({"loss.normalise": "none"}, 1, "known: labelled, all"),
        ({"loss.pseudo_labels": "firm"}, 1, "known: soft, hard"),
        ({"data.train_view": "zoom"}, 1, "known: crop, pad"),
        ({"data.crop_sampler": "any"}, 1, "known: official, area"),
    ],
)
def test_numbers_that_do_not_go_together_are_named(changes, devices, message):
    numbers_lib.derive(student(), 100, 8)
    with pytest.raises(ValueError, match=message):
        numbers_lib.derive(student(**changes), 100, devices)


def test_lengths_follow_from_the_labelled_images():
    config = student(**{"train.batch_size": 4096, "train.epochs": 350.0})
    numbers = numbers_lib.derive(config, 1_281_167, 8)
    assert (numbers.labelled, numbers.unlabelled) == (4096, 8192)
    assert numbers.steps_per_epoch == pytest.approx(312.785, abs=5e-4)
    assert numbers.total_steps == 109_474


@pytest.mark.parametrize(
    ("every", "num_images", "expected"),
    [
        (None, 1000, 5474),  # 20 times
        (None, 100_000_000, 54_737),  # twice: more would take over 5 % of the training
        (None, 10**10, None),
        (2.0, 1000, 626),
        (0.0, 1000, None),
    ],
)
def test_a_training_is_evaluated_as_often_as_costs_little(every, num_images, expected):
    config = student(**{"train.batch_size": 4096, "train.epochs": 350.0})
    config.train.evaluate_every_epochs = every
    numbers = numbers_lib.derive(config, 1_281_167, 8)
    assert numbers.steps_between_evaluations(num_images) == expected
    short = numbers_lib.derive(student(**{"train.epochs": 4.0}), 1000, 1)
    assert short.steps_between_evaluations(10) >= short.steps_per_epoch
