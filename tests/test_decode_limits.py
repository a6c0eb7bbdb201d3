"""Texts that nobody can have said: found early in any search, never where somebody can have said them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode import END, FINE, LOOP, Chain, FakeTokenizer, Script

from avsr import media
from avsr.decode import BeamSearch, DecodeOptions, Hypothesis, Sampling, TextLimits, decode, search
from avsr.decode.limits import CHECK_INTERVAL, LOOP_TOKENS, compression_ratio, max_characters, repeated
from avsr.recogniser import Recogniser

# The first sentence of the Universal Declaration of Human Rights, and how many syllables it has.
SENTENCES = {
    "All human beings are born free and equal in dignity and rights.": 16,
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.": 19,
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।": 33,
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ": 21,
    "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း၊ တူညီလွတ်လပ်သော အခွင့်အရေးများဖြင့် လည်းကောင်း၊ မွေးဖွားလာသူများ ဖြစ်သည်။": 38,
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.": 31,
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.": 19,
    "人人生而自由，在尊严和权利上一律平等。": 17,
}
SYLLABLES_PER_SECOND = 10                                   # faster than anybody speaks for more than a moment


def letters(tokens):
    """A letter for each token."""
    return "".join(chr(96 + token) for token in tokens)


def limits(*characters, loop_ratio=2.4):
    return TextLimits(letters, characters, loop_ratio)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_no_script_is_cut_however_fast_it_is_said(sentence):
    for times in (1, 5):
        seconds = times * SENTENCES[sentence] / SYLLABLES_PER_SECOND
        assert times * len(sentence) <= max_characters(seconds)


def test_a_short_sound_allows_a_few_words_and_not_two_hundred_tokens():
    assert max_characters(0) == 20
    assert max_characters(1.6) == 100
    assert max_characters(30) > 224 * 5                    # no bound where Whisper's own is reached before


@settings(max_examples=60, deadline=None)
@given(start=st.lists(st.integers(1, 3), max_size=20), phrase=st.lists(st.integers(1, 9), min_size=1, max_size=30),
       times=st.integers(2, 6), begun=st.integers(0, 29))
def test_a_repeated_phrase_is_found_whatever_comes_before_it(start, phrase, times, begun):
    tokens = start + [token + 3 for token in phrase] * times + [token + 3 for token in phrase][:begun % len(phrase)]
    length, covered = repeated(tokens)
    assert covered >= len(phrase) * times
    tail = tokens[len(tokens) - covered:]
    assert tail[length:] == tail[:-length], "what is covered repeats itself"
    assert length <= len(phrase)


@given(st.permutations(range(1, 27)))
def test_nothing_is_repeated_where_nothing_is(tokens):
    assert repeated(tokens) == repeated(()) == repeated(tokens[:1]) == (0, 0)


def test_a_refrain_is_no_loop_and_a_loop_is_one():
    refrain = list(b"no" * 20)
    assert not limits(None).exceeded([one - 96 for one in refrain], 0)
    loop = [one - 96 for one in b"letitgo" * 9]
    assert limits(None).exceeded(loop, 0)
    assert not limits(None, loop_ratio=None).exceeded(loop, 0), "a guard that is switched off"
    assert not limits(len(refrain) * 2).exceeded([one - 96 for one in refrain], 0), "not too fast for anybody"
    assert limits(len(refrain)).exceeded([one - 96 for one in refrain], 0), "faster than anybody sings"


def test_what_is_left_of_a_loop_is_said_once_and_of_what_is_too_long_nothing():
    text = Hypothesis(tuple(range(1, 6)) + (7, 8, 9) * 20, -33.0, 0.1, 0.4)
    mended = limits(30).truncated(text, 0)
    assert mended.tokens == (1, 2, 3, 4, 5, 7, 8, 9)
    assert mended.avg_logprob == pytest.approx(text.avg_logprob)
    assert limits(6).truncated(text, 0).tokens == ()


# In the search

def endless(n_vocab=6):
    """After 1 comes 2, and so on to the last, after which comes 2 again; it ends with a chance of 1e-6."""
    table = torch.full((n_vocab, n_vocab), 1e-7)
    for token in range(1, n_vocab):
        table[token, token + 1 if token + 1 < n_vocab else 2] = 1.0
        table[token, END] = 1e-6
    return table.log()


class Counting(Chain):
    n_calls = 0

    def score(self, tokens):
        self.n_calls += 1
        return super().score(tokens)


@pytest.mark.parametrize("strategy", [
    lambda within: BeamSearch(1, DecodeOptions(beam_size=1), END, within),
    lambda within: Sampling(1, DecodeOptions(), END, 0.01, within)])
def test_an_endless_text_is_given_up_where_its_sound_ends(strategy):
    for within, n_tokens in ((None, 200), (limits(30), 32), (limits(None), LOOP_TOKENS), (limits(None, loop_ratio=None), 200)):
        scorer = Counting(endless())
        text, _ = search([scorer], torch.ones(1, 1, dtype=torch.long), strategy(within), max_tokens=200)[0]
        assert len(text) <= n_tokens
        assert scorer.n_calls <= n_tokens + CHECK_INTERVAL


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 4), bound=st.integers(5, 30), temperature=st.sampled_from([0, 1]))
def test_who_is_given_up_does_not_disturb_the_others(seed, size, bound, temperature):
    """A text in company, of which some are given up, is what it is alone."""
    tables = torch.stack([torch.randn(7, 7, generator=torch.Generator().manual_seed(seed + i)) * 3 for i in range(3)] + [
        torch.nn.functional.pad(endless(6), (0, 1, 0, 1), value=-20.0)]).log_softmax(dim=-1)
    options = DecodeOptions(beam_size=size, best_of=size)

    def found(which):
        within = limits(*[bound] * len(which))
        n = len(which)
        strategy = Sampling(n, options, END, 1.0, within) if temperature else BeamSearch(n, options, END, within)
        return search([Chain(tables[which])], torch.ones(len(which), 1, dtype=torch.long), strategy, max_tokens=60)

    together = found([0, 1, 2, 3])
    for i, (text, score) in enumerate(together):
        assert found([i])[0] == (text, pytest.approx(score, abs=1e-4))
        assert len(text) <= bound + CHECK_INTERVAL


# In Whisper's guards

class Timed(Script):
    """As Script, for sounds of so many seconds."""

    def run_for(self, seconds, **options):
        memory = self.Memory(range(len(self.scripts)))
        memory.seconds = torch.tensor(seconds)
        return decode(self, FakeTokenizer(), memory, [[91, 93]] * len(self.scripts), options=DecodeOptions(**options))

    class Memory:
        states, audio, video = torch.zeros(1), torch.zeros(1), None

        def __init__(self, ids):
            self.ids, self.n_utterances = list(ids), len(ids)

        def select(self, utterances):
            return Timed.Memory([self.ids[i] for i in utterances])


def said(text):
    return FakeTokenizer().decode(text.tokens)


def shifted(text):
    return "".join(chr(ord(one) - 32) for one in text)      # FakeTokenizer's tokens begin at the space


def test_the_last_attempt_that_can_have_been_said_stands(monkeypatch):
    long, loop = shifted("the quick brown fox jumps over the lazy dog and runs away " * 3), shifted(LOOP)
    script = Timed(monkeypatch, [
        {0.0: (shifted(FINE), -99.0, 0.1), 0.2: (long, -1.0, 0.1), 0.4: (loop, -1.0, 0.1)},
        {0.0: (loop, -1.0, 0.1), 0.2: (loop, -1.0, 0.1), 0.4: (loop, -1.0, 0.1)},
        {0.0: (shifted(FINE), -99.0, 0.1), 0.2: (long, -1.0, 0.1), 0.4: (shifted("jumps"), -99.0, 0.1)},
    ])
    texts = script.run_for([1.0, 1.0, 1.0], temperatures=(0.0, 0.2, 0.4))
    assert [said(text) for text in texts] == [FINE, "and then ", "jumps"]
    assert compression_ratio(said(texts[1])) < 2.4
    assert {call[1] for call in script.calls} == {(0, 1, 2)}, "a text too long is tried again though it is believed"


@pytest.mark.slow
@torch.inference_mode()
def test_wrecked_sound_costs_no_more_than_its_length_allows(tiny_en, real_data):
    """1.6 s, of which tenths come in disorder and four times each: of 24 such pieces the one for which tiny.en wrote 193
    tokens, then 224 three times, 32 s in all."""
    sound = media.read(real_data / "grid/s1/pwaj9a.mkv", want_video=False).audio[8000:33_600]
    order = np.repeat(np.random.default_rng(17).permutation(16)[:4], 4)
    memory = Recogniser(tiny_en).encode([sound.reshape(16, 1600)[order].ravel()], None, "a")
    assert memory.seconds.tolist() == [pytest.approx(1.6)]
    (text,) = decode(tiny_en.model, tiny_en.tokenizer, memory, [tiny_en.tokenizer.prompt("en")], suppress=tiny_en.suppress,
                     suppress_begin=tiny_en.suppress_begin, options=DecodeOptions(temperatures=(0.0,)))
    assert len(tiny_en.tokenizer.decode(text.tokens)) < 20, "a loop is said once"
