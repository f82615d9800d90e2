"""Saving beside the training, what is kept, and checkpoints that are damaged in every file."""

import contextlib
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from ns_jax import trees
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.errors import DamagedError
from ns_jax.model_card import ModelCard
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.training import state as state_lib

pytestmark = pytest.mark.large

VIEW = crops.Preprocessing(8, "none", (0.5,) * 3, (0.25,) * 3)
CARD = ModelCard("made up", False, ("cat", "dog"), VIEW, {"labelled": "a"})


def anything(_):
    """What a training has nothing against."""


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(1, jax.devices()[:1])


def made(mesh, step):
    """A state of some size whose every element depends on the step."""
    rng = np.random.default_rng(step)
    params = {"stem": {"kernel": rng.standard_normal((64, 80)).astype(np.float32)}}
    params["head"] = {"bias": rng.standard_normal(3).astype(np.float32)}
    stats = {"stem": {"mean": rng.standard_normal(80).astype(np.float32)}}
    tree = state_lib.TrainState(
        step=np.int32(step),
        params=params,
        batch_stats=stats,
        opt_state=({"momentum": params},),
        ema_params=jax.tree.map(lambda leaf: leaf / 2, params),
        ema_batch_stats=stats,
    )
    return mesh_lib.put_whole(tree, mesh)


def placed(tree):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def saved(directory, mesh, steps, keep=10, keep_every=None):
    with contextlib.closing(checkpoint.Checkpoints(directory, keep, keep_every)) as checkpoints:
        for step in steps:
            checkpoints.save(step, made(mesh, step), CARD)
            checkpoints.check()
    return checkpoints


@pytest.fixture(scope="module")
def two(tmp_path_factory, mesh):
    """Steps 1 and 2, to copy and damage."""
    directory = tmp_path_factory.mktemp("two")
    saved(directory / "checkpoints", mesh, [1, 2])
    return directory


def restored(directory, mesh, check=anything):
    return checkpoint.Checkpoints(directory, 10).restore(placed(made(mesh, 0)), check)


def assert_is(found, mesh, step):
    assert found[0] == step
    for ours, theirs in zip(
        jax.tree.leaves(found[1]), jax.tree.leaves(made(mesh, step)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_the_newest_are_kept_and_some_for_good(tmp_path, mesh):
    saved(tmp_path / "checkpoints", mesh, range(1, 8), keep=2, keep_every=3)
    there = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert there == [3, 6, 7]
    found = restored(tmp_path / "checkpoints", mesh)
    assert_is(found, mesh, 7)
    assert found[2] == CARD


def test_nothing_is_no_checkpoint(tmp_path, mesh):
    assert restored(tmp_path / "checkpoints", mesh) is None


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 128
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def remove(path):
    path.unlink()


def largest(directory, name="*"):
    return max((p for p in directory.rglob(name) if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", [flip, cut, zeros, remove])
@pytest.mark.parametrize("item", ["state", "model", "description"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(
    two, mesh, tmp_path, capsys, item, damage
):
    directory = shutil.copytree(two, tmp_path / "run") / "checkpoints"
    name = "model.json" if item == "description" else "*"
    damage(largest(directory / "2" / item, name))
    assert checkpoint.newest_card(directory) == CARD
    assert_is(restored(directory, mesh), mesh, 1)
    assert "2 is damaged, the one before it is taken" in capsys.readouterr().err
    assert (tmp_path / "run" / "damaged_checkpoints" / "2" / item).is_dir()
    saved(directory, mesh, [2])  # its place is free
    assert_is(restored(directory, mesh), mesh, 2)


def test_what_is_no_checkpoint_any_more_is_an_error_and_stays(two, mesh, tmp_path):
    directory = shutil.copytree(two, tmp_path / "run") / "checkpoints"
    for step in ("1", "2"):
        cut(largest(directory / step / "state"))
    with pytest.raises(DamagedError, match="none of the 2 checkpoints .* can be read"):
        restored(directory, mesh)
    assert (directory / "2").is_dir() and (directory / "1").is_dir()


def test_a_sound_checkpoint_of_something_else_is_not_taken_for_damaged(two, mesh, tmp_path):
    directory = shutil.copytree(two, tmp_path / "run") / "checkpoints"

    def check(card):
        raise ValueError(f"inputs {card.inputs}")

    with pytest.raises(ValueError, match="inputs {'labelled': 'a'}"):
        restored(directory, mesh, check)
    other = made(mesh, 0)
    other.params["head"]["more"] = other.params["head"]["bias"]
    with pytest.raises(
        ValueError, match=r"(?s)holds another network.*params/head/more.*expected, None found"
    ):
        checkpoint.Checkpoints(directory, 10).restore(placed(other), anything)
    assert (directory / "2").is_dir()


def test_weights_are_checked_before_they_are_used(two, mesh, tmp_path):
    run = shutil.copytree(two, tmp_path / "run")
    card, variables = checkpoint.load_model(run)
    assert card == CARD
    np.testing.assert_array_equal(
        variables["params"]["head"]["bias"], made(mesh, 2).ema_params["head"]["bias"]
    )
    path = run / "checkpoints" / "2" / "description" / "model.json"
    described = json.loads(path.read_text())
    described["checksums"]["model"] ^= 1
    path.write_text(json.dumps(described))
    with pytest.raises(DamagedError, match=r"another seal"):
        checkpoint.load_model(run)
    described.pop("seal")
    path.write_text(json.dumps(described))
    with pytest.raises(DamagedError, match=r"2 is damaged .*checksum of its model"):
        checkpoint.load_model(run)


def test_a_save_that_fails_is_said(tmp_path, mesh, monkeypatch):
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints", 2)
    checkpoints.save(1, made(mesh, 1), CARD)
    checkpoints.close()
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "1")
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("a file where the directory was")
    with pytest.raises(
        OSError, match=r"(?s)step 2 could not be saved .*Make room or mend the disk"
    ):
        checkpoints.save(2, made(mesh, 2), CARD)
        checkpoints.close()


def test_trees_of_weights_alone_are_checked_too(tmp_path, make_teacher):
    make_teacher(tmp_path / "teacher")
    _, variables = checkpoint.load_model(tmp_path / "teacher")
    make_teacher(tmp_path / "teacher")  # the same again is fine
    card = checkpoint.load_card(tmp_path / "teacher")
    card = dataclasses.replace(card, class_names=(*card.class_names[:9], "nine"))
    checkpoint.save_model(tmp_path / "renamed", card, variables)
    assert checkpoint.load_model(tmp_path / "renamed")[0] == card
    assert trees.count(variables) > 0
    cut(largest(tmp_path / "teacher" / "checkpoints" / "0" / "model"))
    with pytest.raises(DamagedError, match="is damaged"):
        checkpoint.load_model(tmp_path / "teacher")
