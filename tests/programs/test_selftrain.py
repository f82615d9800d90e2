"""The whole loop on a tiny config: its files, its resumption, and what it says of bad input."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from operator import attrgetter

import cv2
import numpy as np
import pytest

from ns_jax import config as config_lib
from ns_jax import trees
from ns_jax.checkpoints import checkpoint
from ns_jax.data import open as open_lib
from ns_jax.labelling import shards as shards_lib
from ns_jax.programs import evaluate, label, select, selftrain, train
from ns_jax.selection import table as table_lib
from tests import rounding

pytestmark = pytest.mark.large

FLAGS = {  # of the tiny config, for the command line
    "model.name": "efficientnet-pico",
    "train.batch_size": 10,
    "train.epochs": 1.2,
    "train.log_every_steps": 1,
    "train.save_every_steps": 2,
    "optim.warmup_epochs": 0.5,
    "label.images_per_shard": 256,
    "select.threshold": 0.0,
    "select.per_class": 20,
    "selftrain.iterations": 1,
    "selftrain.overrides.iteration_1.train.unlabelled_ratio": 2.0,
}


def start(workdir, environment):
    flags = [f"--config.{name}={value}" for name, value in FLAGS.items()]
    command = ["-m", "ns_jax", "selftrain", "--config=configs/digits.py", f"--workdir={workdir}"]
    return subprocess.Popen(
        [sys.executable, *command, *flags],
        env=environment,
        cwd=environment["PYTHONPATH"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, environment):
    """The workdir of a run that was never killed, and what it printed."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, finish(start(workdir, environment))


def results(workdir):
    """All that has to come out the same: weights, selections, labels, scores."""
    found = {}
    for k in (0, 1):
        directory = workdir / f"iteration_{k}"
        _, variables = checkpoint.load_model(directory)
        found[f"model {k}"] = trees.digest(variables)
        score = json.loads((directory / "eval.json").read_text())
        found[f"scores {k}"] = [score["top1"], score["ece"], score["per_class"]]
    directory = workdir / "iteration_1"
    for shard in sorted((directory / "labels").glob("*.parquet")):
        columns = shards_lib.Shard(shard).read("index", "label", "confidence", "status")
        found[shard.name] = [column.tolist() for column in columns.values()]
    found["selection"] = (directory / "selection" / table_lib.NAME).read_bytes()
    return found


def test_every_stage_leaves_its_files(undisturbed):
    workdir, output = undisturbed
    files = {
        str(p.relative_to(workdir)) for p in workdir.rglob("*") if "checkpoints" not in p.parts
    }
    assert {
        "config.json",
        "iteration_0/eval.json",
        "iteration_0/manifest.json",
        "iteration_0/metrics.jsonl",
        "iteration_1/labels/labels-00000-of-00005.parquet",
        "iteration_1/labels/manifest.json",
        "iteration_1/selection/selection.arrow",
        "iteration_1/selection/report.json",
        "iteration_1/selection/manifest.json",
        "iteration_1/eval.json",
        "iteration_1/manifest.json",
        "iteration_1/metrics.jsonl",
    } <= files
    assert not [name for name in files if name.endswith(".tmp")]
    assert "labels right" in output and "student 1" in output
    lines = (workdir / "iteration_1" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(json.loads(lines[-1])["train/loss"])
    step_dir = checkpoint.find(workdir / "iteration_1")
    assert step_dir.name == "6"
    assert {"state", "model", "description"} <= {p.name for p in step_dir.iterdir()}
    described = json.loads((step_dir / "description" / "model.json").read_text())
    assert described["model"]["name"] == "efficientnet-pico"
    assert described["preprocessing"]["size"] == 16 and len(described["class_names"]) == 10


def test_scores_and_selection_belong_together(undisturbed):
    workdir, _ = undisturbed
    score = json.loads((workdir / "iteration_1" / "eval.json").read_text())
    assert score["num_images"] == 599 and score["num_corrupt"] == 0
    assert 0 <= score["top1"] <= score["top5"] <= 1 and len(score["per_class"]) == 10
    selection = table_lib.Selection(workdir / "iteration_1" / "selection")
    report = json.loads((workdir / "iteration_1" / "selection" / "report.json").read_text())
    seen = [c for c in report["classes"] if c["candidates"]]
    assert len(selection) == 20 * len(seen) == report["kept"] + report["copies"]
    assert 0 <= report["accuracy"] <= 1


def test_a_finished_run_does_nothing_again(undisturbed, environment):
    workdir, _ = undisturbed
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    output = finish(start(workdir, environment))
    assert output.count("already") == 4 and "student 1" in output
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()} == before


