"""Losses and gradients that are not finite: left out, gone back from, counted, bounded."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from ns_jax import trees
from ns_jax.checkpoints import checkpoint
from ns_jax.programs import train
from ns_jax.training import nonfinite
from ns_jax.training import trainer as trainer_lib

pytestmark = pytest.mark.large

SOUND = {"loss": 1.0, "top1_labelled": 0.5, "grad_norm": 2.0}


def settings(config, what_then="skip", limit=2):
    config.train.nonfinite, config.train.nonfinite_limit = what_then, limit
    return config.train


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_more_than_the_limit_end_the_run(tiny_config, capsys, name, value):
    found = nonfinite.NonFinitePolicy(settings(tiny_config), 1, "runs/x/checkpoints")
    assert found.look(1, SOUND) == {"loss": 1.0, "top1_labelled": 0.5} and found.count == 1
    found.look(2, {**SOUND, name: value})
    assert "step 2 is" in (said := capsys.readouterr().err) and "left out (2 of at most 2)" in said
    with pytest.raises(FloatingPointError, match=r"(?s)step 3 of this kind.*limit is 2.*learning"):
        found.look(3, {**SOUND, name: value})


def test_going_back_is_asked_for(tiny_config):
    found = nonfinite.NonFinitePolicy(settings(tiny_config, "back"), 0, "x")
    with pytest.raises(nonfinite.Rollback):
        found.look(5, {**SOUND, "loss": np.nan})
    assert found.count == 1


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines}


def test_a_step_that_is_not_finite_changes_no_weights(tiny_config, tmp_path, capsys):
    settings(tiny_config, limit=10)
    tiny_config.optim.learning_rate_per_256 = 1e25
    tiny_config.optim.warmup_epochs = 0.0
    tiny_config.train.save_every_steps = 1
    tiny_config.train.keep_checkpoints = 10
    train.run(tiny_config, tmp_path)
    assert "is left out (1 of at most 10)" in capsys.readouterr().err
    found = losses(tmp_path)
    assert sorted(found) == [1, 2, 3, 4, 5, 6] and found[6] is None and found[1] is not None
    models = [
        trees.digest(checkpoint.load_model(tmp_path / "checkpoints" / str(step))[1])
        for step in (1, 5, 6)
    ]
    assert models[1] == models[2]  # steps 2 to 6 have no finite gradient
    _, variables = checkpoint.load_model(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in trees.by_path(variables).values())


def test_too_many_of_them_stop_and_keep_the_last_good_checkpoint(tiny_config, tmp_path):
    settings(tiny_config, limit=0)
    tiny_config.optim.learning_rate_per_256 = 1e25
    tiny_config.optim.warmup_epochs = 0.0
    tiny_config.train.save_every_steps = 1
    with pytest.raises(FloatingPointError, match=r"the loss of step \d is (nan|inf)"):
        train.run(tiny_config, tmp_path)
    _, variables = checkpoint.load_model(tmp_path)  # what is there can be read
    assert trees.count(variables) > 0 and not (tmp_path / "manifest.json").exists()


def test_going_back_again_and_again_ends_too(tiny_config, tmp_path, monkeypatch, capsys):
    settings(tiny_config, "back", limit=2)
    real = trainer_lib.build

    def build(*arguments, **options):
        trainer = real(*arguments, **options)

        def step(*state_and_batch):
            state, metrics = trainer.step(*state_and_batch)
            return state, {**metrics, "loss": np.nan}

        step.lower = trainer.step.lower
        return dataclasses.replace(trainer, step=step)

    monkeypatch.setattr(trainer_lib, "build", build)
    with pytest.raises(FloatingPointError, match="step 3 of this kind, .* is 2"):
        train.run(tiny_config, tmp_path)
    assert "(2 of at most 2)" in capsys.readouterr().err


def test_back_to_the_last_checkpoint_and_on_another_way(tiny_config, tmp_path, monkeypatch, capsys):
    settings(tiny_config, "back")
    undisturbed = train.run(tiny_config, tmp_path / "undisturbed")
    real = trainer_lib.build

    def build(*arguments, **options):
        trainer, calls = real(*arguments, **options), itertools.count(1)

        def step(*state_and_batch):
            state, metrics = trainer.step(*state_and_batch)
            return state, {**metrics, "loss": np.nan} if next(calls) == 4 else metrics

        step.lower = trainer.step.lower
        return dataclasses.replace(trainer, step=step)

    monkeypatch.setattr(trainer_lib, "build", build)
    outputs = train.run(tiny_config, tmp_path / "run")
    said = capsys.readouterr().err
    assert "the loss of step 4 is nan" in said and "back to the last checkpoint (1 of" in said
    assert "resuming from step 2" in said
    ours, theirs = losses(tmp_path / "run"), losses(tmp_path / "undisturbed")
    assert sorted(ours) == sorted(theirs) == [1, 2, 3, 4, 5, 6]
    assert ours[2] == theirs[2] and ours[3] != theirs[3]
    assert outputs["model"] != undisturbed["model"]
    assert checkpoint.load_card(tmp_path / "run").counts.attempt == 1


def test_a_log_of_what_is_not_finite_is_still_json(tmp_path):
    from ns_jax.training.metrics_log import MetricsLog

    log = MetricsLog(tmp_path, 0)
    numbers = {"loss": float("nan"), "grad_norm": float("inf"), "top1": 0.5}
    log.write(1, {f"train/{name}": value for name, value in numbers.items()})
    log.close()

    def refuse(name):
        raise ValueError(name)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (line["train/loss"], line["train/grad_norm"], line["train/top1"]) == (None, None, 0.5)
