"""Sources in a bucket of a real storage server: what is read, with how many requests, and what it
says when the bucket does not answer.
"""

import asyncio
import dataclasses
import fcntl
import logging
import multiprocessing
import os
import pathlib
import stat
import subprocess
import sys

import fsspec
import numpy as np
import pytest
from fsspec import asyn

from ns_jax import files
from ns_jax.buckets import reads
from ns_jax.data import crops, listing, pipeline, shard_cache
from ns_jax.data import open as open_lib
from ns_jax.data.batch import BatchSpec
from ns_jax.data.pipeline import Examples
from ns_jax.data.shard_cache import NoRoomError, Shard, ShardCache
from ns_jax.data.shards import Pass
from ns_jax.data.views import TrainView
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import DamagedError, InputError, MissingFileError, UnansweredError
from tests.buckets.proxy import Behaviour
from tests.data import made

pytestmark = pytest.mark.bucket
COUNT = 40
KINDS = ("wds", "array_record", "parquet")
EVALUATION = crops.Preprocessing(16, "0.875", (0.485,) * 3, (0.229,) * 3)


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def client(google):
    return fsspec.filesystem("gs")


def upload(cloud, here: str, root: pathlib.Path) -> str:
    """The name of the same source in a new bucket."""
    bucket, client = cloud.make_bucket(), fsspec.filesystem(cloud.scheme)
    names = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".arrow"]
    for path in names:
        client.pipe_file(f"{bucket}/x/{path.relative_to(root)}", path.read_bytes())
    return here.replace(str(root), f"{bucket}/x")


@pytest.fixture
def sources(google, tmp_path):
    """The same images on a disk and in a bucket, opened."""

    def make(kind: str, count: int = COUNT):
        here = made.FORMATS[kind](tmp_path / kind, count)
        return open_source(here), open_source(upload(google, here, tmp_path / kind))

    return make


def open_source(name: str):
    return open_lib.open_source(name, labels_per_class=1, seed=0)


def cache(tmp_path, limit=1 << 30) -> ShardCache:
    found = ShardCache(str(tmp_path / "cache"), limit)
    found.check()
    return found


def evaluated(source, settings, size=8, indices=None) -> list[dict]:
    indices = np.arange(len(source)) if indices is None else indices
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]
    batches = pipeline.evaluation_batches(
        source, parts, [EVALUATION], batch_size=size, reading=settings
    )
    try:
        return list(batches)
    finally:
        batches.close()


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def trained(source, settings, steps, start=0, places=None, seed=3, batch=8) -> list[dict]:
    view = TrainView(EVALUATION, "evaluation", False, None)
    target = np.zeros(1, np.int32), np.ones(1, np.float32)
    examples = Examples(source, range(len(source)), lambda position, label: target, 1)
    batches = pipeline.train_batches(
        *(examples, None, view),
        spec=BatchSpec(batch, 0, 1, view.shapes()),
        steps=steps,
        start_step=start,
        seed=seed,
        reading=settings,
        places=places,
    )
    try:
        return list(batches)
    finally:
        batches.close()


def order(batches: list[dict]) -> list[int]:
    return np.concatenate([batch["index"] for batch in batches]).tolist()


@pytest.mark.parametrize("kind", [*KINDS, "folder"])
def test_a_pass_sees_what_it_sees_on_a_disk(sources, tmp_path, kind):
    here, there = sources(kind)
    assert there.fingerprint == here.fingerprint
    settings = LoaderSettings(workers=0, cache=cache(tmp_path))
    assert_same(evaluated(there, settings), evaluated(here, settings))


