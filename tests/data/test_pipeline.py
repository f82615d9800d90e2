import dataclasses

import cv2
import numpy as np
import pytest
from ml_collections import config_dict

from ns_jax.data import bad_images, crops, perceptual, pipeline, randaugment, views
from ns_jax.data import open as open_lib
from ns_jax.data.batch import BatchSpec
from ns_jax.data.workers import LoaderSettings
from ns_jax.training import examples as examples_lib
from ns_jax.training import targets
from tests import rounding
from tests.data import made

EVALUATION = crops.Preprocessing(size=16, crop="none", mean=(0.3,) * 3, std=(0.4,) * 3)
LOSS = config_dict.ConfigDict({"pseudo_labels": "soft", "temperature": 1.0, "label_smoothing": 0.1})


def digits(split):
    return open_lib.open_source(f"digits:{split}", labels_per_class=3, seed=0)


def view(**changes):
    settings = {"kind": "pad", "flip": False, "final_cutout": 2, **changes}
    augment = randaugment.RandAugment(2, 5.0, 2.0, 2.0)
    return views.TrainView(evaluation=EVALUATION, randaugment=augment, **settings)


THREADS = LoaderSettings(workers=0, threads=2, prefetch=2)
WORKERS = LoaderSettings(workers=2, prefetch=3)


class FakeSelection:
    """Rows as a `Selection` has them, in memory."""

    def __init__(self, source, index):
        self.metadata = {"source": source.fingerprint}
        self.index = np.asarray(index, np.int64)
        self.label = (self.index % 10).astype(np.int32)
        self.classes = np.stack([self.label, (self.label + 1) % 10], 1)
        self.probs = np.full((len(index), 2), (40_000, 20_000), np.uint16)


def examples():
    pool = digits("unlabelled")
    selection = FakeSelection(pool, np.arange(0, 300, 3))
    return (
        examples_lib.labelled_examples(digits("train"), 0.1, 2),
        examples_lib.pseudo_labelled_examples(pool, selection, LOSS, 10),
    )


def batches(
    start_step=0,
    steps=6,
    places=None,
    groups=1,
    per_step=(8, 16),
    seed=0,
    reading=THREADS,
    weights=pipeline.Weights(),  # noqa: B008
):
    labelled, unlabelled = examples()
    return list(
        pipeline.train_batches(
            labelled,
            unlabelled if per_step[1] else None,
            view(),
            spec=BatchSpec(*per_step, groups, view().shapes(), labelled.k),
            steps=steps,
            start_step=start_step,
            seed=seed,
            reading=reading,
            places=places,
            weights=weights,
        )
    )


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_batches_have_the_contracted_form():
    batch = batches()[0]
    assert batch["image"].shape == (24, 16, 16, 3) and batch["image"].dtype == np.uint8
    assert batch["target_classes"].shape == (24, 2) and batch["target_classes"].dtype == np.int32
    assert batch["target_probs"].dtype == batch["weight"].dtype == np.float32
    assert batch["index"].dtype == np.int64
    # Labelled rows first: one class at 0.91 and an empty place; then the teacher's two best.
    np.testing.assert_array_equal(batch["target_classes"][:8, 1], -1)
    rounding.close(batch["target_probs"][:8, 0], np.full(8, 0.91))
    rounding.close(batch["target_probs"][8:, 0], np.full(16, 40_000 / 65_535))
    assert (batch["target_classes"][8:, 0] == batch["index"][8:] % 10).all()


def test_starting_at_a_step_gives_the_same_bytes_as_running_up_to_it():
    assert_same(batches(start_step=4), batches()[4:])
    assert_same(batches(reading=LoaderSettings(workers=0, threads=1, prefetch=1)), batches())


@pytest.mark.large
def test_workers_make_the_same_bytes_from_any_step_on():
    assert_same(batches(reading=WORKERS), batches())
    assert_same(batches(start_step=3, reading=WORKERS), batches()[3:])


@pytest.mark.large
@pytest.mark.parametrize("kind", made.FORMATS)
def test_a_run_resumed_with_workers_sees_the_same_bytes_of_every_source(
    kind, tmp_path, monkeypatch
):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    source = open_lib.open_source(made.FORMATS[kind](tmp_path, 14), labels_per_class=1, seed=0)
    labelled = examples_lib.labelled_examples(source, 0.1, 1)

    def run(start_step, reading):
        found = pipeline.train_batches(
            labelled,
            None,
            view(kind="crop", flip=True),
            spec=BatchSpec(6, 0, 1, view().shapes()),
            steps=7,  # three passes
            start_step=start_step,
            seed=0,
            reading=reading,
        )
        return list(found)

    whole = run(0, WORKERS)
    assert len(whole) == 7 and all(batch["weight"].all() for batch in whole)
    assert_same(run(4, WORKERS), whole[4:])
    assert_same(run(0, THREADS), whole)


