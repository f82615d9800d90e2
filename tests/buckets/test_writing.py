"""Writes and removals whose answer is lost on its way: done once, whole, and said to be done."""

import pytest
from etils import epath

from ns_jax import files
from ns_jax.buckets import reads
from tests.buckets.proxy import Behaviour

pytestmark = pytest.mark.bucket

SEVERAL = 6 << 20  # bytes that gcsfs sends as an upload of several requests


@pytest.fixture
def lossy(google):
    """A bucket of which the first answer to each change is lost."""
    bucket = google.make_bucket()
    google.behave(Behaviour(first_lost=True))
    return bucket


def lost(google):
    return google.counts()["reset after"]


def test_an_object_is_written_again_and_is_what_was_written_last(google, lossy):
    for content in (b"one", b"two"):
        files.write(f"{lossy}/a", content)
        assert files.read(f"{lossy}/a") == content
    assert lost(google) == 1  # the same request, asked again


def test_a_finished_upload_that_is_not_known_any_more_is_looked_at(google, lossy):
    content = bytes(range(256)) * (SEVERAL // 256)
    with files.replacing(f"{lossy}/large") as here:
        here.write_bytes(content)
    assert files.read(f"{lossy}/large") == content
    assert lost(google) == 3  # of the beginning, of the end, and of giving it up


def test_who_creates_is_told_so(google, lossy):
    assert files.create(f"{lossy}/lease", b"ours")
    assert lost(google) == 1
    assert not files.create(f"{lossy}/lease", b"theirs")
    store = files.filesystem(lossy)
    with pytest.raises(FileExistsError):  # where another one was faster
        reads.whole_answer(store, "", "pipe_file", (f"{lossy}/lease", b"x"), mode="create")
    assert files.read(f"{lossy}/lease") == b"ours"


def test_what_orbax_writes_goes_the_same_way(google, lossy):
    """It calls etils, which is handed our file system by fsspec."""
    path = epath.Path(lossy) / "description" / "model.json"
    path.write_text("{}")
    assert path.read_text() == "{}" and lost(google) == 1
    path.write_text("[]")
    assert path.read_text() == "[]"
    path.unlink()
    assert not path.exists() and lost(google) == 2
    (path.parent / "a").write_bytes(b"x")
    (path.parent / "b").write_bytes(b"x")
    path.parent.rmtree()
    assert not path.parent.exists()


def test_half_an_object_is_never_sent(google, lossy):
    store = files.filesystem(lossy)
    with pytest.raises(KeyboardInterrupt), store.open(f"{lossy}/half", "wb") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    file = store.open(f"{lossy}/half", "wb")
    file.write(b"half")
    del file
    assert not files.exists(f"{lossy}/half")


def test_a_directory_is_moved(google, lossy):
    (here, there) = (epath.Path(lossy) / name for name in ("here", "there"))
    for name in ("a", "b/c"):
        files.write(f"{here}/{name}", name.encode())
    files.move_directory(here, there)
    assert not here.exists() and (there / "b" / "c").read_text() == "b/c"


def test_a_directory_whose_bucket_is_not_there_is_an_error(google):
    with pytest.raises(FileNotFoundError):
        files.write("gs://no-such-bucket/a", b"x")