def test_it_leaves_a_report_and_when_each_stage_was_at_work(undisturbed):
    workdir, _ = undisturbed
    content = json.loads((workdir / "report.json").read_text())
    assert content["state"] == "finished" and (workdir / "report.html").stat().st_size > 10_000
    scores = [json.loads((workdir / f"iteration_{k}/eval.json").read_text()) for k in (0, 1)]
    gain = 100 * (scores[1]["top1"] - scores[0]["top1"])
    assert content["verdict"]["difference"]["mean"] == pytest.approx(gain)
    assert [row["stage"] for row in content["times"]] == [
        *("iteration_0/train", "iteration_0/evaluate"),
        *(f"iteration_1/{name}" for name in ("label", "select", "train", "evaluate")),
    ]
    assert all(row["seconds"] > 0 and row["starts"] == 1 for row in content["times"])
    assert "ns_jax selftrain --config=configs/digits.py" in content["repeat"]["commands"][0]


def test_a_report_that_fails_stops_no_run(tiny_config, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("of the page")

    monkeypatch.setattr(selftrain.report, "write", fail)
    monkeypatch.setenv(selftrain.report.ERRORS, "")
    stages = selftrain._Stages(tiny_config, tmp_path)
    with stages.stage(tmp_path / "iteration_0", "train"):
        pass
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "ZeroDivisionError('of the page')" in said
    monkeypatch.setenv(selftrain.report.ERRORS, "raise")  # as all tests do
    with (
        pytest.raises(ZeroDivisionError),
        stages.stage(tmp_path / "iteration_1", "train"),
    ):
        pass


# What shows that a stage is under way, what that it is over, and what a new try removes first.
STAGES = {
    "teacher": ("iteration_0/checkpoints/2", "iteration_0/manifest.json", "iteration_0"),
    "teacher's evaluation": (
        "iteration_0/manifest.json",
        "iteration_0/eval.json",
        "iteration_0/manifest.json",
    ),
    "labelling": ("iteration_1/labels", "iteration_1/labels/manifest.json", "iteration_1"),
    "selection": (
        "iteration_1/selection",
        "iteration_1/selection/manifest.json",
        "iteration_1/selection",
    ),
    "student": (
        "iteration_1/checkpoints/2",
        "iteration_1/manifest.json",
        "iteration_1/checkpoints",
    ),
    "student's evaluation": (
        "iteration_1/manifest.json",
        "iteration_1/eval.json",
        "iteration_1/manifest.json",
    ),
}


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def kill_within(stage, workdir, environment, seconds: float) -> bool:
    """Starts the run, kills it so long after the stage began; whether it was still going on."""
    begun, over, removed = (workdir / name for name in STAGES[stage])
    for path in (removed, over):
        remove(path)
    assert not begun.exists()
    process = start(workdir, environment)
    while process.poll() is None and not begun.exists():
        time.sleep(0.001)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return begun.exists() and not over.exists()


@pytest.mark.chaos
def test_killed_in_every_stage_it_ends_in_the_same_bits(undisturbed, environment, tmp_path):
    seed = int(os.environ.get("NS_JAX_TEST_SEED", time.time_ns() % 2**32))
    print(f"NS_JAX_TEST_SEED={seed}")
    chance = random.Random(seed)
    for stage in STAGES:
        # A stage may be over before the kill comes (a selection takes 8 ms); then it is undone and
        # tried again, with a kill that comes sooner.
        waits = (chance.uniform(0, 0.1 / 2**number) for number in range(8))
        tries = (kill_within(stage, tmp_path, environment, seconds) for seconds in waits)
        assert any(tries), f"{stage} was over before each of eight kills"
    finish(start(tmp_path, environment))
    ours, theirs = results(tmp_path), results(undisturbed[0])
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name] == theirs[name], f"{name} differs after a kill in every stage"


def test_another_config_or_other_data_in_a_workdir_is_refused(undisturbed, tiny_config):
    workdir = undisturbed[0] / "iteration_0"
    tiny_config.data.split_seed = 1  # other labelled images
    with pytest.raises(ValueError, match="(?s)made of other inputs.*labelled"):
        train.run(tiny_config, workdir)


