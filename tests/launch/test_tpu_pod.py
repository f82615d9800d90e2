"""The launcher of TPU slices on a cloud that stands in for Google's: its hosts are processes."""

import contextlib
import json
import shutil
import signal
import subprocess
import time

import pytest

from tests.launch.conftest import NAME, PAIR, PLAIN, POD, acts

pytestmark = pytest.mark.large

TRAIN = {
    "model.name": "efficientnet-pico",
    "train.batch_size": 8,
    "train.epochs": 0.8,  # 5 steps
    "train.log_every_steps": 1,
    "train.save_every_steps": 2,
    "optim.warmup_epochs": 0.5,
}
REFUSES = "echo refused; exit 2"
WORKS = "echo $HOST works; while :; do sleep 0.1; done"


def train(workdir, **changes):
    flags = {**TRAIN, **changes}
    return [
        *("--", "train", "--config=configs/digits.py:role=teacher", f"--workdir={workdir}"),
        *(f"--config.{name}={value}" for name, value in flags.items()),
    ]


def wait_for(condition, child, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def read_until(words, child):
    """Reads the launcher's output up to the line with these words."""
    while words not in child.stdout.readline():
        assert child.poll() is None


def at_work(launcher, hosts=1):
    """Whether the program has been started on so many hosts."""
    return len([*launcher.cloud.root.glob("hosts/*/*/ns_jax_job/pid")]) == hosts


def creations(launcher):
    return len(launcher.cloud.calls("create"))


def test_a_job_runs_to_its_end_and_arguments_arrive_as_they_are(launcher, tmp_path):
    workdir = tmp_path / """it's a "run" $HOME; $(exit 3) *"""
    options = (*PAIR, PLAIN, "--spot", "--env=A_VARIABLE=a 'b' $c")
    status, output = launcher.run(*options, *train(workdir), timeout=400)
    assert status == 0, output
    assert launcher.nothing_is_left()
    assert (workdir / "DONE").read_text() == " ".join([*train(workdir)[1:], "--distributed"])
    assert json.loads((workdir / "manifest.json").read_text())["outputs"]["step"] == 5
    assert "on 2 device(s)" in output and output.count("5 steps of") == 1  # host 0's log alone
    assert "is waiting" in output and "is ready" in output
    (made,) = launcher.cloud.calls("create")
    assert {"--spot", "--accelerator-type=v3-16", "--runtime-version=tpu-ubuntu2204-base"} < {*made}

    status, output = launcher.run(*PAIR, *train(workdir))  # DONE stands
    assert status == 0 and creations(launcher) == 1, output


def test_input_that_the_program_cannot_work_with_is_not_tried_again(launcher):
    life = "(($HOST)) && echo no such thing && exit 2; exit 1"  # host 0 failed for want of host 1
    status, output = launcher.run(*acts(life, "--type=v3-16"))
    assert status == 2
    assert "no such thing" in output and "cannot work with its input" in output
    assert creations(launcher) == 1 and launcher.nothing_is_left()


def test_other_failures_are_tried_again_and_in_the_end_delete_the_slice(launcher):
    status, output = launcher.run("--retries=1", *acts("kill -KILL $$"))  # as without memory
    assert status == 1, output
    assert output.count("ended with status 137") == 2
    assert "gives up after 2 failures in a row" in output
    assert creations(launcher) == 1 and launcher.nothing_is_left()


def test_notice_of_a_preemption_is_no_failure(launcher):
    life = "[[ ! -e ~/again ]] || exit 2; touch ~/again; (($HOST)) || exit 1; kill $PPID; exit 143"
    status, output = launcher.run(*acts(life, "--type=v3-16"))
    assert status == 2 and output.count("had notice of a preemption") == 1, output
    assert "failure" not in output and creations(launcher) == 1 and launcher.nothing_is_left()


def test_a_slice_that_is_lost_after_a_failure_is_what_failed(launcher, tmp_path):
    again = tmp_path / "again"
    child = launcher.start(*acts(f"[[ ! -e {again} ]] || exit 2; touch {again}; exit 1"))
    read_until("failure 1", child)
    launcher.cloud.preempt(NAME, "SUSPENDED", "")
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 2 and "was lost (so far 1 times)" in output, output
    assert creations(launcher) == 2 and launcher.nothing_is_left()


def test_a_slice_that_cannot_be_made_is_asked_for_again_and_then_given_up(launcher):
    (launcher.cloud.root / "plan").write_text("CREATING FAILED\n" * 9)
    status, output = launcher.run("--retries=1", *acts(REFUSES))
    assert status == 1 and "gives up after 2 failures" in output
    assert creations(launcher) == 2 and launcher.nothing_is_left()


def test_keep_leaves_the_slice_and_the_next_run_takes_it(launcher):
    status, output = launcher.run("--keep", *acts(REFUSES))
    assert status == 2 and f"stop --name={NAME}" in output
    assert launcher.cloud.state("nodes", NAME) == "READY"
    assert launcher.run(*acts(REFUSES))[0] == 2
    assert creations(launcher) == 1 and launcher.nothing_is_left()


@pytest.mark.parametrize(
    ("queued", "node"), [("SUSPENDED", "PREEMPTED"), ("FAILED", ""), ("ACTIVE", "TERMINATED")]
)
def test_what_is_left_of_a_slice_is_deleted_first(launcher, queued, node):
    launcher.cloud.create(NAME, 8)
    launcher.cloud.preempt(NAME, queued, node)
    status, output = launcher.run(*acts(REFUSES))
    assert status == 2 and "refused" in output, output  # it came to run
    assert launcher.nothing_is_left()
    actions = [call[3] for call in launcher.cloud.calls() if call[3] in ("create", "delete")]
    assert actions.index("delete") < actions.index("create")


def test_a_preempted_slice_is_made_anew_after_notice_or_without(launcher, tmp_path):
    told = f"trap 'touch {tmp_path}/told.$HOST; exit 143' TERM; "
    child = launcher.start(*acts(told + WORKS, "--type=v3-16"))
    for number, warned in enumerate([{"1"}, set()], start=1):
        wait_for(lambda: at_work(launcher, 2), child)
        time.sleep(0.3)
        assert launcher.cloud.preempt(NAME, "SUSPENDED", "PREEMPTED", warned, seconds=0.5) >= 4
        wait_for(lambda number=number: creations(launcher) == number + 1, child)
    assert [path.name for path in tmp_path.glob("told.*")] == ["told.1"]
    wait_for(lambda: at_work(launcher, 2), child)
    child.terminate()
    output, _ = child.communicate(timeout=20)
    assert child.returncode == 143 and output.count("was lost") == 2, output
    assert launcher.nothing_is_left()


def test_status_logs_and_stop(launcher):
    status, output = launcher.run(action="status")
    assert status == 0 and "is missing" in output
    job = acts(WORKS, "--type=v3-16")
    child = launcher.start(*job)
    wait_for(lambda: at_work(launcher, 2), child)
    _, output = launcher.run(action="status")
    assert f"{NAME} is ready" in output and f"machine: {child.pid}" in output
    assert output.count(" runs\n") == 2
    logs = launcher.start(action="logs")
    status, output = launcher.run(*job)
    assert status == 2 and f"process {child.pid} runs {NAME} already" in output
    assert logs.stdout.readline() == "0 works\n"

    status, output = launcher.run(action="stop")
    assert status == 0 and launcher.nothing_is_left(), output
    assert child.wait(timeout=10) == 143 and logs.wait(timeout=10) != 0
    assert creations(launcher) == 1
    child.stdout.close(), logs.stdout.close()


@contextlib.contextmanager
def outage(launcher, child, looks):
    """Until the launcher has looked at its slice so many times in vain."""
    out_of_reach = launcher.cloud.root / "out_of_reach"
    out_of_reach.touch()
    before = len(launcher.cloud.calls("list"))
    wait_for(lambda: len(launcher.cloud.calls("list")) >= before + looks, child)
    yield
    out_of_reach.unlink()


def test_an_outage_while_the_program_runs_costs_no_slice(launcher, tmp_path):
    end = tmp_path / "end"
    child = launcher.start(*acts(f"echo works; until [[ -e {end} ]]; do sleep 0.1; done"))
    read_until("works", child)
    with outage(launcher, child, looks=6):  # more often than hosts may be silent
        assert launcher.processes()
    end.touch()
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0 and "was lost" not in output, output
    assert output.count("gcloud cannot tell") == 1 and output.count("cannot be reached") < 6
    assert creations(launcher) == 1 and launcher.nothing_is_left()


def test_outages_while_it_starts_or_between_attempts_are_no_failures(launcher, tmp_path):
    again = tmp_path / "again"
    life = f"[[ ! -e {again} ]] || exit 0; touch {again}; exit 1"
    child = launcher.start("--retries=1", *acts(life))
    wait_for(lambda: launcher.cloud.calls("scp"), child)
    with outage(launcher, child, looks=2):
        pass
    read_until("failure 1", child)
    with outage(launcher, child, looks=2):
        pass
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0 and "gives up" not in output, output
    assert creations(launcher) == 1 and launcher.nothing_is_left()


def test_a_launcher_that_is_interrupted_in_an_outage_deletes_its_slice_after_it(launcher):
    child = launcher.start(*acts(WORKS))
    wait_for(lambda: at_work(launcher), child)
    with outage(launcher, child, looks=2):
        child.terminate()
        time.sleep(1)
        assert launcher.processes() and child.poll() is None
    output, _ = child.communicate(timeout=20)
    assert child.returncode == 143 and launcher.nothing_is_left(), output


def test_hosts_that_do_not_answer_for_some_time_are_lost(launcher, tmp_path):
    again = tmp_path / "again"
    child = launcher.start(*acts(f"[[ ! -e {again} ]] || exit 2; touch {again}; {WORKS}"))
    read_until("works", child)
    (launcher.cloud.root / "hosts" / NAME / "0" / ".port").unlink()  # no command starts without
    launcher.cloud.end(NAME)
    began = time.monotonic()
    read_until("was lost", child)
    assert time.monotonic() - began > 4  # looks are --poll=1 apart
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 2 and creations(launcher) == 2, output
    assert launcher.nothing_is_left()


def test_a_service_that_could_never_be_asked_is_given_up(launcher):
    (launcher.cloud.root / "out_of_reach").touch()  # as with a mistaken zone, or without a login
    status, output = launcher.run("--retries=1", *acts(REFUSES))
    assert status == 1 and "gives up after 2 failures" in output, output
    assert "ERROR: the service cannot be reached" in output and not creations(launcher)


def test_a_launcher_that_was_killed_goes_on_with_its_slice(launcher):
    child = launcher.start(*acts(WORKS), start_new_session=True)
    wait_for(lambda: at_work(launcher), child)
    child.kill()
    child.communicate()
    assert launcher.processes()
    status, output = launcher.run(*acts(REFUSES))
    assert status == 2 and "refused" in output
    assert creations(launcher) == 1 and launcher.nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_launcher_that_is_interrupted_deletes_its_slice(launcher, number):
    (launcher.cloud.root / "plan").write_text("WAITING_FOR_RESOURCES " * 999)
    child = launcher.start(*acts(REFUSES))
    wait_for(lambda: launcher.cloud.calls("create"), child)
    time.sleep(0.5)
    child.send_signal(number)
    output, _ = child.communicate(timeout=20)
    assert child.returncode == (130 if number == signal.SIGINT else 143), output
    assert launcher.nothing_is_left()


def test_done_in_a_bucket_is_of_one_command(launcher):
    *options, _ = acts(REFUSES)
    job = [*options, "--workdir=gs://bucket/a run"]
    done = launcher.cloud.root / "buckets" / "bucket" / "a run" / "DONE"
    done.parent.mkdir(parents=True)
    done.write_text("train --workdir=gs://bucket/a run --distributed")
    assert launcher.run(*job)[0] == 0
    assert not creations(launcher)
    assert launcher.run(*job, "--seed=1")[0] == 2
    assert creations(launcher) == 1


def test_a_dry_run_prints_the_commands_and_runs_none(launcher, tmp_path):
    status, output = launcher.run(
        *("--type=v5e-16", "--reserved", "--project=a-project", "--setup=mount a b"),
        *("--env=A=b c", "--dry-run", *train(tmp_path / "it's")),
    )
    assert status == 0 and not launcher.cloud.calls() and not launcher.processes()
    commands = [line for line in output.splitlines() if line.startswith("gcloud ")]
    steps = [command.split()[3:5] for command in commands]
    assert steps == [
        *(["queued-resources", "list"], ["queued-resources", "create"]),
        *(["queued-resources", "list"], ["tpu-vm", "list"]),
        *(["tpu-vm", "scp"], *[["tpu-vm", "ssh"]] * 6),
        *(["queued-resources", "delete"], ["queued-resources", "list"], ["tpu-vm", "list"]),
    ]
    assert all("--project=a-project --zone=europe-west4-a --quiet" in line for line in commands)
    assert "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite" in commands[1]
    assert " --reserved " in commands[1]
    # Printed so that bash reads what would be run.
    (start,) = [line for line in commands if "tpu_worker.sh start" in line]
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {start}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    (remote,) = [word for word in words if word.startswith("--command=")]
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {remote.partition('&&')[2]}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    program = [*train(tmp_path / "it's")[1:], "--distributed"]
    assert words == ["env", "A=b c", "launch/tpu_worker.sh", "start", *program]


RUN = ["run", "--name=a", "--zone=b", "--type=v3-8"]
PROGRAM = ["--", "train", "--workdir=/c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run --name=NAME --zone=ZONE --type"),
        (["run", *RUN[2:], *PROGRAM], "--name=NAME is needed"),
        (["run", "--name=Not_A_Name", *RUN[2:], *PROGRAM], "it is 'Not_A_Name'"),
        (["run", "--name=a", "--type=v3-8", *PROGRAM], "--zone=ZONE is needed"),
        ([*RUN[:3], *PROGRAM], "--type=TYPE is needed"),
        ([*RUN[:3], "--type=v9-8", *PROGRAM], "--type=TYPE is needed"),
        (RUN, "a program with --workdir=DIR is needed"),
        ([*RUN, "--", "train", "--workdir=runs/c"], "it is 'runs/c'"),
        ([*RUN, "--spot", "--reserved", *PROGRAM], "do not go together"),
        ([*RUN, "--poll=often", *PROGRAM], "--poll=often: a whole number above 0"),
        ([*RUN, "--preemptible", *PROGRAM], "unknown option --preemptible"),
        ([*RUN, *PROGRAM], "there is no gcloud"),
    ],
)
def test_what_is_missing_is_said_in_the_first_second(arguments, message, tmp_path):
    for name in ("bash", "dirname", "sed"):  # and no gcloud, where there is one
        (tmp_path / name).symlink_to(shutil.which(name))
    began = time.monotonic()
    done = subprocess.run(
        [POD, *arguments],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert time.monotonic() - began < 1
