"""IDX files, as MNIST and its like come: what is read of them, and what is said of bad ones."""

import gzip
import pickle

import numpy as np
import pytest

from configs import fashion
from ns_jax.data import decoding
from ns_jax.data import open as open_lib
from ns_jax.data.formats import idx
from ns_jax.errors import InputError
from tests.data import made

COUNT = 14
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def open_source(name):
    return open_lib.open_source(name, labels_per_class=5, seed=0)


@pytest.mark.parametrize("packed", [False, True])
def test_images_and_labels_are_those_of_the_files(tmp_path, packed):
    source = open_source(made.idx(tmp_path, COUNT, packed=packed))
    assert len(source) == COUNT and source.class_names == ("0", "1", "2")
    grey = made.grey(COUNT)
    for number in (0, 5, COUNT - 1):
        example = source[number]
        assert example["image"].shape == (6, 5, 3) and example["image"].dtype == np.uint8
        assert (example["image"] == grey[number][..., None]).all()
        assert example["label"] == number % 3 == source.labels[number]
        assert decoding.decode(example["image"]).shape == (6, 5, 3)
        assert example["key"] == f"train-{number:08d}"


@pytest.mark.parametrize("packed", [False, True])
def test_a_worker_gets_neither_images_nor_labels(tmp_path, packed):
    """Pixels and labels are read again by each process, from memory that all share if mapped."""
    source = open_source(made.idx(tmp_path, 3000, packed=packed))
    source[3]
    data = pickle.dumps(source)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert (copy[7]["image"] == source[7]["image"]).all() and copy[7]["label"] == 1


def test_an_uncompressed_file_is_mapped_and_preferred(tmp_path):
    name = made.idx(tmp_path, COUNT)
    made.idx(tmp_path, COUNT, seed=1, packed=True)  # beside it
    source = open_source(name)
    assert (source[2]["image"][..., 0] == made.grey(COUNT)[2]).all()
    (tmp_path / IMAGES).unlink()  # what is mapped stays
    assert (source[3]["image"][..., 0] == made.grey(COUNT)[3]).all()


def test_transposed_images_stand_upright(tmp_path):
    name = made.idx(tmp_path, COUNT)
    plain, upright = open_source(name), open_source(f"{name}:transposed")
    assert (upright[4]["image"] == plain[4]["image"].transpose(1, 0, 2)).all()
    assert upright.fingerprint != plain.fingerprint


def test_splits_are_found_by_the_ends_of_file_names(tmp_path):
    made.idx(tmp_path / "mnist", 4, prefix="t10k")
    made.idx(tmp_path / "mnist", 3)
    assert len(open_source(f"idx:{tmp_path}/mnist:test")) == 4
    assert len(open_source(f"idx:{tmp_path}/mnist/:t10k")) == 4
    for prefix, count in (("letters-train", 5), ("digits-train", 6), ("letters-test", 7)):
        made.idx(tmp_path / "emnist", count, prefix=f"emnist-{prefix}")
    emnist = f"idx:{tmp_path}/emnist"
    assert len(open_source(f"{emnist}:test")) == 7
    assert len(open_source(f"{emnist}:letters-train")) == 5
    assert len(open_source(f"{emnist}:emnist-digits-train")) == 6
    with pytest.raises(InputError, match="emnist-digits-train, emnist-letters-train"):
        open_source(f"{emnist}:train")
    with pytest.raises(InputError, match="no split is called 'dev'.*emnist-letters-test"):
        open_source(f"{emnist}:dev")
    with pytest.raises(InputError, match="names no split"):
        open_source(emnist)


def test_classes_are_numbers_unless_names_lie_beside(tmp_path):
    name = made.idx(tmp_path, COUNT, first=1)
    source = open_source(name)
    assert source.class_names == ("1", "2", "3") and source[4]["label"] == 1  # "2"
    (tmp_path / "class_names.txt").write_text("none\nant\nbee\ncat\n")
    source = open_source(name)
    assert source.class_names[source[4]["label"]] == "bee"
    assert source.class_names[source.labels[4]] == "bee"
    (tmp_path / "class_names.txt").write_text("ant\nbee\ncat\n")
    with pytest.raises(InputError, match=r"label 3 but 3 class names; complete class_names.txt"):
        open_source(name)


