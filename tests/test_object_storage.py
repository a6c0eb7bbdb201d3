"""Object storage: a real S3 server behind a proxy that fails, the bytes of a disk, and one sentence for what is wrong."""

import os
import shutil
import signal
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_storage import FailingProxy, environment, make_bucket, s3_server
from test_prepare import SMALL, TESTS, contents, fake_work, made_up

from avsr import cache, manifest, media, prepare, remote
from avsr.cache import read_mouth_crop
from avsr.config import Config
from avsr.dataset import read_prepared, sound_of
from avsr.errors import BadManifest, BadMedia, BadOutput
from avsr.lips import MouthCropSettings
from avsr.manifest import Utterance
from avsr.prepare import PrepareSettings
from avsr.prepare.storage import Storage

N = 30                                # utterances: three shards
MEDIA = "s3://raw/clips"              # of the made-up recordings, which nobody reads: the same in a manifest here and there
SETTINGS = PrepareSettings(workers=1, max_bytes=SMALL)


def work_here(task, jobs, n_workers, **_):
    """In place of workers.run: in this process, which is quicker than to start others."""
    for number, job in enumerate(jobs):
        yield number, task(job, lambda: None)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(server, tmp_path, monkeypatch):
    """A proxy to an S3 server with a bucket of its own, called by the name of the test's folder; its name is `bucket`."""
    import s3fs

    proxy = FailingProxy(server)
    proxy.bucket = tmp_path.name.replace("_", "-").lower()[:60]
    make_bucket(server, proxy.bucket)
    for name, value in environment(proxy.address).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(prepare, "work", fake_work)
    monkeypatch.setattr(prepare.workers, "run", work_here)
    s3fs.S3FileSystem.clear_instance_cache()
    yield proxy
    proxy.shutdown()
    proxy.server_close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory) -> dict[str, bytes]:
    """What a run into a folder leaves."""
    folder = tmp_path_factory.mktemp("disk") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "work", fake_work)
        patch.setattr(prepare.workers, "run", work_here)
        prepare.prepare(made_up(N, MEDIA), folder, settings=SETTINGS)
    return contents(folder)


def stored(address: str) -> dict[str, bytes]:
    """All that counts of a prepared address."""
    return {name: remote.read_bytes(f"{address}/{name}") for name in remote.object_sizes(address)
            if not name.startswith("journal-")}


def run_into(address: str, wait_s: float) -> None:
    """For a process that is to be killed: prepare slowly."""
    prepare.work, prepare.workers.run = fake_work, work_here
    before = Storage.store

    def store(self, name):
        time.sleep(wait_s)
        before(self, name)

    Storage.store = store
    prepare.prepare(made_up(N, MEDIA), address, settings=SETTINGS)


@pytest.mark.slow
def test_a_store_that_fails_twenty_times_has_the_bytes_of_a_disk(s3, on_disk):
    s3.failing = set(range(2, 42, 2))
    address, before = f"s3://{s3.bucket}/prepared", remote.n_retries()
    lines = []
    prepared = prepare.prepare(made_up(N, MEDIA), address, settings=SETTINGS, dashboard=lines.append)
    assert len(s3.failed) == 20
    assert remote.n_retries() - before >= 10                 # of a cut answer without content nothing is missing
    assert stored(address) == on_disk
    assert remote.shown(prepared.manifest) == f"{address}/manifest.jsonl"
    assert f"{address}/manifest.jsonl: 27 utterances" in prepared.summary()
    assert lines[-1].startswith("30 of 30 utterances, 0.00 hours, ")
    assert "; dropped: 3 no face; storage: " in lines[-1]
    assert " tried again" in lines[-1]
    assert not list(Path(os.environ["TMPDIR"]).iterdir()), "the staging folder is gone"
    assert {Path(name).name for name in _below(address, "contact_sheets")} == {"s0.png", "s1.png", "s2.png"}
    again = prepare.prepare(made_up(N, MEDIA), address, settings=SETTINGS)
    assert again.n_done_before == 30
    assert stored(address) == on_disk


def _below(address: str, folder: str) -> list[str]:
    return list(remote.object_sizes(f"{address}/{folder}"))


@pytest.mark.slow
@pytest.mark.parametrize("staging", ["kept", "lost"])
def test_killed_and_resumed_here_or_elsewhere_it_leaves_the_bytes_of_a_disk(s3, on_disk, staging, forked):
    address = f"s3://{s3.bucket}/prepared"
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r}); import test_object_storage as t; t.run_into({address!r}, 0.3)"
    process = forked.start(["-c", code], group=True)
    try:
        while process.poll() is None and "shard-00001.tar" not in remote.object_sizes(address):
            time.sleep(0.3)
        assert process.poll() is None, process.stderr
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert all(size <= SMALL for size in remote.object_sizes(address).values()), "whole shards only"
    assert "manifest.jsonl" not in remote.object_sizes(address)
    if staging == "lost":
        shutil.rmtree(os.environ["TMPDIR"])
        os.mkdir(os.environ["TMPDIR"])
    prepared = prepare.prepare(made_up(N, MEDIA), address, settings=SETTINGS)
    assert prepared.n_done_before >= 10
    assert stored(address) == on_disk


