"""Two processes of four devices against one of eight, with real collectives, and their quarrels."""

import json
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from ns_jax.checkpoints import checkpoint
from ns_jax.errors import DamagedError, InputError, MissingFileError
from ns_jax.labelling import shards as shards_lib
from ns_jax.models import efficientnet
from ns_jax.parallel import processes
from tests import rounding
from tests.conftest import ROOT

pytestmark = pytest.mark.large

FLAGS = {
    "mesh.fsdp": 2,
    "mesh.shard_above": 64,
    "train.batch_size": 8,
    "train.epochs": 0.8,  # 5 steps
    "train.log_every_steps": 1,
    "train.save_every_steps": 2,
    "optim.warmup_epochs": 0.5,
    "optim.learning_rate_per_256": 0.1,
    "label.images_per_shard": 256,
    "label.batch_size": 64,
    "select.threshold": 0.0,
    "select.per_class": 20,
    "selftrain.iterations": 1,
    "selftrain.overrides.iteration_1.train.unlabelled_ratio": 1.0,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, make_teacher):
    """Labels need not be good."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(efficientnet, "STAGES", efficientnet.STAGES[:3])
        return make_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize(
    ("raised", "elsewhere"),
    [
        (InputError("a bad number"), InputError),
        (DamagedError("cut off"), DamagedError),
        (MissingFileError("not there"), InputError),
        (OSError(28, "No space left"), OSError),
        (FileNotFoundError("not there"), OSError),
        (ValueError("a bug"), RuntimeError),
    ],
)
def test_what_the_first_process_raises_others_raise_as_what_may_pass_or_not(
    monkeypatch, raised, elsewhere
):
    told = []
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "gather", lambda array: told.append(array) or told[:1])

    def fail():
        raise raised

    for first, expected in ((True, type(raised)), (False, elsewhere)):
        monkeypatch.setattr(processes, "is_first", lambda first=first: first)
        with pytest.raises(expected, match=str(raised.args[-1])) as found:
            processes.call_on_first(fail)
        assert first or type(found.value) is elsewhere


def command(workdir, teacher, **changes):
    flags = {**FLAGS, "selftrain.teacher": teacher, **changes}
    return [
        *("selftrain", "--config=tests/few_stages.py", f"--workdir={workdir}"),
        *(f"--config.{name}={value}" for name, value in flags.items()),
    ]


def launch(processes, devices, arguments, environment):
    done = subprocess.run(
        ["launch/local.sh", str(processes), *arguments],
        env={**environment, "PYTHON": sys.executable, "JAX_NUM_CPU_DEVICES": str(devices)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def one(tmp_path_factory, teacher, environment):
    workdir = tmp_path_factory.mktemp("one")
    arguments = command(workdir, teacher, **{"mesh.devices": 8})
    launch(1, 8, arguments, environment)
    return workdir, arguments


@pytest.fixture(scope="module")
def two(tmp_path_factory, teacher, environment):
    workdir = tmp_path_factory.mktemp("two")
    arguments = command(workdir, teacher, **{"mesh.devices": 8})
    return workdir, launch(2, 4, arguments, environment)


def losses(workdir):
    lines = (workdir / "iteration_1" / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["train/loss"] for line in map(json.loads, lines)}


def scores(workdir):
    return json.loads((workdir / "iteration_1" / "eval.json").read_text())


def assert_close(one, two):
    assert losses(one).keys() == losses(two).keys() == set(range(1, 6))
    rounding.close(list(losses(one).values()), list(losses(two).values()), 1e-4)
    ours, theirs = (checkpoint.load_model(workdir / "iteration_1")[1] for workdir in (one, two))
    rounding.close_trees(theirs, ours, 1e-4, at_least=1e-3)


def test_two_processes_train_label_and_evaluate_as_one(one, two):
    (one, _), (two, output) = one, two
    assert output.count("labelled 1,") == 1  # one process speaks
    shards = sorted(path.name for path in (one / "iteration_1" / "labels").glob("*.parquet"))
    assert len(shards) == 5
    for name in shards:
        ours, theirs = (
            shards_lib.Shard(workdir / "iteration_1" / "labels" / name).read(
                "index", "label", "key"
            )
            for workdir in (one, two)
        )
        for column in ours:
            np.testing.assert_array_equal(ours[column], theirs[column])
    assert_close(one, two)
    assert scores(one)["num_images"] == scores(two)["num_images"] == 599
    assert abs(scores(one)["top1"] - scores(two)["top1"]) < 0.01


def test_a_run_goes_on_with_another_number_of_processes_and_devices(
    two, teacher, environment, tmp_path
):
    workdir = tmp_path / "continued"
    shutil.copytree(two[0], workdir)
    iteration = workdir / "iteration_1"
    (iteration / "manifest.json").unlink()
    (iteration / "eval.json").unlink()
    shutil.rmtree(iteration / "checkpoints" / "5")
    text = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(text.replace(str(two[0]), str(workdir)))
    changed = {"mesh.devices": 4, "mesh.fsdp": 4}
    output = launch(1, 4, command(workdir, teacher, **changed), environment)
    assert "resuming from step 4" in output
    assert_close(workdir, two[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"not started alike.*\n +config: of process 1 not as of process 0"),
        ({}, r"code: of process 1 not as of process 0"),
    ],
)
def test_processes_of_other_configs_or_code_are_named(
    teacher, environment, tmp_path, changes, message
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = [ROOT, ROOT]
    if not changes:  # other code: a copy with another comment
        places[1] = tmp_path / "copy"
        for name in ("ns_jax", "configs", "tests"):
            shutil.copytree(ROOT / name, places[1] / name)
        with (places[1] / "ns_jax" / "trees.py").open("a") as file:
            file.write("# another commit\n")
    children = []
    for index, place in enumerate(places):
        flags = command(tmp_path / "run", teacher, **(changes if index else {}))
        where = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={index}"]
        children.append(
            subprocess.Popen(
                [sys.executable, "-m", "ns_jax", *flags, *where],
                env={**environment, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(place)},
                cwd=place,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for child in children:
        output, _ = child.communicate(timeout=120)
        assert child.returncode == 2 and re.search(message, output), output
    assert not (tmp_path / "run").exists()


def test_flags_of_processes_belong_together(environment, tmp_path, teacher):
    child = subprocess.run(
        [sys.executable, "-m", "ns_jax", *command(tmp_path, teacher), "--num_processes=2"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 2 and "belong together" in child.stderr
