"""Corrections of single labels, through the whole of the select program."""

import numpy as np
import pytest

from ns_jax import workdir as workdir_lib
from ns_jax.errors import InputError
from ns_jax.programs import select
from ns_jax.selection import table as table_lib
from tests.programs.test_select import K, run, settings, write_labels, write_shards

HEADER = "index,key,verdict,label\n"


def key(index):
    return f"image '{index}'.png"


def write(path, *rows):
    lines = [f'{index},"{key(index)}",{verdict},{label}\n' for index, verdict, label in rows]
    path.write_text(HEADER + "".join(lines))
    return str(path)


def rows_of(workdir, index):
    """The selection's columns of an image, a row for each copy."""
    selection = table_lib.Selection(workdir / "selection")
    rows = np.flatnonzero(selection.index[:] == index)
    return {name: getattr(selection, name)[:][rows] for name in table_lib.DTYPES}


@pytest.mark.parametrize("order", ["confidence", "random"])
@pytest.mark.parametrize("changes", [{}, {"fraction": 0.5, "seed": 4}, {"max_confidence": 0.8}])
def test_wrong_ones_go_named_ones_come_and_right_ones_stay(tmp_path, changes, order):
    label, confidence, ok = write_labels(tmp_path / "labels")
    changes = {"threshold": 0.5, "per_class": 30, "order": order, **changes}
    plain = run(tmp_path, **changes) and table_lib.Selection(tmp_path / "selection")
    wrong = int(plain.index[3])
    low = [int(i) for i in np.flatnonzero(ok & (confidence < 0.4) & (label != 6))[:3]]
    named, right = low[0], low[1]
    path = write(
        tmp_path / "c.csv", (named, "other", "g"), (wrong, "wrong", ""), (right, "right", "")
    )
    there = tmp_path / "corrected"
    (there).mkdir()
    config = settings(tmp_path, corrections=path, **changes)
    outputs = select.run(config, there)
    assert not len(rows_of(there, wrong)["index"])
    found = rows_of(there, named)
    assert len(found["index"]) == 30  # the one image of class g, which had none
    assert set(found["label"]) == {6} and set(found["confidence"]) == {1.0}
    assert (found["classes"][:, 0] == 6).all()
    assert len(set(found["classes"][0].tolist())) == K  # each class once
    np.testing.assert_array_equal(found["probs"][0], [65535, 0, 0])
    found = rows_of(there, right)
    assert len(found["index"]) >= 1 and set(found["label"]) == {label[right]}
    assert found["confidence"][0] == confidence[right]
    assert (
        outputs["digest"] != workdir_lib.read_manifest(tmp_path / "selection")["outputs"]["digest"]
    )


def test_no_other_row_moves_but_those_of_the_same_classes(tmp_path):
    label, confidence, ok = write_labels(tmp_path / "labels")
    run(tmp_path, threshold=0.5, per_class=500)
    plain = table_lib.Selection(tmp_path / "selection")
    wrong = int(plain.index[0])
    path = write(tmp_path / "c.csv", (wrong, "wrong", "abcdefg"[label[wrong]]))
    config = settings(tmp_path, corrections=path, threshold=0.5, per_class=500)
    select.run(config, tmp_path / "corrected")
    corrected = table_lib.Selection(tmp_path / "corrected" / "selection")
    for selection in (plain, corrected):
        other = selection.label[:] != label[wrong]
        np.testing.assert_array_equal(
            selection.index[:][other], plain.index[:][plain.label[:] != label[wrong]]
        )


def test_a_verdict_is_of_the_label_that_was_judged(tmp_path):
    """Another teacher says something else of the image: that was not found wrong, and what was
    found right is known.
    """
    label, _, ok = write_labels(tmp_path / "labels")
    first, second = (int(i) for i in np.flatnonzero(ok)[:2])
    others = ["abcdefg"[(label[i] + 1) % 6] for i in (first, second)]
    path = write(tmp_path / "c.csv", (first, "wrong", others[0]), (second, "right", others[1]))
    run(tmp_path, threshold=0.0, per_class=2000, corrections=path)
    assert set(rows_of(tmp_path, first)["label"]) == {label[first]}
    found = rows_of(tmp_path, second)
    assert set(found["label"]) == {(label[second] + 1) % 6} and set(found["confidence"]) == {1.0}