def test_a_shard_of_which_the_journal_does_not_tell_is_made_again(s3, on_disk):
    address = f"s3://{s3.bucket}/prepared"
    prepare.prepare(made_up(N, MEDIA), address, settings=SETTINGS)
    system, path = remote.file_system_of(address)
    system.rm([f"{path}/journal-{number:05d}.jsonl" for number in (1, 2)])      # as if a crash had come before these
    system.rm(f"{path}/manifest.jsonl")
    assert prepare.prepare(made_up(N, MEDIA), address, settings=SETTINGS).n_done_before < 20
    assert stored(address) == on_disk


@pytest.mark.slow
def test_training_and_benchmark_read_what_is_stored(s3, tmp_path):
    address = f"s3://{s3.bucket}/prepared"
    prepare.prepare(made_up(12, MEDIA), address, settings=SETTINGS)
    s3.failing = {s3.n_requests + i for i in (0, 2, 4)}
    for name in (address, f"{address}/manifest.jsonl"):
        for place in (name, Path(name)):                     # a Path has lost a slash, which is given back
            rows, _ = read_prepared([manifest.manifest_path(place)], "train", 30)
            assert len(rows) > 5
            assert len(sound_of(rows[0])) == 3 * 640
    assert read_mouth_crop(rows[0].base, MouthCropSettings()) == MouthCropSettings()
    assert Config("made-up", folder=tmp_path).path(address) == Path(address)
    with pytest.raises(BadManifest, match=rf"^{address}/none\.jsonl: cannot be read \(no such file\)\.  Check the address"):
        manifest.read(f"{address}/none.jsonl")


def test_a_recording_is_read_through_connections_that_break(s3, monkeypatch):
    monkeypatch.setattr(remote, "RANGE", 20_000)
    clip = TESTS.parent / "data" / "demo" / "hello.mp4"
    remote.upload(clip, f"s3://{s3.bucket}/hello.mp4")
    s3.failing = {s3.n_requests + i for i in (0, 3, 6, 7)}
    with media.source.reopenable(f"s3://{s3.bucket}/hello.mp4") as copy:
        copy.seek(0)
        assert copy.read() == clip.read_bytes()
    assert len(s3.failed) == 4
    with pytest.raises(BadMedia, match=r"none\.mp4: this cannot be read \(no such file\)"), \
            media.source.reopenable(f"s3://{s3.bucket}/none.mp4"):
        pass


def test_a_bucket_that_is_missing_or_closed_and_a_store_that_is_gone(s3, server, monkeypatch):
    def why(address: str) -> str:
        with pytest.raises(BadOutput) as caught:
            prepare.prepare(made_up(4), address, settings=SETTINGS)
        return str(caught.value)

    assert why("s3://no-such-bucket-here/out") == (
        "s3://no-such-bucket-here/out/cache.json: there is no such bucket (The specified bucket does not exist).  Make it, or "
        "correct the address.")
    reset = urllib.request.Request(f"http://127.0.0.1:{server}/moto-api/reset-auth", data=b"0", method="POST",
                                   headers={"Content-Type": "text/plain"})
    try:
        urllib.request.urlopen(reset, timeout=60).close()    # from now on the server asks who may do what
        assert why(f"s3://{s3.bucket}/out").startswith(f"s3://{s3.bucket}/out: the storage gives no permission (")
    finally:
        reset.data = b"1000000000"
        urllib.request.urlopen(reset, timeout=60).close()
    s3.failing = set(range(10_000))
    text = why(f"s3://{s3.bucket}/out")
    assert text.startswith(f"s3://{s3.bucket}/out: the storage cannot be used (")
    assert text.endswith("Check the address and the connection, and run the same command again: what is done is kept.")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "registry", {})
    assert "a package is missing to use this storage" in why(f"s3://{s3.bucket}/out")
    assert "pip install 'avsr[storage]'" in why(f"s3://{s3.bucket}/out")


def test_what_somebody_else_stored_is_not_written_over(s3):
    remote.write_bytes(f"s3://{s3.bucket}/out/manifest.jsonl", b"")
    with pytest.raises(BadOutput, match=r"there is a manifest or a cache in it and no journal-00000\.jsonl\.  Choose an empty"):
        prepare.prepare(made_up(4), f"s3://{s3.bucket}/out", settings=SETTINGS)


def test_media_of_this_machine_are_named_whole_in_a_manifest_elsewhere(tmp_path):
    row = Utterance("u", "clips/a.mp4", "text")
    assert prepare.relative_to_manifest(row, None).media == os.path.abspath("clips/a.mp4")
    assert prepare.relative_to_manifest(row, tmp_path).media == os.path.relpath("clips/a.mp4", tmp_path)


@given(st.sampled_from(remote.SCHEMES), st.lists(st.from_regex(r"[\w-]+(\.\w+)?", fullmatch=True), min_size=1, max_size=5))
def test_an_address_survives_being_a_path(scheme, parts):
    address = f"{scheme}://{'/'.join(parts)}"
    assert remote.as_address(Path(address)) == remote.as_address(address) == address
    assert remote.as_address(Path(*parts)) is None
    assert remote.as_address(Path("/", *parts)) is None


def test_other_protocols_are_read_too():
    remote.write_bytes("memory://corpus/manifest.jsonl", b'{"id": "a", "media": "s3://raw/a.mp4", "text": "one"}\n')
    assert [row.id for row in manifest.read("memory://corpus")] == ["a"]
    with pytest.raises(BadManifest, match=r"^memory://corpus/cache\.json: no such file"):
        cache.read_mouth_crop(Path("memory://corpus"))
