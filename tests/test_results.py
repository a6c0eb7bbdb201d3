"""Rows on disk: what a crash cut off is dropped and counted, what is broken is named, the order does not depend on history."""

import gzip
import json

import pytest

from avsr.errors import BadManifest, BadOutput
from avsr.results import NAME, REQUIRED_FIELDS, ResultRow, Results, read_results


def row(utterance="u1", **changes):
    return ResultRow(**{"system": "grid", "sha256": "ab" * 32, "modality": "av", "search": "beam 5", "id": utterance,
                        "speaker": "s1", "split": "test", "reference": "a b", "hypothesis": "a"} | changes)


def line(utterance="u1", without="", **changes):
    """A line of a file, not always right."""
    values = json.loads(row(utterance).line()) | changes
    return json.dumps({name: value for name, value in values.items() if name != without})


def write(folder, *lines, end="\n"):
    (folder / NAME).write_text("\n".join(lines) + end)


def test_what_a_crash_cut_off_is_dropped_and_counted(tmp_path):
    write(tmp_path, line("u1"), line("u2"), line("u3")[:50], end="")
    rows, n_cut = read_results(tmp_path)
    assert [one.id for one in rows] == ["u1", "u2"]
    assert n_cut == 1
    results = Results(tmp_path)
    assert (len(results), results.n_cut) == (2, 1)
    results.add([row("u3")])
    assert [one.id for one in read_results(tmp_path)[0]] == ["u1", "u2", "u3"]


@pytest.mark.parametrize(("broken", "message"), [
    ('{"layout": 1,', "line 2: not JSON"),
    ('"text"', "line 2: a str, not a row"),
    (line("u2", layout=2), "line 2: rows of layout 2, and this version reads 1"),
    (line("u2", hypothesis=None), "line 2: hypothesis is null"),
    (line("u2", snr_db="0"), 'line 2: snr_db is "0"'),
    (line("u2", amount=True), "line 2: amount is true"),
    (line("u2", loss="low"), 'line 2: loss is "low"'),
    *((line("u2", without=name), f"line 2: {name} is not there.  A row needs layout, system, ") for name in REQUIRED_FIELDS),
    (line("u1"), "line 2: u1 is there already, in line 1"),
])
def test_what_is_broken_is_named(tmp_path, broken, message):
    write(tmp_path, line("u1"), broken, line("u9"))
    with pytest.raises(BadManifest, match=message):
        read_results(tmp_path)


def test_a_row_is_written_field_by_field(tmp_path):
    assert row(snr_db=5, noise="white", labels={"sex": "f"}).line() == (
        '{"layout": 1, "system": "grid", "sha256": "' + "ab" * 32 + '", "modality": "av", "search": "beam 5", "id": "u1", '
        '"speaker": "s1", "split": "test", "labels": {"sex": "f"}, "reference": "a b", "hypothesis": "a", '
        '"normaliser": "avsr-2", "noise": "white", "snr_db": 5, "snr_achieved": null, "snr_rms": null, "noise_id": null, '
        '"noise_offset": null, "corruption": null, "amount": null, "face": null, "video_reliability": null, "gate": null, '
        '"loss": null, "duration_s": null}\n')


def test_rows_of_earlier_versions_and_of_other_projects_are_read(tmp_path):
    """Fields were renamed, or were not there yet; the deleted audio gate wrote `heed`; unknown fields are kept."""
    old = {name: json.loads(line())[name] for name in REQUIRED_FIELDS} | {"normaliser": "avsr-en-1"}
    write(tmp_path, json.dumps(old), json.dumps({**old, "id": "u2", "trust": 0.25, "heed": None}),
          json.dumps({**old, "id": "u3", "mood": "good", "heed": 0.5}))
    first, second, third = read_results(tmp_path)[0]
    assert first == row(sha256=None, search=None, split=None)
    assert second == row("u2", sha256=None, search=None, split=None, video_reliability=0.25)
    assert third.extra == {"mood": "good", "heed": 0.5}
    results = Results(tmp_path)
    results.sort()
    assert read_results(tmp_path) == ([first, second, third], 0)
    assert json.loads((tmp_path / NAME).read_text().splitlines()[2])["mood"] == "good"


def test_a_byte_order_mark_does_no_harm(tmp_path):
    write(tmp_path, line("u1"), line("u2"))
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
    write(tmp_path, line("u1"), line("u2"))
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
            assert one.key not in results
            results.add([one])
            assert one.key in results
        results.sort()
        texts.append((tmp_path / name / NAME).read_bytes())
    assert texts[0] == texts[1]
    read, _ = read_results(tmp_path / "one")
    assert read == sorted(rows, key=lambda row: row.key.order)
    assert [one.snr_db for one in read if one.noise] == [10.0, -5.0]


def test_zero_db_is_not_clean():
    assert row(noise="white", snr_db=0.0).key != row(noise="white", snr_db=None).key
    assert row(noise=None).key.order < row(noise="white", snr_db=0.0).key.order


@pytest.mark.parametrize("other", [{"sha256": "cd" * 32}, {"search": "beam 1"}, {"split": "valid"},
                                   {"normaliser": "avsr-3"}])
def test_rows_made_in_another_way_are_not_mixed_in(tmp_path, other):
    write(tmp_path, line())
    facts = {name: getattr(row(), name) for name in ("system", "sha256", "search", "split", "normaliser")}
    Results(tmp_path).check(facts)
    with pytest.raises(BadOutput, match=f"have {next(iter(other))} .*  Use another --output-dir"):
        Results(tmp_path).check(facts | other)
    Results(tmp_path).check(facts | other | {"system": "another"})