@pytest.mark.parametrize("kind", ["wds", "parquet", "folder"])
def test_a_pass_over_the_other_cloud(amazon, tmp_path, kind):
    here = made.FORMATS[kind](tmp_path / kind, COUNT)
    there = open_source(upload(amazon, here, tmp_path / kind))
    assert there.fingerprint == open_source(here).fingerprint
    settings = LoaderSettings(workers=0, cache=cache(tmp_path))
    assert_same(evaluated(there, settings), evaluated(open_source(here), settings))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_takes_a_request_for_each_range_of_a_shard(
    google, sources, tmp_path, monkeypatch, kind
):
    _, there = sources(kind)
    size = sum(shard.size for shard in there.shards.files)
    monkeypatch.setattr(shard_cache, "RANGE", 10_000)
    settings = LoaderSettings(workers=0, cache=cache(tmp_path))
    google.behave()
    evaluated(there, settings)
    counts = google.counts()
    assert counts["requests"] == sum(-(-one.size // 10_000) for one in there.shards.files)
    assert size <= counts["bytes_down"] < 1.01 * size
    evaluated(there, settings)
    assert google.counts()["requests"] == counts["requests"]  # all is here now


def test_worker_processes_share_the_copies(google, sources, tmp_path):
    here, there = sources("wds")
    google.behave()
    settings = LoaderSettings(workers=2, cache=cache(tmp_path), prefetch=4)
    assert_same(evaluated(there, settings), evaluated(here, settings))
    assert google.counts()["requests"] == 2  # of two shards


def test_images_far_apart_are_read_alone(google, sources, tmp_path):
    here, there = sources("wds", 80)
    settings = LoaderSettings(workers=0, cache=cache(tmp_path))
    chosen = np.asarray([0, 70])
    google.behave()
    assert_same(evaluated(there, settings, 2, chosen), evaluated(here, settings, 2, chosen))
    assert google.counts()["requests"] == 2
    assert not list((tmp_path / "cache").glob("*.shard"))


def test_opening_again_reads_a_listing(google, sources, tmp_path):
    _, there = sources("array_record")
    google.behave()
    assert open_source(there.name).fingerprint == there.fingerprint
    counts = google.counts()
    assert counts["requests"] <= 2 * 2 + 6  # ends and sizes of two shards, class names, listings


def test_an_order_that_a_bucket_can_serve(sources, tmp_path):
    """Each image once an epoch, another order in each, from few shards at once; the same from any
    step on, and on any number of hosts.
    """
    here, there = sources("wds")
    settings = LoaderSettings(workers=0, cache=cache(tmp_path), shuffle_shards=2)
    whole = trained(there, settings, 15)  # three epochs of 40
    epochs = np.reshape(order(whole), (3, COUNT))
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    assert_same(trained(there, settings, 15, start=7), whole[7:])
    of_processes = dataclasses.replace(settings, workers=2)
    assert_same(trained(there, of_processes, 3), whole[:3])
    hosts = [trained(there, settings, 15, places=range(n, n + 4)) for n in (0, 4)]
    for step, parts in zip(whole, zip(*hosts, strict=True), strict=True):
        both = {name: np.concatenate([part[name] for part in parts]) for name in step}
        assert_same([both], [step])
    assert order(trained(there, settings, 5, seed=4)) != order(whole[:5])
    assert order(trained(here, settings, 5)) != order(whole[:5])  # that of a disk is its own


def test_the_order_of_a_disk_is_what_it_was(sources, tmp_path):
    here, _ = sources("wds")
    shuffled = pipeline.Shuffled(COUNT, pipeline._stream_seed(3, 0))
    found = trained(here, LoaderSettings(workers=0, shuffle_shards=2), 10)
    assert order(found) == [shuffled[number] for number in range(80)]


# --- a bucket that misbehaves ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_that_fails_now_and_then_is_read_all_the_same(
    google, sources, tmp_path, monkeypatch, caplog, capfd, kind
):
    here, there = sources(kind)
    monkeypatch.setattr(shard_cache, "RANGE", 4_000)
    monkeypatch.setattr(reads, "SECONDS", 3.0)
    monkeypatch.setattr(reads, "PAUSE", 0.01)
    google.behave(Behaviour(unavailable=0.1, too_many=0.1, reset=0.1, cut=0.1, silent=0.05, seed=5))
    settings = LoaderSettings(workers=0, cache=cache(tmp_path))
    with caplog.at_level(logging.DEBUG, "gcsfs"):
        assert_same(evaluated(there, settings), evaluated(here, settings))
    counts = google.counts()
    assert sum(counts.get(fate, 0) for fate in ("unavailable", "too_many", "cut", "silent")) > 2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("fate", ["unavailable", "cut", "silent"])
def test_a_bucket_that_never_answers_has_an_end(google, client, monkeypatch, fate):
    bucket = google.make_bucket()
    client.pipe_file(f"{bucket}/a", b"x" * 1000)
    monkeypatch.setattr(reads, "SECONDS", 0.2)
    monkeypatch.setattr(reads, "PAUSE", 0.01)
    google.behave(Behaviour(**{fate: 1.0}))
    with pytest.raises(UnansweredError, match=f"^{bucket}/a: .*; 5 attempts failed") as raised:
        files.read_range(f"{bucket}/a", 0, 1000, "")
    assert not isinstance(raised.value, InputError) and "\n" not in str(raised.value)


def test_what_the_user_can_mend_is_theirs(google, tmp_path):
    bucket = google.make_bucket()
    with pytest.raises(MissingFileError):
        open_source(f"wds:{bucket}/nothing-*.tar")
    with pytest.raises(FileNotFoundError):
        files.read_range(f"{bucket}/nothing", 0, 10, "")


def test_an_image_that_is_gone_is_bad_and_a_bucket_that_is_silent_an_error(
    google, client, sources, monkeypatch
):
    _, there = sources("folder")
    monkeypatch.setattr(reads, "SECONDS", 0.2)
    monkeypatch.setattr(reads, "PAUSE", 0.01)
    client.rm(f"{there.name.removeprefix('folder:')}/{there[0]['key']}")
    assert there[0]["image"] == b""
    google.behave(Behaviour(silent=1.0))
    with pytest.raises(UnansweredError):
        there[1]


# --- copies ---------------------------------------------------------------------------------------


@pytest.fixture
def shards(google, client):
    """Objects of 4,000 bytes each in a bucket, as shards."""
    bucket = google.make_bucket()

    def make(count: int) -> list[Shard]:
        from ns_jax.data import signatures

        rng, found = np.random.default_rng(0), []
        for number in range(count):
            path = f"{bucket}/{number}"
            client.pipe_file(path, rng.bytes(4000))
            found.append(Shard(path, 4000, signatures.of([path], shards=True)[0]))
        return found

    return make


def test_what_was_used_longest_ago_makes_room(shards, tmp_path):
    kept, some = cache(tmp_path, 9000), shards(4)
    held = kept.fetch(some[0])
    for number, one in enumerate(some[1:3]):
        os.utime(kept.fetch(one).path, (number, number))
    assert kept.find(some[1]) is None and kept.find(some[2]) and kept.find(some[0])
    with_other = kept.fetch(some[3])
    with pytest.raises(NoRoomError, match="data.cache_gb"):
        kept.fetch(some[1])
    del with_other
    assert kept.fetch(some[1]).read(0, 10) and held.read(0, 10)


def test_a_copy_that_is_too_late_or_cut_leaves_nothing(google, client, shards, tmp_path):
    kept, (one, other) = cache(tmp_path), shards(2)
    client.pipe_file(one.path, b"y" * 4000)
    with pytest.raises(DamagedError, match="has changed since it was opened"):
        kept.fetch(one)
    client.rm(other.path)
    with pytest.raises(DamagedError, match="gone from its bucket"):
        kept.fetch(other)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_what_a_killed_process_left_is_taken_over(shards, tmp_path):
    kept, (one,) = cache(tmp_path), shards(1)
    part = kept._path(one).with_suffix(shard_cache.PART)
    part.write_bytes(b"half")
    assert kept.fetch(one).read(0, 4) != b"half" and not part.exists()


def fetch_and_say(kept, one, gate, said) -> None:
    gate.wait()
    said.put(kept.fetch(one).read(0, 4000))


def test_processes_fetch_a_shard_once(google, shards, tmp_path):
    kept, (one,) = cache(tmp_path), shards(1)
    google.behave(Behaviour(delay=0.3))
    context = multiprocessing.get_context("spawn")
    gate, said = context.Event(), context.Queue()
    children = [context.Process(target=fetch_and_say, args=(kept, one, gate, said)) for _ in "ab"]
    for child in children:
        child.start()
    gate.set()
    assert said.get(timeout=60) == said.get(timeout=60) == kept.fetch(one).read(0, 4000)
    for child in children:
        child.join()
    assert google.counts()["requests"] == 1


def test_a_pass_waits_for_room_that_another_process_holds(shards, tmp_path, monkeypatch):
    kept, (one, other) = cache(tmp_path, 5000), shards(2)
    reader = Pass(kept, None)
    reader._shards = {shard.path: shard for shard in (one, other)}
    held = kept.fetch(one)
    monkeypatch.setattr(shard_cache, "ROOM_SECONDS", 0.2)
    with pytest.raises(InputError, match="are in use, and data.cache_gb is"):
        reader.copy(other.path)
    del held
    assert reader.copy(other.path).read(0, 1)


# --- bad input ------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_said(tmp_path, sources):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="data.cache=.*/file/x cannot keep copies"):
        ShardCache(str(tmp_path / "file" / "x")).check()
    with pytest.raises(InputError, match="no directory on a disk of this host"):
        ShardCache("gs://bucket/cache").check()
    kept = cache(tmp_path)
    kept.root.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.getuid():
        with pytest.raises(InputError, match="cannot keep copies"):
            kept.check()


def test_a_full_disk_is_said_before_anything_is_fetched(shards, tmp_path, monkeypatch):
    """A real one would take a disk: the kernel's answer is what `posix_fallocate` raises."""
    kept, (one,) = cache(tmp_path), shards(1)

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="No space left on device; name a directory on a disk"):
        kept.check()
    with pytest.raises(NoRoomError, match="No space left on device"):
        kept.fetch(one)
    assert [path.name for path in kept.root.iterdir()] == ["lock"]


