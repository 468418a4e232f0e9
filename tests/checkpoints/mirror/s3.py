"""A server that speaks S3 (moto's, in a process of its own), behind a proxy that answers wrongly when it is told to."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.ports import free_port

Fault = Callable[[str, str], str | None]
"""From method and path of a request to the fault that it meets: 500, hang, torn, etag, stale; None for none."""

HANG_SECONDS = 3.0


@dataclass
class Proxy:
    """Between the driver and the server.

    Attributes:
        port: Where it listens.
        fault: What goes wrong now.
        requests: (method, path) of all so far.
        met: Faults that were met.
    """

    port: int
    fault: Fault | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    met: list[str] = field(default_factory=list)

    def once(self, kind: str, method: str, part: str, times: int = 1) -> None:
        """So many requests of a method whose path has a part meet a fault."""
        left = [times]

        def fault(found: str, path: str) -> str | None:
            if found != method or part not in path or not left[0]:
                return None
            left[0] -= 1
            return kind

        self.fault = fault


@contextlib.contextmanager
def server() -> Iterator[Proxy]:
    """Within, there is an empty store behind a proxy."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        with _proxy(port) as proxy:
            yield proxy
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _proxy(target: int) -> Iterator[Proxy]:
    proxy = Proxy(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            method, path = self.command, self.path
            proxy.requests.append((method, path))
            body = self._body()
            kind = proxy.fault(method, path) if proxy.fault is not None else None
            if kind is not None:
                proxy.met.append(kind)
            if kind == "500":
                self._answer(500, [], b"<Error><Code>InternalError</Code></Error>")
                return
            if kind == "hang":
                time.sleep(HANG_SECONDS)
                self.close_connection = True
                return
            if kind == "torn":
                body = body[: len(body) // 2]

            status, headers, content = _asked(target, method, path, dict(self.headers.items()), body)
            if kind == "etag":
                headers = [(name, '"0000"' if name.lower() == "etag" else value) for name, value in headers]
            if kind == "stale":
                content = _EMPTY_LISTING
            self._answer(status, headers, content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    proxy.port = listener.server_address[1]
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        listener.server_close()


_EMPTY_LISTING = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<Name>bucket</Name><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
    b"</ListBucketResult>"
)


def _asked(
    port: int, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    # What the sender says of the body is checked by a real store; a torn one must look whole.
    skipped = ("content-length", "content-md5", "transfer-encoding", "connection", "expect")
    kept = {name: value for name, value in headers.items() if name.lower() not in skipped}
    kept = {name: value for name, value in kept.items() if not name.lower().startswith("x-amz-checksum")}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body=body, headers={**kept, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "moto's server has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError("moto's server does not answer")
