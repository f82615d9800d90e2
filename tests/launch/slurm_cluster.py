"""A Slurm of two nodes on this machine, with its own munged, ports and directories."""

import contextlib
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from tests.children import ends_with_its_parent
from tests.conftest import ROOT

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
LAUNCHER = str(ROOT / "launch" / "slurm.sh")
HOST = socket.gethostname().partition(".")[0]
NODES = (HOST, f"{HOST}-2")  # JAX looks for its coordinator at the first one, whose name has to do
NODE = "NS_JAX_TEST_NODE"  # in the environment of a node's daemons
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool.%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
KillWait=25
ReturnToService=2
GresTypes=gpu
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 Gres=gpu:4
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 Gres=gpu:4
PartitionName=low Nodes=ALL PriorityTier=1 Default=YES
PartitionName=graceful Nodes=ALL PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


def missing() -> str:
    """Why there can be no Slurm here; empty if there can."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "slurmd wants to be root"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Slurm:
    def __init__(self, directory: pathlib.Path, environment: dict):
        self.directory = directory
        self.environment = {
            **environment,
            "PATH": f"{environment['PATH']}:/usr/sbin:/sbin",
            "SLURM_CONF": str(directory / "slurm.conf"),
            "PYTHON": sys.executable,
        }
        self._daemons: dict[str, subprocess.Popen] = {}
        self._mark = f"SLURM_CONF={directory}/slurm.conf"
        self._reaper = subprocess.Popen(
            [sys.executable, ends_with_its_parent.__file__, self._mark, str(directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def start(self) -> None:
        ports = _free_ports(3)
        text = CONFIG.format(directory=self.directory, ports=ports, nodes=NODES, host=HOST)
        (self.directory / "slurm.conf").write_text(text)
        (self.directory / "gres.conf").write_text(f"Name=gpu File={self.directory}/gpu[0-3]\n")
        for number in range(4):
            os.mknod(
                self.directory / f"gpu{number}", stat.S_IFCHR, os.makedev(1, 3)
            )  # as /dev/null
        (self.directory / "state").mkdir()
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        # A directory of the test's is open to more people than munged likes: --force.
        names = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        files = [f"--{flag}={self.directory}/munge.{name}" for flag, name in names.items()]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *files)
        self._start("slurmctld", "-D", "-i")
        for node in NODES:
            self.start_node(node)
        self.wait_until(lambda: self.node_states() == ["idle", "idle"], 30)

    def start_node(self, node: str) -> None:
        self._start("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """As when a machine loses its power: the daemon and all that it has started."""
        names = (NODE, "SLURMD_NODENAME")  # of its daemons, of tasks
        ends_with_its_parent.kill(*({self._mark.encode(), f"{n}={node}".encode()} for n in names))
        self._daemons.pop(node).wait()

    def stop(self) -> None:
        """Ends all that was started here, jobs as well. So does the end of this process."""
        self._reaper.communicate()
        for daemon in self._daemons.values():
            daemon.wait()

    def _start(self, program: str, *arguments: str, name: str | None = None) -> None:
        with (self.directory / f"{name or program}.out").open("a") as output:
            self._daemons[name or program] = subprocess.Popen(
                [shutil.which(program, path=_path()), *arguments],
                env={**self.environment, NODE: name or ""},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr + self.logs()
        return done.stdout

    def submit(self, *arguments: str, **variables: str) -> "Job":
        """Starts launch/slurm.sh; `arguments`: sbatch's, then the program and its own."""
        at = next(i for i, word in enumerate(arguments) if not word.startswith("-"))
        output = f"--output={self.directory}/%j.out"
        exported = f"--export=ALL,{','.join(f'{n}={v}' for n, v in variables.items())}"
        flags = ["--parsable", output, *([exported] if variables else []), *arguments[:at]]
        number = self.run("sbatch", *flags, LAUNCHER, *arguments[at:]).strip()
        return Job(self, number)

    def node_states(self) -> list[str]:
        return self.run("sinfo", "--noheader", "--Node", "--partition=low", "--format=%t").split()

    def wait_until(self, condition, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError):  # the controller is not up yet
                if condition():
                    return
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        paths = sorted(self.directory.glob("*.out")) + sorted(self.directory.glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in paths)


class Job:
    def __init__(self, slurm: Slurm, number: str):
        self._slurm, self.number = slurm, number

    def __getitem__(self, name: str) -> str:
        """A field of `scontrol show job`."""
        text = self._slurm.run("scontrol", "show", "job", self.number)
        return dict(word.partition("=")[::2] for word in text.split())[name]

    def wait_for(self, state: str, seconds: float = 120) -> None:
        self._slurm.wait_until(lambda: self["JobState"] == state, seconds)

    @property
    def output(self) -> str:
        path = self._slurm.directory / f"{self.number}.out"
        return path.read_text() if path.exists() else ""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


@contextlib.contextmanager
def running(environment: dict) -> Iterator[Slurm]:
    slurm = Slurm(pathlib.Path(tempfile.mkdtemp(prefix="slurm")), environment)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
