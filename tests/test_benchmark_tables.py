"""The tables of ablations and of the ladder: what is run, resumed, compared and concluded."""

import json

import numpy as np
import pytest
from scipy import stats

from benchmarks import ablations as table
from benchmarks import classical, ladder, runs
from configs import ablations
from ns_jax import config as config_lib
from ns_jax.data import open as open_lib
from ns_jax.errors import InputError
from tests import rounding


def changed(name, which="digits", iteration=1):
    """What an iteration of an ablation has other than that of `base`."""
    found = [
        config_lib.flat(
            config_lib.at_iteration(ablations.get_config(f"set={which},name={one}"), iteration)
        )
        for one in ("base", name)
    ]
    ignored = ("selftrain.overrides", "selftrain.iterations")
    return {
        key: value
        for key, value in found[1].items()
        if found[0].get(key) != value and not key.startswith(ignored)
    }


@pytest.mark.parametrize("which", ablations.SETS)
@pytest.mark.parametrize("name", ablations.ABLATIONS)
def test_ablations_are_students_of_known_keys(name, which):
    config = ablations.get_config(f"set={which},name={name}")
    student = config_lib.at_iteration(config, 1)
    assert student.train.unlabelled_ratio > 0
    assert config.selftrain.iterations == (ablations.ITERATIONS if name == "base" else 1)


def test_an_ablation_changes_what_it_names_and_nothing_else():
    assert changed("no_noise") == {"train.unlabelled_noise": "none"}
    assert changed("hard") == {"loss.pseudo_labels": "hard"}
    assert changed("ratio_7", "fashion") == {"train.unlabelled_ratio": 7.0}
    assert changed("student_b0") == {"model.name": "efficientnet-b0"}
    assert changed("pool_1_4") == {"select.fraction": 0.25, "select.per_class": 20}
    assert changed("noised_teacher") == {"train.teacher_noise": True}
    assert changed("teacher_pico") == {}  # the student is the same
    assert changed("teacher_pico", iteration=0) == {"model.name": "efficientnet-pico"}
    alone = [name for name in ablations.ABLATIONS if changed(name, iteration=0)]
    # Others than those at the top level, which the given teacher does not depend on.
    top = {"other_pool_soft", "other_pool_hard", "pool_1_16", "pool_1_4", "from_teacher"}
    assert set(alone) - top == {"teacher_pico", "teacher_b0"}


def test_unknown_ablations_list_the_known_ones():
    with pytest.raises(InputError, match="name=nothing; known: base, "):
        ablations.get_config("name=nothing")


def test_every_comparison_is_of_something_that_is_run():
    known = {"teacher", table.PRETRAINED, *(f"student {k}" for k in (1, 2, 3, 4))}
    known |= ablations.ABLATIONS.keys()
    for finding in table.FINDINGS:
        assert {finding.variant, finding.against} <= known


@pytest.mark.parametrize(
    ("difference", "sign", "expected"),
    [
        ((1.0, 0.1, 1.9), +1, "agrees"),
        ((1.0, -0.1, 2.1), +1, "undecided"),
        ((-1.0, -1.9, -0.1), +1, "disagrees"),
        ((-1.0, -1.9, -0.1), -1, "agrees"),
        ((1.0, 0.1, 1.9), -1, "disagrees"),
        ((0.2, -0.7, 0.9), 0, "agrees"),
        ((0.2, -1.2, 0.9), 0, "undecided"),
        ((2.0, 1.2, 2.9), 0, "disagrees"),
        ((5.0, float("-inf"), float("inf")), +1, "undecided"),  # a single seed
    ],
)
def test_a_verdict_needs_the_whole_interval(difference, sign, expected):
    assert table.verdict(difference, sign) == expected


def test_differences_are_paired_and_their_interval_is_students():
    ours, theirs = [90.0, 80.0, 85.0, 70.0], [88.0, 79.0, 82.0, 68.5]
    mean, low, high = runs.difference(ours, theirs)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert mean == pytest.approx(1.875)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert runs.difference([1.0], [0.5])[1:] == (float("-inf"), float("inf"))