def test_every_step_and_every_seed_is_different():
    first, second = batches(steps=2)
    assert not np.array_equal(first["image"], second["image"])
    assert not np.array_equal(first["index"], batches(seed=1)[0]["index"])


@pytest.mark.parametrize("count", [1, 50, pipeline.FEW - 1, pipeline.FEW])
def test_an_order_is_a_permutation_of_each_epoch_and_a_function_of_the_seed(count):
    first, again, other = (pipeline.Shuffled(count, seed) for seed in (3, 3, 4))
    places = range(count) if count < 1000 else range(0, count, 1000)
    for epoch in (0, 5):
        seen = [first[epoch * count + place] for place in places]
        assert seen == [again[epoch * count + place] for place in places]
        assert len({*seen}) == len(places) and all(0 <= position < count for position in seen)
        if count > 1:
            assert seen != [first[(epoch + 1) * count + place] for place in places]
            assert seen != [other[epoch * count + place] for place in places]


def test_an_epoch_shows_every_labelled_image_once_and_then_in_another_order():
    rows = [b["index"] for b in batches(steps=6, per_step=(10, 0))]
    epochs = [np.concatenate(rows[:3]), np.concatenate(rows[3:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(30))
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batch(hosts):
    shares = np.split(np.arange(24), hosts)
    parts = zip(*[batches(places=share, groups=2) for share in shares], strict=True)
    joined = [{n: np.concatenate([p[n] for p in step]) for n in step[0]} for step in parts]
    assert_same(joined, batches(groups=2))


def test_labelled_rows_are_kept_with_a_probability_drawn_from_the_seed():
    weights = pipeline.Weights(labelled_kept=0.5, unlabelled=2.0)
    sampled, whole = batches(steps=40, weights=weights), batches(steps=40)
    found = np.stack([batch.pop("weight") for batch in sampled])
    assert all(batch.pop("weight").all() for batch in whole)
    assert_same(sampled, whole)  # but for the weights
    assert set(found[:, :8].ravel()) == {0.0, 1.0} and (found[:, 8:] == 2).all()
    assert 120 < found[:, :8].sum() < 200  # of 320: 160 with a deviation of 9
    again = batches(start_step=30, steps=40, weights=weights)
    np.testing.assert_array_equal(np.stack([b["weight"] for b in again]), found[30:])
    other = batches(steps=40, weights=weights, seed=1)
    assert not np.array_equal(np.stack([b["weight"] for b in other]), found)


def test_every_group_has_labelled_and_unlabelled_rows_in_the_same_ratio():
    grouped, plain = batches(groups=4)[0], batches(groups=1)[0]
    empty_place = (grouped["target_classes"][:, 1] == -1).reshape(4, 6)
    np.testing.assert_array_equal(empty_place, np.tile([1, 1, 0, 0, 0, 0], (4, 1)))
    is_labelled = empty_place.ravel()
    np.testing.assert_array_equal(grouped["image"][is_labelled], plain["image"][:8])
    np.testing.assert_array_equal(grouped["image"][~is_labelled], plain["image"][8:])


def test_hard_pseudo_labels_are_smoothed_classes():
    pool = digits("unlabelled")
    hard = LOSS.copy_and_resolve_references()
    hard.pseudo_labels = "hard"
    rows = examples_lib.pseudo_labelled_examples(pool, FakeSelection(pool, [5, 7]), hard, 10)
    classes, probs = rows.target(1, -1)
    assert classes.tolist() == [7] and probs == pytest.approx([0.91])


def test_a_selection_of_another_source_is_refused():
    selection = FakeSelection(digits("test"), [1, 2])
    with pytest.raises(ValueError, match="made of another source"):
        examples_lib.pseudo_labelled_examples(digits("unlabelled"), selection, LOSS, 10)


def test_unlabelled_images_cannot_be_trained_on_as_labelled():
    with pytest.raises(ValueError, match="without a label"):
        examples_lib.labelled_examples(digits("unlabelled"), 0.1, 1)


def test_a_source_that_only_its_records_know_to_be_unlabelled_is_refused_when_one_comes():
    hidden = digits("unlabelled")
    rows = examples_lib.labelled_examples(dataclasses.replace(hidden, labels=None), 0.1, 1)
    with pytest.raises(ValueError, match=r"digits:unlabelled\[3\] has the label -1"):
        rows[3]


def test_the_teachers_view_comes_with_the_batch():
    teacher = crops.Preprocessing(size=24, crop="none", mean=(0.3,) * 3, std=(0.4,) * 3)
    labelled, _ = examples()
    batch = next(
        pipeline.train_batches(
            labelled,
            None,
            view(teacher=teacher),
            spec=BatchSpec(8, 0, 1, view(teacher=teacher).shapes(), labelled.k),
            steps=1,
            start_step=0,
            seed=0,
            reading=WORKERS,
        )
    )
    assert batch["teacher_image"].shape == (8, 24, 24, 3)
    for row, index in enumerate(batch["index"]):
        seen = teacher(labelled.source[index]["image"])
        np.testing.assert_array_equal(batch["teacher_image"][row], seen)


def folder_with_bad_files(tmp_path):
    for i in range(8):
        source = digits("test")[i]["image"]
        (tmp_path / f"{i}.png").write_bytes(cv2.imencode(".png", source)[1].tobytes())
    (tmp_path / "3.png").write_bytes(b"broken")
    (tmp_path / "5.png").write_bytes(b"")
    return open_lib.open_source(f"folder:{tmp_path}", labels_per_class=1, seed=0)


def test_bad_images_keep_their_index_and_have_weight_0(tmp_path):
    source = folder_with_bad_files(tmp_path)
    rows = pipeline.Examples(
        source, np.arange(8), lambda *_: targets.hard_target(0, 10, 0.1, 1), k=1
    )
    batch = next(
        pipeline.train_batches(
            rows,
            None,
            view(),
            spec=BatchSpec(8, 0, 1, view().shapes()),
            steps=1,
            start_step=0,
            seed=0,
            reading=THREADS,
        )
    )
    assert sorted(batch["index"][batch["weight"] == 0]) == [3, 5]
    np.testing.assert_array_equal(batch["bad"], batch["weight"] == 0)
    assert (batch["image"][batch["weight"] == 0] == 0).all()
    assert batch["image"][batch["weight"] == 1].any((1, 2, 3)).all()


def test_evaluation_sees_every_image_once_in_order_and_pads_the_last_batch(tmp_path):
    source = folder_with_bad_files(tmp_path)
    small = dataclasses.replace(EVALUATION, size=8)
    parts = list(pipeline.full_batches([range(1, 5), range(5, 8)], 3))
    found, by_workers = (
        list(
            pipeline.evaluation_batches(
                source, parts, [EVALUATION, small], batch_size=3, reading=reading, hashed=True
            )
        )
        for reading in (THREADS, WORKERS)
    )
    assert_same(found, by_workers)
    assert [b["index"].tolist() for b in found] == [[1, 2, 3], [4, 5, 6], [7]]
    assert [b["image_0"].shape for b in found] == [(3, 16, 16, 3)] * 3
    assert [b["image_1"].shape for b in found] == [(3, 8, 8, 3)] * 3
    for name in ("image_0", "image_1"):
        assert not found[2][name][1:].any() and found[2][name][0].any()
    hashes = {k: h for b in found for k, h in zip(b["key"], b["phash"], strict=True)}
    assert hashes["3.png"] == hashes["5.png"] == perceptual.NOTHING
    status = {k: s for b in found for k, s in zip(b["key"], b["status"], strict=True)}
    assert status["3.png"] == "not an image" and status["5.png"] == "empty file"
    assert [s for k, s in status.items() if k not in ("3.png", "5.png")] == ["ok"] * 5


def test_batches_are_filled_across_chunks_and_read_no_further_than_needed():
    asked = []

    def chunks():
        for chunk in ([5, 6, 7], [], range(10, 14), [20]):
            asked.append(len(asked))
            yield chunk

    batches = pipeline.full_batches(chunks(), 4)
    assert next(batches).tolist() == [5, 6, 7, 10] and len(asked) == 3
    assert [batch.tolist() for batch in batches] == [[11, 12, 13, 20]]
    assert list(pipeline.full_batches([], 4)) == []


def test_bad_images_are_counted_listed_and_limited(tmp_path):
    bad = bad_images.BadImages(folder_with_bad_files(tmp_path), max_fraction=0.2)
    bad.add([3])
    bad.add([3])
    assert len(bad) == 1 and bad.lines() == ["  3.png: not an image"]
    with pytest.raises(ValueError, match=r"(?s)2 of 8 images .* 5.png: empty file"):
        bad.add([5])
    source = folder_with_bad_files(tmp_path)
    with pytest.raises(ValueError, match="2 of 4 images"):  # of a part, one known from before
        bad_images.BadImages(source, 0.3, known=[3], num_images=4).add([5])


@pytest.mark.parametrize("changes", [{"workers": -1}, {"threads": 0}, {"prefetch": 0}])
def test_numbers_of_readers_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValueError, match="data.*set it to"):
        LoaderSettings(**changes)
