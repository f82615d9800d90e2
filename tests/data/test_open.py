"""The contract that every source keeps, and what each format makes of bad input."""

import http.server
import itertools
import os
import pickle
import re
import sys
import tarfile
import threading
import urllib.parse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_jax import files
from ns_jax.buckets import client as buckets
from ns_jax.data import decoding
from ns_jax.data import open as open_lib
from ns_jax.data import signatures as signatures_lib
from ns_jax.data.formats import webdataset
from tests.data import made

COUNT = 14


def open_source(name, labels_per_class=5, seed=0):
    return open_lib.open_source(name, labels_per_class=labels_per_class, seed=seed)


def keys(source):
    return [source[i]["key"] for i in range(len(source))]


@pytest.fixture(params=made.FORMATS)
def make(request, tmp_path, monkeypatch):
    """name(seed=0) of a source of COUNT images in one of the formats, made anew by each call."""
    calls = itertools.count()

    def build(count=COUNT, seed=0):
        root = tmp_path / str(next(calls))
        monkeypatch.setenv("TFDS_DATA_DIR", str(root))
        # TFDS reads the variable when it is imported; its constant is what it looks at later.
        import tensorflow_datasets as tfds

        monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(root))
        return made.FORMATS[request.param](root, count, seed)

    build.format = request.param
    return build


def test_every_source_gives_its_images_labels_and_names(make):
    source = open_source(make())
    assert len(source) == COUNT and source.class_names == made.NAMES
    seen = set()
    for i in range(COUNT):
        example = source[i]
        number = int(example["key"].rpartition("/")[2].removesuffix(".jpg"))
        seen.add(number)
        assert example["image"] == made.encoded(number)
        assert example["label"] == number % 3
        if source.labels is not None:
            assert source.labels[i] == number % 3
    assert seen == set(range(COUNT))


def test_every_source_pickles_small_and_reads_the_same_again(make):
    source = open_source(make())
    source[3]  # opens files, which are not to be pickled
    data = pickle.dumps(source)
    assert len(data) < 6000  # far less than the images
    copy = pickle.loads(data)
    assert [copy[i] for i in (0, 13, 5)] == [source[i] for i in (0, 13, 5)]


def pickled_bytes(name, count):
    """Of a source of `count` images as a data worker gets it."""
    source = open_source(name)
    assert len(source) == count
    return len(pickle.dumps(source))


@pytest.mark.parametrize("kind", ["array_record", "parquet", "wds"])
def test_an_unlabelled_source_of_any_size_pickles_to_the_same(tmp_path, monkeypatch, kind):
    """Each of many workers has a copy: 4 bytes an image were 1.2 GB of 300 million images."""
    monkeypatch.setattr(made, "encoded", lambda number, seed: b"image")
    small, large = (
        made.FORMATS[kind](tmp_path / f"{count:04d}", count, labelled=False)
        for count in (100, 2000)
    )
    assert pickled_bytes(large, 2000) < pickled_bytes(small, 100) + 32  # longer numbers
    assert pickled_bytes(f"{large}+{large}", 4000) < pickled_bytes(f"{small}+{small}", 200) + 64


@pytest.mark.parametrize("make", ["tfds", "array_record", "wds"], indirect=True)
def test_labels_that_lie_in_files_are_not_pickled(make):
    assert pickled_bytes(make(414), 414) < pickled_bytes(make(14), 14) + 64


def test_a_flat_folder_pickles_to_its_names(tmp_path):
    sizes = []
    for count in (100, 2000):
        for number in range(count):
            write(tmp_path / str(count) / f"{number:05d}.jpg", b"x")
        sizes.append(pickled_bytes(f"folder:{tmp_path / str(count)}", count))
    assert sizes[1] - sizes[0] < 1900 * (len("00000.jpg") + 8 + 1)


def test_unlabelled_images_are_counted_without_memory(tmp_path):
    name = made.wds(tmp_path, COUNT, labelled=False)
    for source in (open_source(name), open_source(f"{name}+{name}")):
        assert source.labels.tolist() == [-1] * len(source) and source.class_names == ()
        assert source.labels.strides == (0,)
        assert source.known_labels(made.NAMES) is None


