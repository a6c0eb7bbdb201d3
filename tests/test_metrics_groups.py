"""Error rates by group: gaps that are there are found, those of chance are not, and too few speakers are said to be too few."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rows import plain_row

from avsr.errors import AvsrError
from avsr.metrics import Cell, by_group, cells, columns, difference, face_effect, wer

WORDS = ["a", "b", "c", "d", "e", "f"]


def rng(seed=0):
    return np.random.default_rng(seed)


def rows_of(rates, n_utterances=6, seed=0, **fields):
    """Rows of speakers with these error rates and labels: {speaker: (rate, labels)}."""
    generator = rng(seed)
    return [plain_row(id=f"{speaker}-{number}", speaker=speaker, labels=labels, reference=" ".join(WORDS), **fields,
                      hypothesis=" ".join("x" if bad else word
                                          for bad, word in zip(generator.random(6) < rate, WORDS, strict=True)))
            for speaker, (rate, labels) in rates.items() for number in range(n_utterances)]


def two_groups(low=0.1, high=0.4, n=8, **options):
    """`n` speakers of each sex, and two of a third that is too small to tell."""
    people = {f"{sex}{i}": (rate, {"sex": sex}) for sex, rate in (("f", high), ("m", low)) for i in range(n)}
    return rows_of({**people, "x0": (0.9, {"sex": "x"}), "x1": (0.9, {"sex": "x"})}, **options)


def test_the_worst_group_and_the_gap_are_named_with_intervals():
    rows = two_groups()
    found = by_group(rows, "sex", rng=rng())
    assert (found.worst, found.best, list(found.rates), found.insufficient) == ("f", "m", ["f", "m"], {"x": 2})
    assert (found.by, found.floor, found.without) == ("speaker", 5, 0)
    for name, rate in found.rates.items():
        inside = [row for row in rows if row.labels["sex"] == name]
        alone = wer(inside, rng=rng())
        assert (rate.percent, rate.score, rate.clusters, rate.utterances) == (alone.percent, alone.score, 8, 48)
        assert rate.low < rate.percent < rate.high
    assert found.gap.percent == pytest.approx(found.rates["f"].percent - found.rates["m"].percent)
    assert 10 < found.gap.low < found.gap.percent < found.gap.high < 45
    assert found.ratio.value == pytest.approx(found.rates["f"].percent / found.rates["m"].percent)
    assert 1 < found.ratio.low < found.ratio.value < found.ratio.high
    assert found.p <= 0.002
    assert found.gap.clusters == 16


def test_speakers_are_groups_whose_utterances_are_drawn():
    rows = rows_of({"s1": (0.1, {}), "s2": (0.5, {}), "s3": (0.3, {})}, n_utterances=30) + rows_of({"s4": (0.9, {})}, 5)
    found = by_group(rows, "speaker", rng=rng())
    assert (found.worst, found.best, found.insufficient) == ("s2", "s1", {"s4": 5})
    assert (found.by, found.floor, found.gap.by, found.gap.clusters) == ("utterance", 20, "utterance", 60)
    assert found.rates["s2"].clusters == 30
    assert found.p == 0.001


def test_too_few_speakers_are_said_to_be_too_few():
    rows = two_groups(n=4)
    found = by_group(rows, "sex", rng=rng())
    assert (found.rates, found.insufficient) == ({}, {"f": 4, "m": 4, "x": 2})
    assert (found.worst, found.gap, found.ratio, found.p) == (None, None, None, None)
    assert by_group(rows, "sex", rng=rng(), floor=2).worst == "x"
    one = by_group(two_groups(), "sex", rng=rng(), floor=9)
    assert (one.rates, one.worst) == ({}, None)


def test_a_column_that_is_missing_is_an_error_that_lists_those_there():
    rows = two_groups()
    assert columns(rows) == ["speaker", "sex"]
    with pytest.raises(AvsrError, match=r"groups by accent: no row has this label; there are speaker, sex\.  Choose one"):
        by_group(rows, "accent", rng=rng())
    with pytest.raises(AvsrError, match="there are none, and no speaker either"):
        by_group([replace(row, labels={}, speaker=None) for row in rows], "sex", rng=rng())
    with pytest.raises(AvsrError, match=r"groups by sex: no row names its speaker.*\.  Name them"):
        by_group([replace(row, speaker=None) for row in rows], "sex", rng=rng())
    with pytest.raises(AvsrError, match="groups by speaker: no row names its speaker"):
        by_group([replace(row, speaker=None) for row in rows], "speaker", rng=rng())


def test_rows_without_a_value_are_counted():
    rows = two_groups()
    some = [replace(row, labels={}) if row.speaker == "f0" else replace(row, speaker=None) if row.id == "m0-0" else row
            for row in rows]
    found = by_group(some, "sex", rng=rng())
    assert found.without == 7
    assert found.rates["f"].clusters == 7


def test_a_column_of_many_numbers_becomes_three_ranges():
    people = {f"s{i}": (0.1 + i / 50, {"age": 20 + i}) for i in range(18)}
    found = by_group(rows_of(people), "age", rng=rng())
    assert set(found.rates) == {"20 to 25", "26 to 31", "32 to 37"}
    assert (found.worst, found.best) == ("32 to 37", "20 to 25")
    few = by_group(rows_of({f"s{i}": (0.2, {"age": i % 2}) for i in range(18)}), "age", rng=rng())
    assert set(few.rates) == {"0", "1"}


def test_labels_may_change_within_a_speaker():
    generator, rows = rng(3), []
    for i in range(10):
        own = generator.uniform(0, 0.4)
        for pose, worse in (("front", 0.0), ("side", 0.2)):
            rows += [replace(row, id=f"{i}{row.id}{pose}")
                     for row in rows_of({f"s{i}": (own + worse, {"pose": pose})}, 8, seed=len(rows))]
    found = by_group(rows, "pose", rng=rng())
    assert (found.worst, found.gap.clusters) == ("side", 10)
    assert 10 < found.gap.low < found.gap.percent < found.gap.high < 35
    assert found.p == 0.001
    # Both poses have the same speakers: their differences are no part of the gap.
    assert found.gap.high - found.gap.low < found.rates["side"].high - found.rates["side"].low


def test_groups_that_differ_by_chance_alone_are_not_called_unequal():
    p = []
    for seed in range(150):
        own = rng(seed).beta(2, 8, 24)
        people = {f"s{i}": (own[i], {"group": f"{i % 4}"}) for i in range(24)}
        p.append(by_group(rows_of(people, 3, seed), "group", rng=rng(seed), n_draws=10).p)
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.10
    assert 0.40 <= np.mean(np.array(p) <= 0.50) <= 0.60


def test_a_best_group_without_errors_has_no_ratio_but_a_gap():
    found = by_group(two_groups(low=0.0), "sex", rng=rng())
    assert found.rates["m"].percent == found.rates["m"].low == 0
    assert found.rates["m"].high == pytest.approx(1.27, abs=0.01)      # 0 of 288 words
    assert found.ratio is None
    assert found.gap.percent == found.rates["f"].percent


def test_what_looking_adds_is_shared_out_by_group():
    """Looking halves the errors of one group and does nothing for the other."""
    sound = two_groups(0.4, 0.4)
    both = [replace(row, hypothesis=row.reference) if row.labels["sex"] == "m" and int(row.id[-1]) % 2 else row
            for row in sound]
    found = by_group(both, "sex", rng=rng(), against=sound)
    assert (found.worst, found.rates["f"].percent, found.ratio) == ("f", 0, None)
    men = [[row for row in some if row.labels["sex"] == "m"] for some in (both, sound)]
    assert found.rates["m"].percent == pytest.approx(difference(*men, rng=rng()).percent)
    assert found.rates["m"].high < 0 < found.gap.low
    assert found.p < 0.01
    assert by_group(sound, "sex", rng=rng(), against=sound).gap.percent == 0


def test_the_gap_is_there_for_each_condition():
    rows = [replace(row, system="grid", modality=modality, noise=snr and "babble", snr_db=snr)
            for modality in ("none", "a", "av") for snr in (None, -5.0)
            for row in two_groups(high=0.1 if modality == "a" else 0.5)]
    found = cells(rows)
    assert by_group(found[Cell("grid", "av", "babble", -5.0)], "sex", rng=rng()).gap.low > 20
    assert by_group(found[Cell("grid", "a", "babble", -5.0)], "sex", rng=rng()).p > 0.05


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("pqr"), st.integers(0, 6)), min_size=1, max_size=12), st.integers(1, 3))
def test_any_rows_are_all_accounted_for(people, floor):
    rows = [plain_row(id=str(i), speaker=f"s{i}", labels={"group": group}, reference=" ".join(WORDS),
                      hypothesis=" ".join(WORDS[wrong:])) for i, (group, wrong) in enumerate(people)]
    found = by_group(rows, "group", rng=rng(), floor=floor, n_draws=50)
    assert sum(rate.utterances for rate in found.rates.values()) + sum(found.insufficient.values()) == len(rows)
    percents = [rate.percent for rate in found.rates.values()]
    assert percents == sorted(percents, reverse=True)
    if found.worst is not None:
        assert found.gap.percent == pytest.approx(percents[0] - percents[-1], abs=1e-9)
        assert 0 < found.p <= 1


# --- another's face ---

def faces(harm):
    """(rows with another's face, rows with their own): the faces of `harm` make every second word wrong."""
    own = rows_of({f"s{i}": (0.1, {"beard": i % 2 == 0}) for i in range(12)}, 8, corruption=None)
    shown = []
    for i, row in enumerate(own):
        other = own[(i + 8 * (1 + i % 11)) % len(own)]
        assert other.speaker != row.speaker
        text = " ".join("x" if j % 2 else word for j, word in enumerate(row.hypothesis.split()))
        shown.append(replace(row, corruption="face", face=other.id, hypothesis=text if harm(other) else row.hypothesis))
    return shown, own


def test_whose_face_it_is_matters_where_it_does():
    shown, own = faces(lambda face: face.labels["beard"])
    found = face_effect(shown, own, rng=rng(), column="beard")
    assert found.overall.difference.percent == pytest.approx(difference(shown, own, rng=rng()).percent)
    assert found.overall.p == 2 / 2 ** 12
    assert (found.groups.worst, found.groups.best, found.groups.rates["False"].percent) == ("True", "False", 0)
    assert found.groups.gap.low > 20
    assert found.groups.p <= 0.002
    assert (found.groups.column, found.unseen) == ("face: beard", 0)
    by_speaker = face_effect(shown, own, rng=rng())
    assert len(by_speaker.groups.rates) == 12
    assert by_speaker.groups.worst in {f"s{i}" for i in range(0, 12, 2)}


def test_a_face_that_is_not_looked_at_changes_nothing():
    shown, own = faces(lambda face: False)
    found = face_effect(shown[:-5], own, rng=rng(), column="beard")
    assert (found.overall.difference.percent, found.overall.p) == (0, 1)
    assert (found.groups.gap.percent, found.groups.p, found.unseen) == (0, 1, 5)


def test_a_face_that_cannot_be_traced_is_an_error_or_counted():
    shown, own = faces(lambda face: True)
    strange = [replace(shown[0], face="who"), *shown[1:]]
    assert face_effect(strange, own, rng=rng()).groups.without == 1
    with pytest.raises(AvsrError, match=r"s0-0 does not name the face"):
        face_effect([replace(shown[0], face=None)], own, rng=rng())
    with pytest.raises(AvsrError, match=r"s0-0 is not there with its own"):
        face_effect(shown, own[1:], rng=rng())
    with pytest.raises(AvsrError, match="no row has this label; there are speaker, beard"):
        face_effect(shown, own, rng=rng(), column="hat")