def test_the_highest_ranks_are_theirs_even_beside_certain_images(tmp_path):
    n = 50
    ones = np.ones(n, np.float32)
    ones[-1] = 0.1
    write_shards(tmp_path / "labels", np.arange(n), np.zeros(n, int), ones, np.full(n, "ok"))
    path = write(tmp_path / "c.csv", (n - 1, "right", "a"))
    run(tmp_path, threshold=0.5, per_class=2, corrections=path)
    assert table_lib.Selection(tmp_path / "selection").index[:].tolist() == [0, n - 1]


def test_what_is_excluded_stays_out(tmp_path):
    write_labels(tmp_path / "labels")
    path = write(tmp_path / "c.csv", (5, "other", "g"))
    (tmp_path / "out.txt").write_text("5\n")
    run(tmp_path, corrections=path, exclude=str(tmp_path / "out.txt"))
    assert not len(rows_of(tmp_path, 5)["index"])


def test_they_are_part_of_what_a_selection_is_made_of_only_where_there_are_any(tmp_path):
    write_labels(tmp_path / "labels")
    run(tmp_path)
    assert "corrections" not in workdir_lib.read_manifest(tmp_path / "selection")["inputs"]
    path = write(tmp_path / "c.csv", (5, "wrong", ""))
    with pytest.raises(InputError, match="corrections"):
        run(tmp_path, corrections=path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,verdict\n1,right\n", "no column 'key'"),
        ("", "no column 'index'"),
        (f"{HEADER}one,k,right,\n", "line 2: 'one' is not an index"),
        (f"{HEADER}-1,k,right,\n", "line 2: '-1' is not an index"),
        (f"{HEADER}1,k,maybe,\n", "line 2: verdict 'maybe'; known: right, wrong, other"),
        (f"{HEADER}1,k,other,\n", "line 2: verdict 'other' needs"),
        (f"{HEADER}1,image '1'.png,other,dog\n", "no class 'dog' among the labels' 7: a, b"),
        (f"{HEADER}1000,k,wrong,\n", "no image 1000; the labels are of images 0 to 999"),
        (f"{HEADER}1,k,wrong,\n1,k,right,\n", "image 1 stands in lines 2 and 3"),
        (f"{HEADER}1,cat.jpg,wrong,\n", "'cat.jpg' there, but \"image '1'.png\" in the labels"),
    ],
)
def test_what_is_no_list_of_corrections_is_said(tmp_path, text, message):
    write_labels(tmp_path / "labels")
    path = tmp_path / "c.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        run(tmp_path, corrections=str(path))
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "selection" / "manifest.json").exists()


def test_an_image_that_could_not_be_read_has_no_class(tmp_path):
    _, _, ok = write_labels(tmp_path / "labels")
    bad = int(np.flatnonzero(~ok)[0])
    with pytest.raises(InputError, match="could not be read"):
        run(tmp_path, corrections=write(tmp_path / "c.csv", (bad, "other", "a")))


def test_a_file_that_is_not_there_is_said_before_anything_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="select.corrections=.*no such file"):
        select.check(settings(tmp_path, corrections=str(tmp_path / "c.csv")))


def test_spreadsheets_may_have_saved_it(tmp_path):
    write_labels(tmp_path / "labels")
    path = tmp_path / "c.csv"
    path.write_bytes("\ufeffindex,key,verdict,label\r\n5,image '5'.png,wrong,\r\n".encode())
    run(tmp_path, threshold=0.0, per_class=2000, corrections=str(path))
    assert not len(rows_of(tmp_path, 5)["index"])