def test_fingerprints_follow_the_content_and_not_the_place(make):
    name = make()
    before = open_source(name).fingerprint
    assert open_source(name).fingerprint == before
    changed = open_source(make(seed=1)).fingerprint
    more = open_source(make(count=COUNT + 1)).fingerprint
    assert len({before, changed, more}) == 3
    if make.format != "tfds":  # which shuffles into files of its own
        assert open_source(make()).fingerprint == before


def test_a_file_of_the_same_length_and_other_content_changes_the_fingerprint(tmp_path):
    name = made.folder(tmp_path, COUNT)
    before = open_source(name).fingerprint
    path = tmp_path / "bee" / "001.jpg"
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    assert open_source(name).fingerprint != before


def test_a_signature_notices_what_the_docs_say_and_no_more(tmp_path):
    path, content = tmp_path / "x", bytearray(2**20)
    path.write_bytes(content)
    before = [signatures_lib.of([str(path)], shards=shards) for shards in (False, True)]
    for place, image_is_new, shard_is_new in (
        (2**20 - 4096, True, True),  # the last 4 kB
        (2**20 - 4097, False, False),
        (4095, False, True),  # the first of 64 places
        (4096, False, False),
    ):
        changed = content.copy()
        changed[place] = 1
        path.write_bytes(changed)
        after = [signatures_lib.of([str(path)], shards=shards) for shards in (False, True)]
        assert [a != b for a, b in zip(after, before, strict=True)] == [image_is_new, shard_is_new]


def test_sources_are_joined_by_the_names_of_their_classes(tmp_path):
    first = made.folder(tmp_path / "a+b", COUNT)  # a plus in a path joins nothing
    (tmp_path / "more" / "dog").mkdir(parents=True)
    (tmp_path / "more" / "dog" / "x.jpg").write_bytes(made.encoded(90))
    (tmp_path / "more" / "bee").mkdir()
    (tmp_path / "more" / "bee" / "y.jpg").write_bytes(made.encoded(91))
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "z.jpg").write_bytes(made.encoded(92))
    joined = open_source(f"{first}+folder:{tmp_path}/more+folder:{tmp_path}/pool")
    assert joined.class_names == ("ant", "bee", "cat", "dog")
    assert len(joined) == COUNT + 3
    tail = [joined[COUNT + i] for i in range(3)]
    assert [example["label"] for example in tail] == [1, 3, -1]
    assert [example["key"] for example in tail] == ["1:bee/y.jpg", "1:dog/x.jpg", "2:z.jpg"]
    assert tail[2]["image"] == made.encoded(92)
    assert joined.labels.tolist() == [joined[i]["label"] for i in range(len(joined))]
    other = open_source(f"folder:{tmp_path}/more+{first}")
    assert other.fingerprint != joined.fingerprint and other.class_names[:2] == ("bee", "dog")


ODD = """run[1] 'a' "b" {c}#d%20é"""


def test_every_format_reads_a_path_with_brackets_blanks_and_quotes(make, tmp_path):
    plain = make()
    expected = open_source(plain)
    (tmp_path / "0").rename(tmp_path / ODD)
    if make.format == "tfds":
        import tensorflow_datasets

        tensorflow_datasets.core.constants.DATA_DIR = str(tmp_path / ODD)
    source = open_source(plain.replace(f"{tmp_path}/0", f"{tmp_path / ODD}"))
    assert source.fingerprint == expected.fingerprint and len(source) == COUNT
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i]["label"] for i in range(COUNT)] == [source[i]["label"] for i in range(COUNT)]
    assert all(copy[i]["image"] for i in range(COUNT))


