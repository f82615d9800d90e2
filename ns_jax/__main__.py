"""python -m ns_jax PROGRAM --config=FILE[:ARG] --workdir=DIR [--config.some.key=value ...]"""

import errno
import functools
import importlib.util
import logging as std_logging
import os
import pathlib
import sys

from absl import flags, logging
from ml_collections import config_flags

from ns_jax.errors import InputError, paths_of_the_user
from ns_jax.parallel import preemption

PROGRAMS = {
    "selftrain": "the main job: teacher, then label, select, train, evaluate for each iteration",
    "train": "one training: teacher, student or fine-tune",
    "label": "a teacher's predictions over an unlabelled source, as label shards",
    "select": "threshold, best per class, balance by copies: label shards -> selection",
    "evaluate": "top-1, top-5, per class, calibration of a checkpoint",
    "plan": "compiles the steps for a TPU slice without one: memory, messages, time, cost",
    "doctor": "checks sources, their overlap and the speed; with --distributed, the workers",
    "convert": "weights in and out: timm safetensors, TF1 checkpoints, StableHLO",
}
ALONE = ("doctor", "convert", "plan")  # in one process
IN_BUCKETS = ("label",)  # their workdir may be one
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
TUNABLES = "GLIBC_TUNABLES"
CACHE = "NS_JAX_COMPILE_CACHE"  # a directory; "" switches the cache of compiled steps off

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run; made if it is not there")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for many processes"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many, with --coordinator")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "join the other hosts of a Cloud TPU slice")


def main(argv: list[str] | None = None) -> int:
    """Runs one program; returns the exit status.

    0; 2 for input that it cannot work with (`InputError`); 1 for a full disk. Any other error is
    raised, which is status 1 as well: a worker that was lost, a bug. After SIGTERM the process ends
    with 143: what there was is saved, and the same command resumes.
    """
    preemption.block_sigterm()
    argv = sys.argv if argv is None else argv
    if len(argv) < 2 or argv[1] not in PROGRAMS:
        known = "\n".join(f"  {name:10} {does}" for name, does in PROGRAMS.items())
        print(f"{__doc__}\n\nprograms:\n{known}", file=sys.stderr)
        return 0 if argv[1:] in (["--help"], ["-h"]) else 2
    if "" not in sys.path:
        sys.path.insert(0, "")  # `ns-jax` finds `configs` where `python -m ns_jax` would
    try:
        rest = FLAGS([argv[0], *argv[2:]])[1:]
        if rest:
            raise InputError(f"unexpected argument {rest[0]!r}; flags start with --")
        if _CONFIG.value is None or _WORKDIR.value is None:
            raise InputError("--config=FILE and --workdir=DIR are needed")
        config, workdir = _CONFIG.value, _workdir(argv[1], _WORKDIR.value)
        grace_seconds = config.preemption.grace_seconds
        if not grace_seconds >= 0:
            raise InputError(f"preemption.grace_seconds is {grace_seconds}; it must be 0 or more")
    except (KeyError, AttributeError) as error:
        return _fail(_unknown_key(error, argv))
    except (flags.Error, ValueError, TypeError, OSError) as error:
        return _fail(error)
    preemption.start_watcher(grace_seconds)
    # Orbax and Grain tell their every step at INFO. Setting the level sets the flag. A save that
    # fails is said once, and not again by each of its arrays.
    shows_all = FLAGS["verbosity"].value > 0
    logging.set_verbosity(logging.INFO if shows_all else logging.WARNING)
    if not shows_all:
        std_logging.getLogger("asyncio").setLevel(std_logging.CRITICAL)
    if argv[1] == "plan":
        from ns_jax.planning import topology

        topology.prepare()
    from ns_jax import progress
    from ns_jax import workdir as workdir_lib  # after the flags: a bad one needs no JAX
    from ns_jax.parallel import preflight, processes

    where = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _DISTRIBUTED.value
    try:
        _set_up_jax(argv[1])
        if argv[1] == "doctor":  # of many processes, before they depend on each other
            index, count = processes.place(*where)
            if count > 1:
                connect = functools.partial(processes.connect, *where)
                return preflight.check(config, workdir, index, count, connect, _COORDINATOR.value)
        processes.connect(*where)
        if not processes.is_first():
            progress.mute()
        processes.check_agreement(" ".join([argv[1], str(workdir), config.to_json_best_effort()]))
        if argv[1] in ALONE and processes.count() > 1:
            raise InputError(f"{argv[1]} runs in one process, not in {processes.count()}")
        with paths_of_the_user():
            processes.call_on_first(workdir_lib.claim_workdir, config, workdir)
        importlib.import_module(f"ns_jax.programs.{argv[1]}").run(config, workdir)
    except Exception as error:
        if shows_all:
            raise
        if isinstance(error, InputError):
            return _fail(error)
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            room = f"; make room on the disk of {workdir}, and the same command goes on"
            return _fail(f"{error}{room}", status=1)
        raise
    return 0


