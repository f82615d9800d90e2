"""A sample of a pool: which images it holds, and which of them are offered first."""

import numpy as np
import pytest

from ns_jax import workdir as workdir_lib
from ns_jax.report import sample as sample_lib
from ns_jax.selection import table as table_lib
from tests import rounding
from tests.programs.test_select import run, write_labels, write_shards


@pytest.fixture
def labelled(tmp_path):
    """1,000 labels in four shards, 5 % of the images unreadable, and a selection with copies."""
    self = {}
    self["label"], self["confidence"], self["ok"] = write_labels(tmp_path / "labels")
    run(tmp_path)
    return tmp_path, self


def test_all_of_a_small_pool_is_there_with_its_copies(labelled):
    workdir, made = labelled
    # Manifests of tests lack what the program counts.
    with_bad(workdir, int((~made["ok"]).sum()))
    found = sample_lib.take(workdir / "labels", workdir / "selection", None, None)
    there = np.flatnonzero(made["ok"])
    np.testing.assert_array_equal(found.index, there)
    np.testing.assert_array_equal(found.label, made["label"][there])
    np.testing.assert_array_equal(found.confidence, made["confidence"][there])
    index = table_lib.Selection(workdir / "selection").index[:]
    np.testing.assert_array_equal(found.copies, np.bincount(index, minlength=1000)[there])
    assert found.complete and not found.has_before and len(found.unreadable) == 50 > 0
    assert found.keys(np.asarray([900, 0])) == [
        f"image '{found.index[900]}'.png",
        f"image '{found.index[0]}'.png",
    ]


def with_bad(workdir, count):
    manifest = workdir_lib.read_manifest(workdir / "labels")
    outputs = {**manifest["outputs"], "num_bad": count}
    workdir_lib.write_manifest(workdir / "labels", manifest["inputs"], outputs)


def test_a_large_pool_is_sampled_evenly(labelled, monkeypatch):
    workdir, made = labelled
    with_bad(workdir, int((~made["ok"]).sum()))
    monkeypatch.setattr(sample_lib, "SHARDS", 2)
    monkeypatch.setattr(sample_lib, "ROWS", 60)
    found = sample_lib.take(workdir / "labels", workdir / "selection", None, None)
    assert len(found) == 60 and not found.complete and found.num_images == 1000
    assert (found.index < 300).sum() == (found.index >= 900).sum() == 30
    assert np.diff(found.index).min() > 0
    index = table_lib.Selection(workdir / "selection").index[:]
    np.testing.assert_array_equal(found.copies, np.bincount(index, minlength=1000)[found.index])
    every = np.arange(1000, dtype=np.int32)
    again = sample_lib.take(workdir / "labels", None, None, every)
    np.testing.assert_array_equal(again.truth, found.index)


def test_labels_of_before_are_those_of_the_same_images(labelled, tmp_path):
    workdir, made = labelled
    with_bad(workdir, 0)
    shifted = (made["label"] + 1) % 6
    status = np.full(1000, "ok")
    write_shards(tmp_path / "before", np.arange(1000), shifted, made["confidence"], status)
    found = sample_lib.take(workdir / "labels", None, tmp_path / "before", None)
    assert found.has_before
    np.testing.assert_array_equal(found.before, shifted[found.index])
    write_shards(
        tmp_path / "other", np.arange(9), shifted[:9], made["confidence"][:9], status[:9], 3
    )
    other = sample_lib.take(workdir / "labels", None, tmp_path / "other", None)
    assert not other.has_before and (other.before == -1).all()


def test_worth_by_hand(labelled):
    workdir, _ = labelled
    with_bad(workdir, 0)
    found = sample_lib.take(workdir / "labels", workdir / "selection", None, None)
    small = sample_lib.dataclasses.replace(
        found,
        index=np.arange(5),
        label=np.asarray([0, 0, 0, 1, 1], np.int32),
        second=np.asarray([1, 1, 2, 0, 0], np.int32),
        confidence=np.asarray([0.9, 0.6, 0.6, 1.0, 0.8], np.float32),
        copies=np.asarray([3, 0, 1, 2, 2]),
        before=np.asarray([0, -1, 1, 0, 1], np.int32),
    )
    expected = [3 * 0.1 * 2 / 3, 1 * 0.4 * 2 / 3, 1 * 0.4 * 1 / 3, 2 / 3 * 1, 2 * 0.2 * 1]
    rounding.close(sample_lib.worth(small), expected, 1e-6)
    assert sample_lib.offered(small, 3).tolist() == [3, 4, 1]
    sure = sample_lib.dataclasses.replace(
        small, confidence=np.ones(5, np.float32), before=np.full(5, -1)
    )
    assert sample_lib.offered(sure, 3).tolist() == []  # nothing is in doubt
