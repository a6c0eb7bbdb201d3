"""Rows on disk: what a crash cut off is dropped and counted, what is broken is named, the order does not depend on history."""

import gzip
import json

import pytest

from avsr.errors import BadManifest, BadOutput
from avsr.results import NAME, Results, key, order, read_results


def row(utterance="u1", **changes):
    return {"layout": 1, "system": "grid", "sha256": "ab" * 32, "modality": "av", "search": "beam 5", "id": utterance,
            "speaker": "s1", "split": "test", "labels": {}, "reference": "a b", "hypothesis": "a", "normaliser": "avsr-2",
            "noise": None, "snr_db": None, "corruption": None, "amount": None} | changes


def write(folder, *lines, end="\n"):
    (folder / NAME).write_text("\n".join(json.dumps(line) if isinstance(line, dict) else line for line in lines) + end)


def test_what_a_crash_cut_off_is_dropped_and_counted(tmp_path):
    write(tmp_path, row("u1"), row("u2"), json.dumps(row("u3"))[:50], end="")
    rows, n_cut = read_results(tmp_path)
    assert [one["id"] for one in rows] == ["u1", "u2"]
    assert n_cut == 1
    results = Results(tmp_path)
    assert (len(results), results.n_cut) == (2, 1)
    results.add([row("u3")])
    assert [one["id"] for one in read_results(tmp_path)[0]] == ["u1", "u2", "u3"]


@pytest.mark.parametrize(("line", "message"), [
    ('{"layout": 1,', "line 2: not JSON"),
    ('"text"', "line 2: a str, not a row"),
    (row("u2", layout=2), "line 2: rows of layout 2, and this version reads 1"),
    (row("u2", hypothesis=None), "line 2: hypothesis is null"),
    (row("u2", snr_db="0"), 'line 2: snr_db is "0"'),
    ({name: value for name, value in row("u2").items() if name != "reference"}, "line 2: reference is not there"),
    (row("u1"), "line 2: u1 is there already, in line 1"),
])
def test_what_is_broken_is_named(tmp_path, line, message):
    write(tmp_path, row("u1"), line, row("u9"))
    with pytest.raises(BadManifest, match=message):
        read_results(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    write(tmp_path, row("u1"), row("u2"))
    there = read_results(tmp_path)
    (tmp_path / NAME).write_bytes(b"\xef\xbb\xbf" + (tmp_path / NAME).read_bytes().replace(b"\n", b"\r\n"))
    assert read_results(tmp_path) == there
    (tmp_path / NAME).write_bytes(b'{"id": "caf\xe9"}\n')
    with pytest.raises(BadManifest, match=r"results.jsonl: this cannot be read \(byte 11 is no UTF-8\)"):
        read_results(tmp_path)


def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path, monkeypatch):
    monkeypatch.setattr("avsr.results.MAX_UNPACKED", 2**20)
    (tmp_path / f"{NAME}.gz").write_bytes(gzip.compress(bytes(2**20 + 1)))
    with pytest.raises(BadManifest, match=r"results.jsonl.gz: holds over 1 MiB of rows\.  Unpack it"):
        read_results(tmp_path)


def test_rows_may_be_compressed(tmp_path):
    write(tmp_path, row("u1"), row("u2"))
    there = read_results(tmp_path)
    (tmp_path / f"{NAME}.gz").write_bytes(gzip.compress((tmp_path / NAME).read_bytes()))
    (tmp_path / NAME).unlink()
    assert read_results(tmp_path) == there
    (tmp_path / f"{NAME}.gz").write_bytes((tmp_path / f"{NAME}.gz").read_bytes()[:40])
    with pytest.raises(BadManifest, match=r"results.jsonl.gz: this cannot be read"):
        read_results(tmp_path)


def test_no_file_says_how_to_make_one(tmp_path):
    with pytest.raises(BadManifest, match=r"results.jsonl: no such file\.  Make it with avsr benchmark"):
        read_results(tmp_path)


def test_the_order_does_not_depend_on_what_came_first(tmp_path):
    rows = [row("u1"), row("u2"), row("u1", noise="white", snr_db=10.0), row("u1", noise="white", snr_db=-5.0),
            row("u1", corruption="blur", amount=4.0), row("u1", system="b"), row("u1", modality="a")]
    texts = []
    for name, some in (("one", rows), ("two", rows[::-1])):
        (tmp_path / name).mkdir()
        results = Results(tmp_path / name)
        for one in some:
            assert one not in results
            results.add([one])
            assert one in results
        results.settle()
        texts.append((tmp_path / name / NAME).read_bytes())
    assert texts[0] == texts[1]
    read, _ = read_results(tmp_path / "one")
    assert read == sorted(rows, key=order)
    assert [one["snr_db"] for one in read if one["noise"]] == [10.0, -5.0]


def test_zero_db_is_not_clean():
    assert key(row(noise="white", snr_db=0.0)) != key(row(noise="white", snr_db=None))
    assert order(row(noise=None)) < order(row(noise="white", snr_db=0.0))


@pytest.mark.parametrize("other", [{"sha256": "cd" * 32}, {"search": "beam 1"}, {"split": "valid"},
                                   {"normaliser": "avsr-3"}])
def test_rows_made_in_another_way_are_not_mixed_in(tmp_path, other):
    write(tmp_path, row())
    facts = {name: row()[name] for name in ("system", "sha256", "search", "split", "normaliser")}
    Results(tmp_path).check(facts)
    with pytest.raises(BadOutput, match=f"have {next(iter(other))} .*  Use another --output-dir"):
        Results(tmp_path).check(facts | other)
    Results(tmp_path).check(facts | other | {"system": "another"})
