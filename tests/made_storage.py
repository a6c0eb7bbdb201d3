"""A real S3 server in a process of its own, and a proxy in front of it that fails when it is told to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAILURES = (500, 503, "cut", "half")


class FailingProxy(ThreadingHTTPServer):
    """Passes requests on to `port`. Of those numbered in `failing` the first is answered 500, the next 503, for the next the
    connection is cut before the answer, for the next in its middle, and so on."""

    daemon_threads = True

    def __init__(self, port: int, failing: set[int] = frozenset()):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.failing, self.n_requests, self.failed = port, set(failing), 0, []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def failure(self) -> int | str | None:
        with self.lock:
            self.n_requests += 1
            if self.n_requests - 1 not in self.failing:
                return None
            self.failed.append(FAILURES[len(self.failed) % len(FAILURES)])
            return self.failed[-1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        failure = self.server.failure()
        if isinstance(failure, int):
            self.send_response(failure)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if failure == "cut":
            self.close_connection = True
            self.connection.close()
            return
        behind = HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        try:
            behind.request(self.command, self.path, body, dict(self.headers))
            answer = behind.getresponse()
            data = answer.read()
        finally:
            behind.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if failure == "half":
            self.wfile.write(data[:len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any

    def log_message(self, *_) -> None:
        pass


@contextmanager
def s3_server():
    """The port of moto's S3 server."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/data.json", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def environment(address: str, *, key: str = "testing", secret: str = "testing") -> dict[str, str]:
    """The variables by which a program finds the server and its credentials."""
    return {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


def make_bucket(port: int, name: str) -> None:
    """Make a bucket."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=60).close()
