"""Checksums on the host and on meshes, and replicas that are no longer equal."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from ns_jax.checkpoints import checksum

pytestmark = pytest.mark.large


def test_one_cpu_device_sums_on_the_host():
    from ns_jax.parallel import mesh as mesh_lib

    leaves = {"a": np.arange(7, dtype=np.float32), "b": np.ones((2, 3), np.float32)}
    mesh = mesh_lib.make_mesh(1, jax.devices()[:1])
    tree = mesh_lib.put_whole(leaves, mesh)
    sums = checksum.per_device_sums(tree)
    assert sums.dtype == np.uint32 and sums.shape == (1, 2)
    assert sums[0].tolist() == jax.tree.leaves(checksum.of_leaves(leaves))
    checksum.check_replicas(sums, tree, 7)


MANY_DEVICES = """
import json
import jax, numpy as np
from ns_jax.checkpoints import checksum
from ns_jax.parallel import mesh as mesh_lib

rng = np.random.default_rng(0)
params = {
    "a": {"kernel": rng.standard_normal((8, 24)).astype(np.float32)},
    "b": {"bias": rng.standard_normal(5).astype(np.float32)},
    "stage3": {"rest": {"kernel": rng.standard_normal((3, 16, 8)).astype(np.float32)}},
}
result = {"host": checksum.of_host(params), "meshes": {}}
for fsdp in (1, 2, 8):
    mesh = mesh_lib.make_mesh(fsdp, jax.devices())
    found = mesh_lib.params_shardings(params, mesh, 16)
    tree = mesh_lib.put(params, found)
    sums = checksum.per_device_sums(tree)
    totals = {checksum.total(jax.tree.unflatten(jax.tree.structure(tree), row)) for row in sums}
    split = len({str(shard.index) for shard in tree["a"]["kernel"].addressable_shards})
    result["meshes"][fsdp] = [split, list(totals)]
    checksum.check_replicas(sums, tree, 7)

mesh = mesh_lib.make_mesh(2, jax.devices())
tree = mesh_lib.put(params, mesh_lib.params_shardings(params, mesh, 16))
bias = tree["b"]["bias"]
copies = [shard.data for shard in bias.addressable_shards]
wrong = np.array(copies[5])
wrong[3] = np.nextafter(wrong[3], 9)
copies[5] = jax.device_put(wrong, copies[5].device)
tree["b"]["bias"] = jax.make_array_from_single_device_arrays(bias.shape, bias.sharding, copies)
try:
    checksum.check_replicas(checksum.per_device_sums(tree), tree, 7)
except checksum.ReplicaError as error:
    result["error"] = str(error)
    result["device"] = str(copies[5].device)
print(json.dumps(result))
"""


def test_every_mesh_has_the_hosts_checksum_and_a_replica_that_differs_is_named(environment):
    child = subprocess.run(
        [sys.executable, "-c", MANY_DEVICES],
        env={**environment, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    result = json.loads(child.stdout)
    assert result["meshes"] == {
        "1": [1, [result["host"]]],
        "2": [2, [result["host"]]],
        "8": [8, [result["host"]]],
    }
    assert (
        f"1 of 8 devices have other weights than the rest: {result['device']} of process 0"
        in (result["error"])
    )
    assert "at step 7" in result["error"] and "in 1 arrays, the first is b/bias" in result["error"]


def test_one_bit_and_two_equal_words_in_each_others_place_show():
    rng = np.random.default_rng(0)
    tree = {"a": rng.standard_normal((3, 5)).astype(np.float32), "b": np.arange(4, dtype=np.int32)}
    before = checksum.of_host(tree)
    assert before == checksum.of_host({name: array.copy() for name, array in tree.items()})
    for bit in range(32):
        tree["b"].view(np.uint32)[2] ^= np.uint32(1 << bit)
        assert checksum.of_host(tree) != before
        tree["b"].view(np.uint32)[2] ^= np.uint32(1 << bit)
    tree["b"][:2] = tree["b"][1::-1]
    assert checksum.of_host(tree) != before


def test_pieces_of_a_large_array_are_summed(monkeypatch):
    tree = {"a": np.arange(1000, dtype=np.float32)}
    whole = checksum.of_host(tree)
    monkeypatch.setattr(checksum, "PIECE", 7)
    assert checksum.of_host(tree) == whole
