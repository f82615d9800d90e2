"""Labelling: what is stored, who does what, and what is done again."""

import json
import os
import resource
import shutil
import signal
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.special

import ns_jax
from ns_jax import config as config_lib
from ns_jax import trees
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.data import open as open_lib
from ns_jax.data import perceptual
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import DivergedError
from ns_jax.inference import metrics, predictor
from ns_jax.labelling import shards as shards_lib
from ns_jax.parallel import leases
from ns_jax.programs import evaluate, label, select, selftrain, train
from ns_jax.selection import table as table_lib
from tests import rounding

pytestmark = pytest.mark.large

SHARD = 100


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, make_teacher):
    """Two networks that want their images at 16 and at 20 pixels."""
    return [
        str(make_teacher(tmp_path_factory.mktemp("teacher"), seed, size))
        for seed, size in ((1, 16), (2, 20))
    ]


@pytest.fixture
def config(tiny_config, teachers):
    tiny_config.label.checkpoint = teachers[0]
    tiny_config.label.images_per_shard = SHARD
    tiny_config.label.batch_size = 64
    tiny_config.label.lease_seconds = 0.4
    return tiny_config


def read(workdir):
    """All rows in order of the shards, and what a shard says of itself."""
    directory = workdir / "labels"
    count = workdir_lib.read_manifest(directory)["outputs"]["num_shards"]
    paths = [directory / shards_lib.shard_name(number, count) for number in range(count)]
    names = ["index", "key", "status", "label", "confidence"]
    shards = [shards_lib.Shard(path) for path in paths]
    columns = [shard.read(*names) for shard in shards]
    rows = {name: np.concatenate([part[name] for part in columns]) for name in names}
    return rows, shards[0].metadata


def content(workdir):
    return {p.name: p.read_bytes() for p in sorted((workdir / "labels").glob("*.parquet"))}


def probabilities(teacher, images):
    """`[N, classes]` of a checkpoint, through the interface that a user imports."""
    classifier = ns_jax.load(teacher)
    return classifier.logits(np.stack([classifier.preprocessing(image) for image in images]))


