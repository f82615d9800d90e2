"""few:SOURCE and rest:SOURCE: drawn by the seed, sharing no image, the rest's labels hidden."""

import pickle

import numpy as np
import pytest

from ns_jax.data import open as open_lib
from ns_jax.errors import InputError
from tests.data import made

COUNT = 14  # 5 ants, 5 bees, 4 cats


def open_source(name, per_class=2, seed=0, **draw):
    return open_lib.open_source(name, labels_per_class=per_class, seed=seed, **draw)


def keys(source):
    return [source[i]["key"] for i in range(len(source))]


def few_and_rest(name, *args, **draw):
    return [open_source(f"{kind}:{name}", *args, **draw) for kind in ("few", "rest")]


@pytest.fixture(params=[*made.FORMATS, "idx"])
def name(request, tmp_path, monkeypatch):
    """A labelled source in each of the formats."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    return (made.FORMATS | {"idx": made.idx})[request.param](tmp_path, COUNT)


def test_few_and_rest_share_no_image_and_leave_none_out(name):
    whole, (few, rest) = open_source(name), few_and_rest(name)
    assert sorted(keys(few) + keys(rest)) == sorted(keys(whole))
    assert np.bincount(few.labels).tolist() == [2, 2, 2]
    label_of = {whole[i]["key"]: whole[i]["label"] for i in range(COUNT)}
    for i in range(len(few)):
        assert few[i]["label"] == few.labels[i] == label_of[few[i]["key"]]
    for i in range(len(rest)):
        assert rest[i]["label"] == rest.labels[i] == -1
        assert rest.known_labels(whole.class_names)[i] == label_of[rest[i]["key"]]
    first = [k for k in keys(whole) if k in keys(few)]
    assert keys(few) == first  # in the source's order
    copy = pickle.loads(pickle.dumps(rest))
    assert np.array_equal(copy[3]["image"], rest[3]["image"])


def test_the_seed_and_the_number_decide(name):
    fingerprints = {
        open_source(f"few:{name}", per_class, seed).fingerprint
        for per_class in (1, 2)
        for seed in (0, 1)
    }
    assert len(fingerprints) == 4
    again = open_source(f"few:{name}", 2, 1)
    assert again.fingerprint in fingerprints
    assert keys(again) != keys(open_source(f"few:{name}", 2, 0))


def test_more_labels_keep_those_that_fewer_had(tmp_path):
    name = made.folder(tmp_path, 60)
    assert set(keys(open_source(f"few:{name}", 3))) < set(keys(open_source(f"few:{name}", 9)))


def test_a_share_is_of_each_class_and_at_least_one_image(tmp_path):
    name = made.folder(tmp_path, 40)  # 14, 13, 13
    few, rest = few_and_rest(name, labels_share=0.25)
    assert np.bincount(few.labels).tolist() == [4, 3, 3] and len(rest) == 30
    few, rest = few_and_rest(name, labels_share=0.01)
    assert np.bincount(few.labels).tolist() == [1, 1, 1] and len(rest) == 37


def test_a_smaller_rest_lies_in_a_larger_one(tmp_path):
    name = made.folder(tmp_path, 60)
    few, whole = few_and_rest(name)
    small, large = (open_source(f"rest:{name}", rest_limit=limit) for limit in (10, 25))
    assert (len(small), len(large)) == (10, 25)
    assert set(keys(small)) < set(keys(large)) < set(keys(whole))
    assert not set(keys(large)) & set(keys(few))
    assert len({small.fingerprint, large.fingerprint, whole.fingerprint, few.fingerprint}) == 4
    assert len(np.unique(small.truth)) == 3  # drawn from all of it, not from the beginning
    assert len(open_source(f"rest:{name}", rest_limit=1000)) == 54


def test_images_without_a_label_are_of_the_rest(tmp_path):
    name = made.table(tmp_path, COUNT)
    path = tmp_path / "labels.csv"
    path.write_text(path.read_text().replace("000.jpg,ant", "000.jpg,"))
    few, rest = few_and_rest(name, 4)
    assert np.bincount(few.labels).tolist() == [4, 4, 4]
    assert "000.jpg" in keys(rest) and rest.truth[keys(rest).index("000.jpg")] == -1


def test_parts_are_joined_with_other_sources_and_still_know_their_truth(tmp_path):
    first, second = made.folder(tmp_path / "a", COUNT), made.table(tmp_path / "b", COUNT)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "z.jpg").write_bytes(made.encoded(92))
    pool = open_source(f"rest:{first}+rest:{second}+folder:{tmp_path}/pool")
    assert len(pool) == 2 * (COUNT - 6) + 1 and (pool.labels == -1).all()
    known = pool.known_labels(made.NAMES)
    assert (known[:-1] >= 0).all() and known[-1] == -1
    mixed = open_source(f"few:{first}+{second}")  # a few of the first and all of the second
    assert len(mixed) == 6 + COUNT and mixed.truth is None
    assert [mixed[i]["label"] for i in range(len(mixed))] == mixed.labels.tolist()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        ({"per_class": 5}, r"labels_per_class is 5, but 1 of the 3 classes .* fewer images: cat 4"),
        ({"per_class": 0}, "labels_per_class is 0; it must be 1 or more"),
        ({"labels_share": 1.0}, r"labels_share is 1.0; it must be above 0 and below 1"),
        ({"labels_share": 0.0}, "labels_share is 0.0; it must be above 0"),
        ({"rest_limit": 0}, "rest_limit is 0; it must be 1 or more"),
    ],
)
def test_numbers_that_cannot_be_are_said(tmp_path, draw, message):
    with pytest.raises(InputError, match=message):
        open_source(f"rest:{made.folder(tmp_path, COUNT)}", **draw)


def test_a_source_that_cannot_be_parted_says_why(tmp_path):
    with pytest.raises(InputError, match="is empty: all 15 images are to keep their label"):
        open_source(f"rest:{made.folder(tmp_path / 'a', 15)}", 5)
    with pytest.raises(InputError, match="has no labels of which a few could be kept"):
        open_source(f"few:{made.wds(tmp_path / 'b', COUNT, labelled=False)}")
    with pytest.raises(InputError, match="unknown source 'few:'"):
        open_source("few:")
