"""Buckets that refuse: said in one line, at once, and to be mended by the user."""

import pytest
from etils import epath

from configs import digits
from ns_jax import files
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.data.open import open_source
from ns_jax.errors import InputError, RefusedError
from ns_jax.parallel import workdir_lock
from tests.buckets.proxy import Behaviour

pytestmark = pytest.mark.bucket

# As Google says it; gcsfs makes six attempts of the second one, in half a minute.
UNKNOWN = ["Anonymous caller does not have storage.objects.get access", "Invalid Credentials"]


def use(kind, bucket):
    """What a program does first with an address."""
    if kind == "workdir":
        workdir_lock.of(epath.Path(bucket) / "run").acquire()
    elif kind == "shared workdir":
        workdir_lib.claim_workdir(digits.get_config(), epath.Path(bucket) / "run")
    elif kind == "checkpoint":
        checkpoint.load_model(f"{bucket}/run")
    elif kind == "result":
        with files.replacing(f"{bucket}/x") as here:
            here.write_bytes(b"x" * 6_000_000)
    else:
        open_source(f"{kind}:{bucket}/x", labels_per_class=None, seed=0)


KINDS = ("workdir", "shared workdir", "checkpoint", "result", "wds", "folder", "parquet")


@pytest.mark.parametrize("text", UNKNOWN)
@pytest.mark.parametrize("kind", KINDS)
def test_credentials_that_are_missing_or_have_expired(google, kind, text):
    bucket = google.make_bucket()
    google.behave(Behaviour(unknown=text))
    with pytest.raises(RefusedError, match=text) as raised:
        use(kind, bucket)
    assert bucket in str(raised.value) and "\n" not in str(raised.value)
    assert "log in again" in str(raised.value)
    assert google.counts()["requests"] <= 6


@pytest.mark.parametrize("kind", ["workdir", "shared workdir", "result"])
def test_a_bucket_that_may_be_read_and_not_written(google, kind):
    bucket = google.make_bucket()
    google.behave(Behaviour(read_only=True))
    with pytest.raises(RefusedError, match="no right to create objects.; .*ask for the right"):
        use(kind, bucket)
    google.behave()
    assert files.names(bucket) == []


def test_no_credentials_of_amazons(amazon, monkeypatch, tmp_path):
    bucket = amazon.make_bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    store = files.filesystem(bucket)
    store.clear_instance_cache()
    with pytest.raises(InputError, match="may not be used with these credentials"):
        workdir_lib.claim_workdir(digits.get_config(), epath.Path(bucket) / "run")
    store.clear_instance_cache()
