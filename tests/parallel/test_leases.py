"""Leases: one holder at a time, taken over from those that are gone and from no others."""

import concurrent.futures
import json
import os
import subprocess
import sys
import time

import pytest

from ns_jax import files
from ns_jax.parallel import leases


@pytest.fixture(params=["disk", "bucket"])
def directory(request, tmp_path):
    if request.param == "bucket":
        request.getfixturevalue("bucket")
        return "gs://leases"
    return f"{tmp_path}/with 'quotes' and spaces"


def write_foreign(path, beat):
    """A lease of another host."""
    content = {"worker": "w", "host": "elsewhere", "pid": 1, "started": "1", "beat": beat}
    files.write(path, json.dumps(content).encode())


def test_of_many_at_once_one_gets_it(tmp_path):
    names = [f"shard {number}" for number in range(40)]
    everyone = [leases.Leases(str(tmp_path), 60.0) for _ in range(4)]

    def claim_all(mine):
        return [name for name in names if mine.claim(name)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        claimed = list(pool.map(claim_all, everyone))
    assert sorted(sum(claimed, [])) == sorted(names)


def test_what_is_released_can_be_had_again(directory):
    with leases.Leases(directory, 60.0) as mine, leases.Leases(directory, 60.0) as other:
        assert mine.claim("a") and not other.claim("a") and other.claim_first(["a", "b"]) == "b"
        mine.release("a")
        assert other.claim("a")
    assert files.names(directory) == []  # whoever leaves takes its leases along


def test_a_lease_that_stays_the_same_is_taken_over_and_one_that_beats_is_not(directory):
    path = f"{directory}/a.0"
    write_foreign(path, beat=0)
    with leases.Leases(directory, 0.4) as mine:
        began, beat = time.monotonic(), 0
        while time.monotonic() - began < 1.2:  # three times as long as it would need to stay
            write_foreign(path, beat := beat + 1)
            assert not mine.claim("a")
            time.sleep(0.02)
        began = time.monotonic()
        while not mine.claim("a"):
            assert time.monotonic() - began < 30, "a lease without a sign of life is never free"
            time.sleep(0.02)
        assert time.monotonic() - began >= 0.35
        assert files.names(directory) == ["a.0", "a.1"]
        with leases.Leases(directory, 60.0) as other:
            assert not other.claim("a")


def test_a_holder_gives_signs_of_life(tmp_path):
    with leases.Leases(str(tmp_path), 0.2) as mine:
        assert mine.claim("a")
        first = (tmp_path / "a.0").read_bytes()
        began = time.monotonic()
        while (tmp_path / "a.0").read_bytes() == first:
            assert time.monotonic() - began < 30
            time.sleep(0.01)
        with leases.Leases(str(tmp_path), 10.0) as other:
            assert not other.claim("a")


@pytest.mark.large
def test_a_process_of_this_host_that_was_killed_holds_nothing(tmp_path, environment):
    script = "\n".join(
        [
            "import sys, time",
            "from ns_jax.parallel import leases",
            f"with leases.Leases({str(tmp_path)!r}, 3600.0) as held:",
            "    print(held.claim('a'), flush=True)",
            "    time.sleep(3600)",
        ]
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "True\n"
    with leases.Leases(str(tmp_path), 3600.0) as mine:
        assert not mine.claim("a")
        child.kill()
        child.wait()
        assert mine.claim("a")


def test_who_is_late_may_find_its_half_written_file_tidied_away(tmp_path, monkeypatch):
    real = os.link

    def link(temporary, path):
        tmp_path.joinpath("one").write_bytes(b"first")
        files.tidy(str(tmp_path))
        real(temporary, path)

    monkeypatch.setattr(os, "link", link)
    assert not files.create(str(tmp_path / "one"), b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]
