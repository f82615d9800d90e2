"""Every program takes paths of any name: commas, brackets, quotes, a plus, and `~`."""

import json
import os

import cv2
import pytest

import ns_jax
from ns_jax import __main__
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.errors import InputError
from ns_jax.inference import teachers
from ns_jax.programs import convert, doctor, evaluate, label, select, selftrain, train

pytestmark = pytest.mark.large

ODD = """it's a+b=c, "d" [1] {e} {0..1} é#%20"""


@pytest.fixture(scope="module", params=["by name", "~"])
def place(request, tmp_path_factory):
    """A directory with an odd name, and how it is named: `~` is it, or all of its name."""
    directory = tmp_path_factory.mktemp("paths") / ODD
    directory.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(directory))
        yield directory, {"by name": str(directory), "~": "~"}[request.param]


@pytest.fixture
def config(place, tiny_config, make_teacher, few_stages, tmp_path_factory):
    """Of images, a teacher, labels and a selection in that directory."""
    from sklearn import datasets

    directory, name = place
    if not (directory / "labels").exists():
        digits = datasets.load_digits()
        for number in range(20):
            for path in (f"labelled/{number % 10}", "test/more/" + str(number % 10), "pool"):
                (directory / path).mkdir(parents=True, exist_ok=True)
                image = digits.images[number + 20 * len(path)] * 16
                cv2.imwrite(str(directory / path / f"{number}.png"), image.clip(0, 255))
        make_teacher(directory / "teacher")
    tiny_config.data.update(
        labelled=f"folder:{name}/labelled+folder:{name}/labelled",
        unlabelled=f"folder:{name}/pool",
        test=f"folder:{name}/test/more",
        holdout="",
    )
    tiny_config.doctor.seconds = 0.1
    tiny_config.label.checkpoint = f"{name}/teacher"
    tiny_config.evaluate.checkpoint = f"{name}/teacher"
    return tiny_config


def test_selftrain(place, config):
    directory, name = place
    if name == "~":
        pytest.skip("train, label, select and evaluate do it")
    selftrain.run(config, directory / "selftrain")
    assert (directory / "selftrain/iteration_1/eval.json").exists()


def test_train_from_a_selection_and_weights(place, config):
    directory, name = place
    config.train.init = f"{name}/teacher"
    config.train.unlabelled_ratio = 1.0
    config.train.selection = f"{name}/selected/selection"
    label.run(config, directory / "labelling")
    config.select.labels = f"{name}/labelling/labels"
    (directory / "left out.csv").write_text("3\n")
    config.select.exclude = f"{name}/left out.csv"
    select.run(config, directory / "selected")
    config.label.subset = f"{name}/selected/selection"
    outputs = label.run(config, directory / "labelled again")
    assert outputs["num_images"] == 19
    train.run(config, directory / "training")
    config.train.selection, config.train.teacher = "", f"{name}/teacher"
    train.run(config, directory / "with a teacher")
    for workdir in ("training", "with a teacher"):
        assert workdir_lib.read_manifest(directory / workdir)


def test_evaluate_and_doctor(place, config):
    directory, _ = place
    assert evaluate.run(config, directory / "evaluated")["num_images"] == 20
    assert doctor.run(config, directory / "doctor")["sources"]["test"]["num_images"] == 20


def test_the_command_line(place, monkeypatch):
    directory, name = place
    assert __main__._workdir("train", f"{name}/run") == directory / "run"
    assert __main__._at_home(f"--config={name}/x.py:a=b") == f"--config={directory}/x.py:a=b"
    with pytest.raises(InputError, match="backslash"):
        checkpoint.Checkpoints(directory / "a\\b", keep=1)


def test_convert(place, config):
    directory, name = place
    (directory / "names.txt").write_text("\n".join("abcdefghij"))
    config.convert.source = f"{name}/teacher"
    config.convert.class_names = f"{name}/names.txt"
    config.convert.target = f"{name}/converted"
    assert convert.run(config, directory) == directory / "converted"
    assert ns_jax.load(f"{name}/converted").class_names == list("abcdefghij")
    config.convert.target = f"{name}/x.stablehlo"
    convert.run(config, directory)
    assert (directory / "x.stablehlo").exists()


def test_several_teachers_whatever_they_are_called(place, config, make_teacher, tmp_path):
    """With commas between, as a list; and a path that is there as a whole is one."""
    directory, name = place
    given = f"{name}/teacher"
    plain = [str(make_teacher(tmp_path / part, seed)) for seed, part in enumerate("ab")]
    both = str(make_teacher(tmp_path / f"a,{os.path.basename(tmp_path)}"))
    for named, count in {
        given: 1,
        json.dumps([given]): 1,
        json.dumps([given, plain[0], both]): 3,
        ", ".join(plain): 2,
        both: 1,
    }.items():
        assert len(teachers.networks(teachers.several(named))) == count
    config.label.checkpoint = f"{both},{plain[0]}"
    with pytest.raises(InputError, match="names 3 checkpoints.* as a list"):
        label.run(config, tmp_path / "wrong")
