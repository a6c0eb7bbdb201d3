"""Text to tokens, and tokens to words: nothing is lost on the way."""

import json
import random
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avsr.errors import AvsrError, BadCheckpoint, MissingAsset
from avsr.text import (
    CTC_LETTERS,
    Tokenizer,
    ctc_classes,
    ctc_text,
    find_normaliser,
    normalise,
    normalise_as_whisper,
    write_characters,
)
from avsr.text import normaliser as normaliser_module


@pytest.fixture(scope="module")
def tokenizer(tiny_en_folder):
    return Tokenizer(tiny_en_folder / "tokenizer.json")


@pytest.fixture(scope="module")
def multilingual(tiny_en_folder, tmp_path_factory):
    """The same vocabulary with its special tokens one id later, as in the multilingual tokenizers."""
    content = json.loads((tiny_en_folder / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["id"] += 1
    vocabulary = content["model"]["vocab"]
    specials = {token["content"] for token in content["added_tokens"]}
    content["model"]["vocab"] = {name: i for name, i in vocabulary.items() if name not in specials} | {"filler": 50_256}
    path = tmp_path_factory.mktemp("multilingual") / "tokenizer.json"
    path.write_text(json.dumps(content))
    return Tokenizer(path)


def joined(words):
    return "".join(word.text for word in words), [token for word in words for token in word.tokens]


# Hypothesis takes constants of the code, and the name of a special token is that token, which no text holds.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "<|" not in text)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, language=st.sampled_from(["en", "ja"]))
@example(text=" Ça coûte 5 € à l'été, n'est-ce pas ?", language="en")
@example(text="\ufffd not known \ufffd\ufffd", language="en")
@example(text=" 日本語の字幕です。", language="ja")
@example(text="👩‍👩‍👧 family", language="en")
def test_words_lose_nothing(tokenizer, text, language):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    words = tokenizer.words(tokens, language)
    assert joined(words) == (text, tokens)
    assert all(word.text and word.tokens for word in words)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 50_255), max_size=30))
@example([95, 447, 64])                                     # halves of characters that never meet
def test_words_lose_nothing_of_tokens_that_are_no_text(tokenizer, tokens):
    words = tokenizer.words(tokens, "en")
    assert joined(words) == (tokenizer.decode(tokens), tokens)


def test_words_are_what_a_reader_takes_for_words(tokenizer):
    text = " Hello, this isn't it: \"Roe v. Wade\" (1973), U.S. law... ¿Qué?"
    assert [word.text for word in tokenizer.words(tokenizer.encode(text), "en")] == [
        " Hello,", " this", " isn't", " it:", ' "Roe', " v.", ' Wade"', " (1973),", " U", ".S.", " law...", " ¿Qué?"]


def test_characters_are_never_torn_apart(tokenizer):
    words = tokenizer.words(tokenizer.encode("日本の鮨👍🏽"), "ja")
    assert "".join(word.text for word in words) == "日本の鮨👍🏽"
    assert not any("\ufffd" in word.text for word in words)
    assert max(len(word.tokens) for word in words) > 1, "no character needed two tokens: this shows nothing"


def test_words_agree_with_faster_whisper(tokenizer):
    from faster_whisper.tokenizer import Tokenizer as Theirs

    theirs = Theirs(tokenizer._tokenizer, False, task="transcribe", language="en")
    rng = random.Random(0)
    some = [" the", " café", "’s", " don't", " 3", ".5", " naïve", " Straße", " it's", " re", "-use", " €", "5", " x"]
    for _ in range(30):
        tokens = tokenizer.encode("".join(rng.choice(some) for _ in range(12)))
        pieces, _ = theirs.split_to_word_tokens(tokens)
        ours = "|".join(word.text for word in tokenizer.words(tokens, "en"))
        # Theirs join punctuation later, in `merge_punctuations`; only letters and digits are split here.
        assert ours.replace("|", "") == "".join(pieces)
        assert [piece for piece in pieces if piece.strip().isalpha()] == [
            word for word in ours.split("|") if word.strip().isalpha()]


def test_english_only(tokenizer):
    assert tokenizer.languages == {}
    assert tokenizer.prompt(None) == tokenizer.prompt("en") == [tokenizer.start, tokenizer.no_timestamps] == [50_257, 50_362]
    assert (tokenizer.end, tokenizer.no_speech, tokenizer.first_timestamp) == (50_256, 50_361, 50_363)


def test_multilingual(multilingual):
    assert multilingual.end == 50_257
    assert len(multilingual.languages) == 99
    assert {"en", "de", "zh", "cy"} <= multilingual.languages.keys()
    assert multilingual.prompt("de") == [50_258, multilingual.languages["de"], multilingual.transcribe, 50_363]
    assert multilingual.languages["en"] == 50_259


