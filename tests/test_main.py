"""The command line: what a person sees in the first second."""

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.large


def run(environment, *arguments):
    child = subprocess.run(
        [sys.executable, "-m", "ns_jax", *arguments],
        env=environment,
        cwd=environment["PYTHONPATH"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in child.stderr
    return child.returncode, child.stderr


def test_without_a_program_it_lists_them(environment):
    status, shown = run(environment)
    assert status == 2 and "selftrain" in shown and "evaluate" in shown
    assert run(environment, "trian") == (2, shown)
    assert run(environment, "--help") == (0, shown)


DIGITS = "--config=configs/digits.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=FILE and --workdir=DIR are needed"),
        ([DIGITS, "--config.optim.lr=3"], "--config.optim.lr: there is no such key"),
        ([DIGITS, "--config.optmi.momentum=3"], "--config.optmi.momentum: there is no such key"),
        ([DIGITS, "--config.train.epochs=many"], "could not convert string to float: 'many'"),
        (
            ["--config=configs/digits.py:rloe=student"],
            "unknown config argument 'rloe'; known: role",
        ),
        (["--config=configs/missing.py"], "No such file or directory: 'configs/missing.py'"),
        ([DIGITS, "--confg=1"], "Unknown command line flag 'confg'"),
        ([DIGITS, "more"], "unexpected argument 'more'"),
    ],
)
def test_a_wrong_command_line_is_said_in_one_line(environment, tmp_path, arguments, message):
    workdir = [f"--workdir={tmp_path / 'run'}"] if arguments else []
    status, shown = run(environment, "train", *arguments, *workdir)
    assert status == 2 and shown.startswith("error: ") and message in shown
    assert not (tmp_path / "run").exists()


def test_a_process_takes_large_pages_unless_it_is_told_otherwise(environment, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "import os, sys; sys.exit(f\"{os.environ.get('GLIBC_TUNABLES')} {sys.argv}\")"
    )
    arguments = [f"--config={config}", "--workdir=a b"]
    told = {**environment, "GLIBC_TUNABLES": "glibc.malloc.check=0"}
    untold = {key: value for key, value in environment.items() if key != "GLIBC_TUNABLES"}
    for given, expected in ((told, "malloc.check=0"), (untold, "malloc.hugetlb=1")):
        _, shown = run(given, "train", *arguments)
        assert expected in shown and "'--workdir=a b'" in shown


def test_verbose_shows_where_an_error_came_from(environment, tmp_path):
    command = [sys.executable, "-m", "ns_jax", "label", DIGITS, f"--workdir={tmp_path}", "-v=1"]
    child = subprocess.run(
        command, env=environment, cwd=environment["PYTHONPATH"], capture_output=True, check=False
    )
    assert child.returncode == 1
    assert b"Traceback" in child.stderr and b"there is no teacher" in child.stderr


