"""SIGTERM in each program, in code that nothing interrupts, and with several processes."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from ns_jax.checkpoints import checkpoint
from tests.conftest import ROOT

pytestmark = pytest.mark.large

STOPPED = 143
TINY = {
    "model.name": "efficientnet-pico",
    "train.batch_size": 8,
    "train.epochs": 4000.0,
    "train.log_every_steps": 1,
    "train.save_every_steps": 100_000,
    "optim.warmup_epochs": 0.5,
}

CHILDREN = ROOT / "tests" / "children"


def begin(environment, kind, grace, errors):
    """A process that is at work of a kind."""
    process = subprocess.Popen(
        [sys.executable, CHILDREN / "at_work.py", kind, str(grace)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # it goes from there to where the signal is to find it
    return process


@pytest.mark.parametrize(
    ("kind", "grace", "least", "said"),
    [
        ("in_python", 30, 0.0, ""),
        ("in_c_code", 30, 0.0, ""),
        ("collecting_garbage", 30, 0.0, ""),
        ("in_short_sections", 30, 0.0, ""),
        ("deferred", 30, 0.5, "brought to a good end"),
        ("stuck_in_a_section", 0.5, 0.5, ""),
    ],
)
def test_the_notice_ends_a_process_in_time(environment, kind, grace, least, said):
    process = begin(environment, kind, grace, subprocess.PIPE)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # an impatient cluster
    output, errors = process.communicate(timeout=20)
    assert process.returncode == STOPPED and output.strip() == said
    assert errors.splitlines() == [f"SIGTERM: ends within {grace:g} s, what there is is saved"]
    assert least <= time.monotonic() - began


def test_its_children_end_with_it(environment):
    process = begin(environment, "with_a_child", 30, subprocess.DEVNULL)
    child = pathlib.Path(f"/proc/{process.stdout.readline().strip()}")
    os.kill(int(child.name), signal.SIGTERM)  # as a machine that is switched off sends it to all
    time.sleep(0.5)
    assert child.exists() and process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    end = time.monotonic() + 10
    while child.exists() and "Z" not in (child / "stat").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_error_after_the_notice_is_said(environment):
    process = begin(environment, "failing", 30, subprocess.PIPE)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == STOPPED and errors.splitlines()[1:] == ["error: no room"]


def test_a_notice_that_cannot_be_said_is_heeded(environment):
    with open("/dev/full", "w") as full:
        process = begin(environment, "deferred", 5, full)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == STOPPED and output.strip() == "brought to a good end"


@pytest.mark.parametrize("kind", ["in_python", "deferred"])
def test_a_reader_that_does_not_read_holds_nothing_up(environment, kind):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(1 << 12))
    os.set_blocking(writer, True)
    process = begin(environment, kind, 1.5, writer)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    os.close(reader)
    os.close(writer)
    assert process.returncode == STOPPED


def test_the_cursor_that_a_bar_hides_is_shown_again(environment):
    terminal, theirs = os.openpty()
    process = begin({**environment, "TERM": "xterm"}, "showing_progress", 30, theirs)
    os.close(theirs)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    shown = b""
    with contextlib.suppress(OSError):  # the end
        while part := os.read(terminal, 1 << 16):
            shown += part
    os.close(terminal)
    assert process.returncode == STOPPED and b"SIGTERM: ends within 30 s" in shown
    assert 0 <= shown.rindex(b"\x1b[?25l") < shown.rindex(b"\x1b[?25h")


def test_a_notice_in_a_call_back_of_a_library_is_no_error(environment, tmp_path):
    command = ["evaluate", "--config=configs/digits.py", f"--workdir={tmp_path}"]
    found = subprocess.run(
        [sys.executable, CHILDREN / "called_back.py", *command],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == STOPPED, found.stderr
    assert "never" not in found.stdout and "rror" not in found.stderr


def start(program, workdir, environment, arguments=(), **flags):
    command = ["-m", "ns_jax", program, "--config=configs/digits.py:role=teacher"]
    flags = [f"--config.{name}={value}" for name, value in {**TINY, **flags}.items()]
    return subprocess.Popen(
        [sys.executable, *command, f"--workdir={workdir}", *flags, *arguments],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, process):
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < end
        time.sleep(0.02)


def num_lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def told(process):
    """What a program says that is told to go, and goes."""
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == STOPPED, output[-3000:]
    return output


def test_a_training_saves_the_step_that_it_is_at(environment, tmp_path):
    process = start("train", tmp_path, environment)
    wait_for(lambda: num_lines(tmp_path / "metrics.jsonl") >= 3, process)
    output = told(process)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert f"saved step {last:,}; run the same command to resume" in output
    assert checkpoint.find(tmp_path).name == str(last)
    checkpoint.load_model(tmp_path)
    assert "Traceback" not in output


def test_the_first_compilation_holds_nothing_up(environment, tmp_path):
    environment = {**environment, "NS_JAX_COMPILE_CACHE": ""}
    process = start("train", tmp_path, environment, **{"preemption.grace_seconds": 2.0})
    while "parameters at" not in (line := process.stdout.readline()):
        assert line
    time.sleep(2)
    output = told(process)
    assert "SIGTERM: ends within 2 s" in output and "Traceback" not in output
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.chaos
def test_processes_heed_a_notice_that_comes_between_two_trainings(environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, CHILDREN / "two_trainings.py", address, str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for index in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "between\n"
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert said[0] == said[1] and said[0].startswith("leaves ")
    assert [process.returncode for process in processes] == [STOPPED, STOPPED]


@pytest.mark.parametrize("program", ["label", "evaluate"])
def test_inference_ends_at_once_and_leaves_nothing_half_done(
    environment, make_teacher, tmp_path, program
):
    teacher = make_teacher(tmp_path / "teacher")
    pool = "+".join(["digits:unlabelled"] * 200)  # minutes of work
    flags = {"data.unlabelled": pool, "data.test": pool.replace("unlabelled", "test")}
    flags |= {"label.checkpoint": teacher, "evaluate.checkpoint": teacher}
    flags |= {"label.images_per_shard": 512, "label.batch_size": 64, "evaluate.batch_size": 64}
    workdir = tmp_path / "run"
    process = start(program, workdir, environment, **flags)
    if program == "label":
        wait_for(lambda: len(list(workdir.glob("labels/*.parquet"))) >= 2, process)
    else:
        wait_for(lambda: (workdir / "config.json").exists(), process)
        time.sleep(3)
    output = told(process)
    assert "Traceback" not in output
    assert not list(workdir.glob("labels/leases/*")) and not list(workdir.rglob("*.tmp"))
    assert not (workdir / "eval.json").exists()


@pytest.mark.chaos
def test_processes_of_a_training_save_one_step_when_one_of_them_is_told(environment, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**environment, "JAX_NUM_CPU_DEVICES": "4"}
    both = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    flags = {"mesh.devices": 8, "mesh.fsdp": 2, "mesh.shard_above": 64}
    flags["preemption.grace_seconds"] = 150.0  # a busy machine
    processes = [
        start("train", tmp_path, environment, [*both, f"--process_id={i}"], **flags)
        for i in range(2)
    ]
    wait_for(lambda: num_lines(tmp_path / "metrics.jsonl") >= 3, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [STOPPED, STOPPED], outputs
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert f"saved step {last:,};" in outputs[0]
    assert checkpoint.find(tmp_path).name == str(last)
    checkpoint.load_model(tmp_path)