def test_specials_are_not_text(tokenizer):
    hello = tokenizer.encode(" Hello")
    tokens = [*tokenizer.prompt("en"), *hello, tokenizer.first_timestamp + 7, tokenizer.end]
    assert tokenizer.decode(tokens) == " Hello"
    assert joined(tokenizer.words(tokens, "en")) == (" Hello", hello)
    assert tokenizer.words([], "en") == []


@pytest.mark.parametrize(("content", "says"), [
    (None, "cannot be read (No such file or directory)"),
    ("{}", "not a tokenizer file"),
    ("\x00\x01garbage", "not a tokenizer file"),
    ('{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', "no token <|endoftext|>"),
])
def test_a_wrong_file_is_named_with_a_remedy(tmp_path, content, says):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadCheckpoint) as caught:
        Tokenizer(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "Fetch the model's tokenizer.json again." in str(caught.value)


def test_its_hash_is_the_files(tokenizer):
    assert tokenizer.sha256 == "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"


# Letters

LETTERS = st.text(st.sampled_from(CTC_LETTERS), max_size=40)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    return write_characters(tmp_path_factory.mktemp("letters") / "tokenizer.json")


@settings(max_examples=100, deadline=None)
@given(LETTERS)
@example("  ab  ' ")
def test_letters_lose_nothing(letters, text):
    tokens = letters.encode(text)
    assert len(tokens) == len(text)
    assert all(0 <= token < letters.end for token in tokens)
    assert letters.decode([*letters.prompt(None), *tokens, letters.end]) == text
    assert joined(letters.words(tokens, "en")) == (text, tokens)


def test_letters_have_whispers_specials(letters):
    assert letters.end == len(CTC_LETTERS) == 28
    specials = [letters.end, letters.start, letters.transcribe, letters.previous, letters.no_speech, letters.no_timestamps]
    assert specials == list(range(28, 34))
    assert letters.languages == {}
    assert letters.prompt("en") == letters.prompt(None) == [letters.start, letters.no_timestamps]
    assert letters.first_timestamp == 34, "the size of the vocabulary"
    again = Tokenizer(letters.path)
    assert again.encode("bin blue") == letters.encode("bin blue")
    assert again.sha256 == letters.sha256


def test_letters_are_words_with_the_space_before_them(letters):
    words = letters.words(letters.encode(" bin blue"), "en")
    assert [word.text for word in words] == [" bin", " blue"]


def test_letters_keep_apostrophes_inside_words(letters):
    assert [word.text for word in letters.words(letters.encode(" isn't"), "en")] == [" isn't"]


def test_other_letters(tmp_path):
    tokenizer = write_characters(tmp_path / "tokenizer.json", "abcü ")
    assert tokenizer.decode(tokenizer.encode("cab ü")) == "cab ü"
    assert tokenizer.end == 5


def test_classes_of_ctc():
    assert ctc_classes("a b'") == [2, 1, 3, 28]
    assert ctc_classes("  It's,\n A-OK 2!  ") == ctc_classes("it's aok")
    assert ctc_classes("123 ...") == []
    assert ctc_text([]) == ""


@settings(max_examples=200, deadline=None)
@given(st.one_of(LETTERS, st.text(max_size=30)))
def test_classes_of_ctc_there_and_back(text):
    classes = ctc_classes(text)
    assert all(1 <= one <= 28 for one in classes), "0 is the blank"
    spelt = ctc_text(classes)
    assert ctc_classes(spelt) == classes
    assert "  " not in spelt
    assert spelt == spelt.strip()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["bin", "blue", "at", "f2", "SET", "isn't", "40", "now!"]), max_size=8))
def test_a_normalised_text_is_spelt_whole(words):
    plain = normalise(" ".join(words))
    assert ctc_text(ctc_classes(plain)) == plain


# What openai-whisper's own EnglishTextNormalizer (release 20250625) writes. It and ours agreed on 36,000 other texts as well.
@pytest.mark.parametrize(("text", "wanted"), [
    ("It's the colour, um, of 21%.", "it is the color of 21%"),
    ("Mr. Lee won't pay $20 million", "mister lee will not pay $20000000"),
    ("two and a half thousand euros", "€2500"),
    ("nineteen eighty four", "1984"),
    ("he'd've [noise] gone (laughs) 1,000 km away", "he would have gone 1000 km away"),
    ("double oh seven", "007"),
    ("thirty first of may twenty twenty", "31st of may 2020"),
    ("organise the theatre", "organize the theater"),
])
def test_whisper_s_normaliser_is_whisper_s(text, wanted):
    assert normalise_as_whisper(text) == find_normaliser("whisper-en")(text) == wanted


def test_a_normaliser_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(AvsrError, match="by the normaliser avsr-9, and this version has avsr-2 and whisper-en"):
        find_normaliser("avsr-9")
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    monkeypatch.setattr(normaliser_module, "_whisper_normalizer", normaliser_module._whisper_normalizer.__wrapped__)
    with pytest.raises(MissingAsset, match=r"whisper-normalizer is not installed\.  Run pip install 'avsr\[whisper\]'"):
        find_normaliser("whisper-en")("text")
