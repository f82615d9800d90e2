"""A `gcloud` for Cloud TPUs whose hosts are groups of processes on this machine.

What there is, is kept in the directory `STAND_IN_GCLOUD`:

    queued/NAME      state of a queued resource; while it waits, a state a line, one taken per look
    nodes/NAME       state of its node
    hosts/NAME/0 ... a home directory a host; a host's processes have it in their environment
    buckets/         gs://
    plan             states, a line a creation, that the queued resources to come pass through
    calls            command lines, a JSON list a line
    out_of_reach     while it stands, all commands fail and connections break, but the hosts go on

Commands and flags are those of Google's, and unknown ones fail; so do actions that the state of a
slice does not allow. `ssh` runs the command with bash on each host asked for, with the environment
that Slurm would give, so that `jax.distributed.initialize()` finds the others.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

HOME_OF_HOST = "STAND_IN_HOME"
OUT_OF_REACH = "ERROR: the service cannot be reached"


class Cloud:
    def __init__(self, directory):
        self.root = pathlib.Path(directory)
        for name in ("queued", "nodes", "hosts", "buckets"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def hosts(self, name: str) -> list[pathlib.Path]:
        return sorted((self.root / "hosts" / name).glob("*"), key=lambda path: int(path.name))

    def state(self, group: str, name: str) -> str:
        path = self.root / group / name
        return path.read_text().splitlines()[0] if path.exists() else ""

    def look(self, group: str, name: str) -> str:
        """Its state; what waits goes one state on."""
        state, path = self.state(group, name), self.root / group / name
        rest = path.read_text().splitlines()[1:] if state else []
        if rest:
            path.write_text("\n".join(rest))
            if rest == ["ACTIVE"]:
                (self.root / "nodes" / name).write_text("READY")
        return state

    def create(self, name: str, chips: int) -> None:
        plan = self.root / "plan"
        plans = plan.read_text().splitlines() if plan.exists() else []
        states = plans.pop(0) if plans else "WAITING_FOR_RESOURCES ACTIVE"
        plan.write_text("\n".join(plans))
        (self.root / "queued" / name).write_text("\n".join(states.split()))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for index in range(max(1, chips // 8)):
            home = self.root / "hosts" / name / str(index)
            home.mkdir(parents=True)
            (home / ".port").write_text(str(port))

    def processes(self, name: str, hosts=None) -> list[int]:
        """Of these hosts, or of all."""
        homes = [home for home in self.hosts(name) if hosts is None or home.name in hosts]
        words = {f"{HOME_OF_HOST}={home}".encode() for home in homes}
        return [pid for pid, environment in environments() if words & environment]

    def end(self, name: str, hosts=None) -> int:
        """Ends all processes of hosts at once, as when a machine is switched off; counts them."""
        ended = set()
        while found := self.processes(name, hosts):
            send(signal.SIGKILL, found)
            ended |= {*found}
            time.sleep(0.02)
        return len(ended)

    def preempt(self, name: str, queued: str, node: str, warned=(), seconds=0.0) -> int:
        """Leaves states as they are found after a preemption ("": gone); counts ended processes.

        All processes of the hosts `warned` get SIGTERM, and are switched off `seconds` later; the
        other hosts are at once. That much later the service knows of it.
        """
        ended = len(self.processes(name))
        send(signal.SIGTERM, self.processes(name, warned))
        self.end(name, {home.name for home in self.hosts(name)} - {*warned})
        time.sleep(seconds)
        for group, state in (("queued", queued), ("nodes", node)):
            path = self.root / group / name
            path.write_text(state) if state else path.unlink(missing_ok=True)
        self.end(name)
        shutil.rmtree(self.root / "hosts" / name, ignore_errors=True)
        return ended

    def delete(self, name: str) -> None:
        self.preempt(name, "", "")

    def calls(self, *words: str) -> list[list[str]]:
        """The command lines so far that hold all of these words."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if set(words) <= set(call)]

    def out_of_reach(self) -> bool:
        return (self.root / "out_of_reach").exists()


