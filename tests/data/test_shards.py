"""Shards of many images: which files a pattern names, and files that are not whole."""

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_jax.data import braces, decoding, patterns
from ns_jax.data import open as open_lib
from ns_jax.data.formats import webdataset
from ns_jax.errors import InputError
from tests.data import made

COUNT = 14
SHARDED = {"wds": "tar", "parquet": "parquet", "array_record": "array_record"}


def open_source(name):
    return open_lib.open_source(name, labels_per_class=5, seed=0)


def keys(source):
    return [source[i]["key"] for i in range(len(source))]


def labels(source):
    """By key."""
    examples = [source[i] for i in range(len(source))]
    return {
        example["key"]: source.class_names[example["label"]] if example["label"] >= 0 else None
        for example in examples
    }


def tar(path, *members):
    """Of (name, data)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def image(number):
    return f"{number:03d}.jpg", made.encoded(number)


def label(number, name="ant"):
    return f"{number:03d}.cls", name.encode()


# --- which files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a{08..11}", ["a08", "a09", "a10", "a11"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..10..5}", ["0", "5", "10"]),
        ("{a..c}-{0..1}", ["a-0", "a-1", "b-0", "b-1", "c-0", "c-1"]),
        ("{x,y{1..2},}z", ["xz", "y1z", "y2z", "z"]),
        ("{{a,b},c}", ["a", "b", "c"]),
        ("{e}{0..1}", ["{e}0", "{e}1"]),
        ("{a{1..2}", ["{a1", "{a2"]),
        ("a}b{", ["a}b{"]),
        ("{-1..1}", ["-1", "0", "1"]),
    ],
)
def test_braces_are_expanded_as_in_a_shell(pattern, names):
    assert braces.expand(pattern) == names


@pytest.mark.parametrize("pattern", ["{0..99999999999}", "{0..9999}{0..9999}"])
def test_braces_that_stand_for_too_many_names_are_said(pattern):
    with pytest.raises(InputError, match="is a number wrong"):
        braces.expand(pattern)


@pytest.mark.parametrize("kind", SHARDED)
@pytest.mark.parametrize("where", ["disk", "bucket", "odd"])
def test_braces_name_shards(tmp_path, bucket, kind, where):
    if kind == "array_record" and where == "bucket":
        pytest.skip("its library needs Cloud Storage itself")
    place = tmp_path / "x" / ("{0..1},[a]" if where == "odd" else "there")
    expected = open_source(made.FORMATS[kind](place, COUNT))
    prefix = f"gs://x/{place.name}" if where == "bucket" else place
    source = open_source(f"{kind}:{prefix}/{{part-0,p*-{{1..1}}}}.{SHARDED[kind]}")
    assert len(source) == COUNT and source.fingerprint == expected.fingerprint
    with pytest.raises(FileNotFoundError, match=r"3 of the 5 names .* missing: .*part-2.*part-4"):
        open_source(f"{kind}:{prefix}/part-{{0..4}}.{SHARDED[kind]}")
    with pytest.raises(FileNotFoundError, match="1 of the 2 names"):
        open_source(f"{kind}:{prefix}/{{par,other}}*.{SHARDED[kind]}")


@pytest.mark.parametrize("kind", SHARDED)
def test_a_directory_gives_a_hint(tmp_path, kind):
    made.FORMATS[kind](tmp_path, COUNT)
    with pytest.raises(InputError, match=rf"is a directory; .*{kind}:{tmp_path}/\*\.{kind[:1]}?"):
        open_source(f"{kind}:{tmp_path}/")


@pytest.mark.parametrize("kind", SHARDED)
def test_a_pattern_takes_the_shards_alone_of_all_that_lies_there(tmp_path, capsys, kind):
    expected = open_source(made.FORMATS[kind](tmp_path, COUNT))
    for name in ("README.md", "_SUCCESS", "00000_stats.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "directory.tar").mkdir()
    for _ in range(2):  # the second time our own indices of tar files are there
        source = open_source(f"{kind}:{tmp_path}/*")
        assert source.fingerprint == expected.fingerprint and len(source) == COUNT
    shown = capsys.readouterr().err
    assert shown.count("passed over 1 .json, 1 .md files and 1 files without an ending") == 1


def test_a_tfds_directory_is_read_by_a_pattern(tmp_path):
    made.array_record(tmp_path, COUNT)
    for part in range(2):
        path = tmp_path / f"part-{part}.array_record"
        path.rename(tmp_path / f"x.array_record-{part:05d}-of-00002")
    (tmp_path / "features.json").write_text("{}")
    assert len(open_source(f"array_record:{tmp_path}/*")) == COUNT


# --- files that are not whole ---------------------------------------------------------------------


def empty(path):
    path.write_bytes(b"")


def other(path):
    path.write_bytes(b"something else " * 100)


def dead_link(path):
    path.unlink()
    path.symlink_to("nowhere")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("kind", ["wds", "parquet", "array_record"])
@pytest.mark.parametrize("spoil", [empty, other, dead_link, pipe])
def test_a_shard_that_cannot_be_read_stops_no_source(tmp_path, capsys, kind, spoil):
    name = made.FORMATS[kind](tmp_path, COUNT)
    whole = open_source(name)
    path = tmp_path / f"part-0.{SHARDED[kind]}"
    spoil(path)
    source = open_source(name)
    assert len(source) == COUNT // 2 and source.class_names == made.NAMES
    assert [source[i]["image"] for i in range(7)] == [made.encoded(n) for n in range(7, 14)]
    assert source.labels is None or source.labels.tolist() == [n % 3 for n in range(7, 14)]
    assert source.fingerprint != whole.fingerprint
    assert open_source(name).fingerprint == source.fingerprint
    assert f"part-0.{SHARDED[kind]}: " in capsys.readouterr().err
    spoil(tmp_path / f"part-1.{SHARDED[kind]}")
    with pytest.raises(InputError, match=rf"part-0.{SHARDED[kind]}: "):
        open_source(name)


def test_a_tar_that_is_mended_is_read_anew(tmp_path):
    name = made.wds(tmp_path, COUNT)
    expected = open_source(name).fingerprint
    path = tmp_path / "part-0.tar"
    data = path.read_bytes()
    for spoil in (empty, dead_link):
        spoil(path)
        assert len(open_source(name)) == COUNT // 2
        path.unlink()
        path.write_bytes(data)
        assert len(open_source(name)) == COUNT and open_source(name).fingerprint == expected


def test_an_error_of_the_disk_is_not_kept_in_an_index(tmp_path, monkeypatch, capsys):
    name = made.wds(tmp_path, COUNT)
    original = tarfile.TarFile.next

    def fail(self):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tarfile.TarFile, "next", fail)
    with pytest.raises(InputError, match="Input/output error"):
        open_source(name)
    monkeypatch.setattr(tarfile.TarFile, "next", original)
    assert len(open_source(name)) == COUNT


def test_a_tar_that_breaks_off_in_a_label_is_read_up_to_there(tmp_path, capsys):
    path = tmp_path / "a.tar"
    tar(path, image(0), label(0), image(1), label(1, "b" * 600))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"bbb") + 5])
    source = open_source(f"wds:{path}")
    assert labels(source) == {"000": "ant", "001": None}
    assert "its index ends there" in capsys.readouterr().err


@pytest.mark.parametrize(("mode", "kind"), [("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")])
@pytest.mark.parametrize("ending", ["tar.{}", "tgz", "tar"])
def test_a_compressed_tar_is_said_to_be_one(tmp_path, mode, kind, ending):
    made.wds(tmp_path, COUNT)  # among others too
    with tarfile.open(tmp_path / f"z.{ending.format(mode)}", f"w:{mode}") as archive:
        archive.add(__file__, "0.jpg")
    with pytest.raises(InputError, match=rf"z\.t.* is compressed with {kind}.*unpack it"):
        open_source(f"wds:{tmp_path}/*")


def test_damaged_records_and_row_groups_are_bad_images(tmp_path):
    for kind, at in (("array_record", 1000), ("parquet", 8)):
        name = made.FORMATS[kind](tmp_path / kind, COUNT)
        path = tmp_path / kind / f"part-1.{SHARDED[kind]}"
        source = open_source(name)
        data = bytearray(path.read_bytes())
        for place in range(at, at + 60):
            data[place] ^= 255
        path.write_bytes(data)
        images = [source[i]["image"] for i in range(COUNT)]
        assert images[:7] == [made.encoded(n) for n in range(7)]
        with pytest.raises(decoding.BadImageError, match="empty"):
            decoding.decode(images[7])


@pytest.mark.parametrize("spoil", [empty, other, dead_link, "cut off"])
def test_a_damaged_file_of_a_tfds_data_set_is_bad_images(tmp_path, monkeypatch, spoil):
    import tensorflow_datasets

    monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(tmp_path))
    name = made.tfds(tmp_path, COUNT)
    (path,) = tmp_path.rglob("*.array_record*")
    if spoil == "cut off":
        path.write_bytes(path.read_bytes()[: 1 << 16])
    else:
        spoil(path)
    source = open_source(name)
    assert [source[i]["image"] for i in range(COUNT)] == [b""] * COUNT
    assert labels(source) == {f"train-{i:08d}": None for i in range(COUNT)}


def test_names_in_shards_that_are_not_utf_8(tmp_path):
    place = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(place)
    tar(tmp_path / "a.tar", (os.fsdecode(b"\xe9.jpg"), made.encoded(0)), ("\udce9.cls", b"b\xff"))
    os.rename(tmp_path / "a.tar", place + b"/a.tar")
    source = open_source(f"wds:{os.fsdecode(place)}/*.tar")
    assert labels(source) == {"\\xe9": "b\\xff"} and source[0]["image"] == made.encoded(0)
    webdataset._columns.cache_clear()  # no file of such a name stays mapped: others read the list

    names = pa.array([b"caf\xe9.jpg", None, b"\xc3\xa9"]).view(pa.string())
    rows = pa.StructArray.from_arrays(
        [pa.array([made.encoded(0), b"", None], pa.binary()), names], ["bytes", "path"]
    )
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    assert keys(open_source(f"parquet:{tmp_path}/a.parquet")) == [
        "caf\\xe9.jpg",
        "row-00000001",
        "é",
    ]

    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(made.encoded(0))
    example.features.feature["file_name"].bytes_list.value.append(b"caf\xe9")
    example.features.feature["nothing"].SetInParent()
    writer.write(example.SerializeToString())
    example.features.feature["file_name"].int64_list.value.append(7)
    writer.write(example.SerializeToString())
    writer.close()
    assert keys(open_source(f"array_record:{tmp_path}/x.array_record")) == ["caf\\xe9", "7"]


# --- members --------------------------------------------------------------------------------------


def test_junk_in_a_tar_takes_no_part(tmp_path):
    apple = b"\0\5\26\7" * 40
    members = []
    for number in range(3):
        for name, data in (image(number), label(number)):
            members += [(f"./._{name}", apple), (f"./{name}", data), (f"__MACOSX/{name}", apple)]
    tar(tmp_path / "a.tar", *members)
    source = open_source(f"wds:{tmp_path}/a.tar")
    assert labels(source) == {f"./{n:03d}": "ant" for n in range(3)}
    assert [source[n]["image"] for n in range(3)] == [made.encoded(n) for n in range(3)]


def test_members_without_use_are_counted_with_one_name(tmp_path, capsys):
    for part in "ab":
        tar(
            tmp_path / f"{part}.tar",
            *(image(0), ("000.txt", b"a cat"), ("000.json", b"{}"), ("000.png", b"mask")),
            *(image(1), ("001.json", b"{}"), ("README", b"x"), ("001.seg.png", b"mask")),
        )
    for _ in range(2):  # by the index the second time
        assert len(open_source(f"wds:{tmp_path}/*.tar")) == 4
    lines = [line for line in capsys.readouterr().err.splitlines() if "no use" in line]
    assert len(lines) == 1
    assert (
        "4 .json, 4 .png, 2 .txt files and 2 files without an ending in them had no use" in lines[0]
    )
    assert f"the first 000.txt in {tmp_path}/a.tar" in lines[0]


def test_files_of_a_sample_that_stand_apart_are_joined(tmp_path):
    together = [part(n) for n in range(4) for part in (image, label)]
    tar(tmp_path / "together.tar", *together)
    tar(tmp_path / "apart.tar", *map(image, range(4)), *map(label, range(4)))
    tar(tmp_path / "before.tar", *map(label, range(4)), *map(image, range(4)))
    expected = labels(open_source(f"wds:{tmp_path}/together.tar"))
    assert expected == {f"{n:03d}": "ant" for n in range(4)}
    for name in ("apart", "before"):
        source = open_source(f"wds:{tmp_path}/{name}.tar")
        assert labels(source) == expected
        assert [source[n]["image"] for n in range(4)] == [made.encoded(n) for n in range(4)]


def test_labels_that_may_be_of_several_images_are_refused(tmp_path):
    tar(tmp_path / "a.tar", image(0), image(1), image(0), image(1), label(0))
    with pytest.raises(InputError, match="2 images and 1 labels are called 000 and do not stand"):
        open_source(f"wds:{tmp_path}/a.tar")
    tar(tmp_path / "c.tar", image(0), image(1), label(0), label(1), label(0, "bee"))
    with pytest.raises(InputError, match="1 images and 2 labels are called 000"):
        open_source(f"wds:{tmp_path}/c.tar")


def test_samples_of_one_name_that_stand_apart_are_two(tmp_path):
    """As in tars that were put together."""
    names = ("ant", "ant", "bee", "cat")
    members = zip((0, 1, 0, 1), names, strict=True)
    tar(tmp_path / "a.tar", *(part for n, name in members for part in (image(n), label(n, name))))
    source = open_source(f"wds:{tmp_path}/a.tar")
    assert source.labels.tolist() == [0, 0, 1, 2]


def test_labels_in_other_tars_than_their_images_are_refused(tmp_path):
    tar(tmp_path / "images.tar", *map(image, range(3)))
    tar(tmp_path / "labels.tar", *map(label, range(3)))
    with pytest.raises(InputError, match="3 .cls files belong to no image of the same tar file"):
        open_source(f"wds:{tmp_path}/*.tar")


def test_kinds_that_are_not_read_are_bad_images_where_there_is_no_other(tmp_path):
    raw = b"II*\0 not for us"
    tar(tmp_path / "a.tar", ("0.dng", raw), image(1), ("001.dng", raw), ("2.JPG", made.encoded(2)))
    source = open_source(f"wds:{tmp_path}/a.tar")
    assert [source[n]["image"] for n in range(3)] == [raw, made.encoded(1), made.encoded(2)]


def test_indices_of_tars_are_ours(tmp_path):
    assert made.wds(tmp_path, COUNT)
    open_source(f"wds:{tmp_path}/*.tar")
    assert len(list(tmp_path.glob(f"*{patterns.INDEX}"))) == 2
