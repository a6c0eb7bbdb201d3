"""Forced alignment by phones, and how words are pronounced."""

from pathlib import Path

import numpy as np
import pytest

from avsr.errors import AvsrError, BadCheckpoint
from avsr.hmm import pronunciation
from avsr.hmm.alignment import BORROWED, PhoneAligner, TextDoesNotFit
from avsr.hmm.pronunciation import GRID, by_rules, is_guessed, pronounce
from avsr.media import read
from avsr.metrics.phonemes import PHONEMES
from avsr.text import NUMBERS


@pytest.fixture(scope="module")
def aligner() -> PhoneAligner:
    return PhoneAligner.open()


def test_every_phoneme_has_states(aligner):
    assert set(PHONEMES) <= set(aligner.model.units)
    assert set(BORROWED) <= set(PHONEMES)


@pytest.mark.parametrize(("word", "phones"), [
    ("Seven", "S EH V AH N"), ("F2.", "EH F T UW"), ("1999", "N AY N T IY N N AY N T IY N AY N"), ("z", "Z EH D"),
    ("105", "W AH N HH AH N D R AH D F AY V"), ("007", "Z IH R OW Z IH R OW S EH V AH N"), ("2.5", "T UW P OY N T F AY V")])
def test_words_and_numbers(word, phones):
    assert pronounce(word)[0] == tuple(phones.split())
    assert not is_guessed(word)


def test_without_a_dictionary_rules_pronounce(monkeypatch):
    monkeypatch.setattr(pronunciation, "_dictionary", dict)
    assert pronounce("ship") == (("SH", "IH", "P"),)
    assert pronounce("BBC") == (("B", "IY", "B", "IY", "S", "IY"),)
    assert pronounce("mp3")[0][-3:] == ("TH", "R", "IY")
    assert is_guessed("ship")
    assert not is_guessed("seven")
    for word in ("late", "the", "Müller", "日本", "naïve", "rhythm", "a1b2"):
        ways = pronounce(word)
        assert ways
        assert all(set(way) <= set(PHONEMES) for way in ways), (word, ways)
    assert by_rules("late") == ("L", "EY", "T")


def test_what_has_no_sound_has_no_phones():
    assert pronounce("—") == pronounce("") == ()
    assert all(set(phone for way in ways for phone in way) <= set(PHONEMES) for ways in GRID.values())
    assert all(pronounce(number) for number in NUMBERS)


def test_a_text_too_long_for_its_sound_is_refused(aligner):
    with pytest.raises(TextDoesNotFit, match=r"of 6 words takes at least 0\.\d\d s, and the sound has 0\.25 s"):
        aligner.align(np.zeros(4000, np.float32), ["bin", "blue", "at", "f", "two", "now"])
    assert issubclass(TextDoesNotFit, AvsrError)
    with pytest.raises(BadCheckpoint):
        PhoneAligner.open(Path("nowhere"))


def test_words_of_a_clip_are_where_grid_says(aligner, grid_clip):
    audio, words = grid_clip
    found = aligner.align(audio, [*(word for word, _, _ in words), "—"])
    assert [one.text for one in found] == [*(word for word, _, _ in words), "—"]
    off = np.array([(one.start - start, one.end - end) for one, (_, start, end) in zip(found, words, strict=False)])
    assert np.median(np.abs(off)) < 0.04
    assert np.abs(off).max() < 0.2
    assert found[-1].phones == ()
    assert found[-1].start == found[-2].end
    for word in found[:-1]:
        assert [phone.name for phone in word.phones] in [list(way) for way in pronounce(word.text)]
        assert word.start == word.phones[0].start
        assert word.end == word.phones[-1].end
        assert all(one.end == two.start for one, two in zip(word.phones, word.phones[1:], strict=False))
    wrong = aligner.align(audio, ["set", "red", "with", "q", "nine", "soon"])
    assert np.mean([one.logprob for one in wrong]) < np.mean([one.logprob for one in found[:-1]]) - 2


def test_phones_within_a_word_fill_its_time(aligner, grid_clip):
    audio, words = grid_clip
    word, start, end = words[-1]
    phones = aligner.within(audio, word, start, end)
    assert (phones[0].start, phones[-1].end) == (start, end)
    assert all(phone.logprob is not None for phone in phones)
    short = aligner.within(audio, "seven", 1.0, 1.1)        # 10 frames for 15 states
    assert [phone.name for phone in short] == ["S", "EH", "V", "AH", "N"]
    assert np.ptp([phone.end - phone.start for phone in short]) < 1e-9
    assert short[0].logprob is None
    assert aligner.within(audio, "—", 1.0, 1.1) == ()


@pytest.fixture
def grid_clip(real_data) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """The sound of a test clip of GRID, and its words with their times."""
    path = real_data / "grid" / "s1" / "bbaf3s.mpg"
    words = [line.split() for line in path.with_suffix(".align").read_text().splitlines()]
    timed = [(word, int(start) / 25_000, int(end) / 25_000) for start, end, word in words if word not in ("sil", "sp")]
    audio = read(path).audio
    assert audio is not None
    return audio, timed
