"""The state of a training: shapes first, then shardings, then arrays."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ns_jax import trees
from ns_jax.models import efficientnet
from ns_jax.parallel import mesh as mesh_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a training step reads and writes."""

    step: jax.Array  # int32, updates done
    params: dict
    batch_stats: dict
    opt_state: tuple
    ema_params: dict
    ema_batch_stats: dict

    @property
    def ema_variables(self) -> dict:
        """What evaluation, labelling and the next student use."""
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


def from_variables(variables: dict, optimiser: optax.GradientTransformation) -> TrainState:
    """Step 0 with these weights; the averages start from them."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimiser.init(variables["params"]),
        ema_params=jax.tree.map(jnp.copy, variables["params"]),
        ema_batch_stats=jax.tree.map(jnp.copy, variables["batch_stats"]),
    )


def abstract(
    model: efficientnet.EfficientNet, optimiser: optax.GradientTransformation, size: int
) -> TrainState:
    """Shapes and dtypes of the state; nothing is allocated."""
    return jax.eval_shape(
        lambda rng: from_variables(model.init(rng, size), optimiser), jax.random.key(0)
    )


def shardings(
    shapes: TrainState,
    optimiser: optax.GradientTransformation,
    mesh: mesh_lib.DeviceMesh,
    shard_above: int,
) -> TrainState:
    """The sharding of each leaf of an abstract state."""
    params = mesh_lib.params_shardings(shapes.params, mesh, shard_above)
    replicated = mesh_lib.replicated(mesh)
    return TrainState(
        step=replicated,  # type: ignore[arg-type]  # a sharding in an array's place, as all of these
        params=params,
        batch_stats=jax.tree.map(lambda _: replicated, shapes.batch_stats),
        opt_state=mesh_lib.like_params(optimiser, shapes.opt_state, params, mesh),
        ema_params=params,
        ema_batch_stats=jax.tree.map(lambda _: replicated, shapes.ema_batch_stats),
    )


def placed(shapes: trees.Tree, state_shardings: trees.Tree) -> trees.Tree:
    """Abstract leaves that know their sharding: what a checkpoint is restored into."""
    return jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
        shapes,
        state_shardings,
    )


def compile_init(
    model: efficientnet.EfficientNet,
    optimiser: optax.GradientTransformation,
    size: int,
    state_shardings: TrainState,
) -> Callable:
    """`random key -> state` of fresh arrays, made where they belong."""

    def fresh(rng: jax.Array) -> TrainState:
        return from_variables(model.init(rng, size), optimiser)

    # Every array is drawn by code of its own, which a CPU's compiler need not polish.
    mesh = jax.tree.leaves(state_shardings)[0].mesh
    options = {"xla_backend_optimization_level": 1} if mesh_lib.on_cpu(mesh) else None
    return jax.jit(fresh, out_shardings=state_shardings, compiler_options=options)


def init_from(
    variables: dict, optimiser: optax.GradientTransformation, state_shardings: TrainState
) -> TrainState:
    """Step 0 with given weights, put where they belong."""

    def start(variables: dict) -> TrainState:
        return from_variables(variables, optimiser)

    return jax.jit(start, out_shardings=state_shardings)(variables)
