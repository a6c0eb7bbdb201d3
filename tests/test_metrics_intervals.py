"""Intervals and tests: they hold the truth as often as they say, and chance as seldom."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rows import plain_row

from avsr.errors import AvsrError
from avsr.metrics import difference, paired, scored, sentence_errors, wer
from avsr.metrics.compare import permutation_p
from avsr.metrics.intervals import clusters, gap, interval, log_quotient, ratio


def rng(seed=0):
    return np.random.default_rng(seed)


def row(reference, hypothesis, speaker="s1", name="u"):
    return plain_row(id=name, speaker=speaker, reference=reference, hypothesis=hypothesis)


def simulated(generator, n_speakers, n_utterances):
    """Rows of speakers whose own error rates are spread about 20 %."""
    rates = generator.beta(2, 8, n_speakers)
    rows = []
    for speaker, rate in enumerate(rates):
        for wrong in generator.random((n_utterances, 6)) < rate:
            text = " ".join("x" if bad else word for bad, word in zip(wrong, "abcdef", strict=True))
            rows.append(row("a b c d e f", text, str(speaker), str(len(rows))))
    return rows


# --- what they are ---

def test_one_speaker_is_drawn_by_utterance_and_several_by_speaker():
    one = [row("a b", "a c", "s1") for _ in range(9)]
    assert (wer(one, rng=rng()).by, wer(one, rng=rng()).clusters) == ("utterance", 9)
    two = [*one, row("a b", "a b", "s2")]
    assert (wer(two, rng=rng()).by, wer(two, rng=rng()).clusters) == ("speaker", 2)
    unnamed = [*two, row("a b", "a b", None)]
    assert wer(unnamed, rng=rng()).by == "utterance"
    alone = wer(one[:1], rng=rng())
    assert (alone.percent, alone.low, alone.high) == (50, None, None)


def test_intervals_are_repeatable_and_hold_the_rate():
    rows = simulated(rng(3), 9, 6)
    first, second, other = (wer(rows, rng=rng(seed)) for seed in (0, 0, 1))
    assert first == second
    assert first != other
    assert first.low < first.percent < first.high
    scores = scored(rows)
    sums = clusters(rows).sums([one.errors for one in scores], [one.words for one in scores])
    low, high = interval(sums, ratio, rng(0), confidence=0.5, positive=True)
    assert first.low < 100 * low < 100 * high < first.high


def test_a_generator_goes_on_whether_its_draws_were_remembered_or_not():
    rows = simulated(rng(3), 9, 6)
    generators = rng(1), rng(1)
    for generator in generators:
        wer(rows, rng=generator)
    assert generators[0].random() == generators[1].random() != rng(1).random()
    generator = rng(1)
    assert wer(rows, rng=generator) != wer(rows, rng=generator)


def test_speakers_who_differ_make_the_interval_wider_than_their_sentences_do():
    rows = [row("a b c d", "a b c d" if i % 8 < 4 else "x y z d", f"s{i % 8}") for i in range(400)]
    by_speaker = wer(rows, rng=rng())
    by_utterance = wer([replace(one, speaker="s") for one in rows], rng=rng())
    assert by_speaker.high - by_speaker.low > 3 * (by_utterance.high - by_utterance.low)


def test_no_error_in_few_words_is_no_proof_of_none_in_more():
    rows = [row("a b c", "a b c", f"s{i}") for i in range(10)]
    rate = wer(rows, rng=rng())
    assert (rate.percent, rate.low) == (0, 0)
    assert rate.high == pytest.approx(11.57, abs=0.01)       # 0 of 30: Clopper and Pearson's, two-sided 95 %
    wrong = sentence_errors([replace(one, hypothesis="x") for one in rows], rng=rng())
    assert (wrong.percent, wrong.high) == (100, 100)
    assert wrong.low == pytest.approx(69.15, abs=0.01)       # 10 of 10
    assert wer([replace(one, hypothesis="a b x") for one in rows], rng=rng()).high == pytest.approx(100 / 3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=2, max_size=20), st.integers(0, 5))
def test_any_counts_have_an_interval_that_holds_their_rate(counts, seed):
    sums = np.array(counts, float)
    if not sums[:, 1].sum():
        return
    value = sums[:, 0].sum() / sums[:, 1].sum()
    low, high = interval(sums, ratio, rng(seed), n_draws=200, positive=True)
    assert 0 <= low <= value * (1 + 1e-9)
    assert value * (1 - 1e-9) <= high < np.inf


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20), st.integers(0, 5))
def test_the_interval_of_a_share_holds_it_and_stays_within_0_and_1(counts, seed):
    sums = np.array([(min(pair), max(pair)) for pair in counts], float)
    if not sums[:, 1].sum():
        return
    value = sums[:, 0].sum() / sums[:, 1].sum()
    low, high = interval(sums, ratio, rng(seed), n_draws=200, share=True)
    assert 0 <= low <= value * (1 + 1e-9)
    assert value * (1 - 1e-9) <= high <= 1


@pytest.mark.parametrize("n_speakers", [2, 3, 4, 5, 6, 9])
def test_sentences_wrong_are_between_none_and_all_of_them(n_speakers):
    """Of 10 sentences, 9 are wrong of one speaker and 2 of another, and so on; two speakers had 0 to 1802 %."""
    rows = [row("a b", "a x" if i < (9, 2, 10)[speaker % 3] else "a b", f"s{speaker}", f"{speaker}-{i}")
            for speaker in range(n_speakers) for i in range(10)]
    rate = sentence_errors(rows, rng=rng())
    assert 0 <= rate.low < rate.percent < rate.high <= 100


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 12), st.floats(0.1, 50), st.integers(0, 5))
def test_the_unit_of_the_weights_does_not_matter(n, unit, seed):
    sums = rng(seed).integers(1, 9, (n, 2)).astype(float)
    one = interval(sums, ratio, rng(0), n_draws=200)
    other = interval(sums * unit, ratio, rng(0), n_draws=200)
    assert one == pytest.approx(other)


# --- how often they hold the truth ---

@pytest.mark.slow
@pytest.mark.parametrize("n_speakers", [10, 30])
def test_intervals_cover_the_truth_as_often_as_they_say(n_speakers):
    generator = rng(5)
    found = [wer(simulated(generator, n_speakers, 4), rng=generator, n_draws=500) for _ in range(1000)]
    assert 0.93 <= np.mean([rate.low <= 20 <= rate.high for rate in found]) <= 0.97


def covered(draw, truth, statistic, n_times, seed=1, **options):
    """How often the interval of what `draw(generator)` gives, (n, k), holds the truth."""
    generator, held = rng(seed), []
    for _ in range(n_times):
        sums = draw(generator).astype(float)
        if (sums.sum(axis=0) > 0).all():
            low, high = interval(sums, statistic, generator, n_draws=500, **options)
            held.append(low <= truth <= high)
    return np.mean(held)


def rare(n):
    """4 % errors, most of them of a few speakers."""
    return lambda generator: np.stack([generator.binomial(120, generator.beta(0.5, 12, n)), np.full(n, 120)], axis=1)


def uneven(n):
    """20 %, from 6 to some hundreds of words a speaker."""
    def draw(generator):
        words = 6 * (1 + generator.poisson(generator.lognormal(1.5, 0.8, n)))
        return np.stack([generator.binomial(words, generator.beta(2, 8, n)), words], axis=1)
    return draw


def utterances(n):
    """3 % of 6 words, one speaker."""
    return lambda generator: np.stack([generator.binomial(6, 0.03, n), np.full(n, 6)], axis=1)


@pytest.mark.parametrize(("draw", "truth", "least", "most"), [
    (rare(10), 0.5 / 12.5, 0.92, 0.97), (rare(30), 0.5 / 12.5, 0.93, 0.97), (uneven(30), 0.2, 0.92, 0.97),
    (utterances(75), 0.03, 0.93, 0.98), (rare(4), 0.5 / 12.5, 0.92, 1.0), (uneven(5), 0.2, 0.88, 0.97)])
def test_hard_cases_are_covered_too(draw, truth, least, most):
    """The bounds for few or uneven speakers are what was measured: no promise holds there."""
    assert least <= covered(draw, truth, ratio, 800, positive=True) <= most


@pytest.mark.parametrize(("n", "least"), [(2, 0.91), (3, 0.92), (5, 0.92), (8, 0.92)])
def test_shares_of_few_speakers_are_covered(n, least):
    def wrong(generator):
        return np.stack([generator.binomial(30, generator.beta(6, 4, n)), np.full(n, 30)], axis=1)

    assert least <= covered(wrong, 0.6, ratio, 500, share=True) <= 0.98


@pytest.mark.slow
def test_differences_gaps_and_quotients_are_covered():
    def systems(generator, n=10):
        rate = generator.beta(2, 8, n)
        ours, theirs = generator.binomial(60, rate), generator.binomial(60, rate * generator.beta(8, 4, n))
        return np.stack([ours - theirs, np.full(n, 60)], axis=1)

    def groups(generator, n=15):
        errors = generator.binomial(60, np.concatenate([generator.beta(3, 7, n), generator.beta(2, 8, n)]))
        first = np.arange(2 * n) < n
        return np.stack([errors * first, 60 * first, errors * ~first, 60 * ~first], axis=1)

    assert 0.93 <= covered(systems, 0.2 * 4 / 12, ratio, 1000) <= 0.97
    assert 0.93 <= covered(groups, 0.1, gap, 1000) <= 0.97
    assert 0.93 <= covered(groups, np.log(1.5), log_quotient, 1000) <= 0.97


# --- two systems ---

def test_a_difference_is_paired_by_id():
    rows = simulated(rng(1), 20, 5)
    better = [replace(one, hypothesis=one.hypothesis.replace("x", "a", 1)) for one in rows]
    apart = difference(rows, list(reversed(better)), rng=rng())
    gap = wer(rows, rng=rng()).percent - wer(better, rng=rng()).percent
    assert apart.percent == pytest.approx(gap)
    assert 0 < apart.low < apart.percent < apart.high
    assert apart.high - apart.low < wer(rows, rng=rng()).high - wer(rows, rng=rng()).low
    same = difference(rows, rows, rng=rng())
    assert (same.percent, same.low, same.high) == (0, 0, 0)
    assert paired(rows, rows, rng=rng()).p == 1
    with pytest.raises(AvsrError, match=r"100 against 99, 1 ids in one only, such as 0\.  Give one row"):
        difference(rows, rows[1:], rng=rng())
    with pytest.raises(AvsrError, match=r"101 rows of 100 utterances, 3 among those there more than once"):
        difference(rows, [*rows, rows[3]], rng=rng())
    with pytest.raises(AvsrError, match=r"of 0 one has the reference 'a b c d e f' and the other 'a b'.  Make both from"):
        difference(rows, [replace(rows[0], reference="a b"), *rows[1:]], rng=rng())


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=9))
def test_the_permutation_test_is_exact_for_few_clusters(differences):
    sums = [abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
            for signs in product((1, -1), repeat=len(differences))]
    expected = np.mean([one >= abs(sum(differences)) for one in sums])
    assert permutation_p(np.array(differences, float), rng()) == expected
    # As many more that are alike in both systems change nothing, and make the throws random.
    many = permutation_p(np.array([*differences, *12 * [0]], float), rng(), 4000)
    assert many == pytest.approx(expected, abs=0.05)


def test_chance_alone_is_called_so_as_often_as_it_says():
    generator = rng(2)
    errors = generator.binomial(20, 0.2, (2, 2000, 10)).astype(float)
    p = np.array([permutation_p(one, generator) for one in errors[0] - errors[1]])
    assert 0.03 <= np.mean(p <= 0.05) <= 0.06
    assert 0.40 <= np.mean(p <= 0.50) <= 0.55


def test_a_real_difference_has_a_small_p_and_it_is_never_zero():
    rows = simulated(rng(1), 40, 5)
    better = [replace(one, hypothesis=one.reference) for one in rows]
    found = paired(rows, better, rng=rng(), n_permutations=999)
    assert found.p == 1 / 1000
    assert found.difference == difference(rows, better, rng=rng())
    three = [one for one in rows if one.speaker in ("0", "1", "2")]
    assert paired(three, [replace(one, hypothesis="x") for one in three], rng=rng()).p == 2 / 2 ** 3
    assert paired(rows[:1], better[:1], rng=rng()).p is None
    backwards = paired(better, rows, rng=rng(), n_permutations=999)
    assert (backwards.difference.percent, backwards.p) == (-found.difference.percent, found.p)
