"""A bucket as a workdir: the same bits as on a disk, whatever the network does."""

import pytest
from etils import epath

from ns_jax import files
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.errors import InputError
from ns_jax.parallel import workdir_lock
from ns_jax.programs import selftrain, train
from tests.buckets.proxy import Behaviour

pytestmark = pytest.mark.bucket


@pytest.fixture
def bucket(google):
    return epath.Path(google.make_bucket())


@pytest.fixture
def student_free(tiny_config, few_stages):
    """A training of the labelled digits, of 6 steps."""
    return tiny_config


def names(directory):
    """Of all objects or files, below the directory."""
    if files.is_remote(str(directory)):
        found = files.filesystem(str(directory)).find(str(directory))
        return {name.partition(f"/{directory.name}/")[2] for name in found}
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def copy(here, there):
    """By hand, as `gsutil cp -r` does: no mark of Orbax comes along."""
    for name in names(here):
        files.write(f"{there}/{name}", (here / name).read_bytes())


def test_a_training_ends_in_the_bits_of_a_disk_after_a_stop_too(
    student_free, bucket, tmp_path, monkeypatch
):
    on_disk = train.run(student_free, tmp_path)
    save, saved = checkpoint.Checkpoints.save, []

    def dies_later(self, step, *more):
        if step > 2:
            self.close()
            raise KeyboardInterrupt
        saved.append(step)
        save(self, step, *more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint.Checkpoints, "save", dies_later)
        train.run(student_free, bucket / "run")
    assert saved == [2]
    # A save that was ended has no mark; what it left is in nobody's way.
    (bucket / "run" / "checkpoints" / "4" / "state" / "half").write_bytes(b"x")
    assert checkpoint.find(bucket / "run").name == "2"
    assert train.run(student_free, bucket / "run") == on_disk
    lines = (bucket / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len((tmp_path / "metrics.jsonl").read_text().splitlines())
    assert train.run(student_free, bucket / "run") == on_disk  # already trained


def test_checkpoints_that_were_copied_by_hand_are_read_and_stay(student_free, bucket, tmp_path):
    disk, there = tmp_path / "run", bucket / "run"
    on_disk = train.run(student_free, disk)
    copy(disk, there)
    (there / "manifest.json").unlink()
    before = names(there)
    assert checkpoint.load_model(there)[0] == checkpoint.load_model(disk)[0]
    assert train.run(student_free, there) == on_disk
    assert before - names(there) == set()
    copy(there, tmp_path / "back")
    assert checkpoint.load_model(tmp_path / "back")[0] == checkpoint.load_model(disk)[0]


def test_one_run_at_a_time(bucket, monkeypatch):
    first, second = workdir_lock.of(bucket), workdir_lock.of(bucket)
    first.acquire()
    with pytest.raises(InputError, match="is at work here; let it finish"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    assert names(bucket) == set()


def test_a_lease_of_a_host_that_is_gone_ends(bucket, monkeypatch):
    monkeypatch.setattr(workdir_lock, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(workdir_lock, "PATIENCE_SECONDS", 0.5)
    (bucket / ".lock" / "run.0").write_text(
        '{"worker": "w", "host": "elsewhere", "pid": 1, "started": "1", "beat": 1}'
    )
    lock = workdir_lock.of(bucket)
    lock.acquire()
    lock.release()


def test_a_bucket_that_is_not_there_or_may_not_be_written_to(google, bucket):
    with pytest.raises(InputError, match="there is no bucket gs://no-such-bucket; make it"):
        workdir_lock.of(epath.Path("gs://no-such-bucket/run")).acquire()
    google.behave(Behaviour(read_only=True))
    with pytest.raises(InputError, match="may not be used with these credentials"):
        workdir_lock.of(bucket / "run").acquire()


@pytest.mark.large
def test_a_self_training_ends_as_on_a_disk(google, bucket, tiny_config, few_stages, tmp_path):
    """All stages; the labels and the selection are the same, too."""
    selftrain.run(tiny_config, tmp_path)
    google.behave(Behaviour(delay=0.01))
    selftrain.run(tiny_config, bucket / "run")
    for stage in ("iteration_0", "iteration_1", "iteration_1/labels", "iteration_1/selection"):
        here = workdir_lib.read_manifest(tmp_path / stage)["outputs"]
        assert workdir_lib.read_manifest(bucket / "run" / stage)["outputs"] == here
    assert (bucket / "run" / "report.html").exists()
