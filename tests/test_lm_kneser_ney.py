"""Kneser-Ney n-grams: equal to a slow implementation by the definition, to figures by hand, and to KenLM's if it is there."""

import math
import shutil
import subprocess
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.errors import AvsrError
from avsr.lm import NGrams
from avsr.lm.kneser_ney import FALLBACK, discounts_of, estimate, write_arpa


def by_definition(sentences, order):
    """p(w | context) of Chen and Goodman's definition, by dictionaries; the discounts of each order."""
    raw = Counter()
    for sentence in sentences:
        words = ("<s>", *sentence, "</s>")
        raw.update(words[at:at + n] for n in range(1, order + 1) for at in range(len(words) - n + 1))
    vocabulary = {word for (word,) in (gram for gram in raw if len(gram) == 1)} - {"<s>"} | {"<unk>"}
    counts, left = defaultdict(dict), defaultdict(set)
    for gram in raw:
        left[gram[1:]].add(gram[0])
    for gram, count in raw.items():
        if gram == ("<s>",):
            continue
        if len(gram) < order and gram[0] != "<s>":
            count = len(left[gram])
        counts[gram[:-1]][gram[-1]] = count
    discounts = []
    for n in range(1, order + 1):
        found = Counter(count for context, after in counts.items() if len(context) == n - 1 for count in after.values())
        usable = all(found[c] for c in (1, 2, 3))
        y = found[1] / (found[1] + 2 * found[2]) if usable else 0
        ds = [0, *(c - (c + 1) * y * found[c + 1] / found[c] for c in (1, 2, 3))] if usable else FALLBACK
        discounts.append(ds if all(0 <= d <= c for c, d in enumerate(ds)) else FALLBACK)

    def p(word, context):
        shorter = p(word, context[1:]) if context else 1 / len(vocabulary)
        after = counts.get(context)
        if not after:
            return shorter
        ds, total = discounts[len(context)], sum(after.values())
        left = sum(ds[min(count, 3)] for count in after.values()) / total
        count = after.get(word, 0)
        return max(count - ds[min(count, 3)], 0) / total + left * shorter

    return p, vocabulary, discounts


TEXT = [line.split() for line in ("a b c a b", "a b a", "c a b d", "b", "", "e a b c", "f g a", "a c c b d h", "i a b j")]


@settings(max_examples=25)
@given(sentences=st.lists(st.lists(st.sampled_from("abcdef"), max_size=7), min_size=1, max_size=25), order=st.integers(1, 5))
def test_it_is_chen_and_goodmans_definition(sentences, order, tmp_path_factory):
    check(sentences, order, tmp_path_factory.mktemp("kn") / "m.arpa")


def like_a_language(seed, n=400):
    """Sentences of words as frequent as those of a language, some of them in phrases, so that long n-grams come again."""
    rng = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, 301)
    phrases = [[f"w{n}" for n in rng.choice(300, rng.integers(1, 5), p=zipf / zipf.sum())] for _ in range(400)]
    return [[word for number in rng.zipf(1.5, rng.integers(1, 5)) % 400 for word in phrases[number]] for _ in range(n)]


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_it_is_the_definition_where_all_discounts_can_be_computed(order, tmp_path):
    sentences = like_a_language(order)
    assert estimate(sentences, order).fallbacks == ()
    check(sentences, order, tmp_path / "m.arpa.gz")


def check(sentences, order, path):
    p, vocabulary, discounts = by_definition(sentences, order)
    found = estimate(sentences, order)
    assert [pytest.approx(one) for one in discounts] == found.discounts
    model = NGrams.open(write_arpa(found, path))
    assert model.order == order
    contexts = [(), ("<s>",), *(("<s>", *sentence)[max(0, len(sentence) + 2 - order):] for sentence in sentences[:6]),
                *(tuple(sentence[:order - 1]) for sentence in sentences[:6])]
    for context in contexts:
        context = context[max(0, len(context) + 1 - order):]
        total = 0.0
        for word in vocabulary:
            mine = math.exp(model.score(context, word))
            assert mine == pytest.approx(p(word, context), rel=1e-4)
            total += mine
        assert total == pytest.approx(1, abs=1e-4)


