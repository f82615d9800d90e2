import json

import numpy as np
import pytest

from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.robustness import imagenet


def test_the_lists_are_of_200_ids_in_the_order_of_the_thousand():
    every = imagenet.wnids()
    assert len(every) == 1000 and every == sorted(every)
    lists = imagenet.wnids("a"), imagenet.wnids("r")
    for ids in lists:
        assert len(set(ids)) == 200 and ids == sorted(ids) and set(ids) <= set(every)
    assert len(set(lists[0]) & set(lists[1])) == 86  # as published
    assert lists[0][0] == "n01498041" and every.index("n01498041") == 6  # stingray


def test_numbers_that_are_sorted_as_text_are_still_numbers():
    as_text = sorted(map(str, range(1000)))
    assert as_text[1:3] == ["1", "10"]
    ids = imagenet.class_ids(as_text, "folder:v2")
    every = imagenet.wnids()
    assert ids[2] == every[10]
    np.testing.assert_array_equal(imagenet.numbers(ids, every), [int(name) for name in as_text])


def test_a_network_may_have_its_classes_in_any_order():
    backwards = imagenet.wnids()[::-1]
    imagenet.check_network(backwards, "checkpoint", "a")
    found = imagenet.numbers(imagenet.wnids("a"), backwards)
    assert [backwards[number] for number in found] == imagenet.wnids("a")


@pytest.mark.parametrize(
    ("names", "subset", "said"),
    [
        (imagenet.wnids()[:-2], "", r"2 classes are missing: n13133613, n15075141; .* 1,000"),
        ([*imagenet.wnids(), "cat"], "", "1 classes are not ImageNet's: cat"),
        (imagenet.wnids("a")[1:], "a", r"1 classes are missing: n01498041; .* 200"),
        ([], "a", "200 classes are missing"),
    ],
)
def test_a_set_with_other_classes_is_said_with_their_names(names, subset, said):
    with pytest.raises(InputError, match=said):
        imagenet.class_ids(names, "folder:there", subset)


def test_a_thousand_classes_may_be_named_where_200_have_images():
    assert imagenet.class_ids(imagenet.wnids(), "tfds:imagenet_a:test", "a") == imagenet.wnids()


def test_folders_are_checked_without_their_files(tmp_path):
    for name in imagenet.wnids("r")[:-1]:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"1 classes are missing: {imagenet.wnids('r')[-1]}"):
        imagenet.check_folders(str(tmp_path), "r")
    (tmp_path / imagenet.wnids("r")[-1]).mkdir()
    imagenet.check_folders(str(tmp_path), "r")


def test_a_network_of_other_classes_is_refused():
    with pytest.raises(
        InputError, match=r"suite c is of ImageNet's 1,000 classes.*runs/digits has 2"
    ):
        imagenet.check_network(("cat", "dog"), "runs/digits", "c")


def test_labels_of_real_are_read_and_what_is_none_is_said(tmp_path):
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[1, 5], [], [999]]))
    assert imagenet.real_labels(str(path)) == [[1, 5], [], [999]]
    for content, said in (("[[1000]]", "outside"), ("{}x", "no real.json"), ("[1, 2]", "no real")):
        other = tmp_path / f"{len(content)}.json"
        other.write_text(content)
        with pytest.raises(InputError, match=said):
            imagenet.real_labels(str(other))
    with pytest.raises(InputError, match="there is no"):
        imagenet.real_labels(str(tmp_path / "none.json"))


def test_an_image_of_validation_is_known_by_its_number():
    source = Source("folder:val", (), "", [])
    assert imagenet.image_number("n01440764/ILSVRC2012_val_00000293.JPEG", source) == 292
    with pytest.raises(InputError, match="cat.jpg is not named as"):
        imagenet.image_number("cat.jpg", source)
