"""Many processes as one program: how they find each other, agree, wait, and share what they found.

One process drives the devices of one host. All run the same program on the same arguments; what is
written for all of them, the first one writes.
"""

import hashlib
import ipaddress
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from ns_jax.errors import DamagedError, InputError
from ns_jax.parallel import gpus, preemption, tasks
from ns_jax.progress import say

_MOST_TEXT = 2048  # of a message of an error
_KINDS = (DamagedError, InputError, OSError, Exception)
_waits: dict[str, int] = {}  # of each name so far
_steps = 0  # of all trainings so far
_PARTS = ("config", "code", "versions")


def connect(coordinator: str | None, count: int | None, index: int | None, wanted: bool) -> None:
    """Joins the other processes: given ones, or those of Cloud TPU, Slurm or Open MPI.

    `wanted` asks for what the environment has; a job of several tasks is joined without asking.
    Each takes its own GPUs of those that it sees. Raises InputError for flags that do not go
    together and for fewer GPUs than processes. Before anything touches a device.
    """
    given, here = _given(coordinator, count, index), local(coordinator, count, index)
    mine, unused = gpus.choose(os.environ, here)
    if unused and here and here.index == 0:
        takers = f"{here.count} process(es) here, which take {len(mine or ())} each"
        say(f"{socket.gethostname()}: {unused} GPU(s) of this node are used by none of {takers}")
    if given and count != 1:
        # None: on all addresses.
        bind = coordinator if coordinator and on_loopback(coordinator) else None
        jax.distributed.initialize(
            coordinator, count, index, local_device_ids=mine, coordinator_bind_address=bind
        )
    elif not given and (wanted or tasks.total(os.environ) > 1):
        place(coordinator, count, index, wanted)  # raises where nothing tells
        jax.distributed.initialize(local_device_ids=mine)
    else:
        return
    preemption.forward_to_jax()


def local(coordinator: str | None, count: int | None, index: int | None) -> tasks.Local | None:
    """This process among those of its run on this host; None if nothing tells.

    All that were told to meet on this machine's own address are on it.
    """
    if coordinator and count is not None and index is not None and on_loopback(coordinator):
        return tasks.Local(index, count)
    return tasks.local(os.environ)


def place(
    coordinator: str | None, count: int | None, index: int | None, wanted: bool
) -> tuple[int, int]:
    """(index, count) of this process before it is connected, from what `connect` takes.

    Raises InputError as `connect` does, and where nothing tells.
    """
    if _given(coordinator, count, index):
        return index, count  # type: ignore[return-value]  # they are given
    if not wanted and tasks.total(os.environ) == 1:
        return 0, 1
    # There is no public way to ask before processes are connected; this is what `initialize` asks.
    from jax._src import clusters

    _, count, index, _ = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        coordinator_address="not asked for",
        num_processes=None,
        process_id=None,
        local_device_ids=None,
        cluster_detection_method=None,
        initialization_timeout=None,
    )
    if count is None or index is None:
        raise InputError(
            "neither Cloud TPU nor Slurm nor Open MPI 4 says how many processes there are and "
            "where they meet; give --coordinator=HOST:PORT, --num_processes and --process_id"
        )
    return index, count


def _given(coordinator: str | None, count: int | None, index: int | None) -> bool:
    """Whether the flags say where this process stands. Raises InputError for a part of them."""
    given = [value is not None for value in (coordinator, count, index)]
    if any(given) and not all(given):
        raise InputError("--coordinator, --num_processes and --process_id belong together")
    if all(given) and not 0 <= index < count:  # type: ignore[operator]  # so neither is None
        last = count - 1  # type: ignore[operator]
        raise InputError(f"--process_id={index}: there are processes 0 to {last}")
    return all(given)


