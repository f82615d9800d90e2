"""The selection against a brute-force version, ties included."""

import json
import resource

import numpy as np
import pytest

from configs import base
from ns_jax import workdir as workdir_lib
from ns_jax.errors import DamagedError, DivergedError, InputError
from ns_jax.labelling import shards as shards_lib
from ns_jax.programs import select
from ns_jax.selection import ranking
from ns_jax.selection import table as table_lib
from tests import rounding

NUM_CLASSES, K = 7, 3
MADE_OF = {"source": "s", "teacher": "t", "class_names": list("abcdefg"), "k": K}


def write_shards(directory, index, label, confidence, status, per_shard=300, **inputs):
    directory.mkdir(parents=True)
    classes = np.stack([label, (label + 1) % NUM_CLASSES, (label + 2) % NUM_CLASSES], 1)
    probs = np.stack([confidence, (1 - confidence) / 2, (1 - confidence) / 3], 1)
    ranges = shards_lib.shard_ranges(len(index), per_shard)
    made_of = {**MADE_OF, **inputs}
    for shard, rows in enumerate(ranges):
        part = slice(rows.start, rows.stop)
        columns = {
            "index": index[part],
            "key": [f"image '{i}'.png" for i in rows],
            "status": status[part].tolist(),
            "classes": classes[part],
            "probs": probs[part],
        }
        shards_lib.write_shard(
            directory / shards_lib.shard_name(shard, len(ranges)), columns, made_of
        )
    workdir_lib.write_manifest(
        directory,
        {**made_of, "images_per_shard": per_shard},
        {"num_shards": len(ranges), "num_images": len(index)},
    )


def write_labels(directory, num_images=1000, seed=0, decimals=2):
    """Label shards of random predictions: many ties, skewed classes, class 6 never seen."""
    rng = np.random.default_rng(seed)
    label = np.minimum(rng.geometric(0.45, num_images) - 1, NUM_CLASSES - 2)
    confidence = np.round(rng.uniform(0.2, 1.0, num_images), decimals).astype(np.float32)
    status = np.where(rng.random(num_images) < 0.05, "not an image", "ok")
    write_shards(directory, np.arange(num_images), label, confidence, status)
    return label, confidence, status == "ok"


def settings(workdir, **changes):
    config = base.get_config()
    config.select.labels = str(workdir / "labels")
    config.select.update({"per_class": 40, **changes})
    return config


def run(workdir, **changes):
    return select.run(settings(workdir, **changes), workdir)


