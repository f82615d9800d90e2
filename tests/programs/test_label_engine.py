"""Labelling by other engines than XLA: the same labels up to rounding, one engine a directory."""

import json
import sys

import numpy as np
import pytest

from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.errors import InputError
from ns_jax.foreign import onnx_session, openvino_session
from ns_jax.inference import engines
from ns_jax.labelling import shards as shards_lib
from ns_jax.programs import label, select, selftrain
from tests import rounding
from tests.programs.test_label_predictions import dense, read

pytestmark = pytest.mark.large

OTHERS = (engines.ONNXRUNTIME, engines.OPENVINO)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, make_teacher):
    """Of random weights, and sure of some of its classes."""
    card, variables = checkpoint.load_model(make_teacher(tmp_path_factory.mktemp("fresh")))
    head = variables["params"]["head_fc"]
    head["kernel"] = 1000 * head["kernel"]
    directory = tmp_path_factory.mktemp("teacher")
    checkpoint.save_model(directory, card, variables)
    return str(directory)


@pytest.fixture
def config(tiny_config, teacher):
    tiny_config.label.checkpoint = teacher
    tiny_config.data.unlabelled = "digits:test"  # 599 images
    tiny_config.label.batch_size = 64
    return tiny_config


@pytest.fixture(scope="module")
def by_xla(tmp_path_factory, teacher):
    """`dense` labels of XLA, and the manifest."""
    from configs import digits

    config = digits.get_config()
    config.label.checkpoint, config.data.unlabelled = teacher, "digits:test"
    config.label.batch_size = 64
    workdir = tmp_path_factory.mktemp("xla")
    label.run(config, workdir)
    return dense(read(workdir)), workdir_lib.read_manifest(workdir / "labels")


@pytest.mark.parametrize("engine", OTHERS)
def test_the_labels_are_xlas_up_to_rounding(config, by_xla, tmp_path, engine):
    config.label.engine = engine
    outputs = label.run(config, tmp_path)
    expected, theirs = by_xla
    assert expected.max(1).std() > 0.05  # images differ
    rounding.in_steps(dense(read(tmp_path)), expected)
    made_of = workdir_lib.read_manifest(tmp_path / "labels")["inputs"]
    assert made_of["teacher"] != theirs["inputs"]["teacher"]
    assert "engine" not in theirs["inputs"] and "engine" not in theirs["outputs"]
    version = {
        engines.ONNXRUNTIME: onnx_session.engine(),
        engines.OPENVINO: openvino_session.engine("float32"),
    }[engine]
    assert made_of["engine"] == version and made_of["preprocessing"][0]["size"] == 16
    assert outputs["engine"]["name"] == engine and outputs["engine"]["version"] == version
    config.select.labels = str(tmp_path / "labels")
    assert select.run(config, tmp_path)["rows"] > 0
    assert outputs["accuracy"] == pytest.approx(theirs["outputs"]["accuracy"], abs=0.002)


def test_mirror_images_and_temperature_are_xlas_too(config, tmp_path):
    config.label.flip, config.label.temperature = True, 2.0
    label.run(config, tmp_path / "xla")
    config.label.engine = engines.ONNXRUNTIME
    label.run(config, tmp_path / "other")
    found, expected = (dense(read(tmp_path / name)) for name in ("other", "xla"))
    rounding.in_steps(found, expected)


def test_an_interrupted_labelling_goes_on_with_its_engine(config, tmp_path, capfd):
    config.label.images_per_shard, config.label.engine = 100, engines.OPENVINO
    outputs, directory = label.run(config, tmp_path), tmp_path / "labels"
    before = {path.name: path.read_bytes() for path in directory.glob("*.parquet")}
    assert len(before) == 6
    (directory / "manifest.json").unlink()
    for name in sorted(before)[2:5]:
        (directory / name).unlink()
    config.label.engine = engines.AUTO  # takes what is there, without trying
    assert label.run(config, tmp_path) == outputs
    assert {path.name: path.read_bytes() for path in directory.glob("*.parquet")} == before
    assert "images/s: " not in capfd.readouterr().err
    (directory / "manifest.json").unlink()
    for other in (engines.XLA, engines.ONNXRUNTIME):
        config.label.engine = other
        message = f"labels is labelled by openvino, and label.engine is {other}, which rounds"
        with pytest.raises(InputError, match=message) as error:
            label.run(config, tmp_path)
        assert "\n" not in str(error.value)


