"""Where arrays live: the `(data, fsdp)` mesh, the rule on shapes, batches onto devices.

The batch is split over both axes. A large parameter is split over `fsdp` along its largest
divisible dimension; its optimiser and EMA leaves follow it; all else is whole on every device.
"""

import math

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ns_jax import trees

MIN_COVERAGE = 0.9  # of the parameters' elements that fsdp > 1 must split


# Of XLA:CPU. Its default is 256 bits even where AVX-512 is at hand, and steps are 13 % slower.
CPU_OPTIONS = {"xla_cpu_prefer_vector_width": 512}


def make_mesh(fsdp: int, devices: list | None = None) -> Mesh:
    """The mesh of all devices (or of `devices`), data x fsdp."""
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"mesh.fsdp={fsdp} does not divide {len(devices)} devices")
    axis_types = (AxisType.Auto, AxisType.Auto)
    shape = (len(devices) // fsdp, fsdp)
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def per_device(function, mesh: Mesh):
    """`function(whole, rows)` on each device with its own rows alone; so are the rows it returns.

    Nothing crosses devices. The partitioner would get there too, but not through loops over rows.
    """
    rows = PartitionSpec(("data", "fsdp"))
    in_specs = (PartitionSpec(), rows)
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=rows, check_vma=False)


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The next batch size that the devices can share equally."""
    return -(-batch_size // mesh.size) * mesh.size


def on_cpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def compiler_options(mesh: Mesh) -> dict | None:
    """What `jax.jit` is to tell the compiler of this mesh's platform."""
    return CPU_OPTIONS if on_cpu(mesh) else None


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's rows -> global arrays."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def _param_sharding(path: str, leaf, mesh: Mesh, shard_above: int) -> NamedSharding:
    fsdp = mesh.shape["fsdp"]
    first = 1 if "/rest/" in path else 0  # never along the stacked layers: a scan slices them
    divisible = [d for d in range(first, leaf.ndim) if leaf.shape[d] % fsdp == 0]
    if fsdp == 1 or math.prod(leaf.shape) < shard_above or not divisible:
        return replicated(mesh)
    largest = max(divisible, key=lambda d: leaf.shape[d])
    return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))


def params_shardings(params, mesh: Mesh, shard_above: int):
    """Shardings of (abstract) parameters.

    Raises ValueError that lists the largest offenders when fsdp > 1 splits less than 90 % of them.
    """
    flat = trees.by_path(params)
    chosen = {p: _param_sharding(p, leaf, mesh, shard_above) for p, leaf in flat.items()}
    if mesh.shape["fsdp"] > 1:
        sizes = {p: math.prod(leaf.shape) for p, leaf in flat.items()}
        whole = sorted((p for p in flat if not any(chosen[p].spec)), key=sizes.get, reverse=True)
        coverage = 1 - sum(sizes[p] for p in whole) / sum(sizes.values())
        if coverage < MIN_COVERAGE:
            lines = [f"  {p} {list(flat[p].shape)}" for p in whole[:10]]
            raise ValueError(
                f"mesh.fsdp={mesh.shape['fsdp']} splits only {coverage:.0%} of the parameters, "
                f"{MIN_COVERAGE:.0%} are needed; take a smaller mesh.fsdp or mesh.shard_above. The "
                "largest left whole:\n" + "\n".join(lines)
            )
    return jax.tree.unflatten(jax.tree.structure(params), list(chosen.values()))


def like_params(optimiser, opt_state, shardings, mesh: Mesh):
    """Shardings of the optimiser's state: those of the parameters, or whole."""
    return optax.tree_map_params(
        optimiser,
        lambda _, sharding: sharding,
        opt_state,
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )


def put_whole(tree, mesh: Mesh):
    """Host arrays -> arrays whole on every device."""
    return jax.device_put(tree, replicated(mesh))