def start() -> int:
    """`main` of a process that is this program's alone."""
    _take_large_pages()
    return main()


def _take_large_pages() -> None:
    """Starts this process anew, in place, where glibc has not been told to ask for large pages.

    It reads that at its start alone. With pages of 4 kB a CPU's training steps take 1.6 to 1.9
    times as long: each step's memory is new, and comes in page by page. Whoever has set
    GLIBC_TUNABLES, to whatever, is left alone.
    """
    if sys.platform == "linux" and sys.executable and TUNABLES not in os.environ:
        os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)


def _workdir(program: str, name: str):
    """A path with pathlib's methods. Raises InputError for a bucket where a disk is needed."""
    from ns_jax import files

    path = files.as_path(name)
    if not files.is_remote(name):
        return path.absolute()
    if program not in IN_BUCKETS:
        raise InputError(
            f"--workdir={name}: {program} needs a directory on a disk; mount the bucket (Cloud "
            f"Storage FUSE) and name its directory. Programs that work in a bucket: "
            f"{', '.join(IN_BUCKETS)}"
        )
    return path


def _has_tpu() -> bool:
    """Whether a chip of Google's is on the bus."""
    vendors = pathlib.Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(path.read_text().strip() == "0x1ae0" for path in vendors)


def _set_up_jax(program: str) -> None:
    # Where the TPU compiler is installed for `plan`, JAX asks it for a TPU, and it says at length
    # that there is none.
    if program != "plan" and "libtpu" not in sys.modules and not _has_tpu():
        sys.modules["libtpu"] = None  # cannot be imported
    import jax

    default = pathlib.Path.home() / ".cache" / "ns_jax" / "compiled"
    directory = os.environ.get(CACHE, str(default))
    if directory:
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    # The TPU compiler, installed for `plan` on a machine without a TPU, would look for one aloud.
    asked = "JAX_PLATFORMS" in os.environ or importlib.util.find_spec("jax_cuda13_plugin")
    here = any(pathlib.Path("/dev").glob("accel*")) or any(pathlib.Path("/dev").glob("vfio/[0-9]*"))
    if importlib.util.find_spec("libtpu") and not (asked or here):
        jax.config.update("jax_platforms", "cpu")
    # A CPU's devices are its cores: labelling on two of them is 1.5 times as fast as on one device.
    chosen = (jax.config.jax_num_cpu_devices, os.environ.get("XLA_FLAGS", ""))
    if chosen[0] < 0 and "xla_force_host_platform_device_count" not in chosen[1]:
        jax.config.update("jax_num_cpu_devices", getattr(os, "process_cpu_count", os.cpu_count)())


def _unknown_key(error: Exception, argv: list[str]) -> str:
    words = "".join(c if c.isalnum() or c == "_" else " " for c in str(error)).split()
    names = [a.split("=")[0] for a in argv if a.startswith("--config.")]
    wrong = [name for name in names if set(name.split(".")[1:]) & set(words)] or names
    return f"{' or '.join(wrong)}: there is no such key; configs/base.py declares them all"


def _fail(error: Exception | str, status: int = 2) -> int:
    """Returns `status`. One message that says what to do; `-v=1` shows where it came from."""
    from ns_jax import progress

    first, *more = progress.visible(str(error)).splitlines() or [repr(error)]
    if "Traceback (most recent call last):" in more:  # of a config file: its last line says it
        more = more[-1:]
    print("\n".join([f"error: {first}", *more]), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(start())
