import dataclasses
import json

import cv2
import numpy as np
import pytest

from ns_jax import config as config_lib
from ns_jax import trees
from ns_jax.checkpoints import checkpoint
from ns_jax.errors import InputError
from ns_jax.programs import label, select, selftrain, train
from ns_jax.training import numbers as numbers_lib
from ns_jax.training import trainer as trainer_lib
from tests import rounding

pytestmark = pytest.mark.large


@pytest.fixture
def teacher(tmp_path, make_teacher):
    """Labels need not be good."""
    return make_teacher(tmp_path / "teacher")


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train/loss"] for line in lines]


def test_a_teacher_in_the_step_equals_its_stored_labels(
    few_stages, make_teacher, tiny_config, tmp_path
):
    directory = str(make_teacher(tmp_path / "teacher"))
    config = config_lib.at_iteration(tiny_config, 1)
    config.train.epochs = 0.8  # 4 steps
    config.label.checkpoint = directory
    config.label.classes_kept = 10  # all there are
    config.select.labels = str(tmp_path / "labels")
    config.train.selection = str(tmp_path / "selection")
    label.run(config, tmp_path)
    select.run(config, tmp_path)
    train.run(config, tmp_path / "stored")
    config.train.teacher = directory
    train.run(config, tmp_path / "in_the_step")
    # Stored probabilities are whole 65,535ths.
    ours, theirs = losses(tmp_path / "stored"), losses(tmp_path / "in_the_step")
    assert len(ours) == 4
    rounding.close(ours, theirs, 1e-4)


def test_a_mistake_leaves_the_workdir_free_for_the_corrected_command(tiny_config, tmp_path):
    config = config_lib.at_iteration(tiny_config, 1)
    config.train.selection = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_noised_teacher_must_see_what_its_student_sees(teacher, tiny_config):
    config = config_lib.at_iteration(tiny_config, 1)
    config.train.teacher, config.train.teacher_noise = str(teacher), True
    config.data.image_size = 24
    with pytest.raises(InputError, match="teacher takes 16 pixels.* have 24"):
        trainer_lib.build(
            config, numbers_lib.derive(config, 50, 1), 10, teacher=checkpoint.load_card(teacher)
        )


@pytest.mark.parametrize(
    ("noise", "kind", "operators"),
    [("all", "pad", 2), ("model", "pad", 0), ("none", "evaluation", 2)],
)
def test_noise_can_be_kept_from_unlabelled_images(tiny_config, noise, kind, operators):
    config = config_lib.at_iteration(tiny_config, 1)
    config.train.selection = "selection"
    config.train.unlabelled_noise = noise
    config.data.train_view = "pad"
    built = trainer_lib.build(config, numbers_lib.derive(config, 50, 1), 10)
    assert (built.view.kind, built.view.randaugment.num_layers) == ("pad", 2)
    view = built.unlabelled_view
    assert (view.kind, view.randaugment.num_layers) == (kind, operators)


@pytest.mark.parametrize("view", ["crop", "pad", "evaluation"])
def test_dropout_and_stochastic_depth_go_with_the_noise_whatever_the_view(
    few_stages, tiny_config, monkeypatch, view
):
    seen, compile_train_step = [], trainer_lib.step_lib.compile_train_step

    def compiled(*arguments, **static):
        seen.append(static["objective"])
        return compile_train_step(*arguments, **static)

    monkeypatch.setattr(trainer_lib.step_lib, "compile_train_step", compiled)
    config = config_lib.at_iteration(tiny_config, 1)
    config.train.selection, config.data.train_view = "selection", view
    for noise in ("all", "model", "none"):
        config.train.unlabelled_noise = noise
        trainer_lib._compiled.cache_clear()
        trainer_lib.build(config, numbers_lib.derive(config, 50, 1), 10)
    assert [objective.unlabelled_noise for objective in seen] == [True, True, False]


def test_a_fine_tune_is_the_last_stage_of_an_iteration(few_stages, tiny_config, tmp_path):
    tiny_config.selftrain.iterations = 0
    tiny_config.finetune.epochs = 0.4  # 2 steps
    tiny_config.finetune.image_size = 24
    tiny_config.finetune.frozen_stages = 2
    selftrain.run(tiny_config, tmp_path)
    trained, tuned = tmp_path / "iteration_0", tmp_path / "iteration_0" / "finetune"
    before, after = (trees.by_path(checkpoint.load_model(d)[1]["params"]) for d in (trained, tuned))
    kept = {path for path in before if np.array_equal(before[path], after[path])}
    assert {path.split("/")[0] for path in kept} == {"stem_conv", "stem_bn", "stage1", "stage2"}
    assert not [p for p in before if p.split("/")[0] in ("stage1", "stage2") and p not in kept]
    assert checkpoint.load_card(tuned).preprocessing.size == 24
    score = json.loads((trained / "eval.json").read_text())
    assert score["inputs"]["model"] == trees.digest(checkpoint.load_model(tuned)[1])
    rates = [
        json.loads(line)["train/learning_rate"]
        for directory in (trained, tuned)
        for line in (directory / "metrics.jsonl").read_text().splitlines()
    ]
    assert rates[-2:] == rates[4:6]  # of the last two of six steps


