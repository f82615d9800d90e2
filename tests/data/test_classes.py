"""Classes by name: their order, labels of every spelling, one source's classes as another's."""

import io
import pickle
import tarfile
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_jax.data import class_names, matching, overlap
from ns_jax.data import open as open_lib
from ns_jax.data import signatures as signatures_lib
from ns_jax.errors import InputError
from tests.data import made

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


def open_source(name, label_column="label"):
    return open_lib.open_source(name, labels_per_class=5, seed=0, label_column=label_column)


def write(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.encoded(0) if data is None else data)


def folder(root, names):
    for number, name in enumerate(names):
        write(root / name / f"{number}.png", made.encoded(number))
    return f"folder:{root}"


def table(root, labels):
    lines = ["file,label"]
    for number, label in enumerate(labels):
        write(root / f"{number:03d}.png", made.encoded(number))
        lines.append(f"{number:03d}.png,{label}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return f"folder:{root}"


def parquet(root, labels, column="label", name="x"):
    root.mkdir(parents=True, exist_ok=True)
    images = pa.array([made.encoded(number) for number in range(len(labels))], pa.binary())
    pq.write_table(pa.table({"image": images, column: labels}), root / f"{name}.parquet")
    return f"parquet:{root}/*.parquet"


def wds(root, labels):
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "x.tar", "w") as archive:
        for number, label in enumerate(labels):
            for ending, data in (("png", made.encoded(number)), ("cls", label)):
                member = tarfile.TarInfo(f"{number:03d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return f"wds:{root}/*.tar"


def array_record(root, features, column="label"):
    """`features`: (kind, values) of each record's label, or None."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    root.mkdir(parents=True, exist_ok=True)
    writer = array_record_module.ArrayRecordWriter(str(root / "x.array_record"), "group_size:1")
    for number, given in enumerate(features):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(made.encoded(number))
        if given:
            kind, values = given
            getattr(example.features.feature[column], kind).value.extend(values)
        writer.write(example.SerializeToString())
    writer.close()
    return f"array_record:{root}/x.array_record"


def labels_of(source):
    found = [source[i]["label"] for i in range(len(source))]
    assert source.labels is None or source.labels.tolist() == found
    return found


# --- order and spelling ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "2", "0", "1"], "0 1 2 10"),
        (["010", "2", "001"], "001 2 010"),
        (["10", "2", "a"], "10 2 a"),  # not all are numbers: as ever
        (["c10", "c2"], "c10 c2"),
        (["1.5", "10", "2"], "1.5 10 2"),
        (["²", "1"], "1 ²"),
    ],
)
def test_numbers_are_in_the_order_of_numbers(names, expected):
    assert class_names.in_order(names) == tuple(expected.split())


def test_every_format_sorts_numbers_as_numbers(tmp_path):
    numbers = ["2", "10", "0", "1"]
    for name in (
        folder(tmp_path / "folder", numbers),
        table(tmp_path / "table", numbers),
        parquet(tmp_path / "words", numbers),
    ):
        source = open_source(name)
        assert source.class_names == ("0", "1", "2", "10"), name
        names = [source.class_names[label] for label in labels_of(source)]
        assert names == (sorted(numbers) if "/folder" in name else numbers)
    for name in (
        parquet(tmp_path / "numbers", [int(n) for n in numbers]),
        wds(tmp_path / "wds", [n.encode() for n in numbers]),
    ):
        source = open_source(name)
        assert source.class_names == tuple(map(str, range(11)))
        assert labels_of(source) == [2, 10, 0, 1]


def test_fingerprints_do_not_follow_the_order_of_classes(tmp_path):
    """As before numbers were sorted as numbers: label shards of then are still of this source."""
    from ns_jax.data.source import digest

    source = open_source(parquet(tmp_path, ["2", "10", "1"]))
    signatures = signatures_lib.of([str(tmp_path / "x.parquet")], shards=True)
    assert source.class_names == ("1", "2", "10")
    assert source.fingerprint == digest("1", "10", "2", *signatures)


@pytest.mark.parametrize(
    ("spelled", "names", "labels"),
    [
        (["cat", " cat", "cat ", "dog"], ("cat", "dog"), [0, 0, 0, 1]),
        (["3.0", "", "0.0", "3"], ("0", "3"), [1, -1, 0, 1]),
        (["03", "3", "10"], ("3", "10"), [0, 0, 1]),
        (["001", "002", "001"], ("001", "002"), [0, 1, 0]),
        (["-1", "2", "-1.0", "0"], ("0", "2"), [-1, 1, -1, 0]),
        (["-1", "cat", " ", "dog"], ("cat", "dog"), [-1, 0, -1, 1]),
        ([COMPOSED, DECOMPOSED, "x"], (COMPOSED, "x"), [0, 0, 1]),
    ],
)
def test_spellings_of_a_label_are_one_class(tmp_path, spelled, names, labels):
    for source in (table(tmp_path / "t", spelled), parquet(tmp_path / "p", spelled)):
        source = open_source(source)
        assert source.class_names == names and labels_of(source) == labels


@pytest.mark.parametrize(
    ("members", "names", "labels"),
    [
        ([b"-1", b"1", b"0"], ("0", "1"), [-1, 1, 0]),
        ([b"03", b" 3", b"3.0", b"3\n"], ("0", "1", "2", "3"), [3, 3, 3, 3]),
        ([b"", b"1", b"-1"], ("0", "1"), [-1, 1, -1]),
        ([b"", b"cat", b"-1", b"ant"], ("ant", "cat"), [-1, 1, -1, 0]),
        ([b"-1", b""], (), [-1, -1]),
    ],
)
def test_cls_members_of_every_spelling(tmp_path, members, names, labels):
    source = open_source(wds(tmp_path, members))
    assert source.class_names == names and labels_of(source) == labels


def test_folders_of_one_name_in_two_compositions_are_one_class(tmp_path):
    source = open_source(folder(tmp_path, [COMPOSED, DECOMPOSED, "b"]))
    assert source.class_names == (COMPOSED, "b") and sorted(labels_of(source)) == [0, 0, 1]


def test_folders_are_classes_whatever_they_are_called(tmp_path):
    source = open_source(folder(tmp_path, ["-1", "1", "01"]))
    assert len(source.class_names) == 3 and sorted(labels_of(source)) == [0, 1, 2]


# --- class_names.txt ------------------------------------------------------------------------------


def test_class_names_txt_names_the_numbers_of_every_kind_of_source(tmp_path):
    labels = ["2", "0", "1"]
    for name, root in (
        (folder(tmp_path / "f", labels), tmp_path / "f"),
        (table(tmp_path / "t", labels), tmp_path / "t"),
        (parquet(tmp_path / "p", [2, 0, 1]), tmp_path / "p"),
        (parquet(tmp_path / "w", labels), tmp_path / "w"),
        (wds(tmp_path / "s", [b"2", b"0", b"1"]), tmp_path / "s"),
        (array_record(tmp_path / "a", [("int64_list", [n]) for n in (2, 0, 1)]), tmp_path / "a"),
    ):
        (root / "class_names.txt").write_text("ant\nbee\ncat\ndog\n")
        source = open_source(name)
        assert source.class_names == ("ant", "bee", "cat", "dog"), name
        assert sorted(labels_of(source)) == [0, 1, 2], name
        (root / "class_names.txt").write_text("ant\nbee\n")
        with pytest.raises(InputError, match="has the label 2,? but"):
            labels_of(open_source(name))


def test_class_names_txt_does_not_name_words(tmp_path):
    name = table(tmp_path, ["wolf", "3"])
    before = open_source(name).fingerprint
    (tmp_path / "class_names.txt").write_text("3\nwolf\n")
    source = open_source(name)
    assert source.class_names == ("3", "wolf") and source.fingerprint == before


def test_class_names_txt_changes_the_fingerprint_where_it_names(tmp_path):
    name = table(tmp_path, ["0", "1"])
    found = []
    for names in ("", "ant\nbee\n", "bee\nant\n"):
        (tmp_path / "class_names.txt").write_text(names)
        found.append(open_source(name).fingerprint)
    assert len(set(found)) == 3


# --- labels.csv -----------------------------------------------------------------------------------


def listed(root, text):
    (root / "labels.csv").write_text(text)
    source = open_source(f"folder:{root}")
    return [source[i]["key"] for i in range(len(source))], labels_of(source)


@pytest.mark.parametrize("relative", [False, True])
def test_files_are_found_however_they_are_listed(tmp_path, monkeypatch, relative):
    root = tmp_path / "données"
    for name in ("a.jpg", "sub/b.jpg", "c.jpg", f"{DECOMPOSED}.jpg", "sub/d e.jpg"):
        write(root / name)
    monkeypatch.chdir(tmp_path)
    spelled = [
        "./a.jpg",
        " sub/../sub/./b.jpg ",
        str((root / "c.jpg").resolve()) if not relative else "données/c.jpg",
        f"{COMPOSED}.jpg",
        "sub\\d e.jpg",
    ]
    text = "file, label\n" + "".join(f"{name}, x{n % 2}\n" for n, name in enumerate(spelled))
    (root / "labels.csv").write_text(text)
    source = open_source("folder:données" if relative else f"folder:{root}")
    keys = [source[i]["key"] for i in range(len(source))]
    assert keys == ["a.jpg", "sub/b.jpg", "c.jpg", f"{DECOMPOSED}.jpg", "sub/d e.jpg"]
    assert all(source[i]["image"] for i in range(len(source)))
    assert source.class_names == ("x0", "x1") and labels_of(source) == [0, 1, 0, 1, 0]


def test_a_file_that_is_there_by_its_very_name_is_that(tmp_path):
    for name in ("a.jpg", " a.jpg", "b\\c.jpg", "b/c.jpg"):
        write(tmp_path / name)
    keys, _ = listed(tmp_path, 'file,label\n" a.jpg",x\na.jpg,y\nb\\c.jpg,x\nb/c.jpg,y\n')
    assert keys == [" a.jpg", "a.jpg", "b\\c.jpg", "b/c.jpg"]


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/hostname", "sub/../../a.jpg"])
def test_files_outside_of_the_directory_are_not_there(tmp_path, name):
    write(tmp_path / "a.jpg")
    write(tmp_path / "in" / "b.jpg")
    with pytest.raises(InputError, match="1 files of .* do not exist"):
        listed(tmp_path / "in", f"file,label\nb.jpg,x\n{name},y\n")


def test_one_file_listed_in_two_ways_is_listed_twice(tmp_path):
    write(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="listed twice: a.jpg"):
        listed(tmp_path, "file,label\na.jpg,x\n./a.jpg,y\n")


# --- columns --------------------------------------------------------------------------------------


def test_labels_may_stand_in_another_column(tmp_path):
    write(tmp_path / "t" / "a.jpg")
    write(tmp_path / "t" / "b.jpg")
    (tmp_path / "t" / "labels.csv").write_text("file,class,label\na.jpg,x,1\nb.jpg,y,1\n")
    assert open_source(f"folder:{tmp_path}/t", "class").class_names == ("x", "y")
    name = parquet(tmp_path / "p", [3, 1], column="fine_label")
    source = open_source(name, "fine_label")
    assert source.class_names == tuple("0123") and labels_of(source) == [3, 1]
    name = array_record(tmp_path / "a", [("int64_list", [1])], column="coarse")
    (tmp_path / "a" / "class_names.txt").write_text("ant\nbee\n")
    assert labels_of(open_source(name, "coarse")) == [1]
    assert labels_of(open_source(name)) == [-1]
    with pytest.raises(InputError, match="needs `file` .* `kind` .*data.label_column"):
        open_source(f"folder:{tmp_path}/t", "kind")


def test_hugging_face_names_are_of_the_column(tmp_path):
    metadata = (
        '{"info": {"features": {"image": {}, "fine": {"names": ["ant", "bee"]}, '
        '"many": [{"names": ["x"]}]}}}'
    )
    columns = {"image": [b"", b""], "fine": [1, 0], "many": [0, 1]}
    written = pa.table(columns).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(written, tmp_path / "x.parquet")
    assert open_source(f"parquet:{tmp_path}/x.parquet", "fine").class_names == ("ant", "bee")
    assert open_source(f"parquet:{tmp_path}/x.parquet", "many").class_names == ("0", "1")
    other = written.replace_schema_metadata({"huggingface": metadata.replace("ant", "cat")})
    pq.write_table(other, tmp_path / "y.parquet")
    with pytest.raises(InputError, match="x.parquet and .*y.parquet name classes .* join them as"):
        open_source(f"parquet:{tmp_path}/*.parquet", "fine")


@pytest.mark.parametrize("of", ["tfds", "parquet", "array_record", "wds", "folder", "table"])
def test_a_source_without_labels_says_why(tmp_path, monkeypatch, of):
    if of == "tfds":
        import tensorflow_datasets

        monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(tmp_path))
        made.tfds(tmp_path, 4)
    write(tmp_path / "flat" / "a.jpg")
    name, why = {
        "tfds": lambda: ("tfds:insects:train", "no ClassLabel `fine` is among .*file_name"),
        "parquet": lambda: (
            parquet(tmp_path / "p", [0, 1]),
            "x.parquet has no column `fine`, only image, label .data.label_column",
        ),
        "array_record": lambda: (array_record(tmp_path / "a", [None]), "no class_names.txt"),
        "wds": lambda: (made.wds(tmp_path / "w", 4, labelled=False), "no sample .* `.cls`"),
        "folder": lambda: (f"folder:{tmp_path}/flat", "no class folders and no labels.csv"),
        "table": lambda: (table(tmp_path / "t", ["", ""]), "the column `label` .*csv is empty"),
    }[of]()
    source = open_source(name, "label" if of == "table" else "fine")
    assert source.class_names == () and source.labels.tolist() == [-1] * len(source)
    with pytest.raises(InputError, match=f"has no labels: .*{why}"):
        matching.match(source, ["0"], "the network")


@pytest.mark.parametrize(
    "kind",
    [np.int8, np.uint8, np.int16, np.uint32, np.uint64, np.float32, np.float16],
)
def test_parquet_labels_of_every_number_type(tmp_path, kind):
    parquet(tmp_path, pa.array(np.array([2, 0, 1], kind)), name="x")
    name = parquet(tmp_path, pa.array([1, None], pa.int64()), name="y")
    source = open_source(name)
    assert source.class_names == ("0", "1", "2") and labels_of(source) == [2, 0, 1, 1, -1]


def test_parquet_labels_of_other_types_that_mean_classes(tmp_path):
    words = pa.array(["b", None, "a"])
    for labels, names, expected in (
        (words.dictionary_encode(), ("a", "b"), [1, -1, 0]),
        (words.cast(pa.large_string()), ("a", "b"), [1, -1, 0]),
        (words.cast(pa.binary()), ("a", "b"), [1, -1, 0]),
        (pa.array([True, False, None]), ("false", "true"), [1, 0, -1]),
        (pa.array([1.0, float("nan"), 0.0]), ("0", "1"), [1, -1, 0]),
        (pa.array([1, -100, 0]), ("0", "1"), [1, -1, 0]),
    ):
        source = open_source(parquet(tmp_path, labels))
        assert source.class_names == names and labels_of(source) == expected


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (pa.array([[0, 1], [1, 0]]), "holds list<.*needs one class.* one-hot row"),
        (pa.array([[0, 1], [1, 0]], pa.list_(pa.int8(), 2)), "holds fixed_size_list.*one class"),
        (pa.array([{"id": 1}, {"id": 0}]), "holds struct.*one class"),
        (pa.array([0.5, 1.0]), "holds double, not all of which are whole numbers"),
        (pa.array([2**63, 1], pa.uint64()), "holds uint64, not all of which"),
        (pa.array([2**40, 1]), "1099511627776, which is no number of a class"),
        (pa.array([1, 2], pa.timestamp("s")), "holds timestamp.*one class"),
    ],
)
def test_parquet_labels_that_name_no_class_are_refused(tmp_path, labels, reason):
    with pytest.raises(InputError, match=f"column `label` {reason}|{reason}"):
        open_source(parquet(tmp_path, labels))


def test_numbers_and_names_side_by_side_are_refused(tmp_path):
    parquet(tmp_path, [0, 1], name="x")
    with pytest.raises(InputError, match="numbers and names side by side"):
        open_source(parquet(tmp_path, ["a", "b"], name="y"))
    assert labels_of(open_source(parquet(tmp_path, pa.nulls(2), name="y"))) == [0, 1, -1, -1]


def test_array_records_take_names_and_refuse_one_hot_rows(tmp_path):
    given = [
        ("bytes_list", [b" bee"]),
        ("bytes_list", [b"-1"]),
        ("float_list", [1.0]),
        ("bytes_list", [b"01"]),
        ("int64_list", [-7]),
        None,
    ]
    name = array_record(tmp_path / "a", given)
    (tmp_path / "a" / "class_names.txt").write_text("ant\nbee\n")
    assert labels_of(open_source(name)) == [1, -1, 1, 1, -1, -1]
    for wrong in (("int64_list", [0, 1]), ("bytes_list", [b"dog"]), ("float_list", [0.5])):
        name = array_record(tmp_path / "a", [wrong])
        with pytest.raises(InputError, match="record-00000000: its feature `label` is .*one class"):
            open_source(name)[0]


# --- one source's classes as another's ------------------------------------------------------------


def test_labels_are_renumbered_by_name(tmp_path):
    source = open_source(folder(tmp_path, ["a", "b", DECOMPOSED, "03"]))
    names = ("3", "b", COMPOSED, "a", "z")
    matched = matching.match(source, names, "the network")
    assert matched.class_names == names and matched.fingerprint == source.fingerprint
    before = [source.class_names[label] for label in labels_of(source)]
    after = [names[label] for label in labels_of(matched)]
    assert [class_names.normal(n) for n in before] == [class_names.normal(n) for n in after]
    assert matched.known_labels(names).tolist() == matched.labels.tolist()
    assert source.known_labels(names).tolist() == matched.labels.tolist()


def test_records_without_a_table_of_labels_are_renumbered_as_they_are_read(tmp_path):
    name = array_record(tmp_path, [("int64_list", [n]) for n in (1, 0, -1)])
    (tmp_path / "class_names.txt").write_text("ant\nbee\n")
    matched = matching.match(open_source(name), ("cat", "bee", "ant", "dog"), "the network")
    assert matched.labels is None and [matched[i]["label"] for i in range(3)] == [1, 2, -1]
    assert matching.present(matched).tolist() == [1, 2]
    assert pickle.loads(pickle.dumps(matched))[1]["label"] == 2


def test_a_number_without_a_name_is_an_error_wherever_it_is_read(tmp_path):
    name = array_record(tmp_path, [("int64_list", [n]) for n in (1, 0, 2)])
    (tmp_path / "class_names.txt").write_text("ant\nbee\n")
    source = open_source(name)
    joined, numbers = open_source(f"{name}+{name}"), np.array([2, 1, -1], np.int32)
    for one in (source, joined, source.renumbered(("cat", "bee", "ant"), numbers)):
        with pytest.raises(InputError, match="has the label 2, but there are 2 class names"):
            one[len(one) - 1]
    with pytest.raises(InputError, match="has the label 2"):
        matching.match(source, ("bee", "ant"), "the network")


def test_what_the_hidden_labels_are_is_known_by_name():
    pool = open_source("digits:unlabelled")
    names = [str(c) for c in range(10)]
    truth = pool.known_labels(names)
    assert pool.known_labels(names[::-1]).tolist() == (9 - truth).tolist()
    nine = pool.known_labels(names[:9])
    np.testing.assert_array_equal(nine, np.where(truth == 9, -1, truth))


def test_missing_classes_are_said_and_surplus_ones_refused(tmp_path, capsys):
    source = open_source(parquet(tmp_path, [0, 1, 0]))
    matched = matching.match(source, ("0", "1", "2"), "the network")
    assert matched.class_names == ("0", "1", "2") and matched.labels.tolist() == [0, 1, 0]
    assert "has no images of 1 of the 3 classes of the network: 2" in capsys.readouterr().err
    with pytest.raises(InputError, match="missing: 5; surplus: 1"):
        matching.match(source, ("0", "5"), "the network")
    assert matching.match(source, ("0", "5"), "it", leave_out=True).labels.tolist() == [0, -1, 0]
    assert "left out, as it lacks 1 classes (1 images): 1" in capsys.readouterr().err
    with pytest.raises(InputError, match="surplus: 0, 1"):
        matching.match(source, ("8", "9"), "it", leave_out=True)


def test_numbers_without_an_image_are_no_surplus(tmp_path):
    source = open_source(parquet(tmp_path, [0, 5]))
    assert len(source.class_names) == 6
    assert matching.match(source, ("5", "0"), "the network").labels.tolist() == [1, 0]


def test_names_that_stand_several_times_match_where_all_are_the_same(tmp_path):
    name = parquet(tmp_path, [2, 0, 1])
    (tmp_path / "class_names.txt").write_text("crane\nbee\ncrane\n")
    source = open_source(name)
    assert labels_of(matching.match(source, ("crane", "bee", "crane"), "it")) == [2, 0, 1]
    joined = open_source(f"{name}+{name}")
    assert joined.class_names == ("crane", "bee", "crane")
    assert labels_of(joined) == [2, 0, 1, 2, 0, 1]
    with pytest.raises(InputError, match="several times"):
        matching.match(source, ("bee", "crane", "crane"), "it")


def test_joined_sources_have_equal_classes_once(tmp_path):
    joined = open_source(
        "+".join(
            (
                folder(tmp_path / "a", ["10", "2", "0", "1"]),
                parquet(tmp_path / "b", list(range(12))),
                table(tmp_path / "c", ["03", COMPOSED]),
                table(tmp_path / "d", [DECOMPOSED, "11.0"]),
            )
        )
    )
    names = joined.class_names
    assert names[:4] == ("0", "1", "2", "10") and len(names) == 13 and names[-1] == COMPOSED
    tail = [names[label] for label in labels_of(joined)[4:]]
    assert tail == [*map(str, range(12)), "3", COMPOSED, COMPOSED, "11"]


def test_held_out_images_are_looked_for_by_content(tmp_path, monkeypatch, capsys):
    labelled = open_source(folder(tmp_path / "a", ["x", "y"]))
    held = open_source(wds(tmp_path / "b", [b"x"] * 2))  # the same two images
    with pytest.raises(InputError, match="2 images of data.holdout=wds:.* are in .*000 = x/0.png"):
        overlap.check(held, labelled)
    for number in range(4):
        write(tmp_path / "c" / f"{number}.png", made.encoded(number + 2) if number else b"")
        write(tmp_path / "d" / f"{number}.png", made.encoded(number + 9) if number else b"")
    apart = [open_source(f"folder:{tmp_path}/{name}") for name in "cd"]
    overlap.check(*apart)  # what is empty in both is no image
    with pytest.raises(InputError, match="3 images of data.holdout"):
        overlap.check(apart[0], apart[0])
    digits = open_source("digits:train")
    with pytest.raises(InputError, match="50 images"):
        overlap.check(digits, digits)
    overlap.check(open_source("digits:test"), digits)


def test_of_large_sources_a_part_is_compared(monkeypatch, capsys):
    monkeypatch.setattr(overlap, "MOST", 100)
    monkeypatch.setattr(overlap, "RUN", 10)
    pool, test = open_source("digits:unlabelled"), open_source("digits:test")
    read = []
    monkeypatch.setattr(
        type(pool.records),
        "__getitem__",
        lambda self, i: read.append(i) or (b"%d" % id(self), -1, ""),
    )
    overlap.check(pool, test)
    assert len(read) == 200 and len(set(read[:100])) == 100
    assert "100 of 1,148 images of digits:unlabelled, 100 of 599" in capsys.readouterr().err


def test_names_in_a_table_need_not_be_text(tmp_path):
    from ns_jax.data import label_table

    (tmp_path / "labels.csv").write_bytes(b"file, label\na.jpg,x\n ./b\xff.jpg,y\nb\xff.jpg ,y\n")
    with pytest.raises(InputError, match=r"1 files of .* are listed twice: b\\udcff.jpg"):
        label_table.read(str(tmp_path), ["a.jpg", "b\udcff.jpg"], "label")
    (tmp_path / "labels.csv").write_bytes(b"file, label\na.jpg,x\n ./b\xff.jpg,y\n")
    found = label_table.read(str(tmp_path), ["a.jpg", "b\udcff.jpg"], "label")
    assert found == (["a.jpg", "b\udcff.jpg"], ["x", "y"])
