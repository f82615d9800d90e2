"""SIGTERM in each program, in code that nothing interrupts, and with several processes."""

import json
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

SCRIPT = """
import gc, hashlib, sys, time
from ns_jax.parallel import preemption

preemption.hold()
preemption.watch(float(sys.argv[2]))
try:
    print("ready", flush=True)
    if sys.argv[1] == "python":
        time.sleep(60)
    elif sys.argv[1] == "stuck":  # in code that no signal reaches
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    elif sys.argv[1] == "collecting":  # where what is raised goes nowhere
        def callback(*_):
            gc.callbacks.clear()
            time.sleep(60)

        gc.callbacks.append(callback)
        gc.collect()
        time.sleep(60)
    elif sys.argv[1] == "deferred":
        with preemption.deferred():
            while not preemption.noticed():
                time.sleep(0.01)
            print("brought to a good end", flush=True)
        print("never", flush=True)
finally:
    print("unwound", flush=True)
"""


def test_a_notice_that_cannot_be_said_is_heeded(environment):
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "python", "5"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
        )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert output.strip() == "unwound"


@pytest.mark.parametrize(
    ("kind", "grace", "least", "said"),
    [
        ("python", 30, 0.0, "unwound"),
        ("stuck", 0.5, 0.5, ""),
        ("collecting", 30, 0.0, "unwound"),
        ("deferred", 30, 0.0, "brought to a good end\nunwound"),
    ],
)
def test_the_notice_ends_a_process_in_time(environment, kind, grace, least, said):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, kind, str(grace)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # it goes from there to where the signal is to find it
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # an impatient cluster
    output, errors = process.communicate(timeout=20)
    assert process.returncode == STOPPED and output.strip() == said
    assert "ignored" not in errors
    assert least <= time.monotonic() - began


IN_A_CALLBACK = """
import os, signal, sys, time
from ns_jax import __main__
from ns_jax.parallel import preemption

preemption.hold()  # before JAX has threads
import jax
from ns_jax.programs import evaluate

class Slow:
    __call__ = print

    def __eq__(self, other):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

def run(config, workdir):
    one, other = (jax.tree.structure(jax.tree_util.Partial(Slow())) for _ in range(2))
    one == other
    print("never")

evaluate.run = run
sys.exit(__main__.main(sys.argv))
"""


def test_a_notice_that_a_library_makes_an_error_of_its_own_is_one(environment, tmp_path):
    command = ["evaluate", "--config=configs/digits.py", f"--workdir={tmp_path}"]
    found = subprocess.run(
        [sys.executable, "-c", IN_A_CALLBACK, *command],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == STOPPED, found.stderr
    assert "never" not in found.stdout and "error" not in found.stderr


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
    assert f"step {last:,} is saved; the same command goes on from there" in output
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


TWO_TRAININGS = """
import sys, time
from ns_jax.parallel import preemption

preemption.hold()
preemption.watch(60.0)
import jax

jax.config.update("jax_platforms", "cpu")
from ns_jax.parallel import processes

processes.connect(sys.argv[1], 2, int(sys.argv[2]), False)
with preemption.deferred():
    for step in range(300):
        processes.leave_after_this_step()
    print("between", flush=True)
    time.sleep(3)
    for step in range(1, 21):
        if processes.leave_after_this_step():
            print("leaves", step, flush=True)
            break
        time.sleep(0.2)
preemption.end()
"""


@pytest.mark.chaos
def test_processes_heed_a_notice_that_comes_between_two_trainings(environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_TRAININGS, address, str(index)],
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
    assert f"step {last:,} is saved" in outputs[0]
    assert checkpoint.find(tmp_path).name == str(last)
    checkpoint.load_model(tmp_path)
