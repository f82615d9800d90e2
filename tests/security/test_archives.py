"""Archives and tables name files; no name leads out of the place that was given."""

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ns_jax.data.formats import folder, parquet, webdataset
from tests.data import made


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a secret beside it, in a place of its own."""
    (tmp_path / "secret.jpg").write_bytes(made.encoded(0))
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    return tmp_path / "data"


def everything(root):
    return {os.path.join(directory, n) for directory, _, ns in os.walk(root) for n in ns}


def member(name, kind=tarfile.REGTYPE, data=b"", target=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), target
    return info, io.BytesIO(data)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_writes_nothing_and_follows_nothing(place, form):
    secret = str(place.parent / "secret.jpg")
    outside = place.parent / "outside"
    members = [
        member("../../escaped.jpg", data=made.encoded(2)),
        member(f"{place.parent}/absolute.jpg", data=made.encoded(4)),
        member("link.jpg", tarfile.SYMTYPE, target=secret),
        member("hard.jpg", tarfile.LNKTYPE, target=secret),
        member("fifo.jpg", tarfile.FIFOTYPE),
        member("device.jpg", tarfile.CHRTYPE),
        member("door", tarfile.SYMTYPE, target=str(outside)),
        member("door/through.jpg", data=made.encoded(6)),
        member("label.jpg", data=made.encoded(8)),
        member("label.cls", tarfile.SYMTYPE, target=secret),
    ]
    with tarfile.open(place / "shard.tar", "w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, data)
    before = everything(place.parent)
    source = webdataset.open_source(f"{place}/shard.tar")
    found = {source[i]["key"]: source[i] for i in range(len(source))}
    assert [found[key]["image"] for key in found] == [made.encoded(n) for n in (2, 4, 6, 8)]
    assert {key.rpartition("/")[2] for key in found} == {"escaped", "absolute", "through", "label"}
    assert found["label"]["label"] == -1
    assert everything(place.parent) - before == {f"{place}/shard.tar.index.arrow"}


@pytest.mark.parametrize("name", ["../secret.jpg", "a/../../secret.jpg", "{}", "/etc/passwd"])
def test_a_table_of_labels_lists_files_below_it_alone(place, name):
    (place / "a").mkdir()
    (place / "a" / "image.jpg").write_bytes(made.encoded(0))
    name = name.format(place.parent / "secret.jpg")
    (place / "labels.csv").write_text(f"file,label\na/image.jpg,ant\n{name},bee\n")
    with pytest.raises(ValueError, match="1 files of .* do not exist: "):
        folder.open_source(str(place))


def test_a_path_in_a_parquet_file_is_a_name_and_not_opened(place):
    secret = str(place.parent / "secret.jpg")
    images = [{"bytes": None, "path": secret}, {"bytes": b"", "path": "../secret.jpg"}]
    pq.write_table(pa.table({"image": images}), place / "a.parquet")
    source = parquet.open_source(f"{place}/a.parquet")
    assert [source[i]["image"] for i in range(2)] == [b"", b""]
    assert source[0]["key"] == secret
