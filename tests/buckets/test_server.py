"""The servers that the tests of buckets rely on, and the network before them."""

import fsspec
import pytest

from tests.buckets.proxy import Behaviour

pytestmark = pytest.mark.bucket


@pytest.mark.parametrize("name", ["google", "amazon"])
def test_what_was_written_is_read_and_counted(name, request):
    cloud = request.getfixturevalue(name)
    bucket = cloud.make_bucket()
    files = fsspec.filesystem(cloud.scheme, skip_instance_cache=True)
    files.pipe_file(f"{bucket}/a/b", b"x" * 100_000)
    cloud.behave()
    assert files.cat_file(f"{bucket}/a/b", start=10, end=20) == b"x" * 10
    assert files.cat_file(f"{bucket}/a/b") == b"x" * 100_000
    counts = cloud.counts()
    assert counts["bytes_down"] >= 100_010
    assert counts["requests"] == counts["answered"]


def test_the_fate_of_a_request_follows_from_the_seed():
    def fates(seed):
        rough = Behaviour(unavailable=0.1, reset=0.1, cut=0.1, silent=0.1, seed=seed)
        return [rough.fate("GET", f"/{n}") for n in range(1000)]

    assert fates(1) == fates(1) != fates(2)
    assert 80 < fates(1).count("unavailable") < 120
    assert {"reset before", "reset after", "cut", "silent", "answered"} < {*fates(1)}


def test_each_kind_of_misbehaviour_happens(google):
    bucket = google.make_bucket()
    files = fsspec.filesystem("gs", skip_instance_cache=True)
    files.pipe_file(f"{bucket}/a", b"x" * 1000)
    for kind in ("unavailable", "too_many", "reset", "cut"):
        google.behave(Behaviour(**{kind: 0.5}, seed=4))
        for _ in range(3):
            assert files.cat_file(f"{bucket}/a") == b"x" * 1000, kind
        assert any(name.startswith(kind) for name in google.counts()), kind
