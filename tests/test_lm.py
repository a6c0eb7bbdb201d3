"""Language model: the numbers of an ARPA file come back with their back-off, and tokens are worth what their words are."""

import gzip
import math
import os
from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.decode import BeamSearch, DecodeOptions, search
from avsr.errors import BadCheckpoint
from avsr.lm import UNKNOWN_LOGPROB, NGrams, WordScorer

TINY = r"""made by hand
\data\
ngram 1=6
ngram 2=4
ngram 3=2

\1-grams:
-1.0	<unk>
-99	<s>	-0.30
-0.9	</s>
-0.5	RED	-0.20
-0.6	BLUE	-0.10
-0.8	DON'T	0.05

\2-grams:
-0.25	<s> RED	-0.40
-0.35	RED BLUE	-0.15
-0.45	BLUE </s>
-0.55	RED <unk>

\3-grams:
-0.11	<s> RED BLUE
-0.22	RED BLUE </s>

\end\
"""


def written(folder, text, name="model.arpa"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return NGrams.open(written(tmp_path_factory.mktemp("lm"), TINY))


def log10(model, context, word):
    return model.score(context.split(), word) / math.log(10)


# The numbers

@pytest.mark.parametrize(("context", "word", "by_hand"), [
    ("<s> RED", "BLUE", -0.11),
    ("BLUE <s> RED", "BLUE", -0.11),                        # only the last two count
    ("<s>", "RED", -0.25),
    ("BLUE RED", "BLUE", -0.35),                            # BLUE RED is no context: nothing is paid for leaving it
    ("<s> RED", "RED", -0.40 - 0.20 - 0.5),
    ("RED BLUE", "RED", -0.15 - 0.10 - 0.5),
    ("RED BLUE", "</s>", -0.22),
    ("RED", "GREEN", -0.55),                                # by <unk>
    ("<s> RED", "GREEN", -0.40 - 0.55),
    ("GREEN", "BLUE", -0.6),
    ("DON'T", "RED", 0.05 - 0.5),                           # a weight may be above 1
    ("", "DON'T", -0.8),
])
def test_back_off_by_hand(tiny, context, word, by_hand):
    assert log10(tiny, context, word) == pytest.approx(by_hand, abs=1e-6)


def test_a_word_unknown_to_a_model_without_unk_has_a_floor(tmp_path):
    text = TINY.replace("-1.0\t<unk>\n", "").replace("-0.55\tRED <unk>\n", "").replace("1=6", "1=5").replace("2=4", "2=3")
    model = NGrams.open(written(tmp_path, text))
    assert model.score([], "GREEN") == pytest.approx(UNKNOWN_LOGPROB)
    assert model.score(["RED"], "GREEN") == pytest.approx(UNKNOWN_LOGPROB - 0.2 * math.log(10))
    assert log10(model, "GREEN", "RED") == pytest.approx(-0.5)


def test_what_the_file_calls_impossible_stays_a_number(tmp_path):
    model = NGrams.open(written(tmp_path, TINY.replace("-0.6\tBLUE", "-inf\tBLUE")))
    assert log10(model, "", "BLUE") == pytest.approx(-99)


def proper(sentences, order, discount=0.4):
    """An ARPA file whose probabilities add up to 1: absolute discounting, the rest to the shorter n-gram."""
    followers = defaultdict(Counter)
    for sentence in sentences:
        words = ["<s>", *sentence, "</s>"]
        for at in range(1, len(words)):
            for n in range(min(order - 1, at) + 1):
                followers[tuple(words[at - n:at])][words[at]] += 1
    vocabulary = sorted({word for sentence in sentences for word in sentence} | {"</s>", "<unk>"})
    total = sum(followers[()].values()) + len(vocabulary)
    table = {(): {word: (followers[()][word] + 1) / total for word in vocabulary}}
    weights = {}

    def chance(context, word):
        if context not in table:
            return chance(context[1:], word)
        return table[context].get(word) or weights[context] * chance(context[1:], word)

    for context, counts in sorted(followers.items(), key=lambda item: len(item[0])):
        if not context:
            continue
        unseen = sum(chance(context[1:], word) for word in vocabulary if word not in counts)
        taken = discount if unseen else 0.0
        table[context] = {word: (count - taken) / sum(counts.values()) for word, count in counts.items()}
        weights[context] = taken * len(counts) / sum(counts.values()) / unseen if unseen else 1.0
    lists = [[((*context, word), p) for context in table if len(context) == n for word, p in table[context].items()]
             for n in range(order)]
    lists[0].append((("<s>",), 1e-99))
    text = "\\data\\\n" + "".join(f"ngram {n}={len(grams)}\n" for n, grams in enumerate(lists, 1))
    for n, grams in enumerate(lists, 1):
        text += f"\n\\{n}-grams:\n"
        for words, p in grams:
            weight = f"\t{math.log10(weights[words]):.9f}" if words in weights else ""
            text += f"{math.log10(p):.9f}\t{' '.join(words)}{weight}\n"
    return text + "\n\\end\\\n", vocabulary, chance


SENTENCES = st.lists(st.lists(st.sampled_from("abcde"), max_size=6), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(sentences=SENTENCES, order=st.integers(1, 5), context=st.lists(st.sampled_from(["<s>", *"abcdeX"]), max_size=5))
def test_probabilities_add_up_to_one_after_anything(tmp_path_factory, sentences, order, context):
    text, vocabulary, chance = proper(sentences, order)
    model = NGrams.open(written(tmp_path_factory.mktemp("lm"), text))
    assert model.order == order
    chances = {word: math.exp(model.score(context, word)) for word in vocabulary}
    assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
    known = tuple(word if word in vocabulary or word == "<s>" else "<unk>" for word in context)
    for word in vocabulary:
        assert chances[word] == pytest.approx(chance(known[max(0, len(known) + 1 - order):], word), rel=1e-5)


# The file

def test_gzip_is_known_by_its_bytes_and_reads_the_same(tmp_path, tiny):
    for name in ("model.arpa.gz", "unnamed"):
        (tmp_path / name).write_bytes(gzip.compress(TINY.encode()))
        model = NGrams.open(tmp_path / name)
        assert model.words == tiny.words
        assert all(model.score([a, b], c) == tiny.score([a, b], c) for a in tiny.words for b in tiny.words for c in tiny.words)


def test_line_ends_spacing_and_a_byte_order_mark_do_not_matter(tmp_path, tiny):
    model = NGrams.open(written(tmp_path, "\ufeff" + TINY.replace("\t", "  ").replace("\n", " \r\n")))
    assert model.score(["<s>", "RED"], "BLUE") == tiny.score(["<s>", "RED"], "BLUE")


def test_words_are_utf8_and_may_hold_odd_spaces(tmp_path):
    model = NGrams.open(written(tmp_path, TINY.replace("BLUE", "BL\u00a0ÜE")))
    assert log10(model, "<s> RED", "BL\u00a0ÜE") == pytest.approx(-0.11)


def test_long_lists_are_read_in_parts(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr("avsr.lm.arpa.CHUNK", 2)
    seen = []
    model = NGrams.open(written(tmp_path, TINY), progress=lambda *report: seen.append(report))
    assert all(model.score([a, b], c) == tiny.score([a, b], c) for a in tiny.words for b in tiny.words for c in tiny.words)
    assert {(stage, unit) for stage, _, _, unit in seen} == {("reading the language model", "bytes")}
    assert seen[-1][1] == seen[-1][2] == len(TINY)
    with pytest.raises(BadCheckpoint, match="line 13: 'x' is not a number"):
        NGrams.open(written(tmp_path, TINY.replace("0.05", "x")))


BROKEN = {
    "no ARPA": ("hello\nthere\n", "not an ARPA file .no .data. in its first 2 lines"),
    "nothing": ("", "not an ARPA file"),
    "KenLM": ("mmap lm http://kheafield.com/code format version 5\n\0", "line 1: KenLM's binary layout.*Give the ARPA file"),
    "no counts": ("\\data\\\n\n\\1-grams:\n", r"no 'ngram 1=...' after \\data"),
    "odd count": (TINY.replace("ngram 2=4", "ngram 2=many"), "line 4: 'ngram 2=many' where the count 'ngram 2=...' should be"),
    "count left out": (TINY.replace("ngram 2=4\n", ""), "line 4: 'ngram 3=2' where"),
    "cut in a list": (TINY[:TINY.index("-0.45")], r"line 17: the file is cut short here .after 2-gram 2 of the 4"),
    "cut between lists": (TINY[:TINY.index("\n\\3-grams")], r"line 19: the file ends where \\3-grams: should come"),
    "cut before the end": (TINY[:TINY.index("\n\\end")], r"line 23: the file ends where \\end\\ should come"),
    "list too short": (TINY.replace("-0.45\tBLUE </s>\n", ""), r"line 19: the list ends .at 2-gram 4 of the 4 in"),
    "list too long": (TINY.replace("2=4", "2=3"), r"line 19: '-0.55\\tRED <unk>' stands where \\3-grams: should come"),
    "bad number": (TINY.replace("-0.35", "-0,35"), "line 17: '-0,35' is not a number"),
    "bad weight": (TINY.replace("-0.15", "heavy"), "line 17: 'heavy' is not a number"),
    "not finite": (TINY.replace("-0.35", "nan"), "line 17: 'nan' is not a finite number"),
    "no logarithm": (TINY.replace("-0.35", "0.35"), "line 17: a log10 probability of 0.35 is above 0"),
    "too few fields": (TINY.replace("-0.45\tBLUE </s>", "-0.45\tBLUE"), "line 18: 2 fields where a 2-gram has 3 or 4"),
    "too many fields": (TINY.replace("-0.15", "-0.15 0 0"), "line 17: 6 fields where a 2-gram has 3 or 4"),
    "unknown word": (TINY.replace("RED BLUE\t", "RED BLACK\t"), "line 17: 'BLACK' is not among the 1-grams"),
    "twice": (TINY.replace("RED <unk>", "<s> RED"), "line 19: a 2-gram that was there before"),
    "word twice": (TINY.replace("DON'T", "RED"), "line 13: a 1-gram that was there before"),
    "a header of digits": (TINY.replace("2=4", "2=" + "4" * 10_000), "line 4: 'ngram 2=4+' where the count"),
    "an order of digits": (TINY.replace("ngram 2=", "ngram " + "2" * 10_000 + "="), "line 4: 'ngram 2+' where the count"),
    "more than the file": (TINY.replace("2=4", "2=4000000"), "line 4: 4000006 n-grams do not fit into a file of 290 bytes"),
    "many orders": (TINY.replace("ngram 3=2", "\n".join(f"ngram {n}=0" for n in range(3, 99))), "of more than 20 words"),
    "an endless line": (TINY.replace("RED BLUE\t", "R" * 20_000 + "\t"), "line 17: a line of 16384 bytes or more"),
    "an endless header": ("x" * 20_000, "line 1: a line of 16384 bytes or more"),
    "a weight beyond": (TINY.replace("-0.15", "1e308"), "line 17: '1e308' is above 99, which no logarithm of a weight is"),
    "no sentences": (TINY.replace("<s>", "<a>").replace("</s>", "<b>"), "no <s> and no </s> among its 6 words"),
}


@pytest.mark.parametrize(("text", "problem"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused_with_line_and_remedy(tmp_path, text, problem):
    path = written(tmp_path, text)
    with pytest.raises(BadCheckpoint, match=problem) as caught:
        NGrams.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(".  ") == 1              # a sentence, then what to do
    assert str(caught.value).endswith(".")


def test_a_file_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "nowhere.arpa", tmp_path):
        with pytest.raises(BadCheckpoint, match=rf"{path}: cannot be read \(.*\)\.  Name an ARPA file"):
            NGrams.open(path)


def test_a_gzip_file_cut_short_or_damaged(tmp_path):
    packed = gzip.compress(TINY.encode())
    for broken in (packed[:-40], packed[:60] + b"\xff" * 30 + packed[90:], packed[:-8] + bytes(8)):
        (tmp_path / "model.arpa.gz").write_bytes(broken)
        with pytest.raises(BadCheckpoint, match=r"line .*the gzip file is damaged or cut short .*  Fetch the file again"):
            NGrams.open(tmp_path / "model.arpa.gz")


def test_a_gzip_file_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("avsr.lm.arpa.MIN_UNPACK_LIMIT", 2**20)
    head = TINY[:TINY.index("\\1-grams")].replace("1=6", "1=250000") + "\\1-grams:\n"
    for name, text, says in (("lines", head + "-1.0\tRED\n" * 500_000, "unpacks to more than 1048576, which n-grams never do"),
                             ("one line", "x" * 5_000_000, "line 1: a line of 16384 bytes or more")):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        with pytest.raises(BadCheckpoint, match=rf"{says}\.  Fetch the file again"):
            NGrams.open(tmp_path / name)


def test_a_pipe_is_refused_before_anybody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.arpa")
    with pytest.raises(BadCheckpoint, match=r"pipe\.arpa: no regular file, .*  Write what comes out of it into a file first\."):
        NGrams.open(tmp_path / "pipe.arpa")


# Words in text

@pytest.mark.parametrize(("text", "words"), [
    (" red", "RED"), (" Red,", "RED"), ("“Blue!”", "BLUE"), (" don’t", "DON'T"), (" 'red'", "RED"),
    (" red-blue", "RED BLUE"), (" red2", "RED <unk>"), (" re", "<unk>"), ("", ""), ("   ", ""), (" ...", ""), (" <s>", "<unk>"),
])
def test_words_are_looked_up_as_the_model_writes_them(tiny, text, words):
    assert tiny.word_ids(text) == tuple(tiny.words[word] for word in words.split())


def test_the_case_is_the_models(tmp_path):
    lower = NGrams.open(written(tmp_path, TINY.lower()))
    assert lower.word_ids(" RED") == (lower.words["red"],)
    mixed = NGrams.open(written(tmp_path, TINY.replace("RED", "Red").replace("BLUE", "blue")))
    assert [mixed.word_ids(word) for word in (" Red", " red", " Blue")] == [
        (mixed.words["Red"],), (mixed.unknown,), (mixed.words["blue"],)]


def test_librispeech_writes_its_unknown_in_capitals(tmp_path):
    model = NGrams.open(written(tmp_path, TINY.replace("<unk>", "<UNK>")))
    assert log10(model, "RED", "GREEN") == pytest.approx(-0.55)


# The scorer

PIECES = ["", "", " re", "d", " blue", " ", "-", "b", "lue", ",", " don", "'t", "  ", "\n", "d b"]      # 0 ends, 1 starts
LETTERS = ["", "", *" abcdelnortu'"]
END, START = 0, 1


def scorer_of(model, texts, **options):
    return WordScorer(model, texts, end=END, n_prompt=options.pop("n_prompt", 1), weight=1.0, **options)


def whole(model, text, word_bonus=0.0, unknown_bonus=0.0):
    """A sentence scored word by word."""
    context, total = ["<s>"], 0.0
    for word in text.replace("-", " ").replace(",", " ").upper().split():
        total += model.score(context, word) + word_bonus + (0.0 if word in model.words else unknown_bonus)
        context.append(word)
    return total + model.score(context, "</s>")


@settings(max_examples=60, deadline=None)
@given(data=st.data(), letters=st.booleans(), bonus=st.sampled_from([0.0, 1.5]), unknown=st.sampled_from([0.0, -3.0]))
def test_tokens_are_worth_what_their_words_are(tiny, data, letters, bonus, unknown):
    texts = LETTERS if letters else PIECES
    written = data.draw(st.lists(st.integers(2, len(texts) - 1), max_size=14))
    scorer = scorer_of(tiny, texts, word_bonus=bonus, unknown_bonus=unknown)
    tokens, total = [START], 0.0
    for token in [*written, END]:
        total += scorer.score(torch.tensor([tokens]))[0, token].item()
        tokens.append(token)
    said = "".join(texts[token] for token in written)
    if not {"'", ",", "-"} & set(said):                     # marks inside and about words have their own test
        assert total == pytest.approx(whole(tiny, said, bonus, unknown), abs=1e-4)


@pytest.mark.parametrize(("tokens", "said"), [
    ([2, 3, 4], "red blue"), ([2, 3, 6, 7, 8], "red-blue"), ([2, 3, 9, 4], "red, blue"), ([10, 11, 5, 5, 4], "don't blue"),
    ([2, 3, 12, 13, 4, 5], "red blue"), ([], ""), ([2, 14, 8], "red blue"),
])
def test_each_spelling_of_a_sentence_is_worth_the_same(tiny, tokens, said):
    scorer = scorer_of(tiny, PIECES)
    rows = [[START, *tokens[:n]] for n in range(len(tokens) + 1)]
    total = sum(scorer.score(torch.tensor([row]))[0, token].item() for row, token in zip(rows, [*tokens, END], strict=True))
    assert total == pytest.approx(whole(tiny, said), abs=1e-5)


def test_the_columns(tiny):
    scorer = scorer_of(tiny, PIECES, n_prompt=2)
    prompt = torch.tensor([[START, 4]] * 2)                 # what stands in the prompt is not text
    scores = scorer.score(prompt)
    assert (scores.shape, scores.dtype) == ((2, len(PIECES)), torch.float32)
    expected = torch.zeros(len(PIECES))
    expected[END] = tiny.score(["<s>"], "</s>")
    torch.testing.assert_close(scores, expected.expand(2, -1))
    scores = scorer.score(torch.cat([prompt, torch.tensor([[2], [4]])], dim=1))
    for row, word in zip(scores, ("RE", "BLUE"), strict=True):
        finished = tiny.score(["<s>"], word)
        wanted = [finished * text.startswith((" ", "\n")) for text in PIECES]
        wanted[END] = finished + tiny.score(["<s>", word], "</s>")
        torch.testing.assert_close(row, torch.tensor(wanted))


def random_walk(model, texts, seed, *, each):
    """Eight rows over ten steps, chosen anew after each as a beam does; `each` sees scorer and tokens."""
    rng = torch.Generator().manual_seed(seed)
    scorer, tokens = scorer_of(model, texts), torch.full((8, 1), START)
    for step in range(10):
        each(scorer, tokens, rng)
        rows = torch.randint(len(tokens), (8 if step < 5 else 4,), generator=rng)
        tokens = torch.cat([tokens[rows], torch.randint(2, len(texts), (len(rows), 1), generator=rng)], dim=1)
        scorer.select(rows, torch.tensor([0]) if step == 5 else None)


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_change_places_are_as_if_scored_afresh(tiny, seed):
    def check(scorer, tokens, rng):
        torch.testing.assert_close(scorer.score(tokens), scorer_of(tiny, PIECES).score(tokens))

    random_walk(tiny, PIECES, seed, each=check)


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_some_candidates_are_those_of_all(tiny, seed):
    def check(scorer, tokens, rng):
        candidates = torch.stack([torch.randperm(len(LETTERS), generator=rng)[:6] for _ in tokens])
        some = scorer.score_partial(tokens, candidates)
        assert some.dtype == torch.float32
        torch.testing.assert_close(some, scorer.score(tokens).gather(1, candidates))

    random_walk(tiny, LETTERS, seed, each=check)


class Undecided:
    """A network sure of its letters up to a word that it thinks is `rather`, or about as well `other`."""

    weight = 1.0

    def __init__(self, texts, rather, other):
        self.texts, self.choices = texts, {other: 0.0, rather: 0.1}

    def score(self, tokens):
        scores = torch.full((len(tokens), len(self.texts)), -30.0)
        for row, written in zip(scores, tokens[:, 1:].tolist(), strict=True):
            said = "".join(self.texts[token] for token in written)
            for choice, logit in self.choices.items():
                if choice.startswith(said):
                    row[self.texts.index(choice[len(said)]) if said != choice else END] = logit
        return scores

    def select(self, rows, utterances):
        pass


@pytest.mark.parametrize(("weight", "said"), [(0.0, " red band"), (0.5, " red blue"), (1.0, " red blue")])
def test_the_search_writes_the_word_that_the_language_model_expects(tiny, weight, said):
    network = Undecided(LETTERS, " red band", " red blue")
    words = WordScorer(tiny, LETTERS, end=END, n_prompt=1, weight=weight)
    beam = BeamSearch(1, DecodeOptions(beam_size=4), END)
    (found, score), = search([network, words], torch.tensor([[START]]), beam, max_tokens=12)
    assert "".join(LETTERS[token] for token in found) == said
    odds = 1 / (1 + math.exp(0.1 if said == " red blue" else -0.1))
    assert score == pytest.approx(math.log(odds) + weight * whole(tiny, said), abs=1e-4)