def test_every_image_has_its_row_whatever_the_batch(config, teachers, tmp_path):
    outputs = label.run(config, tmp_path / "a")
    rows, metadata = read(tmp_path / "a")
    source = open_lib.open_from_config(config, "unlabelled")
    np.testing.assert_array_equal(rows["index"], np.arange(len(source)))
    assert rows["key"].tolist() == [source[i]["key"] for i in range(len(source))]
    assert outputs["num_shards"] == -(-len(source) // SHARD) and outputs["num_bad"] == 0
    assert metadata["k"] == 10 and metadata["source"] == source.fingerprint
    images = [source[i]["image"] for i in range(len(source))]
    probs = scipy.special.softmax(probabilities(teachers[0], images), -1)
    np.testing.assert_array_equal(rows["label"], probs.argmax(1))
    rounding.close(rows["confidence"], probs.max(1))
    truth = source.known_labels(metadata["class_names"])
    assert outputs["accuracy"] == pytest.approx((probs.argmax(1) == truth).mean())
    assert not list((tmp_path / "a" / "labels" / "leases").iterdir())

    config.label.batch_size = 1000  # more than a shard
    label.run(config, tmp_path / "b")
    others, _ = read(tmp_path / "b")
    np.testing.assert_array_equal(others["label"], rows["label"])
    rounding.close(others["confidence"], rows["confidence"])


def test_several_teachers_temperature_and_mirror_images_are_averaged(config, teachers, tmp_path):
    config.label.checkpoint = ", ".join(teachers)
    config.label.temperature = 2.0
    config.label.flip = True
    config.data.unlabelled = "digits:test"
    label.run(config, tmp_path)
    rows, metadata = read(tmp_path)
    source = open_lib.open_from_config(config, "unlabelled")
    images = [source[i]["image"] for i in range(len(source))]
    expected = np.mean(
        [
            scipy.special.softmax(probabilities(teacher, seen) / 2.0, -1)
            for teacher in teachers
            for seen in (images, [image[:, ::-1] for image in images])
        ],
        axis=0,
    )
    rounding.close(rows["confidence"], expected.max(1))
    assert (rows["label"] == expected.argmax(1)).mean() > 0.995  # rounding may settle a tie
    assert [view["size"] for view in metadata["preprocessing"]] == [16, 20]
    assert metadata["temperature"] == 2.0 and metadata["flip"] is True


def test_the_temperature_is_fitted_on_held_out_images(config, tmp_path, capfd):
    config.data.holdout = "digits:test"
    label.run(config, tmp_path)
    found = json.loads((tmp_path / "labels" / "calibration.json").read_text())
    rows, metadata = read(tmp_path)
    assert metadata["temperature"] == found["temperature"] != 1
    assert found["num_images"] == 599 and "calibration error goes from" in capfd.readouterr().err
    assert found["after"]["cross_entropy"] < found["before"]["cross_entropy"]
    assert found["after"]["top1"] == found["before"]["top1"]
    # What it says of itself is what such a teacher does on these images.
    source = open_lib.open_from_config(config, "holdout")
    network = checkpoint.load_model(config.label.checkpoint)
    teacher = predictor.Predictor([network], temperature=found["temperature"])
    reading = LoaderSettings(workers=0)
    batches = list(teacher.predict(source, [range(len(source))], reading, 1, batch_size=64))
    confidence = np.concatenate([batch["probs"][:, 0] for batch in batches])
    right = np.concatenate([batch["classes"][:, 0] == batch["label"] for batch in batches])
    ece = metrics.calibration_error(confidence, right)
    assert found["after"]["ece"] == pytest.approx(ece, abs=1e-5)

    config.label.temperature = 2.0
    with pytest.raises(ValueError, match="temperature is 2.0 and data.holdout asks"):
        label.run(config, tmp_path / "b")


def test_only_the_images_of_a_selection_are_labelled_again(config, teachers, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    label.run(config, first)
    config.select.labels = str(first / "labels")
    select.run(config, first)
    config.label.checkpoint = teachers[1]
    config.label.subset = str(first / "selection")
    outputs = label.run(config, second)
    rows, metadata = read(second)
    chosen = np.unique(labels_of(first / "selection"))
    np.testing.assert_array_equal(rows["index"], chosen)
    source = open_lib.open_from_config(config, "unlabelled")
    assert rows["key"].tolist() == [source[int(i)]["key"] for i in chosen]
    assert outputs["num_images"] == len(chosen) < len(source)
    digest = workdir_lib.read_manifest(first / "selection")["outputs"]["digest"]
    assert metadata["subset"] == digest

    config.select.labels = str(second / "labels")
    select.run(config, second)
    again, before = (labels_of(d / "selection") for d in (second, first))
    np.testing.assert_array_equal(again, before)  # copies and all

    config.data.unlabelled = "digits:test"
    with pytest.raises(ValueError, match="label.subset=.* made of another source than digits:test"):
        label.run(config, tmp_path / "third")


def labels_of(directory):
    return np.asarray(table_lib.Selection(directory).index)


@pytest.mark.parametrize("damage", ["cut off", "flipped", "emptied"])
def test_a_damaged_shard_is_computed_again(config, tmp_path, damage, capfd):
    label.run(config, tmp_path)
    before, directory = content(tmp_path), tmp_path / "labels"
    shard = directory / "labels-00003-of-00012.parquet"
    data = bytearray(shard.read_bytes())
    if damage == "flipped":  # a bit of a label
        (column,) = (
            column
            for column in map(pq.read_metadata(shard).row_group(0).column, range(7))
            if column.path_in_schema == "label"
        )
        data[column.dictionary_page_offset + column.total_compressed_size - 3] ^= 1
    shard.write_bytes({"cut off": data[:-100], "flipped": data, "emptied": b""}[damage])
    (directory / "manifest.json").unlink()
    label.run(config, tmp_path)
    assert content(tmp_path) == before
    assert f"computed again: {shard} is missing or damaged" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_selftrain_labels_again_what_it_cannot_select_from(config, tmp_path, damage):
    config.select.labels = str(tmp_path / "labels")
    stages = selftrain._Stages(config, tmp_path)
    found = selftrain._label_and_select(config, tmp_path, stages)
    before, shard = content(tmp_path), tmp_path / "labels" / "labels-00003-of-00012.parquet"
    shutil.rmtree(tmp_path / "selection")
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-100])
    assert selftrain._label_and_select(config, tmp_path, stages) == found
    assert content(tmp_path) == before


def test_a_shard_of_another_teacher_is_refused(config, teachers, tmp_path):
    label.run(config, tmp_path)
    (tmp_path / "labels" / "manifest.json").unlink()
    config.label.checkpoint = teachers[1]
    with pytest.raises(ValueError, match="(?s)labels-0.*made of other inputs.*teacher"):
        label.run(config, tmp_path)


