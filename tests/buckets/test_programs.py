"""Programs whose workdir, checkpoint, files and results all lie in a bucket: as on a disk."""

import json

import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from configs import base, digits
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
    return there, here


@pytest.fixture
def config(few_stages):
    config = digits.get_config()
    config.data.unlabelled = config.data.holdout = ""
    config.robustness.corruptions = "contrast"
    config.robustness.perturbations = "none"
    config.robustness.fgsm_epsilons = (0.0,)
    config.robustness.max_images = 20
    return config


@pytest.fixture(params=["", ".onnx", ".stablehlo"])
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


def test_weights_of_timms_come_from_a_bucket_and_go_there(google, tensors):
    config = base.get_config()
    bucket = epath.Path(google.make_bucket())
    (bucket / "b0.safetensors").write_bytes(safetensors.numpy.save(tensors))
    (bucket / "names.txt").write_text("\n".join("abcdefg"))
    config.convert.update(
        source=str(bucket / "b0.safetensors"), model="efficientnet_b0", target=str(bucket / "net")
    )
    config.convert.class_names = str(bucket / "names.txt")
    convert.run(config, bucket / "unused")
    assert (bucket / "net" / "README.md").exists()
    assert checkpoint.load_card(bucket / "net").class_names == (*"abcdefg",)
    config.convert.update(
        source=str(bucket / "net"), model="", class_names="", target=str(bucket / "b.safetensors")
    )
    convert.run(config, bucket / "unused")
    found = safetensors.numpy.load((bucket / "b.safetensors").read_bytes())
    assert all(np.array_equal(found[name], tensors[name]) for name in found)


def test_a_page_of_a_workdir(trained, config):
    found = [report.run(config, place / "run") for place in trained]
    assert found[0]["verdict"] == found[1]["verdict"]
    assert (trained[0] / "run" / "report.html").read_text().startswith("<!")