def test_labelled_images_below_one_a_core_scale_the_recipe(tiny_config):
    config = config_lib.at_iteration(tiny_config, 1)
    config.train.batch_size, config.train.sample_prob = 2048, 0.5
    config.train.unlabelled_ratio = 28.0
    config.train.selection = "selection"
    numbers = numbers_lib.derive(config, 1_281_167, 2048)
    assert (numbers.labelled, numbers.unlabelled) == (2048, 28_672)  # 1 and 14 a core
    assert numbers.labelled_batch == 1024 and numbers.steps_per_epoch == 1_281_167 / 1024
    assert numbers.unlabelled_weight == 28 * 2048 / 28_672  # L_labelled + r L_unlabelled


@pytest.mark.parametrize("normalise", ["labelled", "all"])
@pytest.mark.parametrize("sample_prob", [1.0, 0.5])
@pytest.mark.parametrize(("ratio", "rows"), [(0.25, (3, 2)), (1.1, (11, 6)), (2.0, (20, 10))])
def test_the_loss_weighs_the_ratio_itself_however_rows_are_rounded(
    tiny_config, normalise, sample_prob, ratio, rows
):
    config = config_lib.at_iteration(tiny_config, 1)
    config.train.unlabelled_ratio, config.train.sample_prob = ratio, sample_prob
    config.train.selection, config.loss.normalise = "selection", normalise
    numbers = numbers_lib.derive(config, 50, 1)
    assert numbers.unlabelled == rows[0 if sample_prob == 1 else 1]
    total = numbers.unlabelled * numbers.unlabelled_weight
    if normalise == "labelled":  # by the batch, not by those kept of it, as official
        assert total / numbers.loss_divisor == pytest.approx(ratio, rel=1e-9)
    else:
        assert total / (10 * sample_prob) == pytest.approx(ratio, rel=1e-9)
        assert numbers.loss_divisor == pytest.approx(10 + total, rel=1e-9)
    if ratio == 2.0 and (sample_prob == 1 or normalise == "all"):
        assert numbers.unlabelled_weight == 1.0  # to the last bit: nothing is rounded


def test_a_step_is_told_of_its_broken_images(few_stages, tiny_config, tmp_path, monkeypatch):
    """On one CPU it is told only where there are some: other steps keep their bits and speed."""
    folder, told, real = tmp_path / "labelled", [], trainer_lib.build
    for name in map(str, range(10)):
        (folder / name).mkdir(parents=True)
        for copy in range(2):
            image = np.full((16, 16, 3), 20 * copy + int(name), np.uint8)
            cv2.imwrite(str(folder / name / f"{copy}.png"), image)
    (folder / "3" / "0.png").write_bytes(b"not an image")

    def build(*arguments, **options):
        trainer = real(*arguments, **options)

        def step(state, batch, *others):
            told.append(int(batch["bad"].sum()) if "bad" in batch else None)
            return trainer.step(state, batch, *others)

        step.lower = trainer.step.lower
        return dataclasses.replace(trainer, step=step)

    monkeypatch.setattr(trainer_lib, "build", build)
    tiny_config.data.labelled, tiny_config.data.max_bad_fraction = f"folder:{folder}", 0.1
    tiny_config.train.epochs, tiny_config.optim.warmup_epochs = 2.0, 0.0
    outputs = train.run(tiny_config, tmp_path / "run")
    assert outputs["num_bad"] == [1]
    assert sorted(told[:2], key=str) == sorted(told[2:], key=str) == [1, None]
    assert np.isfinite(losses(tmp_path / "run")).all()


def test_groups_follow_the_official_rule(tiny_config):
    counts = {1: 1, 2: 2, 8: 8, 16: 2, 32: 4, 64: 8, 128: 8, 512: 8, 2048: 8}
    for devices, groups in counts.items():
        tiny_config.train.batch_size = 2048
        numbers = numbers_lib.derive(tiny_config, 100_000, devices)
        assert numbers.stat_groups == groups


@pytest.mark.pod
def test_a_batch_in_pieces_trains_and_finds_its_broken_images(teacher, tiny_config, tmp_path):
    config = config_lib.at_iteration(tiny_config, 1)
    folder = tmp_path / "labelled"
    for name in map(str, range(10)):
        (folder / name).mkdir(parents=True)
        for copy in range(4):
            image = np.full((16, 16, 3), 20 * copy + int(name), np.uint8)
            cv2.imwrite(str(folder / name / f"{copy}.png"), image)
    (folder / "3" / "0.png").write_bytes(b"not an image")
    config.data.labelled, config.data.max_bad_fraction = f"folder:{folder}", 0.1
    config.train.teacher = str(teacher)
    config.train.batch_size, config.train.unlabelled_ratio, config.train.epochs = 8, 2.0, 1.0
    config.train.accumulate, config.model.stat_groups = 2, 2
    outputs = train.run(config, tmp_path / "run")
    assert outputs["step"] == 5 and outputs["num_bad"] == [1, 0]
    assert np.isfinite(losses(tmp_path / "run")).all()
    (tmp_path / "run" / "manifest.json").unlink()  # stopped just before the end
    assert train.run(config, tmp_path / "run") == outputs
