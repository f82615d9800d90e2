"""python -m ns_jax PROGRAM --config=FILE[:ARG] --workdir=DIR [--config.some.key=value ...]"""

import dataclasses
import errno
import importlib
import logging as std_logging
import os
import pathlib
import sys
from typing import Any

from absl import flags, logging
from ml_collections import config_dict, config_flags

from ns_jax.config import ranges
from ns_jax.errors import InputError, UnansweredError, paths_of_the_user
from ns_jax.parallel import preemption


@dataclasses.dataclass(frozen=True)
class Program:
    """What differs between programs before they run."""

    does: str
    alone: bool = False  # runs in one process
    checks_workers: bool = False  # in many processes, before they connect; in one it runs
    reads: bool = False  # a workdir, whatever config that has and whoever is at work there
    in_s3: bool = False  # its workdir may be in a bucket of s3://, which Orbax does not take
    shares_workdir: bool = False  # with others at the same time
    compiles_for_tpus: bool = False  # without having any


PROGRAMS = {
    "selftrain": Program(
        "the main job: teacher, then label, select, train, evaluate for each iteration"
    ),
    "train": Program("one training: teacher, student or fine-tune"),
    "label": Program(
        "a teacher's predictions over an unlabelled source, as label shards",
        in_s3=True,
        shares_workdir=True,
    ),
    "select": Program("threshold, best per class, balance by copies: label shards -> selection"),
    "evaluate": Program("top-1, top-5, per class, calibration of a checkpoint or an exported file"),
    "predict": Program(
        "class names and probabilities of images: CSV, Parquet, JSON lines",
        in_s3=True,
        shares_workdir=True,
    ),
    "robustness": Program("ImageNet-A to -P, corruptions of one's own images, FGSM and PGD"),
    "report": Program("one page of a workdir, running or ended", alone=True, reads=True),
    "plan": Program(
        "compiles the steps for a TPU slice without one: memory, messages, time, cost",
        alone=True,
        shares_workdir=True,
        compiles_for_tpus=True,
    ),
    "doctor": Program(
        "checks sources, their overlap and the speed; with --distributed, the workers",
        checks_workers=True,
        shares_workdir=True,
    ),
    "convert": Program(
        "weights in and out: timm safetensors, TF1 checkpoints, StableHLO, ONNX", alone=True
    ),
}
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
_IMAGES = flags.DEFINE_string("images", None, "of predict: image files, as 'photos/*.jpg'")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "of predict: predict.checkpoint in short")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "join the other hosts of a Cloud TPU slice")


def main(argv: list[str] | None = None) -> int:
    """Runs one program; returns the exit status.

    0; 2 for input that it cannot work with (`InputError`); 1 for a full disk and a bucket that does
    not answer. Any other error is raised, which is status 1 as well: a worker that was lost, a bug.
    After SIGTERM the process ends with 143: what there was is saved, and the same command resumes.
    """
    preemption.block_sigterm()
    argv = sys.argv if argv is None else argv
    if len(argv) < 2 or argv[1] not in PROGRAMS:
        known = "\n".join(f"  {name:11} {program.does}" for name, program in PROGRAMS.items())
        print(f"{__doc__}\n\nprograms:\n{known}", file=sys.stderr)
        return 0 if argv[1:] in (["--help"], ["-h"]) else 2
    try:
        config, workdir = _parse(argv)
    except (KeyError, AttributeError) as error:
        return _fail(_unknown_key(error, argv))
    except (flags.Error, ValueError, TypeError, OSError) as error:
        return _fail(error)
    preemption.start_watcher(config.preemption.grace_seconds)
    verbose = _set_up_logging()
    try:
        _set_up_jax(PROGRAMS[argv[1]])
        return _run(argv[1], config, workdir)
    except Exception as error:
        if verbose:
            raise
        if isinstance(error, InputError):
            return _fail(error)
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            room = f"; make room on the disk of {workdir}, and the same command goes on"
            return _fail(f"{error}{room}", status=1)
        if isinstance(error, UnansweredError):
            return _fail(error, status=1)
        raise


def start() -> int:
    """`main` of a process that is this program's alone."""
    _take_large_pages()
    return main()


