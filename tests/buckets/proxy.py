"""A network that misbehaves, before a storage server: a process of its own.

    python proxy.py PORT SERVER_PORT

Requests go to the server and answers come back, late and in shares of the cases not at all. What
happens to a request follows from the seed, from what is asked and from how often that was asked
before, whatever else is under way. `GET /-network-` answers with counts, `PUT /-network-` takes a
`Behaviour` as JSON and begins to count anew.
"""

import collections
import contextlib
import dataclasses
import hashlib
import http.client
import http.server
import json
import socket
import struct
import sys
import threading
import time

CONTROL = "/-network-"
BLOCK = 1 << 18
CHANGES = ("POST", "PUT", "PATCH", "DELETE")  # methods that change something
# Of one connection, and therefore nobody else's to pass on.
HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """Shares of all requests, 0 to 1, but for the delay."""

    delay: float = 0.0  # seconds before each answer
    unavailable: float = 0.0  # answered with 503
    too_many: float = 0.0  # answered with 429
    reset: float = 0.0  # the connection is reset, in half of the cases after the server has acted
    cut: float = 0.0  # half of the answer's body, then the end of the connection
    silent: float = 0.0  # never answered
    first_lost: bool = False  # of what changes something: after the server has acted
    read_only: bool = False  # all that would change something is answered with 403
    unknown: str = ""  # all is answered with 401 and this text
    seed: int = 0

    def fate(self, *asked: object) -> str:
        """What becomes of a request."""
        digest = hashlib.sha256(repr((self.seed, *asked)).encode()).digest()
        left = int.from_bytes(digest[:8], "big") / 2**64
        shares = (
            ("unavailable", self.unavailable),
            ("too_many", self.too_many),
            ("reset before", self.reset / 2),
            ("reset after", self.reset / 2),
            ("cut", self.cut),
            ("silent", self.silent),
        )
        for name, share in shares:
            if left < share:
                return name
            left -= share
        return "answered"


class Network:
    """The behaviour and the counts, shared by all connections."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begin(Behaviour())

    def begin(self, behaviour: Behaviour) -> None:
        with self.lock:
            self.behaviour = behaviour
            self._asked = collections.Counter()
            self.counts = collections.Counter(requests=0, bytes_down=0, bytes_up=0)

    def fate(self, asked: tuple, bytes_up: int) -> str:
        with self.lock:
            self._asked[asked] += 1
            fate = self.behaviour.fate(asked, self._asked[asked])
            if self.behaviour.first_lost and self._asked[asked] == 1 and asked[0] in CHANGES:
                fate = "reset after"
            self.counts.update({"requests": 1, "bytes_up": bytes_up, fate: 1, asked[0]: 1})
        return fate


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    network = Network()
    server_port = 0

    def setup(self) -> None:
        super().setup()
        self._upstream: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self._upstream:
            self._upstream.close()
        super().finish()

    def log_message(self, *_: object) -> None:
        """Nothing: what happened is counted."""

    def answer(self) -> None:
        body = self._body()
        if self.path == CONTROL:
            self._control(body)
            return
        asked = (self.command, self.path, self.headers.get("Range", ""))
        fate = self.network.fate(asked, len(body))
        time.sleep(self.network.behaviour.delay)
        if text := self.network.behaviour.unknown:
            error = {"error": {"code": 401, "message": text}}
            self._send(401, {"Content-Type": "application/json"}, json.dumps(error).encode())
        elif self.network.behaviour.read_only and self.command in CHANGES:
            error = {"error": {"code": 403, "message": "no right to create objects"}}
            self._send(403, {"Content-Type": "application/json"}, json.dumps(error).encode())
        elif fate in ("unavailable", "too_many"):
            status, text = {"unavailable": (503, "unavailable"), "too_many": (429, "slow down")}[
                fate
            ]
            error = {"error": {"code": status, "message": text, "errors": [{"reason": text}]}}
            self._send(status, {"Content-Type": "application/json"}, json.dumps(error).encode())
        elif fate == "reset before":
            self._reset()
        elif fate == "silent":
            self.close_connection = True
            while self.rfile.read1(BLOCK):  # until the other side has had enough
                pass
        else:
            self._pass_on(body, fate)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

    def _control(self, body: bytes) -> None:
        if self.command == "PUT":
            self.network.begin(Behaviour(**json.loads(body)))
        with self.network.lock:
            counts = json.dumps(self.network.counts).encode()
        self._send(200, {"Content-Type": "application/json"}, counts)

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while length := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return body

    def _pass_on(self, body: bytes, fate: str) -> None:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in (*HOP, "expect")}
        answer = self._ask(headers, body)
        if fate == "reset after":
            self._reset()
            return
        kept = {k: v for k, v in answer.getheaders() if k.lower() not in HOP}
        length = answer.getheader("Content-Length")
        if length is None or self.command == "HEAD":
            content = answer.read()
            self._send(answer.status, kept, content, length, fate == "cut")
            return
        left = int(length)
        if fate == "cut":
            left //= 2
        self._head(answer.status, kept, length)
        while left and (block := answer.read(min(BLOCK, left))):
            self._write(block)
            left -= len(block)
        if fate == "cut":
            self._upstream = None
            self._end()

    def _ask(self, headers: dict, body: bytes) -> http.client.HTTPResponse:
        for attempt in (1, 2):  # the server may have closed a connection that nobody used
            if not self._upstream:
                self._upstream = http.client.HTTPConnection("127.0.0.1", self.server_port)
                self._upstream.connect()
                self._upstream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self._upstream.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in headers.items():
                    self._upstream.putheader(name, value)
                if body or self.command in ("POST", "PUT", "PATCH"):
                    self._upstream.putheader("Content-Length", str(len(body)))
                with contextlib.suppress(ConnectionError):  # it may answer before it has read all
                    self._upstream.endheaders(body)
                return self._upstream.getresponse()
            except (ConnectionError, http.client.HTTPException):
                self._upstream.close()
                self._upstream = None
                if attempt == 2:
                    raise
        raise AssertionError

    def _send(
        self, status: int, headers: dict, content: bytes, length: str | None = None, cut=False
    ) -> None:
        self._head(status, headers, length or str(len(content)))
        if self.command != "HEAD":
            self._write(content[: len(content) // 2] if cut else content)
        if cut:
            self._end()

    def _head(self, status: int, headers: dict, length: str) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()

    def _write(self, block: bytes) -> None:
        self.wfile.write(block)
        with self.network.lock:
            self.network.counts["bytes_down"] += len(block)

    def _end(self) -> None:
        self.close_connection = True
        self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        at_once = struct.pack("ii", 1, 0)  # closing sends RST instead of FIN
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.connection.close()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_: object) -> None:
        """Nothing: a client that goes away is a part of the play."""


if __name__ == "__main__":
    port, Handler.server_port = map(int, sys.argv[1:])
    Server(("127.0.0.1", port), Handler).serve_forever()
