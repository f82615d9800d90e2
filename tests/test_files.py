"""Files that are there whole or not at all. Lists and fingerprints: tests/data/test_open.py."""

import pytest

from ns_jax import files


@pytest.fixture(params=["disk", "bucket"])
def directory(request, tmp_path):
    """The same directory by the name that the package is given, and on disk."""
    if request.param == "bucket":
        return "gs://files/new", request.getfixturevalue("bucket") / "files" / "new"
    return tmp_path / "new", tmp_path / "new"


def test_a_file_is_replaced_at_the_end_or_not_at_all(directory):
    named, on_disk = directory
    path = f"{named}/report.txt"
    with files.replacing(path) as temporary:
        temporary.write_text("first")
        assert not files.exists(path)
    with pytest.raises(KeyError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert {p.name: p.read_text() for p in on_disk.iterdir()} == {"report.txt": "first"}


def test_what_a_killed_writer_left_is_overwritten(directory):
    named, on_disk = directory
    path = f"{named}/report.txt"
    killed = files.replacing(path)
    killed.__enter__().write_text("a long half")  # and never left
    with files.replacing(path) as temporary:
        temporary.write_text("whole")
    assert {p.name: p.read_text() for p in on_disk.iterdir()} == {"report.txt": "whole"}
