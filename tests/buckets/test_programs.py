"""Programs whose workdir, checkpoint, files and results all lie in a bucket: as on a disk."""

import json

import numpy as np
import pytest
from etils import epath

from configs import digits
from ns_jax.checkpoints import checkpoint
from ns_jax.models import efficientnet
from ns_jax.programs import convert, evaluate, predict, report, robustness, train

pytestmark = [pytest.mark.bucket, pytest.mark.large]


@pytest.fixture(scope="module")
def trained(google_of_session, tmp_path_factory):
    """A tiny training in a bucket and the same one on a disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:3])
        config = digits.get_config("role=teacher")
        config.model.name = "efficientnet-pico"
        config.train.update(batch_size=10, epochs=0.4, log_every_steps=1, save_every_steps=2)
        config.optim.warmup_epochs = 0.1
        there, here = epath.Path(google_of_session.make_bucket()), tmp_path_factory.mktemp("disk")
        assert train.run(config, there / "run") == train.run(config, here / "run")
        yield there, here


@pytest.fixture
def config(few_stages):
    config = digits.get_config()
    config.data.unlabelled = config.data.holdout = ""
    config.robustness.corruptions = "contrast"
    config.robustness.perturbations = "none"
    config.robustness.fgsm_epsilons = (0.0,)
    config.robustness.max_images = 20
    return config


@pytest.fixture(params=["", ".safetensors", ".onnx", ".stablehlo"])
def network(trained, config, request):
    """The checkpoint in the bucket and on the disk, or a file that it was converted to."""
    if not request.param:
        return [str(place / "run") for place in trained]
    name = f"files/model{request.param}"
    for place in trained:
        config.convert.source, config.convert.target = str(place / "run"), str(place / name)
        convert.run(config, place / "unused")
    return [str(place / name) for place in trained]


def test_a_network_is_evaluated_and_predicts(trained, config, network):
    found = []
    for place, name in zip(trained, network, strict=True):
        workdir = place / "of" / name.rpartition("/")[2]
        config.evaluate.checkpoint = config.predict.checkpoint = name
        config.predict.target = str(workdir / "found.csv")
        scores = evaluate.run(config, workdir)
        predict.run(config, workdir)
        assert json.loads((workdir / "eval.json").read_text()) == scores
        inputs = scores.pop("inputs")
        timed = [scores.pop(key, None) for key in ("ms_one", "ms_per_image")]
        assert (None in timed) == (not name.endswith(("onnx", "stablehlo")))
        found.append((inputs["model"], scores, (workdir / "found.csv").read_text()))
    assert found[0][1:] == found[1][1:]


def test_robustness_is_measured_and_goes_on(trained, config):
    found = []
    for place in trained:
        config.robustness.checkpoint = config.robustness.against = str(place / "run")
        found.append(robustness.run(config, place / "robust")["suites"])
        assert robustness.run(config, place / "robust")["suites"] == found[-1]
    assert found[0] == found[1]


def test_a_file_in_a_bucket_becomes_a_checkpoint_there(trained, config):
    there, here = trained
    for source, target in (("run", "w.safetensors"), ("w.safetensors", "again")):
        config.convert.source, config.convert.target = str(there / source), str(there / target)
        convert.run(config, there / "unused")
    (card, ours), (_, theirs) = (checkpoint.load_model(d) for d in (there / "again", here / "run"))
    assert (there / "again" / "README.md").exists() and len(card.class_names) == 10
    assert all(np.array_equal(a, b) for a, b in zip(*map(leaves, (ours, theirs)), strict=True))


def leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_a_page_of_a_workdir(trained, config):
    found = [report.run(config, place / "run") for place in trained]
    assert found[0]["verdict"] == found[1]["verdict"]
    assert (trained[0] / "run" / "report.html").read_text().startswith("<!")