def test_a_checkpoint_of_another_architecture_is_refused_with_the_difference(
    undisturbed, tiny_config, tmp_path
):
    tiny_config.model.name = "efficientnet-nano"
    tiny_config.train.init = str(undisturbed[0] / "iteration_0")
    with pytest.raises(ValueError, match="(?s)another network.* expected, .* found"):
        train.run(tiny_config, tmp_path)


def test_a_student_may_start_from_its_teacher(undisturbed, tiny_config, tmp_path):
    tiny_config.train.init = str(undisturbed[0] / "iteration_0")
    tiny_config.optim.learning_rate_per_256 = 0.0
    train.run(tiny_config, tmp_path)
    _, teacher = checkpoint.load_model(undisturbed[0] / "iteration_0")
    _, student = checkpoint.load_model(tmp_path)
    rounding.close_trees(student["params"], teacher["params"])


def test_classes_must_be_those_of_the_checkpoint(undisturbed, tiny_config, tmp_path):
    for name in ("0", "1", "ten"):
        (tmp_path / "images" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / name / "a.png"), np.zeros((8, 8, 3), np.uint8))
    tiny_config.data.test = f"folder:{tmp_path / 'images'}"
    tiny_config.evaluate.checkpoint = str(undisturbed[0] / "iteration_0")
    with pytest.raises(ValueError, match="has 3 classes, .* has 10; missing: 2, .*surplus: ten"):
        evaluate.run(tiny_config, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"selftrain.overrides.iteration_1.train.unlabelled_ratio": 0.0},
            "iteration 1 is a student",
        ),
        ({"train.unlabelled_ratio": 1.0}, "iteration 0 has no teacher"),
        ({"data.unlabelled": "folder:/nowhere"}, "is not a directory"),
        ({"randaugment.overflow": "clip"}, "overflow"),
        (
            {
                "selftrain.student_init": "teacher",
                "selftrain.overrides.iteration_1.model": {"name": "efficientnet-b0"},
            },
            "iteration 1 is efficientnet-b0 and its teacher efficientnet-pico",
        ),
    ],
)
def test_a_mistake_in_a_later_iteration_is_said_at_once(tiny_config, tmp_path, changes, message):
    for path, value in changes.items():
        section, _, name = path.rpartition(".")
        with tiny_config.unlocked():
            attrgetter(section)(tiny_config)[name] = value
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        selftrain.run(tiny_config, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folders(tmp_path):
    """Digits as PNG and JPEG files: labelled, unlabelled and test folders, two of them broken."""
    for split, most in (("train", 49), ("unlabelled", 120), ("test", 60)):
        source = open_lib.open_source(f"digits:{split}", labels_per_class=5, seed=0)
        for i in range(min(most, len(source))):
            kind = ".png" if i % 2 else ".jpg"
            name = "" if split == "unlabelled" else source.class_names[source[i]["label"]]
            path = tmp_path / split / name / f"{source[i]['key']}{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), source[i]["image"])
    (tmp_path / "unlabelled" / "digit-0000-broken.png").write_bytes(b"not an image")
    (tmp_path / "train" / "3" / "notes.png").write_text("not an image either")
    for name in ("train", "train/3", "train/4"):  # of 49 images two more bad ones were too many
        (tmp_path / name / "Thumbs.db").write_bytes(b"no image at all")
    return tmp_path


def test_folders_of_images_with_broken_files_go_through_the_whole_loop(
    folders, tiny_config, tmp_path, capfd
):
    for name, split in (("labelled", "train"), ("unlabelled", "unlabelled"), ("test", "test")):
        tiny_config.data[name] = f"folder:{folders / split}"
    tiny_config.data.max_bad_fraction = 0.05
    student = tiny_config.selftrain.overrides.iteration_1
    student.model = {"name": "efficientnet-nano"}  # larger than its teacher
    workdir = tmp_path / "run"
    teacher, student = selftrain.run(tiny_config, workdir)
    assert student["labels"]["num_bad"] == 1 and student["labels"]["accuracy"] is None
    assert teacher["training"]["num_bad"] == [1]
    assert student["evaluation"]["num_images"] == 60
    sizes = [trees.count(checkpoint.load_model(workdir / f"iteration_{k}")[1]) for k in (0, 1)]
    assert sizes[0] < sizes[1]
    shard = next((workdir / "iteration_1" / "labels").glob("*.parquet"))
    rows = shards_lib.Shard(shard).read("key", "status", "label")
    broken = rows["key"] == "digit-0000-broken.png"
    assert rows["status"][broken].tolist() == ["not an image"]
    assert rows["label"][broken].tolist() == [-1] and (rows["status"][~broken] == "ok").all()
    shown = capfd.readouterr().err
    assert "digit-0000-broken.png: not an image" in shown and "3/notes.png: not an image" in shown
    assert shown.count("passed over 3 .db files that are no images") == 1

    tiny_config.data.max_bad_fraction = 0.001
    with pytest.raises(
        ValueError, match="(?s)1 of 121 images .*bad_fraction=0.001 .*broken.png: not"
    ):
        at_student = config_lib.at_iteration(tiny_config, 1)
        at_student.label.checkpoint = str(workdir / "iteration_0")
        label.run(at_student, tmp_path / "again")


def test_a_filter_chooses_once_what_all_teachers_label(tiny_config, make_teacher, tmp_path):
    given, small = (make_teacher(tmp_path / str(seed), seed) for seed in (1, 2))
    tiny_config.selftrain.teacher, tiny_config.selftrain.filter = str(given), str(small)
    tiny_config.train.epochs = 0.4  # 2 steps
    workdir = tmp_path / "run"
    _, student = selftrain.run(tiny_config, workdir)
    filtered, relabelled = (
        table_lib.Selection(workdir / place / "selection") for place in ("filter", "iteration_1")
    )
    np.testing.assert_array_equal(relabelled.index, filtered.index)  # copies and all
    assert (np.asarray(relabelled.label) != np.asarray(filtered.label)).any()
    assert student["labels"]["num_images"] == len(np.unique(filtered.index)) < 1148

    tiny_config.selftrain.iterations = 0
    with pytest.raises(ValueError, match="filter is set, but selftrain.iterations is 0"):
        selftrain.run(tiny_config, tmp_path / "other")


def digest_of(directory):
    return trees.digest(checkpoint.load_model(directory)[1])


def made_of(directory):
    return json.loads((directory / "manifest.json").read_text())["inputs"]


def test_init_and_a_new_classifier_are_the_teachers_alone(
    few_stages, tiny_config, make_teacher, tmp_path, capsys
):
    """The students begin from scratch, and a fine-tune keeps the classifier of its training."""
    given, other = (str(make_teacher(tmp_path / f"given{n}", n)) for n in (1, 2))
    tiny_config.train.init, tiny_config.train.new_head = given, True
    tiny_config.train.epochs = tiny_config.finetune.epochs = 0.2  # a step
    tiny_config.finetune.frozen_stages = 0
    tiny_config.optim.learning_rate_per_256 = 0.0
    tiny_config.selftrain.iterations = 2
    student = {"train": {"unlabelled_ratio": 2.0, "init": other}}
    tiny_config.selftrain.overrides = {
        "iteration_0": {},
        "iteration_1": {"train": {"unlabelled_ratio": 2.0}},
        "iteration_2": student,
    }
    selftrain.run(tiny_config, tmp_path / "run")
    assert capsys.readouterr().err.count("the classifier starts afresh") == 1
    directories = [tmp_path / "run" / f"iteration_{k}" for k in range(3)]
    assert [made_of(d).get("init") for d in directories] == [
        digest_of(given),
        None,
        digest_of(other),  # which iteration_2 names for itself
    ]
    for directory in directories:
        assert made_of(directory / "finetune")["init"] == digest_of(directory)
        heads = [
            checkpoint.load_model(d)[1]["params"]["head_fc"]["kernel"]
            for d in (directory, directory / "finetune")
        ]
        rounding.close(*heads)  # no rate, but the L2 penalty's rounding


def test_a_student_from_its_teacher_keeps_the_classifier(tiny_config, make_teacher, tmp_path):
    tiny_config.train.init, tiny_config.train.new_head = str(make_teacher(tmp_path / "a")), True
    tiny_config.selftrain.student_init = "teacher"
    first, student = (selftrain._iteration_config(tiny_config, tmp_path, k) for k in (0, 1))
    assert (first.train.init, first.train.new_head) == (str(tmp_path / "a"), True)
    assert student.train.init == str(tmp_path / "iteration_0") and not student.train.new_head


def test_an_init_of_another_network_is_said_before_the_first_step(
    tiny_config, make_teacher, tmp_path
):
    init = str(make_teacher(tmp_path / "given"))
    tiny_config.selftrain.overrides.iteration_1 = {
        "model": {"name": "efficientnet-nano"},
        "train": {"unlabelled_ratio": 2.0, "init": init},
    }
    with pytest.raises(ValueError, match="iteration 1 is efficientnet-nano and train.init=.*pico"):
        selftrain.run(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fine_tune_has_a_seed_of_its_own(tiny_config, tmp_path):
    tiny_config.finetune.epochs = 1.0
    tiny_config.selftrain.iterations = 2
    seeds = []
    for k in range(3):
        config = selftrain._iteration_config(tiny_config, tmp_path, k)
        seeds += [config.seed, selftrain._finetune_config(config, tmp_path).seed]
    assert len(set(seeds)) == 6 and min(seeds) >= 0


def test_a_teacher_in_the_step_is_each_iterations_own(
    few_stages, tiny_config, make_teacher, tmp_path
):
    """The official scripts' flow: nothing is labelled before, the images are all of the pool."""
    given = str(make_teacher(tmp_path / "given"))
    tiny_config.train.teacher, tiny_config.selftrain.teacher = "previous", given
    tiny_config.train.epochs = 0.2  # a step
    tiny_config.selftrain.iterations = 2
    summaries = selftrain.run(tiny_config, tmp_path / "run")
    directories = [tmp_path / "run" / f"iteration_{k}" for k in range(3)]
    assert [made_of(d)["teacher"] for d in directories[1:]] == [
        digest_of(given),
        digest_of(directories[1]),
    ]
    assert not [d for d in directories if (d / "labels").exists() or (d / "selection").exists()]
    assert all("selection" not in made_of(d) for d in directories[1:])
    assert "labels" not in summaries[1] and summaries[2]["evaluation"]["num_images"] == 599

    # With a filter, of the images that it kept.
    tiny_config.selftrain.filter = str(make_teacher(tmp_path / "small", 2))
    tiny_config.selftrain.iterations = 1
    selftrain.run(tiny_config, tmp_path / "filtered")
    chosen = made_of(tmp_path / "filtered" / "iteration_1")["selection"]
    manifest = tmp_path / "filtered" / "filter" / "selection" / "manifest.json"
    assert chosen == json.loads(manifest.read_text())["outputs"]["digest"]


def test_one_teacher_in_the_step_of_all_students_is_refused(tiny_config, make_teacher, tmp_path):
    tiny_config.train.teacher = str(make_teacher(tmp_path / "given"))
    with pytest.raises(ValueError, match='set train.teacher="previous": each iteration'):
        selftrain.run(tiny_config, tmp_path / "run")
    tiny_config.train.teacher = "previous"
    student = config_lib.at_iteration(tiny_config, 1)
    with pytest.raises(ValueError, match='"previous" is the teacher of an iteration of selftrain'):
        train.run(student, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_selection_that_is_damaged_is_made_again(few_stages, tiny_config, make_teacher, tmp_path):
    tiny_config.selftrain.teacher = str(make_teacher(tmp_path / "given"))
    tiny_config.train.epochs = 0.4  # 2 steps
    outputs = selftrain.run(tiny_config, tmp_path / "run")[1]
    path = tmp_path / "run" / "iteration_1" / "selection" / table_lib.NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff" + whole[len(whole) // 2 + 1 :])
    assert selftrain.run(tiny_config, tmp_path / "run")[1] == outputs
    assert path.read_bytes() == whole


def test_stages_work_one_by_one_too(undisturbed, tiny_config, tmp_path):
    """The programs by themselves give what the loop gives."""
    tiny_config.label.checkpoint = str(undisturbed[0] / "iteration_0")
    tiny_config.select.labels = str(tmp_path / "labels")
    label.run(tiny_config, tmp_path)
    outputs = select.run(tiny_config, tmp_path)
    theirs = undisturbed[0] / "iteration_1" / "selection"
    assert (tmp_path / "selection" / table_lib.NAME).read_bytes() == (
        theirs / table_lib.NAME
    ).read_bytes()
    assert (
        outputs["digest"] == json.loads((theirs / "manifest.json").read_text())["outputs"]["digest"]
    )
