"""A server on this machine that publishes files as Zenodo does, with every fault that a server can have."""

import hashlib
import io
import json
import re
import tarfile
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Publisher(ThreadingHTTPServer):
    """Gives the record at /api/records/NUMBER and its files at /files/NAME.

    files: by name; speed: bytes a second, or None; ranges, etags: whether it knows them; log: path and Range of each request
    faults: by file name, what to do in place of the next answers, in their order; see Handler.answer_badly
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], licence: str = "cc-by-4.0"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.licence = files, licence
        self.speed, self.ranges, self.etags, self.announce = None, True, True, {}
        self.faults: dict[str, list] = {}
        self.log: list[tuple[str, str | None]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.api = f"{self.address}/api"

    def requests_for_files(self) -> list[tuple[str, str | None]]:
        return [entry for entry in self.log if entry[0].startswith("/files/")]

    def record(self) -> dict:
        """As Zenodo's API describes it. announce: entries of a file that are to be given in place of the true ones."""
        return {"metadata": {"license": {"id": self.licence}}, "files": [
            {"key": name, "size": len(data), "checksum": f"md5:{hashlib.md5(data).hexdigest()}",
             "links": {"self": f"{self.address}/files/{name}"}} | self.announce.get(name, {})
            for name, data in self.files.items()]}

    def handle_error(self, request, client_address):
        """A client that hangs up or is killed is what tests want."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.log.append((self.path, self.headers.get("Range")))
        name = self.path.rpartition("/")[2]
        faults = self.server.faults.get(name)
        if faults:
            self.answer_badly(faults.pop(0), name)
        elif self.path.startswith("/api/records/"):
            self.send(200, json.dumps(self.server.record()).encode(), {"Content-Type": "application/json"})
        elif self.path.startswith("/files/") and name in self.server.files:
            self.give(self.server.files[name])
        else:
            self.send(404, b"no such thing")

    def give(self, data: bytes):
        """The file, or the rest of it."""
        etag = f'"md5:{hashlib.md5(data).hexdigest()}"'
        headers = {"ETag": etag} if self.server.etags else {}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if not (asked and self.server.ranges and self.headers.get("If-Range", etag) == etag):
            return self.send(200, data, headers)
        first = int(asked[1])
        if first >= len(data):
            return self.send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        return self.send(206, data[first:], headers | {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"})

    def send(self, status, body, headers=(), length=None):
        self.send_response(status)
        for key, value in {"Content-Type": "application/octet-stream", **dict(headers)}.items():
            self.send_header(key, value)
        if length != "none":
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        speed = self.server.speed
        step = len(body) if speed is None else max(1, int(speed / 50))
        for first in range(0, len(body), step or 1):
            self.wfile.write(body[first:first + step])
            if speed is not None:
                time.sleep(step / speed)

    def answer_badly(self, fault, name: str):
        """fault: a status; ("break", n): hang up after n bytes; ("stop", n): say nothing more after n bytes; ("part", n): bytes
        from n on; ("redirect", url); ("retry", status, value): with Retry-After; ("send", headers, body, announced length)."""
        kind, *rest = fault if isinstance(fault, tuple) else ("status", fault)
        data = self.server.files.get(name, b"")
        self.close_connection = True
        if kind == "status":
            self.send(rest[0], b"no")
        elif kind in ("break", "stop"):
            self.send(200, data[:rest[0]], {"ETag": f'"md5:{hashlib.md5(data).hexdigest()}"'}, length=len(data))
            self.wfile.flush()
            if kind == "stop":
                time.sleep(3)
        elif kind == "redirect":
            # Said, as HTTP/1.1 wants it: a client that asks again by this connection just as it closes sees it broken off.
            self.send(302, b"", {"Location": rest[0], "Connection": "close"})
        elif kind == "retry":
            self.send(rest[0], b"", {"Retry-After": rest[1]})
        elif kind == "part":                                # as a server that does not know If-Range
            etag = f'"md5:{hashlib.md5(data).hexdigest()}"'
            self.send(206, data[rest[0]:], {"ETag": etag, "Content-Range": f"bytes {rest[0]}-{len(data) - 1}/{len(data)}"})
        elif kind == "send":
            self.send(200, rest[1], rest[0], length=rest[2])

    def log_message(self, *args):
        pass


@contextmanager
def publisher(files: dict[str, bytes], **options):
    """The server, running."""
    with Publisher(files, **options) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def zipped(files: dict[str, bytes]) -> bytes:
    """A .zip, stored; its names may be any."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def tarred(files: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    """A .tar.gz; a TarInfo in place of bytes is added as it is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Hub(ThreadingHTTPServer):
    """Gives the files of `root / owner / model` at /owner/model/resolve/main/FILE, as the Hugging Face hub does.

    fetched: OWNER/MODEL/FILE of each file that was asked for, in order.
    """

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.root, self.fetched, self.address = root, [], f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        repo, _, name = re.sub("/resolve/[^/]+/", "/resolve/main/", self.path).lstrip("/").partition("/resolve/main/")
        path = self.server.root / repo / name
        if self.command == "GET" and name:
            self.server.fetched.append(f"{repo}/{name}")
        body = path.read_bytes() if path.is_file() else b""
        if path.is_file():
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if path.parent.is_dir() else "RepoNotFound")
        self.send_header("X-Repo-Commit", "c0ffee" * 6 + "abcd")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@contextmanager
def hub(root: Path):
    """The hub, running."""
    with Hub(root) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