def test_shards_of_another_source_are_refused_however_many_they_are(config, tmp_path):
    label.run(config, tmp_path)
    shard = tmp_path / "labels" / "labels-00003-of-00012.parquet"
    shutil.copytree(tmp_path / "labels", tmp_path / "unfinished" / "labels")
    (tmp_path / "unfinished" / "labels" / "manifest.json").unlink()
    for workdir, source, message in (
        (tmp_path, "digits:test", "made of other inputs.*source"),
        (tmp_path / "unfinished", "digits:test", "12 shards of another labelling"),
        (tmp_path / "unfinished", "digits:unlabelled", None),
    ):
        config.data.unlabelled = source
        if message:
            with pytest.raises(ValueError, match=f"(?s){message}"):
                label.run(config, workdir)
        else:
            label.run(config, workdir)
    assert shard.exists() and content(tmp_path) == content(tmp_path / "unfinished")
    select.run(config_of_selection(config, tmp_path), tmp_path)
    config.data.unlabelled = "digits:test"
    with pytest.raises(ValueError, match="select.labels=.*another source than digits:test"):
        select.run(config_of_selection(config, tmp_path), tmp_path)


@pytest.mark.parametrize("what", ["weight", "overflow"])
def test_a_teacher_whose_outputs_are_not_finite_is_named_at_once(config, tmp_path, what):
    card, variables = checkpoint.load_model(config.label.checkpoint)
    flat = trees.by_path(variables)
    for name, large in (("params/head_bn/scale", 1e30), ("params/head_fc/kernel", 1e30)):
        flat[name] = np.full_like(flat[name], large)
    if what == "weight":
        flat[name][0, 0] = np.nan
    broken = tmp_path / "broken"
    checkpoint.save_model(broken, card, trees.from_paths(flat))
    config.label.checkpoint = str(broken)
    with pytest.raises(DivergedError, match=f"the teacher {broken}: its outputs are not finite"):
        label.run(config, tmp_path / "run")
    assert not list((tmp_path / "run" / "labels").glob("*.parquet"))
    config.data.holdout = "digits:test"
    with pytest.raises(DivergedError, match=f"the teacher {broken}: its outputs are not finite"):
        label.run(config, tmp_path / "held out")
    config.evaluate.checkpoint = str(broken)
    with pytest.raises(DivergedError, match=f"{broken}: its outputs are not finite for 599 of 599"):
        evaluate.run(config, tmp_path)
    if what == "weight":
        student = config_lib.at_iteration(config, 1)
        student.train.teacher = str(broken)
        with pytest.raises(DivergedError, match=f"the teacher {broken}: 1 of its .* not finite"):
            train.run(student, tmp_path / "student")
        student.train.teacher, student.train.init = "", str(broken)
        student.train.unlabelled_ratio = 0.0
        with pytest.raises(DivergedError, match=f"train.init={broken}: 1 of its"):
            train.run(student, tmp_path / "student")


def config_of_selection(config, workdir):
    config.select.labels = str(workdir / "labels")
    return config


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", 0.0, "must be above 0"),
        ("temperature", -1.0, "must be above 0"),
        ("temperature", float("nan"), "must be above 0"),
        ("batch_size", 0, "must be 1 or more"),
        ("images_per_shard", 0, "must be 1 or more"),
        ("lease_seconds", 0.0, "must be above 0"),
        ("classes_kept", -1, "must be 1 or more, or None"),
    ],
)
def test_numbers_that_make_no_sense_are_said_before_anything_is_opened(
    config, tmp_path, name, value, message
):
    config.data.unlabelled = "folder:/nowhere"
    config.label[name] = value
    with pytest.raises(ValueError, match=f"label.{name} is .*{message}"):
        label.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_killed_workers_left_half_written_is_removed(config, tmp_path):
    for name in ("labels-00003-of-00012.parquet", "leases/labels-00003-of-00012.parquet.0"):
        path = tmp_path / "labels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".{path.name}.0123.tmp").write_bytes(b"half")
    label.run(config, tmp_path)
    assert not list((tmp_path / "labels").rglob("*.tmp"))


def test_the_lease_of_a_worker_killed_after_it_wrote_its_shard_goes(config, tmp_path):
    label.run(config, tmp_path)
    (tmp_path / "labels" / "manifest.json").unlink()
    shard = tmp_path / "labels" / shards_lib.shard_name(3, 12)
    written = shard.stat().st_mtime_ns
    content = {"worker": "w", "host": "elsewhere", "pid": 1, "started": "1", "beat": 1}
    lease = tmp_path / "labels" / "leases" / f"{shard.name}.0"
    lease.write_text(json.dumps(content))
    label.run(config, tmp_path)
    assert not lease.exists() and shard.stat().st_mtime_ns == written