def splitmix(state):
    """The generator's published code, on whole numbers."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def draw(seed, stream, index):
    return splitmix(splitmix(index) ^ splitmix((splitmix(seed) + stream) % 2**64))


def brute_force(label, confidence, ok, excluded=(), **changes):
    """Sorted indices with their copies."""
    s = {"threshold": 0.3, "max_confidence": 9, "per_class": 40, "seed": 0}
    s |= {
        "balance": "copies",
        "max_copies": None,
        "order": "confidence",
        "fraction": 1.0,
        **changes,
    }

    def best_first(i):
        return -confidence[i], i

    def drawn(i):
        return draw(s["seed"], 1, i) >> 34, i

    pool = [i for i in np.flatnonzero(ok).tolist() if i not in excluded]
    pool = [i for i in pool if draw(s["seed"], 0, i) < s["fraction"] * 2**64]
    rankings = []
    for c in range(NUM_CLASSES):
        mine = sorted((i for i in pool if label[i] == c), key=best_first)
        mine = [i for i in mine if confidence[i] > np.float32(s["threshold"])]
        mine = [i for i in mine if confidence[i] <= np.float32(s["max_confidence"])]
        random = s["order"] == "random"
        rankings.append(sorted(mine, key=lambda i: (-drawn(i)[0], i)) if random else mine)
    wanted = s["per_class"] or max(map(len, rankings))
    times = 1 if s["balance"] == "none" else s["max_copies"] or wanted
    rows = []
    for mine in rankings:
        filled = [mine[place % len(mine)] for place in range(wanted)] if mine else []
        rows += filled[: len(mine) * times]
    return sorted(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0.3},
        {"threshold": 0.75, "per_class": 13},
        {"threshold": 0.0, "per_class": 500},
        {"per_class": 0},
        {"balance": "none", "per_class": 100},
        {"balance": "none", "per_class": 0},
        {"max_copies": 3, "per_class": 200},
        {"max_copies": 1},
        {"threshold": 0.5, "max_confidence": 0.71, "per_class": 30},
        {"order": "random", "per_class": 30},
        {"order": "random", "per_class": 300, "seed": 5, "threshold": 0.8, "max_confidence": 0.9},
        {"fraction": 0.37, "seed": 3},
        {"fraction": 0.5, "order": "random", "max_copies": 2, "per_class": 60},
    ],
    ids=str,
)
@pytest.mark.parametrize("memory_gb", [4.0, 3e-4])
def test_selection_is_exact(tmp_path, changes, memory_gb):
    workdir = tmp_path / "with 'quotes' and spaces"
    label, confidence, ok = write_labels(workdir / "labels")
    outputs = run(workdir, memory_gb=memory_gb, **changes)
    selection = table_lib.Selection(workdir / "selection")
    expected = brute_force(label, confidence, ok, **changes)
    index = np.asarray(selection.index)
    assert index.tolist() == expected
    np.testing.assert_array_equal(selection.label, label[index])
    np.testing.assert_array_equal(selection.confidence, confidence[index])
    np.testing.assert_array_equal(selection.classes[:][:, 0], selection.label)
    rounding.in_steps(selection.probs[:][:, 0] / shards_lib.SCALE, selection.confidence)
    assert outputs["rows"] == len(expected)
    assert outputs["kept"] == len(set(expected))


def test_excluded_images_are_left_out(tmp_path):
    label, confidence, ok = write_labels(tmp_path / "labels")
    excluded = [0, 7, 8, 299, 300, 999, *range(400, 450)]
    lines = ["index,duplicate of", *(f"{i},x" for i in excluded), ""]
    (tmp_path / "leave 'out'.csv").write_text("\n".join(lines))
    run(tmp_path, exclude=str(tmp_path / "leave 'out'.csv"), per_class=100)
    expected = brute_force(label, confidence, ok, excluded, per_class=100)
    assert table_lib.Selection(tmp_path / "selection").index[:].tolist() == expected
    # The file counts by its content.
    (tmp_path / "leave 'out'.csv").write_text("0\n")
    with pytest.raises(ValueError, match="exclude: '[0-9a-f]{16}' there, '[0-9a-f]{16}' now"):
        run(tmp_path, exclude=str(tmp_path / "leave 'out'.csv"), per_class=100)


@pytest.mark.parametrize("memory_gb", [4.0, 3e-4])
@pytest.mark.parametrize("order", ["confidence", "random"])
def test_where_all_confidences_are_equal_the_index_decides(tmp_path, memory_gb, order):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 5000)
    confidence, status = np.ones(5000, np.float32), np.full(5000, "ok")
    write_shards(tmp_path / "labels", np.arange(5000), label, confidence, status)
    changes = {"per_class": 1000, "order": order}
    run(tmp_path, memory_gb=memory_gb, **changes)
    expected = brute_force(label, confidence, status == "ok", **changes)
    assert table_lib.Selection(tmp_path / "selection").index[:].tolist() == expected


def test_little_memory_means_more_passes(tmp_path, monkeypatch):
    write_labels(tmp_path / "labels", 6000, decimals=0)  # above the threshold all are 1.0
    passes = []
    count = ranking._count
    monkeypatch.setattr(ranking, "_count", lambda *a: passes.append(a[1]) or count(*a))
    run(tmp_path, memory_gb=4.0)
    assert len(set(passes)) == 1  # and then a few rows are sorted
    passes.clear()
    run(tmp_path / "again", labels=str(tmp_path / "labels"), memory_gb=3e-4)
    assert len(set(passes)) > 3
    digests = [
        workdir_lib.read_manifest(d / "selection")["outputs"]["digest"]
        for d in (tmp_path, tmp_path / "again")
    ]
    assert digests[0] == digests[1]


def test_a_larger_fraction_has_all_images_of_a_smaller_one(tmp_path):
    write_labels(tmp_path / "labels")
    found = []
    for fraction in (0.25, 0.5, 1.0):
        workdir = tmp_path / str(fraction)
        run(
            workdir, labels=str(tmp_path / "labels"), fraction=fraction, balance="none", per_class=0
        )
        found.append(set(table_lib.Selection(workdir / "selection").index[:].tolist()))
    assert found[0] < found[1] < found[2]
    assert 0.2 < len(found[0]) / len(found[2]) < 0.3


def test_the_report_counts_every_class(tmp_path):
    label, confidence, ok = write_labels(tmp_path / "labels")
    run(tmp_path, threshold=0.75)
    expected = brute_force(label, confidence, ok, threshold=0.75)
    report = json.loads((tmp_path / "selection" / "report.json").read_text())
    text = (tmp_path / "selection" / "report.txt").read_text().splitlines()
    assert len(text) == 1 + NUM_CLASSES + 1
    for c, row in enumerate(report["classes"]):
        mine = [i for i in expected if label[i] == c]
        above = int((ok & (label == c) & (confidence > np.float32(0.75))).sum())
        assert (row["candidates"], row["kept"]) == (above, len(set(mine)))
        assert row["copies"] == len(mine) - len(set(mine))
        lowest = min((float(confidence[i]) for i in mine), default=None)
        assert row["lowest_confidence"] == lowest
        shown = "-" if lowest is None else f"{lowest:.4f}"
        numbers = [str(row[name]) for name in ("candidates", "kept", "copies")]
        assert text[1 + c].split() == [str(c), "abcdefg"[c], *numbers, shown]
    assert report["classes"][6] == {
        "name": "g",
        "candidates": 0,
        "kept": 0,
        "copies": 0,
        "lowest_confidence": None,
    }


def test_the_same_labels_give_the_same_bytes(tmp_path):
    found = []
    for name in "ab":
        write_labels(tmp_path / name / "labels")
        digest = run(tmp_path / name)["digest"]
        found.append((digest, (tmp_path / name / "selection" / table_lib.NAME).read_bytes()))
    assert found[0] == found[1]
    write_labels(tmp_path / "c" / "labels", seed=1)
    assert run(tmp_path / "c")["digest"] != found[0][0]


def harmed(content, how, place):
    """The bytes of a file, cut off at a place or with something else there."""
    if how == "cut":
        return content[:place]
    if how == "bit":
        return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
    return content[:place] + bytes(4096)[: len(content) - place] + content[place + 4096 :]


@pytest.mark.parametrize("how", ["gone", "cut", "bit", "zeros", "empty"])
def test_a_damaged_selection_is_found_and_made_again(tmp_path, capsys, how):
    write_labels(tmp_path / "labels")
    outputs = run(tmp_path)
    path = tmp_path / "selection" / table_lib.NAME
    whole = path.read_bytes()
    # In the rows, wherever: a bit of the padding between two columns is nobody's.
    start = whole.index(np.asarray(table_lib.Selection(path.parent).index[:4]).tobytes())
    for place in (start, start + 8 * 40, len(whole) // 2):
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(b"" if how == "empty" else harmed(whole, how, place))
        assert run(tmp_path) == outputs and path.read_bytes() == whole
        assert "selected again: " in capsys.readouterr().err
    run(tmp_path)
    assert "selected already" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["cut", "bit", "zeros"])
def test_no_damage_of_a_selection_is_more_than_an_error(tmp_path, how):
    """Not of its headers either: whatever is changed, its digest is another or nothing is lost."""
    write_labels(tmp_path / "labels")
    digest = run(tmp_path)["digest"]
    path = tmp_path / "selection" / table_lib.NAME
    whole, rows = path.read_bytes(), np.asarray(table_lib.Selection(path.parent).index).copy()
    for place in np.random.default_rng(0).integers(len(whole), size=60):
        path.write_bytes(harmed(whole, how, int(place)))
        try:
            table_lib.check(path.parent, digest)
        except DamagedError:
            continue
        np.testing.assert_array_equal(table_lib.Selection(path.parent).index, rows)


def test_a_threshold_that_keeps_nothing_says_how_high_confidence_goes(tmp_path):
    write_labels(tmp_path / "labels")
    with pytest.raises(ValueError, match=r"threshold=1.0 keeps none of 1,000 .* confidence is 1.0"):
        run(tmp_path, threshold=1.0)
    assert not (tmp_path / "selection").exists()


def test_another_setting_in_the_same_place_is_refused(tmp_path):
    write_labels(tmp_path / "labels")
    run(tmp_path, threshold=0.3)
    with pytest.raises(ValueError, match="threshold: 0.3 there, 0.4 now"):
        run(tmp_path, threshold=0.4)


def test_a_selection_of_an_earlier_version_is_the_same_one(tmp_path):
    """Its manifest names a share of each class, `quantile`, that was left out: none."""
    write_labels(tmp_path / "labels")
    run(tmp_path)
    made = workdir_lib.read_manifest(tmp_path / "selection")
    as_it_was = {"digest": made["outputs"]["digest"]}
    for quantile in (0.0, 0.25):
        inputs = {**made["inputs"], "quantile": quantile}
        workdir_lib.write_manifest(tmp_path / "selection", inputs, as_it_was)
        if quantile:
            with pytest.raises(InputError, match="quantile: 0.25 there, 0.0 now"):
                run(tmp_path)
        else:
            assert run(tmp_path) == as_it_was


def test_unfinished_labels_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no finished stage"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"balance": "copy"}, "select.balance='copy'; known: copies, none"),
        ({"order": "best"}, "select.order='best'; known: confidence, random"),
        ({"threshold": 1.5}, "select.threshold is 1.5; it must be 0 to 1"),
        ({"max_confidence": 0.3}, "must be above select.threshold, which is 0.3"),
        ({"fraction": 0.0}, "select.fraction is 0.0; it must be above 0"),
        ({"fraction": 1.5}, "select.fraction is 1.5; it must be above 0 and at most 1"),
        ({"max_copies": 0}, "select.max_copies is 0; it must be 1 or more"),
        ({"per_class": -1}, "select.per_class is -1"),
        ({"memory_gb": 0.0}, "select.memory_gb is 0.0"),
        ({"memory_gb": 1e-5}, "3 shards of 300 images with 3 classes each .* set it to 0.000"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_said_before_any_shard_is_read(tmp_path, changes, message):
    write_labels(tmp_path / "labels")
    for shard in (tmp_path / "labels").glob("*.parquet"):
        shard.unlink()
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index\n3\nfour\n", "line 3: 'four' is not an index"),
        ("3\n1000\n", "line 2: there is no image 1000; the labels are of images 0 to 999"),
        ("3.0\n4.0\n", "line 2: '4.0' is not an index"),
    ],
)
def test_a_file_of_excluded_images_is_checked(tmp_path, text, message):
    write_labels(tmp_path / "labels")
    path = tmp_path / "out.txt"
    with pytest.raises(FileNotFoundError, match="select.exclude=.*there is no such file"):
        run(tmp_path, exclude=str(path))
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, exclude=str(path))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage(path):
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)


def of_another_teacher(path):
    path.unlink()
    columns = {"index": np.arange(300, 600), "key": [""] * 300, "status": ["ok"] * 300}
    columns |= {"classes": np.zeros((300, K), np.int32), "probs": np.ones((300, K))}
    shards_lib.write_shard(path, columns, {**MADE_OF, "teacher": "u"})


def of_other_images(path):
    path.unlink()
    columns = {"index": np.arange(300), "key": [""] * 300, "status": ["ok"] * 300}
    columns |= {"classes": np.zeros((300, K), np.int32), "probs": np.ones((300, K))}
    shards_lib.write_shard(path, columns, MADE_OF)


def of_impossible_labels(path):
    path.unlink()
    columns = {"index": np.arange(300, 600), "key": [""] * 300, "status": ["ok"] * 300}
    columns |= {"classes": np.full((300, K), 7), "probs": np.ones((300, K))}
    shards_lib.write_shard(path, columns, MADE_OF)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_short, "run label again"),
        (damage, "run label again"),
        (lambda path: path.unlink(), "run label again"),
        (of_another_teacher, "run label again.*teacher: 'u' there, 't' now"),
        (of_other_images, "other images than its place says"),
        (of_impossible_labels, "labels 7 to 7 of 7 classes"),
    ],
)
def test_a_bad_shard_is_named(tmp_path, harm, message):
    write_labels(tmp_path / "labels")
    harm(tmp_path / "labels" / shards_lib.shard_name(1, 4))
    with pytest.raises(InputError, match=f"(?s)labels-00001-of-00004.parquet .*{message}") as error:
        run(tmp_path)
    # What selftrain mends by labelling again.
    assert isinstance(error.value, DamagedError) == (harm is not of_another_teacher)
    assert not list(tmp_path.glob("selection/*arrow*"))


def test_a_teacher_that_was_not_finite_is_called_that_and_not_a_damaged_shard(tmp_path):
    confidence = np.full(600, 0.5, np.float32)
    confidence[450] = np.nan
    label = np.zeros(600, int)
    write_shards(tmp_path / "labels", np.arange(600), label, confidence, np.full(600, "ok"))
    with pytest.raises(DivergedError, match="labels-00001.*outputs of the teacher t are not fin"):
        run(tmp_path)


def test_a_full_disk_leaves_nothing_and_says_what_is_needed(tmp_path):
    write_labels(tmp_path / "labels")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(OSError, match="240 rows need 8,160 bytes, [0-9,]+ are free. Free some"):
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "selection").iterdir()) == []
    assert run(tmp_path)["rows"] == 240


class TestRelabelling:
    """Labels of a selection's images alone: the same rows, with what the new teacher says."""

    @pytest.fixture
    def workdir(self, tmp_path):
        write_labels(tmp_path / "labels")
        digest = run(tmp_path, per_class=300)["digest"]
        self.earlier = np.asarray(table_lib.Selection(tmp_path / "selection").index)
        self.images = np.unique(self.earlier)
        rng = np.random.default_rng(9)
        count = len(self.images)
        self.label = rng.integers(0, NUM_CLASSES, count)
        self.confidence = rng.uniform(0.0, 1.0, count).astype(np.float32)
        self.ok = rng.random(count) > 0.1
        status = np.where(self.ok, "ok", "empty file")
        again = tmp_path / "again" / "labels"
        write_shards(
            again, self.images, self.label, self.confidence, status, 128, teacher="u", subset=digest
        )
        return tmp_path

    def config(self, workdir):
        config = settings(workdir / "again", threshold=0.9, per_class=3)
        config.label.subset = str(workdir / "selection")
        return config

    @pytest.mark.parametrize("rows_at_once", [100, 1 << 17])
    def test_rows_and_copies_stay(self, workdir, monkeypatch, rows_at_once):
        monkeypatch.setattr(select.balance_lib, "COPIED_ROWS", rows_at_once)
        outputs = select.run(self.config(workdir), workdir / "again")
        found = table_lib.Selection(workdir / "again" / "selection")
        place = np.searchsorted(self.images, self.earlier)
        place = place[self.ok[place]]
        np.testing.assert_array_equal(found.index, self.images[place])
        np.testing.assert_array_equal(found.label, self.label[place])
        np.testing.assert_array_equal(found.confidence, self.confidence[place])
        np.testing.assert_array_equal(found.classes[:][:, 0], self.label[place])
        assert outputs["left_out"] == (~self.ok).sum() > 0
        assert outputs["candidates"] == outputs["kept"] == self.ok.sum()
        assert outputs["rows"] == len(place)
        assert found.metadata["teacher"] == "u"

    def test_corrections_are_honoured(self, workdir):
        wrong, named = self.images[np.flatnonzero(self.ok)[:2]].tolist()
        path = workdir / "corrections.csv"
        lines = [f"{wrong},image '{place}'.png,wrong," for place in [self.place(wrong)]]
        lines += [f"{named},image '{self.place(named)}'.png,other,g"]
        path.write_text("\n".join(["index,key,verdict,label", *lines]))
        config = self.config(workdir)
        config.select.corrections = str(path)
        outputs = select.run(config, workdir / "again")
        found = table_lib.Selection(workdir / "again" / "selection")
        assert outputs["left_out"] == (~self.ok).sum() + 1 and wrong not in found.index[:]
        rows = found.index[:] == named
        assert rows.sum() == (self.earlier == named).sum()
        assert set(found.label[:][rows]) == {6} and set(found.confidence[:][rows]) == {1.0}

    def place(self, index):
        return int(np.searchsorted(self.images, index))

    def test_images_that_can_no_longer_be_read_at_all_are_an_error(self, workdir):
        again = workdir / "gone" / "labels"
        status = np.full(len(self.images), "empty file")
        digest = workdir_lib.read_manifest(workdir / "selection")["outputs"]["digest"]
        write_shards(again, self.images, self.label, self.confidence, status, subset=digest)
        config = self.config(workdir)
        config.select.labels = str(again)
        with pytest.raises(ValueError, match="none of the images has a label now"):
            select.run(config, workdir / "gone")
        assert not list((workdir / "gone" / "selection").iterdir())

    def test_another_selection_is_refused(self, workdir):
        config = self.config(workdir)
        run(workdir / "other", labels=str(workdir / "labels"), per_class=30)
        config.label.subset = str(workdir / "other" / "selection")
        with pytest.raises(ValueError, match="is the selection [0-9a-f]{16}, but .* name that one"):
            select.run(config, workdir / "again")
        config.label.subset = ""
        with pytest.raises(ValueError, match="name its directory as label.subset"):
            select.run(config, workdir / "again")
        config.label.subset, config.select.labels = (
            str(workdir / "selection"),
            str(workdir / "labels"),
        )
        with pytest.raises(ValueError, match="are labels of a whole source"):
            select.run(config, workdir / "again")


def test_the_hash_is_splitmix64():
    # First outputs for the seeds 0 and 1234567, as published with the generator.
    found = ranking.splitmix64(np.asarray([0, 1234567], np.uint64))
    assert found.tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]
    index = np.asarray([0, 1, 300_000_000])
    expected = [draw(11, 1, int(i)) for i in index]
    assert ranking.random_bits(11, 1, index).tolist() == expected
