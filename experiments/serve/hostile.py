"""Does the server bear hostile requests? A real `avsr serve` gets them, 500 of 29 kinds; after each kind a good one must work.

    uv run python experiments/serve/hostile.py
Prints a line for each kind: how many, the statuses, seconds. Fails where an answer is not of the error shape, the log has a
traceback, a file is left in the temporary folder, or descriptors or memory have grown.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

HELLO = Path(__file__).resolve().parents[2] / "data" / "demo" / "hello.mp4"
PATH = "/v1/audio/transcriptions"
POLITE = {400, 401, 403, 404, 405, 408, 413, 421, 422, 429, 431, 503}
GONE = "closed"
NAMES = ["../../etc/passwd", "<b>x</b>.mp4", "a\x01b", "CON", "é" * 100]
FOREIGN = [{"Host": "evil.example"}, {"Origin": "http://evil.example"}]


class Attacker:
    """Sends what nobody should, and gives the status of the answer, or GONE where there is none."""

    def __init__(self, port: int):
        self.port, self.address = port, f"http://127.0.0.1:{port}"
        self.client = httpx.Client(timeout=30)

    def post(self, *, path: str = PATH, **request) -> int | str:
        """A whole request. Its answer must be of OpenAI's error shape."""
        answer = self.client.post(self.address + path, **request)
        if answer.status_code != 200:
            assert set(json.loads(answer.text)["error"]) == {"message", "type", "param", "code"}, answer.text[:200]
            assert answer.status_code in POLITE, (answer.status_code, answer.text[:200])
        return answer.status_code

    def form(self, name: str = "a.mp4", content: bytes = b"x", **fields) -> int | str:
        """A form with a file."""
        return self.post(files={"file": (name, content)}, data=fields)

    def raw(self, *parts: bytes, wait_s: float = 8.0, end: bool = False) -> int | str:
        """Bytes as they are."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.settimeout(wait_s)
            try:
                for part in parts:
                    connection.sendall(part)
                if end:
                    return GONE
                answer = connection.recv(4096)
            except OSError:
                return GONE
        return int(answer.split()[1]) if answer.startswith(b"HTTP/") else GONE

    def head(self, *lines: str) -> bytes:
        """The beginning of an upload."""
        return "\r\n".join([f"POST {PATH} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *lines, "", ""]).encode()

    def socket(self, *messages: str | bytes) -> int | str:
        """A WebSocket with these messages."""
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        try:
            with connect(f"ws://127.0.0.1:{self.port}/v1/live", open_timeout=10, close_timeout=2) as live:
                for message in messages:
                    live.send(message)
                answer = live.recv(timeout=10)
        except (WebSocketException, OSError, TimeoutError):
            return GONE
        return str(json.loads(answer).get("type"))


def kinds(attacker: Attacker) -> dict[str, tuple[int, Callable[[int], int | str]]]:
    """What is sent, how often, and by what; the argument is the number of the request."""
    form, post, raw, head = attacker.form, attacker.post, attacker.raw, attacker.head
    multipart = "Content-Type: multipart/form-data; boundary=b"
    conversations = [("{",), ("x" * 3_000_000,), (b"\0\1\2",), ('{"type": "start", "media": "pcm"}', b"\7garbage"),
                     ('{"type": "start", "media": "webm"}', os.urandom(5000), '{"type": "end"}')]
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n"
    return {
        "no form at all": (20, lambda i: post(content=b"")),
        "JSON in place of a form": (20, lambda i: post(json={"file": "x" * i})),
        "a form without a file": (20, lambda i: post(data={"model": "default"})),
        "a text in place of the file": (10, lambda i: post(data={"file": "x"})),
        "two files": (20, lambda i: post(files=[("file", ("a", b"x")), ("file", ("b", b"y"))])),
        "many files": (10, lambda i: post(files=[(f"f{n}", ("a", b"x")) for n in range(50)])),
        "an empty file": (20, lambda i: form(content=b"")),
        "random bytes": (30, lambda i: form(content=os.urandom(1000 + 1000 * i))),
        "HTML": (10, lambda i: form(content=b"<!doctype html><script>alert(1)</script>")),
        "a ZIP file": (10, lambda i: form(content=b"PK\3\4" + os.urandom(500))),
        "a playlist of local files": (10, lambda i: form("a.m3u8", playlist)),
        "an FFmpeg script": (10, lambda i: form("a.ffconcat", b"ffconcat version 1.0\nfile /etc/passwd\n")),
        "a recording that is cut off": (20, lambda i: form(content=HELLO.read_bytes()[:500 * (i + 1)])),
        "a recording with damage": (20, lambda i: form(content=damaged(i), response_format="text")),
        "paths and markup as names": (30, lambda i: form(NAMES[i % 5])),
        "huge fields": (10, lambda i: form(prompt="x" * 200_000)),
        "thousands of fields": (10, lambda i: post(files={"file": ("a", b"x")}, data={f"f{n}": "1" for n in range(2000)})),
        "numbers that are none": (20, lambda i: form(temperature=["nan", "inf", "-1", "1e999", "x"][i % 5])),
        "formats and ways that do not exist": (20, lambda i: form(response_format="xml", modality="q")),
        "languages and prompts": (20, lambda i: form(content=HELLO.read_bytes(), language="xx", prompt="<|endoftext|>")),
        "larger than allowed": (10, lambda i: form(content=b"\0" * 1_500_000)),
        "half uploads": (30, lambda i: raw(head(multipart, "Content-Length: 100000"), b"--b\r\n" * i, end=True)),
        "false lengths": (20, lambda i: raw(head(multipart, f"Content-Length: {['-1', 'x', '9' * 30, '0'][i % 4]}"), b"x")),
        "endless chunks": (10, lambda i: raw(head(multipart, "Transfer-Encoding: chunked"),
                                             *[b"10000\r\n" + b"\0" * 65536 + b"\r\n"] * 40)),
        "slow bodies": (5, lambda i: raw(head(multipart, "Content-Length: 1000"), b"--b\r\n")),
        "slow and huge headers": (10, lambda i: raw(b"POST / HT" if i % 2 else head("X: " + "x" * 100_000))),
        "paths, methods, garbage": (30, lambda i: raw([b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                                       b"DELETE /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                                       b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n"][i % 4])),
        "foreign names and pages": (20, lambda i: post(headers=FOREIGN[i % 2])),
        "WebSockets": (25, lambda i: attacker.socket(*conversations[i % 5])),
    }


def damaged(seed: int) -> bytes:
    """The demo clip with some bytes changed."""
    content = bytearray(HELLO.read_bytes())
    for place in range(1000 + seed, len(content), 4001):
        content[place] ^= 0xFF
    return bytes(content)


def state(process: subprocess.Popen) -> tuple[int, float]:
    """Open descriptors, and memory in MB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir())), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "avsr", "serve", "--port", str(port), "--max-megabytes", "1", "--slow", "2",
               "--requests-a-minute", "100000"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log, subprocess.Popen(
            command, stderr=log, stdout=log, env={**os.environ, "TMPDIR": folder}) as process:
        attacker = Attacker(port)
        while True:
            try:
                if httpx.get(f"{attacker.address}/health").json()["status"] == "ok":
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        good = {"name": "hello.mp4", "content": HELLO.read_bytes()}
        for _ in range(10):                                  # what libraries load at first is no leak
            assert attacker.form(**good) == 200
        before, n_sent = state(process), 0
        print("| kind | requests | statuses | s |\n|---|--:|---|--:|")
        for name, (number, send) in kinds(attacker).items():
            began = time.monotonic()
            found = Counter(send(i) for i in range(number))
            n_sent += number
            shown = ", ".join(f"{status} x {count}" for status, count in found.items())
            print(f"| {name} | {number} | {shown} | {time.monotonic() - began:.1f} |", flush=True)
            assert attacker.form(**good) == 200, name
        time.sleep(3)
        after, said = state(process), attacker.client.get(f"{attacker.address}/health").json()
        left = list(Path(folder).iterdir())
        process.terminate()
        process.wait(20)
        log.seek(0)
        text = log.read()
    print(f"\n{n_sent} requests; descriptors {before[0]} -> {after[0]}, memory {before[1]:.0f} -> {after[1]:.0f} MB; "
          f"requests that hold a place: {said['requests']}; files left: {len(left)}; "
          f"tracebacks in the log: {text.count('Traceback')}")
    if "Traceback" in text:
        print(text[text.index("Traceback"):][:6000])
    assert not left
    assert "Traceback" not in text
    assert said["requests"] == 0
    assert after[0] <= before[0] + 5
    assert after[1] <= before[1] + 150


if __name__ == "__main__":
    main()
