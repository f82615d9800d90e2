import cv2
import numpy as np
import pytest

from ns_jax.data import images, sources


def open_source(name, labels_per_class=5, seed=0):
    return sources.open_source(name, labels_per_class=labels_per_class, seed=seed)


def write_image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((12, 10, 3), value, np.uint8))


def test_digits_split_the_real_images_without_overlap():
    train, unlabelled, test = (open_source(f"digits:{s}") for s in sources.DIGITS_SPLITS)
    assert (len(train), len(unlabelled), len(test)) == (50, 1148, 599)
    assert not (set(train.keys) & set(unlabelled.keys)) | (set(train.keys) & set(test.keys))
    assert len({*train.keys, *unlabelled.keys, *test.keys}) == 1797
    np.testing.assert_array_equal(np.bincount(train.labels), np.full(10, 5))
    example = train[7]
    assert example["image"].shape == (8, 8, 3) and example["image"].max() > 200
    assert example["label"] == train.labels[7] and example["key"] == train.keys[7]


def test_unlabelled_digits_hide_their_labels_but_know_them():
    pool = open_source("digits:unlabelled")
    assert (pool.labels == -1).all() and pool[3]["label"] == -1
    assert (np.bincount(pool.truth, minlength=10) > 100).all()


def test_the_seed_draws_the_labelled_few_and_leaves_the_test_split_alone():
    assert open_source("digits:train", seed=1).keys != open_source("digits:train", seed=2).keys
    assert open_source("digits:train", seed=1).keys == open_source("digits:train", seed=1).keys
    tests = [open_source("digits:test", seed=seed) for seed in (1, 2)]
    assert tests[0].fingerprint == tests[1].fingerprint
    trains = [open_source("digits:train", seed=seed) for seed in (1, 2)]
    assert trains[0].fingerprint != trains[1].fingerprint


@pytest.mark.parametrize("count", [0, 1000])
def test_digits_say_how_many_labels_there_can_be(count):
    with pytest.raises(
        ValueError, match=rf"labels_per_class is {count}; the digits allow 1 to \d+"
    ):
        open_source("digits:train", labels_per_class=count)


def test_folder_of_class_folders(tmp_path):
    for name in ("cat/b.png", "cat/a.jpg", "ant/deep/c.png", "cat/.hidden.png"):
        write_image(tmp_path / name, 200)
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ("ant", "cat")
    assert source.keys == ("ant/deep/c.png", "cat/a.jpg", "cat/b.png")
    assert source.labels.tolist() == [0, 1, 1]
    assert images.decode(source[1]["image"]).shape == (12, 10, 3)


def test_flat_folder_has_no_labels(tmp_path):
    write_image(tmp_path / "b.png")
    write_image(tmp_path / "a.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == () and source.labels.tolist() == [-1, -1]
    assert source.keys == ("a.png", "b.png")


def test_fingerprint_follows_the_content(tmp_path):
    write_image(tmp_path / "a/1.png")
    before = open_source(f"folder:{tmp_path}").fingerprint
    assert open_source(f"folder:{tmp_path}").fingerprint == before
    (tmp_path / "a/2.txt").write_text("more")
    after = open_source(f"folder:{tmp_path}").fingerprint
    (tmp_path / "a/2.txt").write_text("and more")
    assert len({before, after, open_source(f"folder:{tmp_path}").fingerprint}) == 3


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        open_source(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="is empty"):
        open_source(f"folder:{tmp_path}")
    write_image(tmp_path / "cat/a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="1 of 2 class folders .* hold no files: dog"):
        open_source(f"folder:{tmp_path}")
    write_image(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"1 loose files \(loose.png"):
        open_source(f"folder:{tmp_path}")


def test_a_file_that_vanishes_is_a_bad_image_not_a_crash(tmp_path):
    write_image(tmp_path / "a.png")
    source = open_source(f"folder:{tmp_path}")
    (tmp_path / "a.png").unlink()
    with pytest.raises(images.BadImageError, match="empty"):
        images.decode(source[0]["image"])


@pytest.mark.parametrize("name", ["imagenet", "digits:dev", "zip:file"])
def test_unknown_sources_list_the_known_ones(name):
    with pytest.raises(ValueError, match="known: "):
        open_source(name)