def on_loopback(address: str) -> bool:
    """Whether HOST:PORT can be reached from this machine alone, so that none else need listen."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def count() -> int:
    return jax.process_count()


def index() -> int:
    return jax.process_index()


def is_first() -> bool:
    return jax.process_index() == 0


def leave_after_this_step() -> bool:
    """Whether to leave a training, for one process was told that it must go.

    All are told so after the same step. Called after each one.
    """
    from jax.experimental import multihost_utils

    global _steps
    if count() == 1:
        return preemption.noticed()
    # JAX agrees on one more than the largest number so far: it must not start again from 1.
    _steps += 1
    return multihost_utils.reached_preemption_sync_point(_steps)


def gather(array: np.ndarray) -> list[np.ndarray]:
    """The array `[n, ...]` of every process, in order; n may differ, all else may not."""
    from jax.experimental import multihost_utils

    if count() == 1:
        return [array]
    lengths = multihost_utils.process_allgather(np.int64(len(array)))
    padded = np.zeros((lengths.max(), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    parts = multihost_utils.process_allgather(np.frombuffer(padded.tobytes(), np.uint8))
    parts = [part.tobytes() for part in parts]
    return [
        np.frombuffer(part, array.dtype).reshape(padded.shape)[:length]
        for part, length in zip(parts, lengths, strict=True)
    ]


def check_agreement(config_text: str) -> None:
    """Raises InputError, in every process, that names those with other configs or other code."""
    if count() == 1:
        return
    versions = f"{jax.__version__} {np.__version__}"
    digests = [hashlib.sha256(part).digest() for part in (config_text.encode(), _code())]
    digests.append(hashlib.sha256(versions.encode()).digest())
    found = gather(np.frombuffer(b"".join(digests), np.uint8).reshape(len(_PARTS), -1))
    lines = []
    for number, part in enumerate(_PARTS):
        other = [i for i, theirs in enumerate(found) if (theirs[number] != found[0][number]).any()]
        if other:
            names = ", ".join(map(str, other))
            lines.append(f"  {part}: of process {names} not as of process 0")
    if lines:
        raise InputError(
            "the processes of this run were not started alike; start all of them with the same "
            "command on the same code:\n" + "\n".join(lines)
        )


def code_digest() -> str:
    """A digest of the source of this package."""
    return hashlib.sha256(_code()).hexdigest()


def _code() -> bytes:
    """The source of this package: a commit that need not be one."""
    files = sorted(pathlib.Path(__file__).parent.parent.rglob("*.py"))
    return b"".join(path.read_bytes() for path in files)


def call_on_first(function: Callable, *arguments: Any) -> Any:
    """Process 0 calls; its result, which JSON must be able to hold, is returned in every process.

    The others wait for it, and fail where it fails. Raises what process 0 raised; elsewhere
    DamagedError or InputError if it was one, OSError for the machine's errors, else RuntimeError.
    """
    if count() == 1:
        return function(*arguments)
    error, said = None, {}
    if is_first():
        try:
            said["result"] = function(*arguments)
        except Exception as raised:
            kinds = (kind for kind in _KINDS if isinstance(raised, kind))
            error, said = raised, {"error": next(kinds).__name__, "text": str(raised)[:_MOST_TEXT]}
    message = np.frombuffer(json.dumps(said).encode(), np.uint8)
    told = json.loads(gather(message)[0].tobytes())
    if error:
        raise error
    if "error" in told:
        kind = next(kind for kind in _KINDS if kind.__name__ == told["error"])
        raise (RuntimeError if kind is Exception else kind)(told["text"])
    return told["result"]


def wait(name: str) -> None:
    """Until every process is here, for minutes if need be.

    The first message between CPUs waits 30 seconds for the other side, and then is an error.
    """
    if count() > 1:
        from orbax.checkpoint import multihost

        _waits[name] = _waits.get(name, 0) + 1  # the same in every process
        everyone = set(range(count()))
        multihost.sync_global_processes(f"ns_jax {name} {_waits[name]}", processes=everyone)


def union(numbers: Iterable[int]) -> list[int]:
    """Those of all processes, sorted. Called by all of them."""
    return sorted(set(np.concatenate(gather(np.array([*numbers], np.int64))).tolist()))
