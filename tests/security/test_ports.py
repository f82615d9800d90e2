"""Who listens: nothing in one process, and in many on one machine nothing beyond loopback."""

import ipaddress
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.large

LISTENS = "0A"  # the state in /proc/net/tcp


def children(pid):
    """The process and all that it has started."""
    found = [pid]
    for thread in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in thread.read_text().split():
            found += children(int(child))
    return found


def sockets(pid):
    """The inodes of a process's sockets."""
    found = set()
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def listening(pid):
    """Addresses on which a process and its children take connections."""
    own = set()
    for process in children(pid):
        try:
            own |= sockets(process)
        except OSError:  # it has ended
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENS and rest[5] in own:
                found.add(address(local.partition(":")[0]))
    return found


def address(digits):
    """Of the kernel's hexadecimal words, each in the machine's byte order."""
    words = bytes.fromhex(digits)
    packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    found = ipaddress.ip_address(packed)
    return getattr(found, "ipv4_mapped", None) or found


def watch(command, environment):
    """All addresses on which anything listened while a command ran."""
    child = subprocess.Popen(
        command,
        env={**environment, "PYTHON": sys.executable, "JAX_NUM_CPU_DEVICES": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    found, most, end = set(), 0, time.monotonic() + 200
    while child.poll() is None and time.monotonic() < end:
        try:
            found |= listening(child.pid)
            most = max(most, len(children(child.pid)))
        except OSError:
            pass
        time.sleep(0.1)
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    output, _ = child.communicate()
    assert child.returncode == 0, output[-3000:]
    return found, most


def test_the_watch_sees_who_listens():
    code = "import socket, time; s = socket.create_server(('{}', 0)); time.sleep(1)"
    for host in ("127.0.0.1", "0.0.0.0"):
        found, _ = watch([sys.executable, "-c", code.format(host)], {})
        assert found == {ipaddress.ip_address(host)}


def test_one_process_listens_nowhere(environment, tmp_path, make_teacher):
    """With a data worker, whose pipe is not a port."""
    command = [
        *(sys.executable, "-m", "ns_jax", "evaluate", "--config=configs/digits.py"),
        *(f"--workdir={tmp_path / 'run'}", "--config.data.workers=1"),
        f"--config.evaluate.checkpoint={make_teacher(tmp_path / 'teacher')}",
    ]
    found, most = watch(command, environment)
    assert found == set() and most > 2  # multiprocessing has one of its own


def test_processes_of_one_machine_listen_on_loopback_alone(environment, tmp_path):
    command = ["launch/local.sh", "2", "doctor", "--config=configs/digits.py"]
    found, _ = watch([*command, f"--workdir={tmp_path}"], environment)
    # The collectives of CPUs take the address that the host's own name has, which need not be one
    # of loopback; the coordinator, where all else would be found out, is told.
    names = socket.getaddrinfo(socket.gethostname(), None, proto=socket.IPPROTO_TCP)
    own = {ipaddress.ip_address(name[4][0]) for name in names}
    assert found and all(a.is_loopback or (a in own and not a.is_unspecified) for a in found)


@pytest.mark.parametrize(
    ("coordinator", "bind"),
    [("127.0.0.1:9", "127.0.0.1:9"), ("localhost:9", "localhost:9"), ("host-0:9", None)],
)
def test_the_coordinator_is_told_where_to_listen(monkeypatch, coordinator, bind):
    from ns_jax.parallel import processes

    calls = []
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *a, **k: calls.append(k))
    processes.connect(coordinator, 2, 0, False)
    assert calls == [{"coordinator_bind_address": bind, "local_device_ids": None}]