@pytest.mark.parametrize("root", ["disk", "bucket"])
def test_a_file_that_is_there_is_no_pattern(bucket, root):
    there = bucket / "x" / "run[1]"
    write(there / "a[2].tar")
    write(there / "b.tar")
    write(bucket / "x" / "run1" / "a2.tar")
    prefix = {"disk": f"{bucket}", "bucket": "gs:/"}[root]
    names = [f"{prefix}/x/run[1]/a[2].tar", f"{prefix}/x/run[1]/b.tar"]
    assert files.expand(names[0]) == names[:1]
    assert files.expand(f"{prefix}/x/run[1]/*.tar") == names
    assert files.expand(f"{prefix}/x/run[[]1]/a*") == names[:1]
    assert files.expand(f"{prefix}/x/run[0-9]/a[2].tar") == [f"{prefix}/x/run1/a2.tar"]
    with pytest.raises(FileNotFoundError, match=r"no file matches .*; a \[ that is part of a name"):
        files.expand(f"{prefix}/*/run[3]/*.tar")


@pytest.mark.parametrize("name", ["imagenet", "digits:dev", "zip:file", "folder:"])
def test_unknown_sources_list_the_known_ones(name):
    with pytest.raises(ValueError, match="known: "):
        open_source(name)


# --- digits ---------------------------------------------------------------------------------------


def test_digits_split_the_real_images_without_overlap():
    train, unlabelled, test = (open_source(f"digits:{s}") for s in ("train", "unlabelled", "test"))
    assert (len(train), len(unlabelled), len(test)) == (50, 1148, 599)
    assert len({*keys(train), *keys(unlabelled), *keys(test)}) == 1797
    np.testing.assert_array_equal(np.bincount(train.labels), np.full(10, 5))
    example = train[7]
    assert example["image"].shape == (8, 8, 3) and example["image"].max() > 200
    assert example["label"] == train.labels[7]


def test_unlabelled_digits_hide_their_labels_but_know_them():
    pool = open_source("digits:unlabelled")
    assert (pool.labels == -1).all() and pool[3]["label"] == -1
    known = pool.known_labels([str(c) for c in range(10)])
    assert (np.bincount(known, minlength=10) > 100).all()
    assert pool.known_labels(["other"]) is None


def test_the_seed_draws_the_labelled_few_and_leaves_the_test_split_alone():
    trains = [open_source("digits:train", seed=seed) for seed in (1, 2, 1)]
    assert keys(trains[0]) != keys(trains[1]) and keys(trains[0]) == keys(trains[2])
    assert trains[0].fingerprint != trains[1].fingerprint
    tests = [open_source("digits:test", seed=seed) for seed in (1, 2)]
    assert tests[0].fingerprint == tests[1].fingerprint


@pytest.mark.parametrize("count", [0, 1000])
def test_digits_say_how_many_labels_there_can_be(count):
    with pytest.raises(
        ValueError, match=rf"labels_per_class is {count}; the digits allow 1 to \d+"
    ):
        open_source("digits:train", labels_per_class=count)


# --- folder ---------------------------------------------------------------------------------------


def write(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.encoded(0) if data is None else data)


def test_folder_of_class_folders(tmp_path):
    for name in ("cat/b.png", "cat/a.jpg", "ant/deep/c.png", "cat/.hidden.png", ".git/x.png"):
        write(tmp_path / name)
    source = open_source(f"folder:{tmp_path}/")
    assert source.class_names == ("ant", "cat")
    assert keys(source) == ["ant/deep/c.png", "cat/a.jpg", "cat/b.png"]
    assert source.labels.tolist() == [0, 1, 1]


