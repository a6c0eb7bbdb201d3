"""Jobs on a real Ray cluster: the bytes of one machine, whatever dies, and one sentence for a cluster that cannot be used."""

import socket
import sys
import time
from importlib.util import find_spec

import pytest
from made_cluster import ray_cluster as made_ray_cluster
from test_prepare import SMALL, contents, fake_work, made_up

from avsr import __version__, prepare, workers
from avsr.errors import AvsrError
from avsr.manifest import Dropped, Utterance
from avsr.prepare import PrepareSettings
from avsr.workers import address, ray_cluster


def skip_without_ray():
    """Not importorskip: what keeps Ray quiet must be set before it is imported."""
    if find_spec("ray") is None:
        pytest.skip("the package ray is not installed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    skip_without_ray()
    with made_ray_cluster(TEST_PREPARE_FLAGS=str(tmp_path_factory.mktemp("flags"))) as made:
        yield made


def square(job, tick):
    """Work that takes a while; of 13 there is a mistake, of 14 something that the user can put right."""
    time.sleep(0.4)
    tick(f"part of {job}")
    if job == 13:
        raise ZeroDivisionError("ours")
    if job == 14:
        raise AvsrError("model: it is not there.  Copy it.")
    return job * job


def here(task, jobs, n_workers, **_):
    """In place of workers.run: in this process, but for jobs that kill it."""
    for number, job in enumerate(jobs):
        yield number, None if job.utterances[0].id.endswith("kill") else task(job, lambda: None)


@pytest.mark.slow
def test_on_a_cluster_the_bytes_are_those_of_one_machine_whatever_dies(cluster, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(prepare, "work", fake_work)
    unlucky = [Utterance("u020kill", "/nowhere/a.mp4", "text"), Utterance("u021once", "/nowhere/b.mp4", "text")]
    utterances = [*made_up(20), *unlucky, *made_up(26)[22:]]
    settings = PrepareSettings(workers=2, max_bytes=SMALL, cluster=f"ray:{cluster.address}")
    there = prepare.prepare(utterances, tmp_path / "there", settings=settings)
    assert there.dropped[-1] == Dropped("u020kill", "worker died")
    assert "u021once" in {row.id for row in there.utterances}
    assert capfd.readouterr() == ("", ""), "Ray says nothing of its own"
    monkeypatch.setattr(prepare.workers, "run", here)
    monkeypatch.setenv("TEST_PREPARE_FLAGS", str(tmp_path))
    (tmp_path / "u021once").touch()
    prepare.prepare(utterances, tmp_path / "here", settings=PrepareSettings(max_bytes=SMALL))
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.slow
def test_what_goes_wrong_on_a_cluster_is_told_as_on_one_machine(cluster, monkeypatch):
    there = f"ray:{cluster.address}"
    with pytest.raises(RuntimeError, match="ZeroDivisionError: ours"):
        list(workers.run(square, [13], cluster=there))
    with pytest.raises(AvsrError, match=r"^model: it is not there\.  Copy it\.$"):
        list(workers.run(square, [14], cluster=there))
    monkeypatch.setattr(ray_cluster, "__version__", "9.9")
    with pytest.raises(AvsrError, match=rf"--cluster {there}: avsr {__version__} on \S+, and 9\.9 here\.  Install the same"):
        list(workers.run(square, [1], cluster=there))


@pytest.mark.slow
def test_a_machine_that_leaves_costs_what_was_in_hand(cluster):
    """It is the last of these tests, as the machine does not come back."""
    parts, results = [], {}
    for number, result in workers.run(square, list(range(12)), cluster=f"ray:{cluster.address}",
                                      on_part=lambda number, part: parts.append(part)):
        results[number] = result
        if len(results) == 3:
            cluster.leave()
    assert results == {number: number**2 for number in range(12)}
    assert set(parts) == {f"part of {number}" for number in range(12)}


@pytest.mark.parametrize(("written", "meant"), [("ray", None), ("ray:auto", "auto"), ("ray:head:6379", "head:6379"),
                                                ("ray://head:10001", "ray://head:10001")])
def test_addresses_of_clusters(written, meant):
    assert address.parse(written) == meant


@pytest.mark.parametrize("written", ["", "dask", "ray:", "ray:head", "ray://", "ray://head", "ray:head:port", "ray:/head:1"])
def test_what_is_no_address_is_told(written):
    with pytest.raises(AvsrError, match=rf"--cluster {written}: not an address of a cluster\.  Write ray for a local one"):
        address.parse(written)


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    with socket.socket() as nobody:                          # a port at which nobody listens
        nobody.bind(("127.0.0.1", 0))
        there = f"ray:127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(AvsrError, match=rf"^--cluster {there}: no connection to 127\.0\.0\.1 at port \d+ \(.*refused\)\.  "
                                            r"Start the cluster there"):
            prepare.prepare(made_up(2), tmp_path, settings=PrepareSettings(cluster=there))
    monkeypatch.setitem(sys.modules, "ray", None)            # as if it were not installed
    with pytest.raises(AvsrError, match=r"the package ray is not installed\.  Install it with: pip install 'avsr\[ray\]'\.$"):
        prepare.prepare(made_up(2), tmp_path, settings=PrepareSettings(cluster="ray"))


@pytest.mark.slow
def test_a_server_that_is_no_cluster_is_given_up_after_a_while(forked):
    skip_without_ray()
    code = ("import sys, avsr.workers.ray_cluster as r; r.CONNECT_S = 2.0\n"
            "try:\n    list(r.run(abs, [1], None, sys.argv[1], gpu=False, hold=bool, on_part=print))\n"
            "except Exception as error:\n    print(error)\n    import os; sys.stdout.flush(); os._exit(0)")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        there = f"ray:127.0.0.1:{silent.getsockname()[1]}"
        done = forked.python(code, there)
    assert done.stdout.startswith(f"--cluster {there}: it did not take us in within 2 s.  Check that Ray runs at that address")
    assert done.stderr == ""


def test_the_address_of_a_local_ray_that_was_killed_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_cluster._running_here() is None
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        there = f"127.0.0.1:{listener.getsockname()[1]}"
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(there)
        assert ray_cluster._running_here() is None
        listener.listen()
        assert ray_cluster._running_here() == there
