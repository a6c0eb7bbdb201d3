"""The downloader against a server on this machine: broken, slow, lying and changed; whole files only, and nothing twice."""

import hashlib
import os
import socket
import ssl
import subprocess
import threading
import urllib.request
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from made_server import publisher

from avsr import download as downloads
from avsr.download import Remote, download, http, read
from avsr.errors import BadDownload

CONTENT = os.urandom(1 << 10) * 600                         # 614,400 bytes
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SIZE = len(CONTENT)


@pytest.fixture
def server(monkeypatch):
    """Publishes thing.bin; nobody waits between tries."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(http, "PAUSES_SECONDS", (0, 0, 0))
    with publisher({"thing.bin": CONTENT}) as server:
        yield server


def remote(server, **changes) -> Remote:
    return Remote(**{"name": "thing.bin", "url": f"{server.address}/files/thing.bin", "size": SIZE, "checksum": MD5} | changes)


def ranges(server) -> list[str | None]:
    return [asked for _, asked in server.log]


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails(thing, folder, match: str) -> BadDownload:
    with pytest.raises(BadDownload, match=match) as caught:
        download(thing, folder / "thing.bin")
    assert "thing.bin" not in names(folder)
    assert str(caught.value).count(".  ") >= 1              # a sentence, then a remedy
    return caught.value


def test_a_file_arrives_and_nothing_else_stays(server, tmp_path):
    calls = []
    path = download(remote(server), tmp_path / "new" / "thing.bin", progress=lambda *call: calls.append(call))
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["thing.bin"]
    done = [call[1] for call in calls if call[0] == "downloading thing.bin"]
    assert done == sorted(done)
    assert (done[-1], calls[-1][:3]) == (SIZE, ("checking thing.bin", SIZE, SIZE))


@pytest.mark.parametrize("published", [{}, {"size": None}, {"checksum": None}, {"size": None, "checksum": None}])
def test_a_broken_connection_costs_only_the_rest(server, tmp_path, published):
    server.faults["thing.bin"] = [("break", 200_000), ("break", 250_000)]     # the second server knows no ranges
    assert download(remote(server, **published), tmp_path / "thing.bin").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=200000-", "bytes=250000-"]


def test_the_next_call_goes_on_where_the_last_gave_up(server, tmp_path):
    server.faults["thing.bin"] = [("break", 100_000), 503, 503, 503]
    error = fails(remote(server), tmp_path, r"the server answers 503 .*, 4 times\.  Check the network\.  Run again; it goes on")
    assert error.network
    assert names(tmp_path) == [".thing.bin.part", ".thing.bin.part.json"]
    server.log.clear()
    assert download(remote(server), tmp_path / "thing.bin").read_bytes() == CONTENT
    assert ranges(server) == ["bytes=100000-"]
    assert names(tmp_path) == ["thing.bin"]


def test_tries_are_bounded_but_not_those_that_bring_something(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "ADVANCE_BYTES", 50_000)
    server.ranges = False                                   # so each try begins anew, and only what is further counts
    server.faults["thing.bin"] = [("break", 60_000 * (i + 1)) for i in range(8)]
    assert download(remote(server), tmp_path / "thing.bin").read_bytes() == CONTENT
    assert len(server.log) == 9
    (tmp_path / "thing.bin").unlink()
    server.log.clear()
    server.faults["thing.bin"] = [("break", 60_000)] * 100
    fails(remote(server), tmp_path, r"the connection ended after 60000 of 614400 bytes, 4 times")
    assert len(server.log) <= 6


def test_a_server_that_stops(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(http, "PAUSES_SECONDS", ())
    server.faults["thing.bin"] = [("stop", 70_000)]
    fails(remote(server), tmp_path, r"the connection broke after 70000 of 614400 bytes \(nothing came for 0\.3 s\)")
    assert download(remote(server), tmp_path / "thing.bin").read_bytes() == CONTENT


def test_a_changed_file_is_not_glued_to_the_old_one(server, tmp_path):
    old = remote(server, size=None, checksum=None)
    server.faults["thing.bin"] = [("break", 100_000), 404]
    fails(old, tmp_path, "the server answers 404")
    server.files["thing.bin"] = CONTENT[::-1]
    assert download(old, tmp_path / "thing.bin").read_bytes() == CONTENT[::-1]       # by If-Range


def test_a_changed_file_is_noticed_though_the_server_knows_no_if_range(server, tmp_path):
    old = remote(server, size=None, checksum=None)
    server.faults["thing.bin"] = [("break", 100_000), 404]
    fails(old, tmp_path, "the server answers 404")
    server.files["thing.bin"] = CONTENT[::-1]
    server.faults["thing.bin"] = [("part", 100_000)]
    assert download(old, tmp_path / "thing.bin").read_bytes() == CONTENT[::-1]


def test_without_any_sign_that_it_is_the_same_file_it_begins_anew(server, tmp_path):
    old = remote(server, size=None, checksum=None)
    server.etags = False
    server.faults["thing.bin"] = [("send", {}, CONTENT[:100_000], SIZE), 404]
    fails(old, tmp_path, "the server answers 404")
    server.log.clear()
    assert download(old, tmp_path / "thing.bin").read_bytes() == CONTENT
    assert ranges(server) == [None]


def test_another_file_published_under_the_name_since_begins_anew(server, tmp_path):
    server.faults["thing.bin"] = [("break", 100_000), 404]
    fails(remote(server), tmp_path, "404")
    server.files["thing.bin"] = new = CONTENT[::-1]
    server.log.clear()
    path = download(remote(server, checksum=f"md5:{hashlib.md5(new).hexdigest()}"), tmp_path / "thing.bin")
    assert path.read_bytes() == new
    assert ranges(server) == [None]


def test_a_wrong_byte_is_found_and_nothing_kept(server, tmp_path):
    server.files["thing.bin"] = CONTENT[:300_000] + bytes([CONTENT[300_000] ^ 1]) + CONTENT[300_001:]
    fails(remote(server), tmp_path, rf"sends another file \(614400 bytes, md5 begins \w{{12}}, wanted {MD5[4:16]}\)\.  It was")
    assert names(tmp_path) == []


def test_what_was_kept_and_is_spoilt_is_fetched_once_more(server, tmp_path):
    server.faults["thing.bin"] = [("break", 100_000), 404]
    fails(remote(server), tmp_path, "404")
    with (tmp_path / ".thing.bin.part").open("r+b") as file:
        file.write(b"power cut")
    server.log.clear()
    assert download(remote(server), tmp_path / "thing.bin").read_bytes() == CONTENT
    assert ranges(server) == ["bytes=100000-", None]


def test_a_server_that_has_less_than_was_kept(server, tmp_path):
    thing = remote(server, size=None, checksum=None)
    server.faults["thing.bin"] = [("break", 100_000), 404]
    fails(thing, tmp_path, "404")
    server.etags = False
    server.files["thing.bin"] = CONTENT[:50_000]
    server.faults["thing.bin"] = [416]
    assert download(thing, tmp_path / "thing.bin").read_bytes() == CONTENT[:50_000]


@pytest.mark.parametrize(("fault", "problem"), [
    (("send", {}, CONTENT + b"x", None), "the server announces 614401 bytes, wanted 614400"),
    (("send", {}, CONTENT[:-1], None), "the server announces 614399 bytes, wanted 614400"),
    (("send", {}, CONTENT * 3, "none"), "the server sends more than 614400 bytes"),
    (("send", {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>", None), r"a web page \(HTML\) in place of"),
    (("redirect", "/files/thing.bin"), "redirects in circles, or to nowhere"),
    (("redirect", "ftp://example.org/thing.bin"), "redirects to ftp://example.org/thing.bin, which is not encrypted"),
    (("retry", 429, "3600"), "429 Too Many Requests and asks to wait 3600 s.  Run again after that time"),
    (404, "the server answers 404 Not Found"), (403, "the server answers 403 Forbidden"),
])
def test_answers_that_no_further_try_would_mend(server, tmp_path, fault, problem):
    server.faults["thing.bin"] = [fault] * (20 if fault[0] == "redirect" else 1) if isinstance(fault, tuple) else [fault]
    fails(remote(server), tmp_path, problem)
    assert len(server.log) == 1 or fault[0] == "redirect"


def test_a_server_that_asks_to_wait_is_waited_for(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    in_a_minute = formatdate(http.time.time() + 60, usegmt=True)
    server.faults["thing.bin"] = [("retry", 429, "7"), ("retry", 503, in_a_minute), ("retry", 503, "soon")]
    download(remote(server), tmp_path / "thing.bin")
    assert waits[0] == 7
    assert 50 < waits[1] <= 60
    assert waits[2] == 0                                    # not understood: our own pause


def test_redirects_to_another_host_are_followed_with_the_range(server, tmp_path):
    with publisher({"thing.bin": CONTENT}) as other:
        there = ("redirect", f"http://localhost:{other.server_port}/files/thing.bin")
        server.faults["thing.bin"] = [("break", 100_000), there]
        assert download(remote(server), tmp_path / "thing.bin").read_bytes() == CONTENT
        assert ranges(other) == ["bytes=100000-"]


def test_from_an_encrypted_connection_to_one_that_is_not_it_does_not_go(tmp_path, monkeypatch, server):
    """A real TLS server, whose certificate openssl has just made."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    try:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
                        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], check=True,
                       capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl that can make a certificate")

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(301)
            self.send_header("Location", f"{server.address}/files/thing.bin")
            self.end_headers()

        def log_message(self, *args):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("127.0.0.1", 0), Redirect) as encrypted:
        encrypted.socket = context.wrap_socket(encrypted.socket, server_side=True)
        threading.Thread(target=encrypted.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        http._certificates.cache_clear()
        thing = remote(server, url=f"https://localhost:{encrypted.server_port}/thing")
        fails(thing, tmp_path, rf"redirects to {server.address}/files/thing.bin, which is not encrypted")
        monkeypatch.delenv("SSL_CERT_FILE")
        http._certificates.cache_clear()
        fails(thing, tmp_path, r"no connection \(.*certificate")
        encrypted.shutdown()
    assert server.log == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/thing.bin", "https://no-such-host.invalid/thing.bin"])
def test_no_network_is_said_at_once(url, tmp_path, monkeypatch):
    monkeypatch.setattr(http.time, "sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(BadDownload, match=r"thing\.bin: could not be fetched from .*: no connection \(.*\)\.  Check"):
        download(Remote("thing.bin", url, SIZE, MD5), tmp_path / "thing.bin")


@pytest.mark.parametrize(("url", "problem"), [
    ("file:///etc/hostname", "neither http nor https"), ("http://[::1", "is no address"), ("http://a b/", "is no address")])
def test_addresses_that_are_none(url, problem, tmp_path):
    with pytest.raises(BadDownload, match=problem):
        download(Remote("thing.bin", url), tmp_path / "thing.bin")


def test_a_proxy_that_hangs_up_without_an_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(http, "PAUSES_SECONDS", (0,))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def hang_up():
            for _ in range(2):
                listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/thing.bin"
        with pytest.raises(BadDownload, match=r"no answer \(.*\), 2 times|reset by peer.*, 2 times"):
            download(Remote("thing.bin", url), tmp_path / "thing.bin")


def test_two_at_once_fetch_it_once(server, tmp_path):
    server.speed = 2_000_000
    results, calls = [], []

    def get():
        results.append(download(remote(server), tmp_path / "thing.bin", progress=lambda *call: calls.append(call)))

    threads = [threading.Thread(target=get) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in results] == [CONTENT] * 2
    assert len(server.log) == 1
    assert names(tmp_path) == ["thing.bin"]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_disk(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        download(remote(server), tmp_path / "file" / "in" / "thing.bin")
    assert downloads.free_bytes(tmp_path / "not" / "there" / "yet") > 0


def test_answers_are_read_whole_or_not_at_all(server):
    server.faults["thing.bin"] = [("break", 1000)]
    assert read(f"{server.address}/files/thing.bin", "thing") == CONTENT
    with pytest.raises(BadDownload, match="the answer is longer than 1000 bytes"):
        read(f"{server.address}/files/thing.bin", "thing", limit=1000)


def test_servers_are_told_who_asks(server):
    seen = []
    server.RequestHandlerClass.log_message = lambda self, *args: seen.append(self.headers["User-Agent"])
    try:
        read(f"{server.api}/records/1", "record")
    finally:
        server.RequestHandlerClass.log_message = lambda self, *args: None
    assert seen[0].startswith("avsr/")
    assert not urllib.request.Request("http://a").has_header("User-agent")