def test_flat_folder_has_no_labels(tmp_path):
    write(tmp_path / "b.png")
    write(tmp_path / "a.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == () and source.labels.tolist() == [-1, -1]
    assert keys(source) == ["a.png", "b.png"]


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        open_source(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="is empty"):
        open_source(f"folder:{tmp_path}")
    write(tmp_path / "cat/a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="1 of 2 class folders .* hold no files: dog"):
        open_source(f"folder:{tmp_path}")
    write(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"1 loose files \(loose.png.*labels.csv"):
        open_source(f"folder:{tmp_path}")


def test_a_file_that_vanishes_is_a_bad_image_not_a_crash(tmp_path):
    write(tmp_path / "a.png")
    source = open_source(f"folder:{tmp_path}")
    (tmp_path / "a.png").unlink()
    with pytest.raises(decoding.BadImageError, match="empty"):
        decoding.decode(source[0]["image"])


def test_labels_csv_lists_what_counts_in_its_order(tmp_path):
    for name in ("b.png", "a.png", "sub/c.png", "unlisted.png"):
        write(tmp_path / name)
    (tmp_path / "labels.csv").write_text(
        'label,file,note\n"big, dog",sub/c.png,x\n,a.png,\n7,b.png,\n'
    )
    source = open_source(f"folder:{tmp_path}")
    assert keys(source) == ["sub/c.png", "a.png", "b.png"]
    assert source.class_names == ("7", "big, dog") and source.labels.tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,class\na.png,1\n", "has the columns name, class; it needs `file`"),
        ("file,label\n", "lists no files"),
        ("file,label\na.png,1\nz.png,1\n", "1 files of .* do not exist: z.png"),
        ("file,label\na.png,1\na.png,2\n", "1 files of .* are listed twice: a.png"),
        ("file,label\na.png,1,2\n", "is not a table"),
        ("", "is not a table"),
    ],
)
def test_what_is_wrong_with_a_labels_csv_is_said(tmp_path, text, message):
    write(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source(f"folder:{tmp_path}")


# --- tfds -----------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_tfds_name_is_said(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    made.tfds(tmp_path, 4)
    with pytest.raises(ValueError, match="names no split; write tfds:NAME:SPLIT"):
        open_source("tfds:insects")
    with pytest.raises(ValueError, match="knows no 'nothing_like_it'"):
        open_source("tfds:nothing_like_it:train")
    with pytest.raises(FileNotFoundError, match="tfds build svhn_cropped --file_format=array_rec"):
        open_source("tfds:svhn_cropped:extra")
    with pytest.raises(ValueError, match="split 'dev'. Should be one of .'train'."):
        open_source("tfds:insects:dev")
    assert len(open_source("tfds:insects:train[:3]")) == 3


# --- array_record ---------------------------------------------------------------------------------


def test_array_records_of_bare_images_and_without_names_are_unlabelled(tmp_path):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    for number in range(3):
        writer.write(made.encoded(number))
    writer.write(b"\n damaged")
    writer.close()
    source = open_source(f"array_record:{tmp_path}/x.array_record")
    assert source.class_names == () and source.labels.tolist() == [-1] * 4
    assert source[2] == {"image": made.encoded(2), "label": -1, "key": "record-00000002"}
    with pytest.raises(decoding.BadImageError):
        decoding.decode(source[3]["image"])


def test_labels_of_old_imagenet_records_count_from_one(tmp_path):
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    example = tf_example_pb2.Example()
    example.features.feature["image/encoded"].bytes_list.value.append(made.encoded(0))
    example.features.feature["image/class/label"].int64_list.value.append(1)
    writer.write(example.SerializeToString())
    writer.close()
    (tmp_path / "class_names.txt").write_text("ant\nbee\n")
    assert open_source(f"array_record:{tmp_path}/*.array_record")[0]["label"] == 0


def test_what_is_no_array_record_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file matches"):
        open_source(f"array_record:{tmp_path}/*.array_record")
    write(tmp_path / "x.array_record", b"something else")
    with pytest.raises(ValueError, match="array_record:.*x.array_record"):
        open_source(f"array_record:{tmp_path}/x.array_record")


# --- parquet --------------------------------------------------------------------------------------


def test_parquet_of_plain_bytes_with_names_numbers_or_no_labels(tmp_path):
    images = [made.encoded(n) for n in range(4)] + [None]
    path = tmp_path / "x.parquet"
    for labels, names, expected in (
        (["b", "a", None, "b", "a"], ("a", "b"), [1, 0, -1, 1, 0]),
        ([2, 0, None, -1, 1], ("0", "1", "2"), [2, 0, -1, -1, 1]),
        (None, (), [-1] * 5),
    ):
        columns = {"image": pa.array(images, pa.binary())}
        if labels:
            columns["label"] = labels
        pq.write_table(pa.table(columns), path)
        source = open_source(f"parquet:{path}")
        assert source.class_names == names and source.labels.tolist() == expected
        assert source[3]["image"] == images[3] and source[3]["key"] == "row-00000003"
        with pytest.raises(decoding.BadImageError, match="empty"):
            decoding.decode(source[4]["image"])


def test_what_is_wrong_with_a_parquet_file_is_said(tmp_path):
    path = tmp_path / "x.parquet"
    write(path, b"something else")
    with pytest.raises(ValueError, match="x.parquet"):
        open_source(f"parquet:{path}")
    pq.write_table(pa.table({"picture": [b""]}), path)
    with pytest.raises(ValueError, match="no column `image`, only picture"):
        open_source(f"parquet:{path}")
    pq.write_table(pa.table({"image": [b""], "label": [5]}), path)
    (tmp_path / "class_names.txt").write_text("ant\nbee\n")
    with pytest.raises(ValueError, match="has the label 5 but 2 class names"):
        open_source(f"parquet:{path}")


# --- wds ------------------------------------------------------------------------------------------


def test_an_index_is_kept_used_and_built_anew_when_the_shard_changes(tmp_path, monkeypatch):
    name = made.wds(tmp_path, COUNT)
    before = open_source(name)
    index = tmp_path / "part-0.tar.index.arrow"
    written = index.stat().st_mtime_ns
    monkeypatch.setattr(webdataset, "build_index", None)  # must not be needed
    assert keys(open_source(name)) == keys(before)
    monkeypatch.undo()
    made.wds(tmp_path, COUNT, seed=1)
    assert open_source(name)[2]["image"] == made.encoded(2, seed=1)
    assert index.stat().st_mtime_ns != written
    part = index.read_bytes()[:100]
    index.unlink()
    index.write_bytes(part)  # broken off
    assert open_source(name)[2]["image"] == made.encoded(2, seed=1)


def test_an_image_costs_one_read(tmp_path, monkeypatch):
    source = open_source(made.wds(tmp_path, COUNT))
    source[0], source[COUNT - 1]  # both shards and indices are open
    reads = []
    original = os.pread
    monkeypatch.setattr(os, "pread", lambda *a: reads.append(a) or original(*a))
    monkeypatch.setattr("builtins.open", None)
    assert source[5]["image"] == made.encoded(5)
    assert len(reads) == 1 and reads[0][1] == len(made.encoded(5))


def test_an_index_goes_to_the_cache_if_the_shards_directory_cannot_be_written(
    tmp_path, monkeypatch
):
    name = made.wds(tmp_path / "shards", COUNT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    original = files.write

    def refuse(path, data):
        if "shards" in path:
            raise PermissionError(path)
        original(path, data)

    monkeypatch.setattr(files, "write", refuse)
    assert len(open_source(name)) == COUNT
    assert len(list((tmp_path / "cache").rglob("*.index.arrow"))) == 2
    monkeypatch.setattr(webdataset, "build_index", None)
    assert len(open_source(name)) == COUNT


def test_many_shards_are_indexed_in_processes(tmp_path):
    for number in range(webdataset.FEW + 1):
        with tarfile.open(tmp_path / f"{number:02d}.tar", "w") as archive:
            write(tmp_path / "x.jpg", made.encoded(number))
            archive.add(tmp_path / "x.jpg", f"deep.folder/{number}.jpg")
    source = open_source(f"wds:{tmp_path}/*.tar")
    assert keys(source) == [f"deep.folder/{n}" for n in range(webdataset.FEW + 1)]
    assert source.class_names == () and source[4]["image"] == made.encoded(4)


def test_a_tar_file_that_breaks_off_ends_in_a_bad_image(tmp_path):
    name = made.wds(tmp_path, COUNT)
    path = tmp_path / "part-1.tar"
    whole = open_source(name)
    last = webdataset._load(f"{path}.index.arrow").column("offset")[-1].as_py()
    path.write_bytes(path.read_bytes()[: last + 60])
    source = open_source(name)
    assert len(source) == len(whole)
    with pytest.raises(decoding.BadImageError):
        decoding.decode(source[len(source) - 1]["image"])


def test_what_is_no_tar_file_is_said(tmp_path):
    write(tmp_path / "x.tar", b"something else" * 100)
    with pytest.raises(ValueError, match="x.tar"):
        open_source(f"wds:{tmp_path}/x.tar")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(__file__, "notes.txt")
    with pytest.raises(ValueError, match="no images in 1 tar files"):
        open_source(f"wds:{tmp_path}/x.tar")


# --- buckets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folder:gs://bucket/x", "wds:gs://bucket/*.tar"])
def test_a_bucket_without_its_library_is_said(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(sys.modules, "ns_jax.buckets.gcs", raising=False)
    for scheme in ("gs", "gcs"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    buckets._check_library.cache_clear()
    with pytest.raises(ImportError, match="read with gcsfs, .*: pip install gcsfs, or mount"):
        open_source(name)
    with pytest.raises(ValueError, match="http:// cannot be read; name a path on disk, gs://"):
        open_source(name.replace("gs://", "http://"))


@pytest.mark.parametrize("kind", ["folder", "table", "parquet", "wds"])
def test_sources_are_read_from_a_bucket(bucket, kind):
    here = made.FORMATS[kind](bucket / "pictures", COUNT)
    there = here.replace(f"{bucket}", "gs:/").replace("gs://pictures", "gs://pictures")
    local, remote = open_source(here), open_source(there)
    assert keys(remote) == keys(local) and remote.fingerprint == local.fingerprint
    assert [remote[i]["image"] for i in range(COUNT)] == [local[i]["image"] for i in range(COUNT)]


@pytest.fixture
def cloud_storage(bucket, monkeypatch):
    """The bucket over HTTP too, for a library that has a client of its own; its requests' paths."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            name = re.fullmatch(r"/storage/v1/b/(.+)/o/(.+)\?alt=media", self.path)
            data = (bucket / name[1] / urllib.parse.unquote(name[2])).read_bytes()
            first, last = re.fullmatch("bytes=([0-9]*)-([0-9]*)", self.headers["Range"]).groups()
            start = int(first) if first else max(0, len(data) - int(last))
            part = data[start : int(last) + 1 if first and last else None]
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            end = start + len(part) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            self.send_header("x-goog-generation", "1")
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(
            "CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{server.server_port}"
        )
        yield requests
        server.shutdown()


def test_array_records_are_read_from_a_bucket_by_their_library(bucket, cloud_storage, monkeypatch):
    import tensorflow_datasets

    requests = cloud_storage
    here = made.array_record(bucket / "pictures", COUNT)
    made.tfds(bucket / "tfds", COUNT)
    for name, there in (
        (here, here.replace(f"{bucket}", "gs:/")),
        ("tfds:insects:train", "tfds:insects:train"),
    ):
        monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(bucket / "tfds"))
        local = open_source(name)
        monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", "gs://tfds")
        remote = open_source(there)
        assert remote.fingerprint == local.fingerprint and len(remote) == COUNT
        requests.clear()
        assert [remote[i] for i in range(COUNT)] == [local[i] for i in range(COUNT)]
        assert requests


def test_array_records_in_a_bucket_that_their_library_does_not_know_are_said(monkeypatch):
    import tensorflow_datasets

    monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", "s3://bucket/tfds")
    with pytest.raises(
        ValueError, match="DATA_DIR is s3://.* reads .* gs:// but .* mount the buck"
    ):
        open_source("tfds:insects:train")
    with pytest.raises(ValueError, match="reads gs:// but no s3://; mount the bucket"):
        open_source("array_record:s3://bucket/*.array_record")
