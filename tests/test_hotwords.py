"""Hotwords: every way to write a text gains the letters of the hotwords in it, and no other text gains anything."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.decode.hotwords import MOST_WORDS, Hotwords, HotwordScorer, Vocabulary
from avsr.errors import AvsrError

LETTERS = "abc'"
PIECES = ["", *LETTERS, " ", " a", " ab", "ab", "bc", " b", ",", " abc", "c,", "A", " Ab", "c-a", "b c"]
END = len(PIECES)
WORDS = st.lists(st.text(LETTERS + " ", min_size=1, max_size=5).filter(lambda word: any(map(str.isalnum, word))), min_size=1,
                 max_size=4)


@given(WORDS, st.lists(st.integers(1, len(PIECES) - 1), max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_text_gains_the_same_however_it_is_split_into_tokens(words, tokens):
    hotwords = Hotwords(words)
    scorer = HotwordScorer(hotwords, Vocabulary([*PIECES, ""]), end=END, n_prompt=1, weight=1.0)
    total, written = 0.0, torch.tensor([[0]])
    for token in [*tokens, END]:
        scores = scorer.score(written)
        assert scorer.score_partial(written, torch.tensor([[END, 1]])).tolist() == [[scores[0, END], scores[0, 1]]]
        total += scores[0, token].item()
        written = torch.cat([written, torch.tensor([[token]])], dim=1)
    assert total == hotwords.units("".join(PIECES[token] for token in tokens))


@pytest.mark.parametrize(("text", "units"), [
    ("Ann", 3), ("ann", 3), ("say Ann.", 3), ("Anna", 0), ("Hann", 0), ("an n", 0), ("", 0), ("Ann, Ann", 3),
    ("Ann New York ann", 11), ("New York", 8),
    ("new yor", 0), ("New Jersey", 0), ("New", 3), ("york", 0), ("Newt", 0), ("O'Neill", 7), ("O", 0)])
def test_whole_words_and_phrases_gain_their_letters_and_parts_nothing(text, units):
    assert Hotwords(["Ann", "New York", "New", "O'Neill"]).units(text) == units


def test_rows_are_selected_with_their_state():
    scorer = HotwordScorer(Hotwords(["abc"]), Vocabulary([*PIECES, ""]), end=END, n_prompt=0, weight=1.0)
    scorer.score(torch.zeros(2, 0, dtype=torch.long))
    a, x = PIECES.index("a"), PIECES.index("c")
    scorer.score(torch.tensor([[a], [x]]))
    scorer.select(torch.tensor([1, 0]), None)
    scores = scorer.score(torch.tensor([[x, x], [a, PIECES.index("b")]]))
    assert scores[:, x].tolist() == [0.0, 1.0]
    assert scores[:, a].tolist() == [0.0, -2.0]


def test_lists_come_as_words_with_commas_or_as_files(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Nguyễn\n\nO'Neill\nNew  York\n", encoding="utf-8")
    assert Hotwords.parse(str(path)).words == ("Nguyễn", "O'Neill", "New York")
    assert Hotwords.parse("Ann, New York").words == ("Ann", "New York")
    assert Hotwords.parse(["Ann"]).words == ("Ann",)


@pytest.mark.parametrize(("words", "message"), [
    ([], r"no word in the list"), (["  "], r"no word in the list"), (["?!"], r"'\?!' has no letter or digit"),
    (["a" * 200], r"200 letters, at most 100"), ([f"w{i}" for i in range(MOST_WORDS + 1)], r"5001 words, at most 5000")])
def test_lists_that_cannot_help_are_refused(words, message):
    with pytest.raises(AvsrError, match=message):
        Hotwords(words)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\x00\x81\xff" * 20)
    with pytest.raises(AvsrError, match=r"names\.txt: .*  Save the list of hotwords as UTF-8"):
        Hotwords.parse(path)