def test_bigrams_by_hand():
    """Of `a b`, `a b`, `c b`: b has two words before it, a and c have one, </s> one (b). Too few counts for discounts."""
    found = estimate([["a", "b"], ["a", "b"], ["c", "b"]], 2)
    (_, unigrams, weights), (pairs, bigrams, _) = found.orders
    assert found.words == ["<unk>", "<s>", "</s>", "a", "b", "c"]
    assert found.fallbacks == (1,)
    # continuation counts </s> 1, a 1, b 2, c 1: sum 5; discounts 0.5 + 0.5 + 1 + 0.5 of them, shared by five words
    rest = 2.5 / 5 / 5
    assert 10**unigrams == pytest.approx([rest, 1e-99, 0.1 + rest, 0.1 + rest, 0.2 + rest, 0.1 + rest])
    # two pairs count 1, two 2, one 3: Y = 2 / 6, D(1) = 1 - 2 / 3, D(2) = 2 - 3 / 3 / 2; after <s>: a twice, c once
    weight = (1 / 3 + 3 / 2) / 3
    assert 10**weights[1] == pytest.approx(weight)
    at = pairs.tolist().index([1, 3])
    assert 10**bigrams[at] == pytest.approx((2 - 3 / 2) / 3 + weight * (0.1 + rest))


def test_discounts_by_hand():
    """Four n-grams count 1, three 2, two 3, one 4: Y = 4 / (4 + 6) = 0.4."""
    counts = np.array([1] * 4 + [2] * 3 + [3] * 2 + [4] + [9])
    assert discounts_of(counts) == pytest.approx((0, 1 - 2 * 0.4 * 3 / 4, 2 - 3 * 0.4 * 2 / 3, 3 - 4 * 0.4 * 1 / 2))
    assert discounts_of(np.array([1, 1, 2, 5])) is None


def test_pruned_ngrams_leave_their_probability_to_shorter_ones(tmp_path):
    whole, pruned = estimate(TEXT, 3), estimate(TEXT, 3, (1, 1, 2))
    assert len(pruned.orders[1][0]) == len(whole.orders[1][0])
    assert 0 < len(pruned.orders[2][0]) < len(whole.orders[2][0])
    model = NGrams.open(write_arpa(pruned, tmp_path / "m.arpa"))
    for context in (["a", "b"], ["<s>", "a"], ["b", "c"]):
        total = sum(math.exp(model.score(context, word)) for word in model.words if word != "<s>")
        assert total == pytest.approx(1, abs=1e-5)


def test_the_marks_of_arpa_files_are_no_words():
    with pytest.raises(AvsrError, match=r"the texts hold one of the marks <unk>, <s>, </s> as a word.*\.  Take it out"):
        estimate([["a", "<s>"]], 2)


@pytest.mark.skipif(shutil.which("lmplz") is None, reason="KenLM's lmplz is not on this machine")
@pytest.mark.parametrize("order", [2, 3, 5])
def test_it_is_what_kenlm_finds(order, tmp_path):
    sentences = like_a_language(order)
    text = "".join(" ".join(sentence) + "\n" for sentence in sentences)
    theirs = tmp_path / "theirs.arpa"
    theirs.write_bytes(subprocess.run(["lmplz", "-o", str(order), "-S", "5%", "--discount_fallback"], input=text.encode(),
                                      capture_output=True, check=True).stdout)
    one, other = NGrams.open(theirs), NGrams.open(write_arpa(estimate(sentences, order), tmp_path / "ours.arpa"))
    assert one.words.keys() == other.words.keys()
    for sentence in sentences[:50]:
        words = ["<s>", *sentence, "</s>"]
        for at in range(1, len(words)):
            assert other.score(words[:at], words[at]) == pytest.approx(one.score(words[:at], words[at]), abs=1e-4)
