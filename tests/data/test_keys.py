"""Keys of many images at once are those that the images themselves have, whatever the format."""

import gzip
import os
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_jax.data import matching
from ns_jax.data import open as open_lib
from ns_jax.data import source as source_lib
from tests.data import made

COUNT = 24


def opened(name):
    return open_lib.open_source(name, labels_per_class=2, seed=0)


def idx(root):
    root.mkdir(parents=True)
    for kind, shape in (("images-idx3", (COUNT, 4, 4)), ("labels-idx1", (COUNT,))):
        head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
        body = (np.arange(np.prod(shape)) % 3).astype(np.uint8).tobytes()
        (root / f"train-{kind}-ubyte.gz").write_bytes(gzip.compress(head + body))
    return f"idx:{root}:train"


def bare_parquet(root):
    """Without paths, and with some that are missing or not UTF-8."""
    root.mkdir(parents=True)
    images = [made.encoded(number) for number in range(6)]
    pq.write_table(pa.table({"image": images}), root / "a.parquet")
    paths = [b"x.jpg", None, b"", b"caf\xe9.jpg", b"y.jpg", b"z.jpg"]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.binary())])
    rows = [{"bytes": i, "path": p} for i, p in zip(images, paths, strict=True)]
    rows[4] = None
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), root / "b.parquet")
    return f"parquet:{root}/*.parquet"


def odd_folder(root):
    """Names that are not UTF-8."""
    root.mkdir(parents=True)
    for number in range(3):
        (root / os.fsdecode(b"caf\xe9-%d.jpg" % number)).write_bytes(made.encoded(number))
    return f"folder:{root}"


MAKERS = {
    "folder": lambda root: made.folder(root, COUNT),
    "odd_folder": odd_folder,
    "table": lambda root: made.table(root, COUNT),
    "parquet": lambda root: made.parquet(root, COUNT),
    "bare_parquet": bare_parquet,
    "wds": lambda root: made.wds(root, COUNT),
    "array_record": lambda root: made.array_record(root, COUNT),
    "idx": idx,
    "digits": lambda root: "digits:test",
    "images": lambda root: f"images:{made.folder(root, COUNT).partition(':')[2]}/*/*.jpg",
    "few": lambda root: f"few:{made.folder(root, COUNT)}",
    "rest": lambda root: f"rest:{made.wds(root, COUNT)}",
    "joined": lambda root: "+".join(
        [made.folder(root / "a", 5), made.parquet(root / "b", 6), idx(root / "c")]
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_keys_are_those_of_the_images_in_any_order(kind, tmp_path):
    source = opened(MAKERS[kind](tmp_path / "data"))
    expected = [source[index]["key"] for index in range(len(source))]
    order = np.random.default_rng(0).permutation(len(source))
    for indices in (np.arange(len(source)), order, order[:3], order[:0], np.asarray([1, 1])):
        found = source.keys(indices)
        assert found.type == pa.large_string()
        assert found.to_pylist() == [expected[index] for index in indices]
    if source.class_names:
        names = sorted(source.class_names, reverse=True)
        renumbered = matching.match(source, names, "x") if kind != "rest" else source
        assert renumbered.keys(order).to_pylist() == [expected[index] for index in order]


def test_where_keys_are_known_no_image_is_read(tmp_path, monkeypatch):
    source = opened(MAKERS["joined"](tmp_path / "data"))
    monkeypatch.setattr(source_lib._Joined, "__getitem__", None)
    assert len(source.keys(np.arange(len(source)))) == 11 + COUNT
