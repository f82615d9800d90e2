import shutil

import pytest

from tests.report import made


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """Two workdirs as they are made: of a finished run, and of one that still goes on."""
    root = tmp_path_factory.mktemp("report")
    return {
        name: made.make(root / name, finished=name == "finished")
        for name in ("finished", "running")
    }


@pytest.fixture
def workdir(originals, tmp_path):
    """A copy of the finished one; its images are where they were."""
    return shutil.copytree(originals["finished"], tmp_path / "run")


@pytest.fixture
def running(originals, tmp_path):
    return shutil.copytree(originals["running"], tmp_path / "running")
