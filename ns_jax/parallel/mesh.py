"""Where arrays live: the `(data, fsdp)` mesh, the rule on shapes, batches onto devices.

The batch is split over both axes. A large parameter is split over `fsdp` along its largest
divisible dimension; its optimiser and EMA leaves follow it; all else is whole on every device.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from ns_jax import trees
from ns_jax.errors import InputError

DeviceMesh = Mesh  # by which other modules name the type

MIN_COVERAGE = 0.9  # of the parameters' elements that fsdp > 1 must split


# Of XLA:CPU. Its default is 256 bits even where AVX-512 is at hand, and steps are 13 % slower.
CPU_OPTIONS = {"xla_cpu_prefer_vector_width": 512}


def make_mesh(fsdp: int, devices: list | None = None) -> Mesh:
    """The mesh of all devices (or of `devices`), data x fsdp."""
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise InputError(f"mesh.fsdp={fsdp} does not divide {len(devices)} devices")
    # Neighbours on the slice are neighbours in the mesh. Unlike in jax.make_mesh, a side of the
    # slice may be split between the axes: fsdp = 8 on the 16 x 16 chips of a v5e-256.
    shape = (len(devices) // fsdp, fsdp)
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def per_device(function: Callable, mesh: Mesh) -> Callable:
    """`function(whole, rows)` on each device with its own rows alone; so are the rows it returns.

    Nothing crosses devices. The partitioner would get there too, but not through loops over rows.
    """
    rows = PartitionSpec(("data", "fsdp"))
    in_specs = (PartitionSpec(), rows)
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=rows, check_vma=False)


def per_device_reduction(function: Callable, mesh: Mesh, shardings: trees.Tree) -> Any:
    """`tree -> [devices, leaves]` of `function(part, firsts, shape)`, a number, on each device.

    Each device works on its own copies; of an array that is split over `fsdp` the parts' numbers
    are summed. `firsts` is the place of a part's first element in each dimension of the whole,
    which has `shape`. `shardings` are the tree's.
    """
    specs = jax.tree.map(lambda one: one.spec, shardings)

    def of_leaf(leaf: jax.Array, one: NamedSharding) -> jax.Array:
        firsts: list[int | jax.Array] = [0] * leaf.ndim
        shape = list(leaf.shape)
        split = [dim for dim, axis in enumerate(one.spec) if axis is not None]
        for dim in split:
            firsts[dim] = jax.lax.axis_index("fsdp") * leaf.shape[dim]
            shape[dim] *= mesh.shape["fsdp"]
        found = function(leaf, firsts, shape)
        return jax.lax.psum(found, "fsdp") if split else found

    def of_device(tree: trees.Tree) -> jax.Array:
        leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
        return jnp.stack([of_leaf(leaf, one) for leaf, one in leaves])[None]

    rows = PartitionSpec(("data", "fsdp"))
    shared = jax.shard_map(of_device, mesh=mesh, in_specs=(specs,), out_specs=rows, check_vma=False)
    return jax.jit(shared, out_shardings=replicated(mesh))


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The next batch size that the devices can share equally."""
    return -(-batch_size // mesh.size) * mesh.size


def on_cpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def is_one_cpu(mesh: Mesh) -> bool:
    """Whether it is one CPU device: its arrays lie in the host's memory, in one piece."""
    return mesh.size == 1 and on_cpu(mesh)


def compiler_options(mesh: Mesh) -> dict | None:
    """What `jax.jit` is to tell the compiler of this mesh's platform."""
    return CPU_OPTIONS if on_cpu(mesh) else None


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows, `local_rows` of all -> global arrays."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def local_rows(num_rows: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a batch this process's devices hold, in the order `put_batch` takes them."""
    found = batch_sharding(mesh).addressable_devices_indices_map((num_rows,)).values()
    slices: list[Any] = list(found)  # of this process's devices: none is None
    starts = sorted((rows.start or 0, rows.stop or num_rows) for (rows,) in slices)
    return np.concatenate([np.arange(*ends) for ends in starts])


def fetch(tree: trees.Tree, mesh: Mesh) -> trees.Tree:
    """Arrays on the devices -> host arrays, whole, in every process. Called by all of them."""
    copies = jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda array: np.asarray(array.addressable_data(0)), copies)


def put(tree: trees.Tree, shardings: trees.Tree) -> trees.Tree:
    """Host arrays, the same in every process -> arrays where they belong."""
    return jax.tree.map(
        lambda array, sharding: jax.make_array_from_callback(
            np.shape(array), sharding, lambda index: np.asarray(array)[index]
        ),
        tree,
        shardings,
    )


