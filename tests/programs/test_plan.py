"""Plans of small networks for slices that are not there, and what the compiled text says."""

import json
import os

import jax
import pytest

from configs import base
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.model_card import ModelCard
from ns_jax.models import efficientnet
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.planning import hlo, macs, topology
from ns_jax.programs import plan
from ns_jax.training import numbers as numbers_lib
from ns_jax.training import state as state_lib
from ns_jax.training import trainer as trainer_lib

pytestmark = pytest.mark.large

pytest.importorskip("libtpu")


@pytest.fixture(autouse=True, scope="module")
def compiler():
    before = dict(os.environ)
    topology.prepare()
    yield
    os.environ.clear()
    os.environ.update(before)


def config(**changes):
    config = base.get_config()
    config.model.name = "efficientnet-pico"
    config.model.small_images = True
    config.model.dtype = "bfloat16"
    config.model.remat = "convs"
    config.data.image_size = 32
    config.data.crop = "none"
    config.train.batch_size = 256
    config.train.unlabelled_ratio = 3.0
    config.plan.topology = "v3-32"
    config.plan.labelling = False
    config.mesh.fsdp = 4
    config.mesh.shard_above = 64
    with config.unlocked():
        for name, value in changes.items():
            section, key = name.split("__")
            config[section][key] = value
    return config


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("small")
    return workdir, plan.run(config(plan__labelling=True, plan__price=2.0), workdir)


def test_a_plan_has_memory_messages_time_and_cost(small):
    workdir, found = small
    assert json.loads((workdir / "plan.json").read_text()) == json.loads(json.dumps(found))
    assert (found["devices"], found["chips"]) == (32, 16)
    train, label = found["train"], found["label"]
    assert train["images_per_device"] == 32 and train["mesh"] == {"data": 8, "fsdp": 4}
    assert train["stat_groups"] == 4 and train["sharded"] > 0.9
    assert train["peak_bytes"] == train["argument_bytes"] + train["temporary_bytes"]
    assert 0 < train["utilisation"] < 1 and 0 < train["link_seconds"] < train["step_seconds"]
    assert train["steps"] == int(350 * 1_281_167 / 256)
    hours = train["steps"] * train["step_seconds"] / 3600
    assert train["chip_hours"] == pytest.approx(16 * hours)
    assert train["core_hours"] == pytest.approx(32 * hours)
    assert train["cost"] == pytest.approx(2 * 16 * hours)
    assert train["flops_per_image"] == 3 * label["flops_per_image"]
    assert label["sent_bytes"] == 0  # labelling needs no other device
    assert label["steps"] == -(-300_000_000 // 256)


def chain(**changes):
    """A teacher, two equal students that are wider, and the fine-tune of the second."""
    whole = config(plan__topology="v3-8", plan__price=2.0, plan__labelling=True, **changes)
    whole.train.unlabelled_ratio, whole.train.batch_size, whole.mesh.fsdp = 0.0, 16, 1
    whole.selftrain.iterations = 2
    student = {"model": {"name": "efficientnet-nano"}, "train": {"unlabelled_ratio": 3.0}}
    finetune = {"epochs": 1.5, "image_size": 48}
    whole.selftrain.overrides = {
        "iteration_0": {},
        "iteration_1": student,
        "iteration_2": {**student, "finetune": finetune},
    }
    return whole


@pytest.mark.pod
def test_a_whole_self_training_is_planned_stage_by_stage(tmp_path, capsys, few_stages):
    whole = chain(model__remat="none")
    found = plan.run(whole, tmp_path)
    shown = capsys.readouterr()
    assert json.loads((tmp_path / "plan.json").read_text()) == json.loads(json.dumps(found))
    teacher, first, second, tuned = found["stages"]
    names = [stage["name"] for stage in found["stages"]]
    assert names == ["teacher", "student 1", "student 2", "fine-tune of student 2"]
    models = [stage["train"]["model"].removeprefix("efficientnet-") for stage in found["stages"]]
    assert models == ["pico", "nano", "nano", "nano"]
    assert [stage["train"]["per_step"] for stage in found["stages"]] == [
        *([16, 0], [16, 48], [16, 48], [16, 0])
    ]
    assert [stage["label"]["model"][-4:] for stage in (first, second)] == ["pico", "nano"]
    assert "label" not in teacher and "label" not in tuned
    assert second["train"] == first["train"] and shown.err.count("compiles training") == 3
    # Of the fine-tune no stage but the head has a backward pass.
    assert tuned["train"]["image_size"] == 48
    model = efficientnet.build("efficientnet-nano", 1000, small_images=True, frozen_stages=3)
    assert tuned["train"]["flops_per_image"] == 2 * macs.training_macs(model, 48)
    plans = [stage[kind] for stage in found["stages"] for kind in stage if kind != "name"]
    assert len(plans) == 6
    for key in ("days", "core_hours", "chip_hours", "cost"):
        assert found["total"][key] == pytest.approx(sum(one[key] for one in plans))
    for title in ("Teacher for v3-8", "Fine-tune of student 2 for v3-8", "The whole self-training"):
        assert title in shown.out
    assert shown.out.count("labels for") == 2 and f"{found['total']['days']:.2f}" in shown.out


def test_a_mistake_in_a_later_iteration_is_said_before_the_first_compilation(tmp_path, capsys):
    whole = chain()
    whole.selftrain.overrides.iteration_2.train.unlabelled_ratio = 2.9
    with pytest.raises(ValueError, match="16 labelled . 47 unlabelled"):
        plan.run(whole, tmp_path)
    assert "compiles" not in capsys.readouterr().err


def test_a_teacher_that_is_given_is_not_trained(monkeypatch):
    view = crops.Preprocessing(240, "padded", (0.5,) * 3, (0.25,) * 3)
    given = ModelCard("efficientnet-b1", False, ("cat", "dog"), view)
    monkeypatch.setattr(checkpoint, "load_card", lambda path: {"runs/b1": given}[path])
    whole = chain(selftrain__teacher="runs/b1")
    (name, teacher, student), *_ = plan._stages(whole)
    assert (name, student.model.name) == ("student 1", "efficientnet-nano")
    assert (teacher.model.name, teacher.data.image_size) == ("efficientnet-b1", 240)


def text_of(topology_name, **changes):
    """The compiled training step for a slice."""
    slice_ = topology.parse(topology_name)
    settings = config(train__selection="selection", **changes)
    devices = slice_.devices()
    numbers = numbers_lib.derive(settings, 1_281_167, len(devices))
    parts = trainer_lib.build(settings, numbers, 10, devices)
    batch = parts.abstract_batch(parts.batch_spec(16))
    state = state_lib.placed(parts.shapes, parts.shardings)
    key = jax.eval_shape(lambda: jax.random.key(0))
    rng = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=mesh_lib.replicated(parts.mesh))
    made = parts.step.lower(state, batch, rng, None).compile()
    return parts, hlo.read(made.as_text())