def test_fingerprints_follow_images_and_labels(tmp_path):
    names = [
        made.idx(tmp_path / "0", COUNT),
        made.idx(tmp_path / "1", COUNT, seed=1),
        made.idx(tmp_path / "2", COUNT, labels=np.zeros(COUNT, np.uint8)),
        made.idx(tmp_path / "3", COUNT),
    ]
    found = [open_source(name).fingerprint for name in names]
    assert len(set(found)) == 3 and found[0] == found[3]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (IMAGES, lambda data: b"\x89PNG" + data[4:], "no IDX file: it begins with 89 50 4e 47"),
        (IMAGES, lambda data: b"", "no IDX file: it begins with nothing"),
        (IMAGES, lambda data: b"\0\0\x0d\3" + data[4:], "holds float32 in 3 dimensions"),
        (IMAGES, lambda data: b"\0\0\x08\4" + data[4:], "holds bytes in 4 dimensions"),
        (IMAGES, lambda data: data[:10], "ends within its header"),
        (IMAGES, lambda data: data[:-1], "ends before the 14 x 6 x 5 bytes that it announces"),
        (
            IMAGES,
            lambda data: data[:4] + b"\xff" * 12 + data[16:],
            "ends before the 4,294,967,295 x",
        ),
        (IMAGES, lambda data: data + b"x", "goes on after the 14 x 6 x 5 bytes"),
        (IMAGES, lambda data: data[:8] + b"\0" * 8, "14 images of 0 x 0 pixels"),
        (LABELS, lambda data: b"\0\0\x0c\2" + data[4:], "holds int32 in 2 dimensions"),
        (LABELS, lambda data: data[:7] + b"\x0d" + data[8:-1], "14 images but .* 13 labels"),
        (LABELS, lambda data: data[:-3], "ends before the 14 bytes"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(tmp_path, packed, file, change, message):
    name = made.idx(tmp_path, COUNT)
    path = tmp_path / file
    data = change(path.read_bytes())
    path.unlink()
    if packed:
        path.with_name(f"{file}.gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        open_source(name)
    assert str(tmp_path / file) in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "bits", "kind"])
def test_a_damaged_gzip_file_is_said_to_be_damaged(tmp_path, damage):
    name = made.idx(tmp_path, 500, packed=True)
    path = tmp_path / f"{IMAGES}.gz"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-2000:]
    elif damage == "bits":
        data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    else:
        data[:2] = b"PK"
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged.*fetch it again"):
        open_source(name)


def test_missing_files_are_named(tmp_path):
    name = made.idx(tmp_path, COUNT)
    (tmp_path / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=f"{LABELS} is missing"):
        open_source(name)
    for directory in ("nowhere", "."):
        (tmp_path / IMAGES).unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError, match="no IDX files of images"):
            open_source(f"idx:{tmp_path}/{directory}:train")


def test_without_fashion_mnist_its_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "PACKAGES", {str(tmp_path): idx.PACKAGES[idx.FASHION_MNIST]})
    config = fashion.get_config(f"dir={tmp_path}")
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        open_lib.open_from_config(config, "labelled")


def test_the_fashion_config_draws_a_few_and_a_pool_that_knows_its_truth(tmp_path):
    made.idx(tmp_path, 900, classes=10)
    made.idx(tmp_path, 30, classes=10, prefix="t10k", packed=True)
    config = fashion.get_config(f"dir={tmp_path}")
    config.data.rest_limit = 600
    labelled, pool, test = (
        open_lib.open_from_config(config, which) for which in ("labelled", "unlabelled", "test")
    )
    assert np.bincount(labelled.labels).tolist() == [20] * 10
    assert len(pool) == 600 and (pool.labels == -1).all() and (pool.truth >= 0).all()
    assert len(test) == 30 and labelled.class_names == test.class_names == pool.class_names
