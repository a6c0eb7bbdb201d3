"""Confusions: every class that was said is counted once, and what lips cannot tell apart is no confusion of theirs."""

from collections import Counter
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rows import plain_row

from avsr.errors import AvsrError
from avsr.metrics import PHONEMES, VISEMES, confusions, pronunciations
from avsr.text.normaliser import DIGITS

SOME = {"bin": ("B", "IH", "N"), "pin": ("P", "IH", "N"), "now": ("N", "AW"), "at": ("AE", "T"), "f": ("EH", "F"),
        "s": ("EH", "S"), "two": ("T", "UW")}
TEXTS = st.lists(st.sampled_from([*SOME, "zyzzyva"]), max_size=7).map(" ".join)
needs_dictionary = pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="pocketsphinx, which has it, is not installed")


def row(reference, hypothesis):
    return plain_row(id="u", reference=reference, hypothesis=hypothesis)


def count(found, said, written):
    places = {**{name: i for i, name in enumerate(found.names)}, None: len(found.names)}
    return int(found.counts[places[said], places[written]])


def test_the_map_of_lee_and_yook_shares_out_all_phonemes():
    assert (len(VISEMES), len(PHONEMES)) == (13, 39)
    assert Counter(PHONEMES) == Counter(set(PHONEMES))
    assert VISEMES["P"] == ("P", "B", "M")


def test_what_was_said_is_counted_against_what_was_written():
    found = confusions([row("Bin now", "bin"), row("f two", "s two"), row("at", "at at")], "phoneme", SOME)
    assert count(found, "F", "S") == 1
    assert count(found, "N", None) + count(found, "AW", None) == 2
    assert count(found, None, "AE") + count(found, None, "T") == 2
    assert count(found, "B", "B") == 1
    assert count(found, None, None) == 0
    assert found.percent == pytest.approx(100 * 5 / (5 + 4 + 2))
    assert (found.counts.shape, found.names, found.utterances) == ((40, 40), PHONEMES, 3)


def test_what_lips_cannot_tell_apart_is_one_viseme():
    rows = [row("bin now", "pin now")]
    assert confusions(rows, "viseme", SOME).percent == 0
    assert confusions(rows, "phoneme", SOME).percent == 20
    found = confusions([row("f", "s")], "viseme", SOME)
    assert (count(found, "F", "T"), found.percent) == (1, 50)


def test_a_word_that_the_dictionary_lacks_is_counted_and_keeps_its_place():
    found = confusions([row("bin zyzzyva now", "bin zyzzyva now"), row("zyzzyva f", "blorp s")], "phoneme", SOME)
    assert found.unknown == {"zyzzyva": 3, "blorp": 1}
    assert (count(found, "F", "S"), found.counts.sum()) == (1, 7)


def test_rates_are_of_what_was_said():
    found = confusions([row("f f f s", "s f f s")], "phoneme", SOME)
    rates = found.rates
    assert rates.shape == (39, 40)
    assert rates[found.names.index("F"), found.names.index("S")] == pytest.approx(1 / 3)
    assert np.isnan(rates[found.names.index("ZH")]).all()
    assert confusions([], "viseme", SOME).percent is None


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_nothing_that_was_said_or_written_is_lost(pairs):
    rows = [row(*pair) for pair in pairs]
    for classes in ("viseme", "phoneme"):
        found = confusions(rows, classes, SOME)
        for side, axis in ((0, 1), (1, 0)):
            total = sum(len(SOME.get(word, ())) for pair in pairs for word in pair[side].split())
            counted = found.counts[:-1].sum() if axis else found.counts[:, :-1].sum()
            lost = total - counted                           # what is aligned with a word that the dictionary lacks
            assert 0 <= lost <= sum(found.unknown.values())
        assert sum(found.unknown.values()) == sum(text.split().count("zyzzyva") for pair in pairs for text in pair)
        assert found.counts[-1, -1] == 0
    same = confusions([row(one, one) for one, _ in pairs], "phoneme", SOME)
    assert same.counts.sum() == np.trace(same.counts)


def test_other_classes_and_two_normalisers_are_errors():
    with pytest.raises(AvsrError, match=r"no classes 'letter'\.  Choose one of viseme, phoneme"):
        confusions([], "letter", SOME)
    with pytest.raises(AvsrError, match="of 2 normalisers"):
        confusions([replace(row("f", "f"), normaliser=name) for name in ("one", "two")], "viseme", SOME)


@needs_dictionary
def test_the_dictionary_knows_every_word_of_grid_and_its_phonemes_are_those_of_the_map():
    found = pronunciations()
    assert len(found) == 126_052
    assert {phoneme for phonemes in found.values() for phoneme in phonemes} == set(PHONEMES)
    assert found["tomato"] == ("T", "AH", "M", "EY", "T", "OW")
    grid = ["bin", "lay", "place", "set", "blue", "green", "red", "white", "at", "by", "in", "with", "again", "now", "please"]
    assert not {*grid, "soon", *DIGITS, *"abcdefghijklmnopqrstuvxyz"} - set(found)
    letters = confusions([row(f"at {one} two", f"at {two} two") for one in "bdp" for two in "bdp"], "viseme")
    assert (count(letters, "P", "P"), count(letters, "P", "T"), count(letters, "T", "P")) == (4, 2, 2)
    assert not letters.unknown