def test_a_finished_run_is_not_run_again_and_a_broken_one_is(tmp_path):
    calls = []

    def fail():
        calls.append("failed")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        runs.once(tmp_path / "x", ["a"], fail)
    before = runs.seconds(tmp_path / "x")
    runs.once(tmp_path / "x", ["a"], lambda: calls.append("done"))
    assert runs.seconds(tmp_path / "x") > before > 0  # of both starts
    runs.once(tmp_path / "x", ["a"], lambda: calls.append("again"))
    runs.once(tmp_path / "x", ["b"], lambda: calls.append("other flags"))
    assert calls == ["failed", "done", "other flags"]


def write_score(directory, top1):
    directory.mkdir(parents=True)
    (directory / "eval.json").write_text(json.dumps({"top1": top1}))


def test_the_tables_are_of_what_is_there(tmp_path):
    for seed, (teacher, student, hard) in enumerate([(0.8, 0.9, 0.9), (0.7, 0.82, 0.81)]):
        base = tmp_path / f"seed_{seed}" / "base"
        write_score(base / "iteration_0", teacher)
        write_score(base / "iteration_1", student)
        write_score(tmp_path / f"seed_{seed}" / "hard" / "iteration_1", hard)
    found = {seed: table.scores(tmp_path / f"seed_{seed}") for seed in (0, 1)}
    text = table.report("digits", found)
    assert (
        "| a student beats its teacher | student 1 less teacher | 86.00 less 75.00 | +11.00" in text
    )
    assert "student 2 less student 1" not in text
    ladder_root = tmp_path / "ladder"
    for seed, top1 in enumerate((0.9, 0.92)):
        write_score(ladder_root / f"seed_{seed}" / "loop" / "iteration_2", top1)
        write_score(ladder_root / f"seed_{seed}" / "SVM on HOG", top1 - 0.1)
    text = ladder.report("digits", [0, 1, 2], ladder_root)
    assert "| SVM on HOG | 81.00 ± 1.41 | 80.00, 82.00 | 0.0 | +10.00 (+10.00 to +10.00) |" in text
    assert "| Noisy Student, 2 | 91.00 ± 1.41 |" in text and "upper bound" not in text


def test_the_loops_images_are_counted_as_they_are_trained_on():
    config = ladder.SETS["digits"].get_config()
    # 200 steps of 50 images, then 200 of 250 for each student.
    assert [ladder.loop_images(config, k) for k in (0, 1, 2)] == [1, 6, 11]
    costs = {rung.name: dict(rung.costs) for rung in ladder.rungs(config)}
    assert costs["Noisy Student, 3"] == {"loop": 1.0}
    assert costs["teacher: labels alone"]["loop"] == pytest.approx(1 / 16)


def test_classical_methods_learn_from_histograms_of_gradients():
    labelled, pool, test = (
        open_lib.open_source(f"digits:{split}", labels_per_class=20, seed=0)
        for split in ("train", "unlabelled", "test")
    )
    task = classical.Task(
        classical.features(labelled, 16),
        labelled.labels,
        classical.features(pool, 16)[:200],
        classical.features(test, 16),
    )
    assert task.test.shape == (599, 324)
    for method in (classical.support_vectors, classical.label_spreading):
        assert (method(task) == test.labels).mean() > 0.9


def test_the_histogram_of_an_edge_has_one_direction():
    edge = np.zeros((1, 16, 16), np.float32)
    edge[:, :, 8:] = 255  # left to right: direction 0
    blocks = classical._hog(edge).reshape(-1, classical.BINS)
    assert blocks[:, 0].max() > 0 and not blocks[:, 1:].any()
    across = classical._hog(edge.transpose(0, 2, 1)).reshape(-1, classical.BINS)
    # A quarter turn is half way between the fifth and the sixth of nine directions.
    rounding.close(across[:, 4], across[:, 5])
    assert across[:, 4].max() > 0 and not across[:, [0, 1, 2, 3, 6, 7, 8]].any()