def test_a_training_that_needs_more_room_than_there_is_says_so(sources, tmp_path):
    _, there = sources("wds")
    small = ShardCache(str(tmp_path / "cache"), there.shards.largest(2) - 1)
    with pytest.raises(InputError, match="data.cache_gb is .*: raise data.cache_gb"):
        trained(there, LoaderSettings(workers=0, cache=small, shuffle_shards=2), 1)
    assert trained(there, LoaderSettings(workers=0, cache=small, shuffle_shards=1), 1)


def test_copies_that_nobody_asked_to_keep_are_gone_in_the_end(google, sources, tmp_path):
    _, there = sources("wds")
    script = (
        "import sys, numpy as np\n"
        "from tests.buckets.test_reading import LoaderSettings, evaluated, open_source\n"
        "from ns_jax.data.shard_cache import ShardCache\n"
        "evaluated(open_source(sys.argv[1]), LoaderSettings(workers=0, cache=ShardCache()))\n"
        "assert len(list(ShardCache().root.glob('*.shard'))) == 2"
    )
    environment = {**os.environ, **google.environment, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, there.name], env=environment, check=True)
    (root,) = tmp_path.glob("ns_jax-*/shards")
    assert [path.name for path in root.iterdir()] == ["lock"]


def test_a_lock_is_that_of_who_reads(shards, tmp_path):
    kept, (one,) = cache(tmp_path), shards(1)
    held = kept.fetch(one)
    with open(held.path, "rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kept.empty()
        assert kept.find(one)
    del held
    kept.empty()
    assert kept.find(one) is None


@pytest.mark.large
def test_a_listing_of_many_objects(google, client, tmp_path):
    """100,000 of them are 100 answers; what takes its time is to make them here."""
    bucket, count = google.make_bucket(), 2500
    data = made.encoded(1)
    asyn.sync(client.loop, fill, client, f"{bucket}/x", count, data)
    google.behave()
    found = listing.listing(f"{bucket}/x")
    assert len(found.keys) == count and found.folders == ["0", "1", "2", "3"]
    assert google.counts()["requests"] <= 3 + 4  # pages of 1,000, and what a directory is known by


async def fill(client, directory, count, data):
    for start in range(0, count, 50):
        numbers = range(start, min(count, start + 50))
        named = [f"{directory}/{n % 4}/{n:06d}.jpg" for n in numbers]
        await asyncio.gather(*(client._pipe_file(name, data) for name in named))