def is_forward(one):
    """Of the network: the sum of the loss comes after it, and some gradients travel along."""
    return "/jvp(_Network)/" in one.name and "transpose" not in one.name


@pytest.mark.pod
def test_messages_do_not_grow_with_the_slice_and_groups_keep_to_themselves():
    """32 cores in 4 groups of 8, and 2,048 in 8 of 256."""
    reduced = {}
    for name, batch, group in (("v3-32", 256, 8), ("v3-2048", 16384, 256)):
        parts, found = text_of(name, train__batch_size=batch)
        assert parts.mesh.size // parts.model.stat_groups == group
        reduces = [one for one in found.collectives if one.kind == "all-reduce"]
        reduced[name] = sum(one.num_bytes * one.count for one in reduces)
        statistics = [one for one in reduces if is_forward(one)]
        assert sum(one.count for one in statistics) > 10  # of the layers' batches
        assert {one.group_size for one in statistics} == {group}
        # The moving averages, which alone take from all groups, go with the gradients.
        across = [one for one in reduces if one.group_size == parts.mesh.size]
        assert across and not any(map(is_forward, across))
        assert not [one for one in found.collectives if one.kind == "all-to-all"]
    assert reduced["v3-2048"] == pytest.approx(reduced["v3-32"], rel=0.02)


@pytest.mark.pod
def test_a_group_within_a_core_needs_no_message():
    _, found = text_of("v3-8", model__stat_groups=8, mesh__fsdp=1)
    assert found.collectives and not any(map(is_forward, found.collectives))


def test_out_of_memory_is_a_finding(tmp_path, capsys):
    huge = config(data__image_size=512, train__batch_size=8192, model__remat="none")
    found = plan.run(huge, tmp_path)
    assert not found["train"]["fits"] and found["train"]["peak_bytes"] > 16e9
    assert "does not fit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan__topology": "v9-8"}, "known are v2, v3, v4, v5e, v5p, v6e"),
        ({"plan__topology": "v3-12"}, "power of two"),
        ({"plan__topology": "v5e:3x5"}, "has no slice"),
        ({"plan__topology": "v4:4x4"}, "have 3 sides"),
        ({"train__batch_size": 100}, "cannot be shared by 4 BatchNorm groups|not divisible by 32"),
        ({"mesh__fsdp": 3}, "does not divide 32 devices"),
        ({"mesh__shard_above": 10**6}, "splits only 0% of the parameters"),
    ],
)
def test_what_cannot_be_planned_is_said(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        plan.run(config(**changes), tmp_path)


@pytest.mark.parametrize("name", ["v2-8", "v3-32", "v4-512", "v5e-256", "v5p-16", "v6e-256"])
def test_a_mesh_can_be_made_of_every_generation(name):
    slice_ = topology.parse(name)
    devices = slice_.devices()
    assert len(devices) == slice_.num_devices
    mesh = mesh_lib.make_mesh(8, devices)  # where no side has 8 devices, one is split
    assert mesh.shape["fsdp"] == 8 and set(mesh.devices.flat) == set(devices)


def test_slices_have_the_sides_they_are_sold_with():
    sides = {"v3-8": (2, 2), "v3-2048": (32, 32), "v4-8": (2, 2, 1), "v4-32": (2, 2, 4)}
    for name, expected in sides.items():
        assert topology.parse(name).sides == expected
    assert topology.parse("v3:32x32x1").num_devices == topology.parse("v3-2048").num_devices == 2048
    assert topology.parse("v5e-256").num_devices == 256
