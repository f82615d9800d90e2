"""The selection against a brute-force version, ties included."""

import json

import numpy as np
import pytest
from ml_collections import config_dict

from ns_jax import manifest
from ns_jax.data import labels
from ns_jax.programs import select

NUM_CLASSES, K = 7, 3


def write_labels(directory, num_images=1000, seed=0):
    """Label shards of random predictions: many ties, skewed classes, class 6 never seen."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    label = np.minimum(rng.geometric(0.45, num_images) - 1, NUM_CLASSES - 2)
    confidence = np.round(rng.uniform(0.2, 1.0, num_images), 2).astype(np.float32)
    classes = np.stack([label, (label + 1) % NUM_CLASSES, (label + 2) % NUM_CLASSES], 1)
    probs = np.stack([confidence, (1 - confidence) / 2, (1 - confidence) / 3], 1)
    status = np.where(rng.random(num_images) < 0.05, "not an image", "ok")
    ranges = labels.shard_ranges(num_images, 300)
    for shard, rows in enumerate(ranges):
        part = slice(rows.start, rows.stop)
        columns = {
            "index": np.asarray(rows),
            "key": [f"image '{i}'.png" for i in rows],
            "status": status[part].tolist(),
            "classes": classes[part],
            "probs": probs[part],
        }
        labels.write_shard(directory / labels.shard_name(shard, len(ranges)), columns, {})
    manifest.write(
        directory,
        {"source": "s", "teacher": "t", "class_names": list("abcdefg"), "k": K},
        {"num_shards": len(ranges), "num_images": num_images},
    )
    return label, confidence, status == "ok"


def run(workdir, threshold=0.3, per_class=40):
    config = config_dict.ConfigDict(
        {
            "select": {
                "labels": str(workdir / "labels"),
                "threshold": threshold,
                "per_class": per_class,
            },
            "data": {"unlabelled": ""},
        }
    )
    return select.run(config, workdir)


def brute_force(label, confidence, ok, threshold, per_class):
    """Sorted indices with their copies."""
    rows = []
    for c in range(NUM_CLASSES):
        candidates = [i for i in range(len(label)) if ok[i] and label[i] == c]
        candidates = [i for i in candidates if confidence[i] > np.float32(threshold)]
        ranking = sorted(candidates, key=lambda i: (-confidence[i], i))[:per_class]
        rows += [ranking[place % len(ranking)] for place in range(per_class)] if ranking else []
    return sorted(rows)


@pytest.mark.parametrize(("threshold", "per_class"), [(0.3, 40), (0.75, 13), (0.0, 500)])
def test_selection_is_exact(tmp_path, threshold, per_class):
    workdir = tmp_path / "with 'quotes' and spaces"
    label, confidence, ok = write_labels(workdir / "labels")
    outputs = run(workdir, threshold, per_class)
    selection = labels.Selection(workdir / "selection")
    expected = brute_force(label, confidence, ok, threshold, per_class)
    assert selection.index.tolist() == expected
    np.testing.assert_array_equal(selection.label, label[selection.index])
    np.testing.assert_array_equal(selection.confidence, confidence[selection.index])
    np.testing.assert_array_equal(selection.classes[:, 0], selection.label)
    stored = np.round(selection.confidence * labels.SCALE)
    np.testing.assert_allclose(selection.probs[:, 0], stored, atol=1)
    assert outputs["rows"] == len(expected) == 6 * per_class
    assert outputs["kept"] == len(set(expected))

    report = json.loads((workdir / "selection" / "report.json").read_text())
    for c, row in enumerate(report["classes"]):
        mine = [i for i in expected if label[i] == c]
        above = int((ok & (label == c) & (confidence > np.float32(threshold))).sum())
        assert (row["candidates"], row["kept"]) == (above, len(set(mine)))
        assert row["copies"] == len(mine) - len(set(mine))
        lowest = min((float(confidence[i]) for i in mine), default=None)
        assert row["lowest_confidence"] == lowest
    assert report["classes"][6] == {
        "name": "g",
        "candidates": 0,
        "kept": 0,
        "copies": 0,
        "lowest_confidence": None,
    }


def test_per_class_0_fills_every_class_to_the_largest(tmp_path):
    label, confidence, ok = write_labels(tmp_path / "labels")
    run(tmp_path, per_class=0)
    counts = np.bincount(labels.Selection(tmp_path / "selection").label, minlength=NUM_CLASSES)
    largest = np.bincount(label[ok & (confidence > np.float32(0.3))]).max()
    assert counts.tolist() == [largest] * 6 + [0]


def test_the_same_labels_give_the_same_bytes(tmp_path):
    found = []
    for name in "ab":
        write_labels(tmp_path / name / "labels")
        digest = run(tmp_path / name)["digest"]
        found.append((digest, (tmp_path / name / "selection" / labels.SELECTION).read_bytes()))
    assert found[0] == found[1]
    write_labels(tmp_path / "c" / "labels", seed=1)
    assert run(tmp_path / "c")["digest"] != found[0][0]


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


def test_unfinished_labels_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no finished stage"):
        run(tmp_path)