def test_workers_of_one_directory_share_the_work(config, tmp_path):
    """Two at once, in one process; a third lease is of a host that vanished."""
    label.run(config, tmp_path / "alone")
    directory = tmp_path / "together" / "labels"
    name = shards_lib.shard_name(5, 12)
    content_ = {"worker": "w", "host": "elsewhere", "pid": 1, "started": "1", "beat": 1}
    (directory / "leases").mkdir(parents=True)
    (directory / "leases" / f"{name}.0").write_text(json.dumps(content_))
    claimed = []
    original = leases.Leases.claim_first

    def recorded(self, names):
        found = original(self, names)
        claimed.append((id(self), found))
        return found

    leases.Leases.claim_first = recorded
    try:
        workers = [
            threading.Thread(target=label.run, args=(config, tmp_path / "together"))
            for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        leases.Leases.claim_first = original
    assert content(tmp_path / "together") == content(tmp_path / "alone")
    shards = [found for _, found in claimed if found and found.endswith(".parquet")]
    assert set(shards) == {shards_lib.shard_name(number, 12) for number in range(12)}
    assert len({worker for worker, found in claimed if found in shards}) == 2


@pytest.mark.parametrize("text", ["3/3", "1", "-1/2", "a/b"])
def test_a_worker_that_cannot_be_is_refused(config, tmp_path, text):
    config.label.worker = text
    with pytest.raises(ValueError, match="write 0/n for the first"):
        label.run(config, tmp_path)


def test_labels_may_lie_in_a_bucket(config, bucket, tmp_path_factory):
    from etils import epath

    here = tmp_path_factory.mktemp("here")
    label.run(config, here)
    label.run(config, epath.Path("gs://labels/run"))
    assert content(bucket / "labels" / "run") == content(here)
    assert workdir_lib.is_done(
        epath.Path("gs://labels/run/labels"), workdir_lib.read_manifest(here / "labels")["inputs"]
    )


def test_a_full_disk_loses_nothing(config, tmp_path):
    """The kernel refuses to let files grow beyond a few bytes: as a full disk, but harmless."""
    label.run(config, tmp_path / "a")
    sizes = [len(data) for data in content(tmp_path / "a").values()]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (min(sizes), hard))
        with pytest.raises(OSError, match=r"labels-.* needs [\d,]+ bytes, [\d,]+ are free. What"):
            label.run(config, tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    left = sorted(os.listdir(tmp_path / "b" / "labels"))
    assert not [name for name in left if name.endswith(".tmp") or name == "manifest.json"]
    assert not os.listdir(tmp_path / "b" / "labels" / "leases")
    label.run(config, tmp_path / "b")
    assert content(tmp_path / "b") == content(tmp_path / "a")


def test_pools_are_hashed_where_images_are_to_be_guarded(config, tmp_path):
    config.data.guard = "digits:test"
    label.run(config, tmp_path)
    shard = tmp_path / "labels" / shards_lib.shard_name(0, 12)
    hashes = shards_lib.Shard(shard).read("phash")["phash"]
    assert hashes.dtype == np.uint64 and len(np.unique(hashes)) > 50
    source = open_lib.open_source("digits:unlabelled", labels_per_class=5, seed=0)
    assert hashes.tolist()[:20] == [perceptual.phash(source[i]["image"]) for i in range(20)]


def test_guarded_images_in_the_pool_are_listed_and_left_out_on_request(config, tmp_path, capfd):
    config.data.unlabelled = "digits:test+digits:unlabelled"
    config.data.guard = "digits:test"
    config.select.guard_distance = 0
    config.select.per_class = 10_000
    config.select.balance = "none"
    config.select.labels = str(tmp_path / "labels")
    label.run(config, tmp_path)
    chosen, reports = {}, {}
    for drop in (False, True):
        config.select.drop_leaks = drop
        workdir = tmp_path / str(drop)
        reports[drop] = select.run(config, workdir)
        chosen[drop] = labels_of(workdir / "selection")
        listed = np.loadtxt(
            workdir / "selection" / "leaks.csv", str, delimiter=",", skiprows=1, usecols=(0, 1, 2)
        )
    index = listed[:, 0].astype(int)
    assert set(range(599)) <= set(index) and len(index) == reports[True]["leaks"]
    assert (listed[:599, 1] == np.char.add("0:", listed[:599, 2])).mean() > 0.9  # or a twin of it
    assert set(range(599)) <= set(chosen[False])
    assert set(chosen[True]) == set(chosen[False]) - set(index)
    assert "are within 0 bits of one of digits:test" in capfd.readouterr().err

    config.data.guard = "digits:train"
    with pytest.raises(ValueError, match="guard: .* there, .* now"):
        select.run(config, tmp_path / "True")
    config.data.guard = ""
    label.run(config, tmp_path / "unhashed")
    config.data.guard = "digits:test"
    config.select.labels = str(tmp_path / "unhashed" / "labels")
    with pytest.raises(ValueError, match="made without it and hold no hashes; label again"):
        select.run(config, tmp_path / "unhashed")