def _parse(argv: list[str]) -> tuple:
    """Config and workdir. A bad flag is told before JAX is imported, which takes seconds."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # `ns-jax` finds `configs` where `python -m ns_jax` would
    arguments = list(map(_at_home, argv[2:]))
    if argv[1] == "predict":
        arguments = _with_config(arguments)
    rest = FLAGS([argv[0], *arguments])[1:]
    if rest:
        quote = "; quote patterns: --images='photos/*.jpg'" if _IMAGES.value else ""
        raise InputError(f"unexpected argument {rest[0]!r}; flags start with --{quote}")
    if argv[1] == "predict":
        _set_up_predict()
    elif _IMAGES.value or _CHECKPOINT.value:
        raise InputError(f"--images and --checkpoint are for predict, not for {argv[1]}")
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise InputError("--config=FILE and --workdir=DIR are needed")
    config, workdir = _CONFIG.value, _workdir(argv[1], _WORKDIR.value)
    ranges.check(config)
    return config, workdir


def _with_config(arguments: list[str]) -> list[str]:
    """The arguments with a config that needs nothing, where they name none."""
    if any(one.lstrip("-").partition("=")[0] == "config" for one in arguments):
        return arguments
    base = pathlib.Path("configs/base.py")
    base = base if base.exists() else pathlib.Path(__file__).parent.parent / base
    return [f"--config={base}", *arguments]


def _set_up_predict() -> None:
    """Puts the short flags into the config; the same command has the same workdir."""
    from ns_jax.digest import Digest

    if _IMAGES.value:
        _CONFIG.value.predict.source = f"images:{_IMAGES.value}"
    if _CHECKPOINT.value:
        _CONFIG.value.predict.checkpoint = _CHECKPOINT.value
    if _WORKDIR.value is None:
        content = _CONFIG.value.to_json_best_effort(sort_keys=True)
        FLAGS["workdir"].value = f"runs/predict-{Digest(content.encode())}"


def _run(name: str, config: config_dict.ConfigDict, workdir: pathlib.Path) -> int:
    """In as many processes as the flags say."""
    from ns_jax import progress
    from ns_jax import workdir as workdir_lib
    from ns_jax.parallel import preflight, processes, workdir_lock

    program = PROGRAMS[name]
    where = (*_place(), _DISTRIBUTED.value)
    if program.checks_workers and processes.place(*where)[1] > 1:
        with paths_of_the_user():
            return preflight.check(config, workdir, where)
    processes.connect(*where)
    if not processes.is_first():
        progress.mute()
    processes.check_agreement(" ".join([name, str(workdir), config.to_json_best_effort()]))
    if program.alone and processes.count() > 1:
        raise InputError(f"{name} runs in one process, not in {processes.count()}")
    lock = workdir_lock.of(workdir)
    try:
        if not (program.shares_workdir or program.reads):
            processes.call_on_first(lock.acquire)
        if not program.reads:
            processes.call_on_first(workdir_lib.claim_workdir, config, workdir)
        importlib.import_module(f"ns_jax.programs.{name}").run(config, workdir)
    finally:
        lock.release()
    return 0


def _place() -> tuple[str | None, int | None, int | None]:
    """Where process 0 is, how many there are and which this is, if flags say so."""
    return _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value


def _take_large_pages() -> None:
    """Starts this process anew, in place, where glibc has not been told to ask for large pages.

    It reads that at its start alone. With pages of 4 kB a CPU's training steps take 1.6 to 1.9
    times as long: each step's memory is new, and comes in page by page. Whoever has set
    GLIBC_TUNABLES, to whatever, is left alone.
    """
    if sys.platform == "linux" and sys.executable and TUNABLES not in os.environ:
        os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)


def _at_home(argument: str) -> str:
    """`--config=~/FILE` with the home directory in place: a shell expands no `~` behind a `=`."""
    flag, equals, value = argument.partition("=")
    return f"{flag}={os.path.expanduser(value)}" if flag.lstrip("-") == "config" else argument


def _workdir(program: str, name: str) -> pathlib.Path:
    """A path with pathlib's methods. Raises InputError for a bucket that will not do."""
    from ns_jax import files
    from ns_jax.buckets import client

    if not files.is_remote(name):
        return files.as_path(name).absolute()
    if name.startswith("s3://") and not PROGRAMS[program].in_s3:
        able = ", ".join(name for name, program in PROGRAMS.items() if program.in_s3)
        raise InputError(
            f"--workdir={name}: {program} keeps checkpoints, which the library Orbax saves in "
            "gs:// but not in s3://; mount the bucket (Mountpoint for Amazon S3) and name its "
            f"directory. Programs that work in s3://: {able}"
        )
    client.check_address(name)
    return files.as_path(name)


def _set_up_logging() -> bool:
    """Returns whether all is to be shown (`-v=1`), where errors came from as well.

    If not, neither every step of Orbax and Grain, which they tell at INFO, nor the error of each
    array of a save that failed.
    """
    verbose = FLAGS["verbosity"].value > 0  # type: ignore[operator]  # absl gives it a value
    logging.set_verbosity(logging.INFO if verbose else logging.WARNING)  # it sets the flag
    if not verbose:
        for library in ("asyncio", "gcsfs", "fsspec", "s3fs", "aiobotocore", "aiohttp"):
            std_logging.getLogger(library).setLevel(std_logging.CRITICAL)
    return verbose


def _set_up_jax(program: Program) -> None:
    from ns_jax.planning import topology

    if program.compiles_for_tpus:
        topology.prepare()
    elif not _looks_for_tpus():
        # Where the TPU compiler is installed, JAX would look for a TPU with it, and it would say at
        # length that there is none. So hidden it cannot be imported.
        sys.modules.setdefault("libtpu", None)  # type: ignore[arg-type]  # importlib takes it
    import jax

    if program.reads:  # nothing is computed, and a TPU belongs to the run that is at work
        jax.config.update("jax_platforms", "cpu")
    default = pathlib.Path.home() / ".cache" / "ns_jax" / "compiled"
    directory = os.path.expanduser(os.environ.get(CACHE, str(default)))
    if directory:
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    from ns_jax import cores
    from ns_jax.parallel import processes

    if here := processes.local(*_place()):
        cores.share(here.count)
    cores.limit_threads()
    # A CPU's devices are its cores: labelling on two of them is 1.5 times as fast as on one device.
    configured: Any = jax.config  # its options are attributes that no stub knows
    chosen = (configured.jax_num_cpu_devices, os.environ.get("XLA_FLAGS", ""))
    if chosen[0] < 0 and "xla_force_host_platform_device_count" not in chosen[1]:
        jax.config.update("jax_num_cpu_devices", cores.count())


def _looks_for_tpus() -> bool:
    """Whether JAX is to: one was asked for, or a chip of Google's is on the bus and open to us."""
    vendors = pathlib.Path("/sys/bus/pci/devices").glob("*/vendor")
    on_the_bus = any(path.read_text().strip() == "0x1ae0" for path in vendors)
    devices = pathlib.Path("/dev")
    is_open = any(devices.glob("accel*")) or any(devices.glob("vfio/[0-9]*"))
    return "tpu" in os.environ.get("JAX_PLATFORMS", "") or (on_the_bus and is_open)


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
