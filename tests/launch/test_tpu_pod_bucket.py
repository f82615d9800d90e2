"""A slice whose workdir is in a bucket: what its hosts said, and DONE, lie there."""

import sys

import pytest
from etils import epath

from tests.buckets import server
from tests.conftest import ROOT
from tests.launch.conftest import QUICK

pytestmark = [pytest.mark.bucket, pytest.mark.large]

# The program is a line of bash; what sends is the real Python.
PYTHON = f"""mkdir -p .venv/bin && cat >.venv/bin/python <<'END' && chmod +x .venv/bin/python
[[ $1 != -c ]] || PYTHONPATH={ROOT} exec {sys.executable} "$@"
HOST=${{HOME##*/}}; eval "$LIFE"
END"""


@pytest.fixture(scope="module")
def cloud():
    with server.running("gs") as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
        yield cloud


@pytest.mark.parametrize("status", [0, 2])
def test_the_logs_of_all_hosts_are_sent(cloud, launcher, status):
    launcher.environment.update(cloud.environment)
    workdir = epath.Path(cloud.make_bucket()) / "a run"
    life = f"echo $HOST works; echo $HOST fails >&2; exit {status}"
    job = ["train", f"--workdir={workdir}"]
    told, output = launcher.run(
        *("--type=v3-16", *QUICK, f"--setup={PYTHON}", f"--env=LIFE={life}", "--", *job)
    )
    assert told == status and launcher.nothing_is_left(), output
    logs = sorted(path.read_text() for path in (workdir / "logs").iterdir())
    expected = ["0 works\n0 fails\n", "1 works\n1 fails\n"]
    # After a success nobody waits for the other hosts.
    assert logs == expected or (status == 0 and logs == expected[:1])
    assert (workdir / "DONE").exists() == (status == 0)