def environments():
    """(process, its environment's words) of all processes that may be read and still run."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            yield int(path.name), set((path / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue


def send(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def of_this_command(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(pid) == os.getpgrp()
    return False


def on_host(home: pathlib.Path, count: int, command: str) -> subprocess.Popen:
    own = {
        HOME_OF_HOST: str(home),
        "HOME": str(home),
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COORDINATOR_PORT": (home / ".port").read_text(),
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": str(count),
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_PROCID": home.name,
        "SLURM_LOCALID": "0",
    }
    return subprocess.Popen(["bash", "-c", command], cwd=home, env={**os.environ, **own})


def main() -> str | int:
    cloud = Cloud(os.environ["STAND_IN_GCLOUD"])
    with (cloud.root / "calls").open("a") as file:
        file.write(json.dumps(sys.argv[1:]) + "\n")
    if cloud.out_of_reach():
        return OUT_OF_REACH
    if sys.argv[1:3] == ["storage", "cat"]:
        path = cloud.root / "buckets" / sys.argv[3].removeprefix("gs://")
        return print(path.read_text(), end="") or 0 if path.exists() else "ERROR: no such object"
    assert sys.argv[1:3] == ["compute", "tpus"], sys.argv
    group, action, *rest = sys.argv[3:]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project")
    parser.add_argument("--quiet", action="store_true", required=True)  # nobody is there to answer
    known = ACTIONS[group, action]
    for flag in known.get("flags", ()):
        parser.add_argument(flag, required=True)
    for flag in known.get("switches", ()):
        parser.add_argument(flag, action="store_true")
    if action == "ssh":
        parser.add_argument("--ssh-flag", action="append", default=[])
    parser.add_argument("names", nargs="*")
    parsed = parser.parse_args(rest)
    assert len(parsed.names) == known["names"], parsed.names
    return known["do"](cloud, parsed)


def create(cloud, flags):
    if flags.spot and flags.reserved:
        return "ERROR: --spot and --reserved exclude each other"
    name = flags.names[0]
    if cloud.state("queued", name) or cloud.state("nodes", flags.node_id):
        return f"ERROR: ALREADY_EXISTS: {name}"
    cloud.create(name, int(flags.accelerator_type.rpartition("-")[2]))
    return 0


def delete(cloud, flags):
    name = flags.names[0]
    state = cloud.state("queued", name)
    if not state:
        return f"ERROR: NOT_FOUND: {name}"
    if state == "ACTIVE" and not flags.force:
        return f"ERROR: FAILED_PRECONDITION: {name} has nodes; use --force"
    cloud.end(name)
    (cloud.root / "queued" / name).unlink()
    if cloud.state("nodes", name) in ("", "READY"):  # of a node in another state something is left
        cloud.delete(name)
    return 0


def delete_node(cloud, flags):
    if not cloud.state("nodes", flags.names[0]):
        return "ERROR: NOT_FOUND"
    cloud.delete(flags.names[0])
    return 0


def list_states(group):
    def do(cloud, flags):
        name = flags.filter.removeprefix("name~/").removesuffix("$")
        print(cloud.look(group, name), end="")
        return 0

    return do


def scp(cloud, flags):
    source, target = flags.names
    for home in cloud.hosts(target.removesuffix(":")):
        shutil.copy(source, home)
    return 0


def ssh(cloud, flags):
    name = flags.names[0]
    if cloud.state("nodes", name) != "READY":
        return f"ERROR: {name} is not READY"
    hosts = cloud.hosts(name)
    asked = hosts if flags.worker == "all" else [hosts[int(flags.worker)]]
    children = [on_host(home, len(hosts), flags.command) for home in asked]
    while None in (statuses := [child.poll() for child in children]):
        if cloud.out_of_reach():  # what a connection holds ends with it
            send(signal.SIGKILL, [pid for pid in cloud.processes(name) if of_this_command(pid)])
            return OUT_OF_REACH
        time.sleep(0.05)
    return next((status if status > 0 else 255 for status in statuses if status), 0)


ACTIONS = {
    ("queued-resources", "create"): {
        "flags": ("--node-id", "--accelerator-type", "--runtime-version"),
        "switches": ("--spot", "--reserved"),
        "names": 1,
        "do": create,
    },
    ("queued-resources", "delete"): {"switches": ("--force",), "names": 1, "do": delete},
    ("queued-resources", "list"): {
        "flags": ("--filter", "--format"),
        "names": 0,
        "do": list_states("queued"),
    },
    ("tpu-vm", "list"): {"flags": ("--filter", "--format"), "names": 0, "do": list_states("nodes")},
    ("tpu-vm", "delete"): {"names": 1, "do": delete_node},
    ("tpu-vm", "scp"): {"flags": ("--worker",), "names": 2, "do": scp},
    ("tpu-vm", "ssh"): {"flags": ("--worker", "--command"), "names": 1, "do": ssh},
}

if __name__ == "__main__":
    sys.exit(main())
