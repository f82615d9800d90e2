"""What the oldest versions of the libraries wrote the newest read, and the other way round.

`make versions` makes both environments and runs this in the newest; it names the other's Python.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from ns_jax.checkpoints import checkpoint
from ns_jax.selection import table as table_lib
from tests import rounding

pytestmark = pytest.mark.versions

FLAGS = {
    "model.name": "efficientnet-pico",
    "train.batch_size": 10,
    "train.epochs": 1.2,  # 6 steps
    "train.log_every_steps": 1,
    "train.save_every_steps": 2,
    "optim.warmup_epochs": 0.5,
    "label.images_per_shard": 256,
    "select.threshold": 0.0,
    "select.per_class": 20,
    "selftrain.iterations": 1,
    "selftrain.overrides.iteration_1.train.unlabelled_ratio": 2.0,
}
DIRECTIONS = [("oldest", "newest"), ("newest", "oldest")]
OURS = ("jax", "flax", "numpy", "orbax-checkpoint", "pyarrow")


def python(which):
    if which == "newest":
        return sys.executable
    return str(pathlib.Path(os.environ["NS_JAX_OLDEST_PYTHON"]).absolute())


def run(which, environment, *arguments):
    found = subprocess.run(
        [python(which), *arguments],
        env=environment,
        cwd=environment["PYTHONPATH"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def program(which, environment, name, workdir, **changes):
    flags = [f"--config.{key}={value}" for key, value in {**FLAGS, **changes}.items()]
    config = "--config=configs/digits.py"
    run(which, environment, "-m", "ns_jax", name, config, f"--workdir={workdir}", *flags)


@pytest.fixture(scope="module")
def written(tmp_path_factory, environment):
    """The workdir of a whole self-training with each environment."""
    workdirs = {}
    for which in ("oldest", "newest"):
        workdirs[which] = tmp_path_factory.mktemp(which)
        program(which, environment, "selftrain", workdirs[which])
    return workdirs


def confidences(directory):
    """`[599]`, of each test image."""
    return pq.read_table(directory / "predictions.parquet")["confidence"].to_numpy()


def test_the_environments_have_other_versions(environment):
    code = "import importlib.metadata, json, sys; "
    code += "print(json.dumps([importlib.metadata.version(name) for name in sys.argv[1:]]))"
    one, other = (json.loads(run(which, environment, "-c", code, *OURS)) for which in DIRECTIONS[0])
    print(dict(zip(OURS, zip(one, other, strict=True), strict=True)))
    assert all(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("writer", "reader"), DIRECTIONS)
def test_a_checkpoint_is_the_same_network(written, environment, tmp_path, writer, reader):
    made = written[writer] / "iteration_1"
    changes = {"evaluate.checkpoint": made}
    program(reader, environment, "evaluate", tmp_path, **changes)
    rounding.close(confidences(tmp_path), confidences(made))
    assert json.loads((tmp_path / "eval.json").read_text())["num_images"] == 599


@pytest.mark.parametrize(("writer", "reader"), DIRECTIONS)
def test_label_shards_give_the_same_selection(written, environment, tmp_path, writer, reader):
    made = written[writer] / "iteration_1"
    program(reader, environment, "select", tmp_path, **{"select.labels": made / "labels"})
    ours, theirs = (table_lib.Selection(d / "selection") for d in (tmp_path, made))
    assert len(ours) == len(theirs) > 0
    for name in ("index", "label", "confidence", "classes", "probs"):
        np.testing.assert_array_equal(getattr(ours, name)[:], getattr(theirs, name)[:])


@pytest.mark.parametrize(("writer", "reader"), DIRECTIONS)
def test_a_training_goes_on_from_its_checkpoint_and_its_selection(
    written, environment, tmp_path, writer, reader
):
    """The last two of six steps are undone, and done again by the other versions."""
    made, workdir = written[writer], tmp_path / "run"
    shutil.copytree(made, workdir)
    student = workdir / "iteration_1"
    shutil.rmtree(student / "checkpoints" / "6")
    for name in ("manifest.json", "eval.json", "predictions.parquet"):
        (student / name).unlink()
    assert checkpoint.find(student).name == "4"
    program(reader, environment, "selftrain", workdir)
    _, ours = checkpoint.load_model(student)
    _, theirs = checkpoint.load_model(made / "iteration_1")
    rounding.close_trees(ours, theirs, 1e-4, at_least=1e-3)
    rounding.close(confidences(student), confidences(made / "iteration_1"), 1e-4)
    steps = [json.loads(line)["step"] for line in (student / "metrics.jsonl").open()]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6]
