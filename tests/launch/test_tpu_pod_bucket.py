"""A slice whose workdir is in a bucket: two hosts, one training, their logs beside it."""

import json

import pytest
from etils import epath

from tests.buckets import server
from tests.launch.conftest import PAIR, PLAIN
from tests.launch.test_tpu_pod import train

pytestmark = [pytest.mark.bucket, pytest.mark.large]


def test_two_hosts_train_into_a_bucket_and_send_their_logs(tmp_path, launcher):
    with server.running("gs") as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
            launcher.environment[name] = value
        workdir = epath.Path(cloud.make_bucket()) / "run"
        status, output = launcher.run(*PAIR, PLAIN, *train(workdir), timeout=400)
        assert status == 0, output
        assert "on 2 device(s)" in output and launcher.nothing_is_left()
        assert json.loads((workdir / "manifest.json").read_text())["outputs"]["step"] == 5
        logs = [path.read_text() for path in (workdir / "logs").iterdir()]
        assert len(logs) == 2 and sum("5 steps of" in log for log in logs) == 1
        assert (workdir / "DONE").read_text().startswith("train ")