def _spec(shape: tuple[int, ...], fsdp: int, shard_above: int) -> PartitionSpec:
    """The split of a layer's parameter: over fsdp along its largest divisible side, or none."""
    divisible = [d for d in range(len(shape)) if shape[d] % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < shard_above or not divisible:
        return PartitionSpec()
    largest = max(divisible, key=lambda d: shape[d])
    return PartitionSpec(*[None] * largest, "fsdp")


def _param_sharding(
    path: str, leaf: jax.ShapeDtypeStruct, mesh: Mesh, shard_above: int
) -> NamedSharding:
    fsdp = mesh.shape["fsdp"]
    if "/rest/" not in path:
        return NamedSharding(mesh, _spec(leaf.shape, fsdp, shard_above))
    spec = _spec(leaf.shape[1:], fsdp, shard_above)  # never along the stacked layers: a scan slices
    return NamedSharding(mesh, PartitionSpec(None, *spec) if any(spec) else spec)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a network's values lie while a step runs: what the partitioner would not find itself.

    Left alone it splits activations by channel as the weights are, and asks for ten times the
    memory; told of the activations alone it still does. So each weight is gathered at its use, in
    the dtype of its use, and let go again; its gradient returns to where the weight lies.
    """

    mesh: Mesh
    shard_above: int

    @property
    def on_cpu(self) -> bool:
        return on_cpu(self.mesh)

    def constrain_batch(self, x: jax.Array) -> jax.Array:
        """Activations `[B, ...]`: each device has its own rows."""
        return jax.lax.with_sharding_constraint(x, batch_sharding(self.mesh))

    def gather_weight(self, x: jax.Array, dtype: DTypeLike) -> jax.Array:
        """A parameter, whole on every device, in `dtype`."""
        own = NamedSharding(self.mesh, _spec(x.shape, self.mesh.shape["fsdp"], self.shard_above))
        return _gathered(x, dtype, replicated(self.mesh), own)

    def map_per_device(self, function: Callable) -> Callable:
        """`function(rows, shared)` of a device's own rows, where the partitioner cannot see that.

        That is on CPUs, whose loops over rows it would gather every row for.
        """
        if not on_cpu(self.mesh) or self.mesh.size == 1:
            return function
        own = per_device(lambda shared, rows: function(rows, shared), self.mesh)
        return lambda rows, shared: own(shared, rows)

    def mean_of_groups(self, x: jax.Array) -> jax.Array:
        """Mean over the first axis, of groups of devices: in one message with the gradients'.

        Each device sends its group's values, so that the same devices take part in both.
        """
        if self.mesh.size % len(x) == 0:
            x = jnp.repeat(x, self.mesh.size // len(x), axis=0)
        return self.constrain_batch(x).mean(0) if len(x) % self.mesh.size == 0 else x.mean(0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gathered(
    x: jax.Array, dtype: DTypeLike, everywhere: NamedSharding, own: NamedSharding
) -> jax.Array:
    return jax.lax.with_sharding_constraint(x.astype(dtype), everywhere)


def _gathered_forward(
    x: jax.Array, dtype: DTypeLike, everywhere: NamedSharding, own: NamedSharding
) -> tuple[jax.Array, None]:
    return _gathered(x, dtype, everywhere, own), None


def _gathered_backward(
    dtype: DTypeLike, everywhere: NamedSharding, own: NamedSharding, _: None, g: jax.Array
) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(g.astype(jnp.float32), own),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def params_shardings(params: trees.Tree, mesh: Mesh, shard_above: int) -> trees.Tree:
    """Shardings of (abstract) parameters.

    Raises InputError that lists the largest offenders when fsdp > 1 splits less than 90 % of them.
    """
    flat = trees.by_path(params)
    chosen = {p: _param_sharding(p, leaf, mesh, shard_above) for p, leaf in flat.items()}
    shardings = jax.tree.unflatten(jax.tree.structure(params), list(chosen.values()))
    share = coverage(params, shardings)
    if mesh.shape["fsdp"] > 1 and share < MIN_COVERAGE:
        unsharded = [path for path in flat if not any(chosen[path].spec)]
        unsharded.sort(key=lambda path: math.prod(flat[path].shape), reverse=True)
        lines = [f"  {p} {list(flat[p].shape)}" for p in unsharded[:10]]
        raise InputError(
            f"mesh.fsdp={mesh.shape['fsdp']} splits only {share:.0%} of the parameters, "
            f"{MIN_COVERAGE:.0%} are needed; take a smaller mesh.fsdp or mesh.shard_above. The "
            "largest left whole:\n" + "\n".join(lines)
        )
    return shardings


def coverage(params: trees.Tree, shardings: trees.Tree) -> float:
    """The share of the parameters' elements that fsdp splits."""
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True)
    sizes = [(math.prod(leaf.shape), any(sharding.spec)) for leaf, sharding in leaves]
    return sum(size for size, split in sizes if split) / sum(size for size, _ in sizes)


def like_params(
    optimiser: optax.GradientTransformation,
    opt_state: trees.Tree,
    shardings: trees.Tree,
    mesh: Mesh,
) -> trees.Tree:
    """Shardings of the optimiser's state: those of the parameters, or whole."""
    return optax.tree_map_params(
        optimiser,
        lambda _, sharding: sharding,
        opt_state,
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )


def put_whole(tree: trees.Tree, mesh: Mesh) -> trees.Tree:
    """Host arrays -> arrays whole on every device."""
    return jax.device_put(tree, replicated(mesh))
