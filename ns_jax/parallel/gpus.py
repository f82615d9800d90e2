"""Which of the GPUs that it sees a process takes, where several processes are on one host.

Slurm either shows each task all GPUs of its step on the node, or to each its own alone
(`--gpus-per-task`, `--gpu-bind`), numbered as in CUDA_VISIBLE_DEVICES or, where a control group
hides the others, from 0. Ordinals, as JAX wants them, always count what the process sees.
"""

import ctypes
import importlib.metadata
import pathlib
from collections.abc import Mapping

from ns_jax.errors import InputError
from ns_jax.parallel.tasks import Local


def ordinals(
    environment: Mapping[str, str], local: Local, visible: int, installed: int
) -> list[int]:
    """Those of this process: all that it sees, or its part of what its neighbours see as well.

    `visible`: GPUs that it sees, at least 1; `installed`: GPUs of the host. Raises InputError where
    some would have to be shared.
    """
    seen = _allocated(environment, visible)
    on_node = _on_node(environment)
    if local.count == 1:
        return seen
    # Without Slurm nobody says how many there are to share; to see fewer than there are tasks makes
    # sense for one's own alone.
    if len(seen) < (on_node or local.count):
        enough = len(seen) * local.count <= (on_node or installed)
        first, share = 0, len(seen) if enough else 0
    else:
        share = len(seen) // local.count
        first = local.index * share
    if not share:
        raise InputError(
            f"{local.count} tasks on this node, each of which sees {len(seen)} of "
            f"{on_node or max(installed, visible)} GPU(s): they cannot share one. Start no more "
            "tasks than GPUs, ask for --gpus-per-task or leave --gpu-bind out, or set "
            "JAX_PLATFORMS=cpu"
        )
    return seen[first : first + share]


def unused(environment: Mapping[str, str], local: Local, visible: int, taken: int) -> int:
    """How many GPUs that this job has on this node none of its processes takes, if each `taken`."""
    listed = max(len(_listed(environment, name)) for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS"))
    return max(0, max(listed, _on_node(environment) or 0, visible) - local.count * taken)


def choose(environment: Mapping[str, str], local: Local | None) -> tuple[list[int] | None, int]:
    """(ordinals of this process, GPUs of this node that none takes); None: for JAX to choose.

    For JAX to choose: without CUDA, without knowing `local`, or if JAX_LOCAL_DEVICE_IDS chooses.
    """
    if local is None or "JAX_LOCAL_DEVICE_IDS" in environment or not _wants_cuda(environment):
        return None, 0
    visible = count_visible()
    if not visible:
        return None, 0
    mine = ordinals(environment, local, visible, _count_installed())
    return mine, unused(environment, local, visible, len(mine))


def count_visible() -> int:
    """GPUs that CUDA shows this process; 0 without a driver."""
    number = ctypes.c_int()
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    failed = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(number))
    return 0 if failed else number.value


def _count_installed() -> int:
    return len([*pathlib.Path("/proc/driver/nvidia/gpus").glob("*")])


def _wants_cuda(environment: Mapping[str, str]) -> bool:
    """Whether JAX will look for GPUs: it has the plugin, and nothing else was asked for."""
    platforms = environment.get("JAX_PLATFORMS", "cuda")
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    wanted = not {"cuda", "gpu", ""}.isdisjoint(platforms.split(","))
    return wanted and any("cuda" in plugin.name for plugin in plugins)


def _allocated(environment: Mapping[str, str], visible: int) -> list[int]:
    """Ordinals of what the job was given, where Slurm shows it more (`--gpu-bind=none`)."""
    given = _listed(environment, "SLURM_STEP_GPUS") or _listed(environment, "SLURM_JOB_GPUS")
    shows_all = "CUDA_VISIBLE_DEVICES" not in environment and len(given) < visible
    return given if given and shows_all and max(given) < visible else [*range(visible)]


def _on_node(environment: Mapping[str, str]) -> int | None:
    """GPUs of the step on this node."""
    number = environment.get("SLURM_GPUS_ON_NODE", "")
    return int(number) if number.isdecimal() and int(number) else None


def _listed(environment: Mapping[str, str], name: str) -> list[int]:
    numbers = environment.get(name, "").split(",")
    return [int(number) for number in numbers] if all(n.isdecimal() for n in numbers) else []