def test_what_xla_has_begun_stays_xlas(config, tmp_path):
    config.label.images_per_shard = 300
    label.run(config, tmp_path)
    directory = tmp_path / "labels"
    (directory / "manifest.json").unlink()
    (directory / shards_lib.shard_name(1, 2)).unlink()
    config.label.engine = engines.ONNXRUNTIME
    with pytest.raises(InputError, match="is labelled by xla, and label.engine is onnxruntime"):
        label.run(config, tmp_path)
    config.label.engine = engines.AUTO
    label.run(config, tmp_path)
    assert not (directory / engines.RECORD).exists()


def test_auto_takes_the_fastest_and_says_so(config, by_xla, tmp_path, capfd, monkeypatch):
    config.label.engine = engines.AUTO
    outputs = label.run(config, tmp_path / "all")
    speeds = outputs["engine"]["images_per_second"]
    assert speeds.keys() == {engines.XLA, *OTHERS} and min(speeds.values()) > 0
    best = max(speeds, key=speeds.get)
    assert outputs["engine"]["name"] == best
    record = json.loads((tmp_path / "all" / "labels" / engines.RECORD).read_text())
    assert record == outputs["engine"]
    assert f"{best} labels, the fastest of what is installed" in capfd.readouterr().err
    rounding.in_steps(dense(read(tmp_path / "all")), by_xla[0])

    monkeypatch.setitem(sys.modules, "openvino", None)
    outputs = label.run(config, tmp_path / "two")
    assert outputs["engine"]["images_per_second"].keys() == {engines.XLA, engines.ONNXRUNTIME}
    said = capfd.readouterr().err
    assert (
        "openvino is not tried: OpenVINO is not installed: pip install 'ns-jax[openvino]'" in said
    )


def test_there_is_xla_alone_where_there_is_no_cpu(config, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "_on_cpu", lambda: False)
    for name in OTHERS:
        config.label.engine = name
        with pytest.raises(InputError, match=f"{name} labels on a CPU, and this process has"):
            label.run(config, tmp_path)
    config.label.engine = engines.AUTO
    assert label.run(config, tmp_path)["engine"]["name"] == engines.XLA


def test_another_version_is_refused(config, tmp_path):
    config.label.engine = engines.ONNXRUNTIME
    label.run(config, tmp_path)
    path = tmp_path / "labels" / engines.RECORD
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"version": "onnxruntime 1.0, CPUExecutionProvider"}))
    with pytest.raises(InputError, match="by onnxruntime 1.0, CPUExecutionProvider, and here"):
        label.run(config, tmp_path)


def test_engines_that_cannot_run_are_refused_at_once(config, tmp_path, monkeypatch):
    config.label.engine, config.label.engine_precision = engines.ONNXRUNTIME, "bfloat16"
    with pytest.raises(InputError, match="engine_precision=bfloat16 is for label.engine=openvino"):
        label.run(config, tmp_path)
    config.label.engine_precision, config.label.engine = "float32", "tensorrt"
    with pytest.raises(InputError, match="label.engine='tensorrt'; known: xla, onnxruntime"):
        label.run(config, tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    config.label.engine, config.label.checkpoint = engines.OPENVINO, ""
    with pytest.raises(InputError, match=r"pip install 'ns-jax\[openvino\]'"):
        selftrain.run(config, tmp_path)
    assert not (tmp_path / "iteration_0").exists()


def test_openvino_tells_nobody_that_it_is_used():
    ovc = openvino_session.package().tools.ovc
    assert type(ovc.telemetry).__module__.endswith("telemetry_stub")


def test_bfloat16_where_the_processor_has_it(config, by_xla, tmp_path):
    config.label.engine, config.label.engine_precision = engines.OPENVINO, "bfloat16"
    try:
        openvino_session.engine("bfloat16")
    except InputError as error:
        assert "no bfloat16 on this processor" in str(error)
        with pytest.raises(InputError, match="leave label.engine_precision at float32"):
            label.run(config, tmp_path)
        return
    label.run(config, tmp_path)
    assert np.abs(dense(read(tmp_path)) - by_xla[0]).max() < 0.05
    config.label.engine_precision = "float32"
    with pytest.raises(InputError, match="by openvino in bfloat16, and label.engine is openvino,"):
        label.run(config, tmp_path)


def test_weights_that_are_not_finite_are_named(config, tmp_path, make_teacher, monkeypatch):
    load = label.teachers.networks

    def broken(names):
        ((card, variables),) = load(names)
        variables["params"]["head_fc"]["bias"] = np.full(10, np.nan, np.float32)
        return [(card, variables)]

    monkeypatch.setattr(label.teachers, "networks", broken)
    config.label.engine = engines.ONNXRUNTIME
    with pytest.raises(InputError, match=f"{config.label.checkpoint}: its scores hold NaN"):
        label.run(config, tmp_path)