FAILING = """
import sys
from ns_jax import __main__, errors
from ns_jax.programs import evaluate

def run(config, workdir):
    raise {error}

evaluate.run = run
sys.exit(__main__.main(sys.argv))
"""


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        ("errors.InputError('a bad number')", 2, "a bad number"),
        ("errors.DamagedError('it is cut off')", 2, "it is cut off"),
        ("errors.MissingFileError('there is no checkpoint')", 2, "there is no checkpoint"),
        ("OSError(28, 'No space left on device')", 1, "make room on the disk of"),
    ],
)
def test_the_status_tells_what_may_pass_from_bad_input(
    environment, tmp_path, error, expected, message
):
    """After 1 launchers try again, after 2 they do not."""
    command = ["evaluate", DIGITS, f"--workdir={tmp_path}"]
    child = subprocess.run(
        [sys.executable, "-c", FAILING.format(error=error), *command],
        env=environment,
        cwd=environment["PYTHONPATH"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == expected, child.stderr
    assert child.stderr.startswith("error: ") and message in child.stderr


@pytest.mark.parametrize(
    "error",
    [
        "ValueError('shapes do not match')",  # as NumPy, JAX and Orbax raise it
        "FileNotFoundError(2, 'No such file or directory', 'x')",
        "OSError(116, 'Stale file handle')",
        "ChildProcessError('a data worker ended')",
    ],
)
def test_an_error_that_is_not_ours_keeps_its_traceback(environment, tmp_path, error):
    """A bug or a flaky library must not end a run for good, nor without saying where."""
    child = subprocess.run(
        [sys.executable, "-c", FAILING.format(error=error), "evaluate", DIGITS]
        + [f"--workdir={tmp_path}"],
        env=environment,
        cwd=environment["PYTHONPATH"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 1, child.stderr
    assert "Traceback" in child.stderr and "in run" in child.stderr


@pytest.mark.parametrize(
    "workdir, reason",
    [
        ("s3://bucket/run", "train keeps checkpoints, which the library Orbax saves in gs:// but"),
        ("gs:///run", "gs:///run names no bucket; write gs://BUCKET/DIRECTORY"),
        ("ftp://bucket/run", "ftp:// cannot be read; name a path on disk, gs:// or s3://"),
    ],
)
def test_a_bucket_that_will_not_do_is_refused(environment, workdir, reason):
    status, shown = run(environment, "train", DIGITS, f"--workdir={workdir}")
    assert status == 2 and reason in shown


def test_workers_may_differ_in_what_changes_no_result(tiny_config, tmp_path):
    from ns_jax import workdir as workdir_lib

    workdir_lib.claim_workdir(tiny_config, tmp_path)
    (tmp_path / "labels").mkdir()
    tiny_config.label.worker, tiny_config.label.batch_size = "1/3", 17
    tiny_config.data.workers = 5
    workdir_lib.claim_workdir(tiny_config, tmp_path)
    tiny_config.label.flip = True
    with pytest.raises(ValueError, match="config.label.flip: False there, True now"):
        workdir_lib.claim_workdir(tiny_config, tmp_path)


def test_bad_numbers_leave_the_workdir_free_for_the_corrected_command(environment, tmp_path):
    student = "--config=configs/digits.py:role=student"
    status, shown = run(environment, "train", student, f"--workdir={tmp_path}")
    assert status == 2 and "train.selection is empty" in shown
    status, shown = run(environment, "label", DIGITS, f"--workdir={tmp_path}")
    assert status == 2 and "there is no teacher" in shown
    (tmp_path / "something").touch()
    status, shown = run(environment, "train", student, f"--workdir={tmp_path}")
    assert status == 2 and "belongs to a run of another config" in shown


def test_a_chain_of_networks_is_no_training(environment, tmp_path):
    chain = "--config=configs/imagenet.py:chain=paper"
    status, shown = run(environment, "train", chain, f"--workdir={tmp_path / 'run'}")
    assert status == 2 and "role=teacher, role=student or role=finetune" in shown


def test_no_thread_is_there_before_sigterm_is_blocked(environment):
    # Threads inherit what is blocked: one from before would take the notice, and nobody would know.
    code = "import os, ns_jax.__main__; print(len(os.listdir('/proc/self/task')))"
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert child.stdout.split() == ["1"]


def test_the_console_script_finds_the_configs(environment, tmp_path):
    script = pathlib.Path(sys.executable).with_name("ns-jax")
    child = subprocess.run(
        [script, "label", DIGITS, f"--workdir={tmp_path}"],
        env={name: value for name, value in environment.items() if name != "PYTHONPATH"},
        cwd=environment["PYTHONPATH"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 2 and "there is no teacher" in child.stderr


def test_the_folder_config_says_what_it_needs(environment, tmp_path):
    status, shown = run(
        environment, "selftrain", "--config=configs/folder.py", f"--workdir={tmp_path}"
    )
    assert status == 2 and "set --config.data.labelled=folder:DIR" in shown
