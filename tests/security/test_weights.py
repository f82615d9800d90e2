"""Weights and tables are data: a pickle in their place is refused, and never run."""

import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import base
from ns_jax.data.formats import parquet
from ns_jax.programs import convert
from ns_jax.weights import imported


class Bomb:
    """Unpickled, it makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def bomb(tmp_path):
    made = Bomb(tmp_path / "exploded")
    yield made
    assert not made.path.exists()


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").is_dir()


@pytest.mark.parametrize("model", ["", "tf_efficientnet_b0"])
@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.ckpt", "w.npz", "w.npy", "w.safetensors"])
def test_a_pickle_is_no_file_of_weights(bomb, tmp_path, name, model):
    path = tmp_path / name
    if name.startswith("w.np"):
        save = np.save if name.endswith("y") else np.savez
        save(path, np.asarray([bomb], object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(bomb))
    config = base.get_config()
    config.convert.source, config.convert.model = str(path), model
    reason = "never from a pickle"
    if name.endswith(".safetensors"):
        reason = "not a whole safetensors file"
    with pytest.raises(ValueError, match=reason):
        convert.run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_with_a_pickle_holds_no_weights(bomb, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "pytorch_model.bin").write_bytes(pickle.dumps(bomb))
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*never from a pickle"):
        imported.load(tmp_path / "weights")


def test_a_pickled_type_in_a_table_is_left_alone(bomb, tmp_path):
    """Arrow once kept Python's own types as pickles, and read them back without asking."""
    hidden = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(bomb),
    }
    schema = pa.schema([pa.field("image", pa.binary(), metadata=hidden)])
    table = pa.table({"image": [b"no image"]}, schema=schema)
    pq.write_table(table, tmp_path / "a.parquet")
    source = parquet.open_source(f"{tmp_path}/a.parquet")
    assert source[0]["image"] == b"no image"


def test_a_name_on_the_hub_is_no_path():
    pytest.importorskip("huggingface_hub")
    for name in ("../../etc", "a/../b", "/etc/passwd", "a..b/c", "a/b/../../c"):
        with pytest.raises(ValueError, match=r"[Rr]epo.id"):
            imported.load(f"hf:{name}")
