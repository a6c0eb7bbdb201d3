"""Conditions: cells, the no-harm criterion, the SNR gain, and what each modality contributes."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rows import plain_row

from avsr.errors import AvsrError
from avsr.metrics import (
    Cell,
    Shapley,
    cells,
    condition_shapley,
    gain,
    gain_db,
    no_harm,
    shapley,
    unimodal_cells,
    wer,
)

WORDS = ["bin", "blue", "at", "f", "two", "now", "please", "soon"]
LEVELS = (10.0, 5.0, 0.0, -5.0, -10.0)
VALUES = st.floats(-20, 20, allow_subnormal=False)


def rng(seed=0):
    return np.random.default_rng(seed)


def bench(seed=0, n_speakers=8, n_utterances=6, lips_db=5.0):
    """Rows of a system whose lips are worth `lips_db`: clean and in babble, all modalities, one corruption."""
    generator, rows = rng(seed), []
    own = generator.normal(0, 1.5, n_speakers)
    conditions = [("none", None, None), ("v", None, None), ("v", None, "blur")]
    conditions += [(modality, snr, None) for modality in ("a", "av") for snr in (None, *LEVELS)]
    conditions += [("av", -5.0, "blur")]
    for speaker in range(n_speakers):
        for number in range(n_utterances):
            for modality, snr, corruption in conditions:
                heard = (20.0 if snr is None else snr) + (lips_db if modality == "av" else 0)
                wrong = {"none": 1.0, "v": 0.5}.get(modality, 1 / (1 + np.exp((heard + 3 + own[speaker]) / 4)))
                bad = generator.random(len(WORDS)) < wrong
                rows.append(plain_row(
                    id=f"{speaker}-{number}", speaker=f"s{speaker}", modality=modality, reference=" ".join(WORDS),
                    hypothesis=" ".join("x" if one else word for one, word in zip(bad, WORDS, strict=True)),
                    noise=None if snr is None else "babble", snr_db=snr, corruption=corruption,
                    amount=None if corruption is None else 4.0, loss=0.1 + 5 * float(wrong) * generator.uniform(0.9, 1.1)))
    return rows


# --- cells ---

def test_rows_are_put_into_cells_in_an_order_a_table_can_use():
    rows = bench()
    found = cells(reversed(rows))
    assert sum(len(some) for some in found.values()) == len(rows)
    assert all(Cell.of(row) == cell for cell, some in found.items() for row in some)
    names = [(cell.modality, cell.snr_db, cell.corruption) for cell in found]
    assert names == [("none", None, None), ("a", None, None), *(("a", snr, None) for snr in LEVELS),
                     ("v", None, None), ("v", None, "blur"), ("av", None, None), *(("av", snr, None) for snr in LEVELS),
                     ("av", -5.0, "blur")]
    assert Cell("s", "a", "babble", 0.0) != Cell("s", "a")


def test_both_are_held_against_the_same_noise_and_the_same_corruption():
    found = cells(bench())
    assert unimodal_cells(found, Cell("grid", "av", "babble", -5.0, "blur", 4.0)) == (
        Cell("grid", "a", "babble", -5.0), Cell("grid", "v", corruption="blur", amount=4.0))
    assert unimodal_cells(found, Cell("grid", "av")) == (Cell("grid", "a"), Cell("grid", "v"))
    assert unimodal_cells(found, Cell("grid", "av", "babble", -5.0, "noface")) == (Cell("grid", "a", "babble", -5.0), None)
    assert unimodal_cells(found, Cell("other", "av")) == (None, None)


def test_the_no_harm_criterion():
    assert no_harm(10.5, 10.0, 30.0)
    assert not no_harm(10.6, 10.0, 30.0)
    assert no_harm(10.5, 30.0, 10.0)
    assert no_harm(10.1, 10.1 - 0.5)
    assert not no_harm(10.5, 10.0, tolerance=0.0)


# --- decibels ---

def test_gain_is_read_off_the_curve_of_sound():
    curve = {10.0: 10.0, 0.0: 50.0, -10.0: 90.0}
    assert gain_db(curve, 30.0) == 5.0
    assert gain_db(curve, 50.0) == 0.0
    assert gain_db(curve, 60.0) == -2.5
    assert gain_db(curve, 30.0, at_db=-10.0) == 15.0
    assert gain_db(curve, 5.0) == math.inf
    assert gain_db(curve, 95.0) == -math.inf
    assert gain_db(curve, 9.0, at_db=10.0) == math.inf
    with pytest.raises(AvsrError, match=r"not measured at 5 dB, but at -10, 0, 10\.  Measure it there"):
        gain_db(curve, 30.0, at_db=5.0)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=6), st.floats(0, 100))
def test_a_gain_found_is_where_sound_alone_has_that_rate(percents, percent):
    curve = {5.0 * i: one for i, one in enumerate(percents)}
    for at_db in curve:
        found = gain_db(curve, percent, at_db)
        if math.isfinite(found):
            assert np.interp(at_db + found, list(curve), percents) == pytest.approx(percent, abs=1e-6)
        else:
            beyond = [one for snr, one in curve.items() if (snr >= at_db if found > 0 else snr <= at_db)]
            assert min(beyond) > percent or max(beyond) < percent


def test_the_gain_of_a_benchmark_has_an_interval_around_it():
    found = cells(bench(n_speakers=20, n_utterances=20))
    worth = gain(found, "grid", "babble", rng=rng())
    curve = {snr: wer(found[Cell("grid", "a", "babble", snr)], rng=rng()).percent for snr in LEVELS}
    assert worth.db == pytest.approx(gain_db(curve, wer(found[Cell("grid", "av", "babble", 0.0)], rng=rng()).percent))
    assert 3 < worth.low < worth.db < worth.high < 7
    assert worth.limits == (-10, 10)
    assert worth.beyond is None
    assert worth == gain(found, "grid", "babble", rng=rng())
    other_noise = {**found, Cell("grid", "a", "white", 0.0): []}
    assert gain(other_noise, "grid", "babble", rng=rng()) == worth


def test_a_gain_beyond_what_was_measured_says_so():
    found = cells(bench(lips_db=30.0))
    worth = gain(found, "grid", "babble", at_db=5.0, rng=rng())
    assert (worth.db, worth.high, worth.beyond, worth.limits) == (math.inf, math.inf, 5.0, (-15.0, 5.0))
    alone = gain(cells(row for row in bench() if row.id == "0-0"), "grid", "babble", at_db=-10.0, rng=rng())
    assert (alone.low, alone.high) == (None, None)


def test_a_gain_without_its_cells_is_an_error():
    found = cells(bench())
    with pytest.raises(AvsrError, match="not measured at 0 dB, but at no SNR"):
        gain(found, "grid", "music", rng=rng())
    with pytest.raises(AvsrError, match="grid has no rows of sound and video together in babble at 3 dB"):
        gain(found, "grid", "babble", at_db=3.0, rng=rng())
    short = {**found, Cell("grid", "a", "babble", 10.0): found[Cell("grid", "a", "babble", 10.0)][1:]}
    with pytest.raises(AvsrError, match="48 against 47, 1 ids in one only, such as 0-0"):
        gain(short, "grid", "babble", rng=rng())


# --- Shapley ---

@given(VALUES, VALUES, VALUES, VALUES)
def test_shapley_values_keep_the_axioms(none, sound, video, both):
    """Efficiency, symmetry, a player who adds nothing, additivity: with two players they leave no other value."""
    found = shapley(none, sound, video, both)
    assert found.sound + found.video == pytest.approx(found.total, abs=1e-9)
    assert found.total == both - none
    swapped = shapley(none, video, sound, both)
    assert (swapped.sound, swapped.video) == (found.video, found.sound)
    idle = shapley(none, sound, none, sound)
    assert (idle.sound, idle.video) == (sound - none, 0)
    twice = shapley(*(2 * value + 1 for value in (none, sound, video, both)))
    assert twice.sound == pytest.approx(2 * found.sound, abs=1e-9)


def test_the_share_of_video():
    assert shapley(-4.0, -1.0, -4.0, -1.0).share == 0
    assert shapley(-4.0, -4.0, -1.0, -1.0).share == 1
    assert shapley(-4.0, -2.0, -2.0, -1.0) == Shapley(1.5, 1.5, 3.0)
    assert shapley(0, 1, 2, 0).share is None


def test_of_one_utterance():
    rows = {row.modality: row for row in bench() if row.id == "1-1" and row.snr_db in (None, 0.0) and row.corruption is None}
    cell, losses = Cell("grid", "av", "babble", 0.0), {name: row.loss for name, row in rows.items()}

    def found(changed, measure="loss"):
        return condition_shapley(cells(changed.values()), cell, measure, rng=rng())

    expected = shapley(*(-losses[name] for name in ("none", "a", "v", "av")))
    of_loss = found(rows)
    assert (of_loss.sound.value, of_loss.video.value, of_loss.total.value) == (expected.sound, expected.video, expected.total)
    assert (of_loss.total.low, of_loss.utterances) == (None, 1)
    texts = {"a": "bin blue at f two now please x", "v": "x x x x two now please soon", "av": " ".join(WORDS)}
    for name, text in texts.items():
        rows[name] = replace(rows[name], hypothesis=text)
    of_words = found({name: rows[name] for name in ("a", "v", "av")}, "wer")
    assert (of_words.sound.value, of_words.video.value) == ((7 / 8 + 4 / 8) / 2, (4 / 8 + 1 / 8) / 2)
    assert of_words.total.value == 1
    assert found({**rows, "v": replace(rows["v"], loss=None)}) is None
    with pytest.raises(AvsrError, match=r"no measure 'cer'\.  Choose one of loss, wer"):
        found(rows, "cer")


def test_of_a_condition_it_is_the_mean_of_those_of_its_utterances():
    rows = bench()
    found, cell = cells(rows), Cell("grid", "av", "babble", -5.0, "blur", 4.0)
    whole = condition_shapley(found, cell, rng=rng())
    losses = {}
    for one in (Cell("grid", "none"), *unimodal_cells(found, cell), cell):
        for row in found[one]:
            losses.setdefault(row.id, []).append(-row.loss)
    each = [shapley(*values) for values in losses.values()]
    for name in ("sound", "video", "total"):
        estimate = getattr(whole, name)
        assert estimate.value == pytest.approx(np.mean([getattr(one, name) for one in each]))
        assert estimate.low < estimate.value < estimate.high
    assert whole.share.value == pytest.approx(whole.video.value / whole.total.value)
    assert whole.share.low < whole.share.value < whole.share.high
    assert (whole.utterances, whole.without, whole.clusters, whole.by) == (48, 0, 8, "speaker")
    worse = condition_shapley(found, Cell("grid", "av"), rng=rng())
    assert worse.share.value < whole.share.value             # in clean sound the lips have less to add


def test_of_word_errors_it_is_weighted_by_words():
    found, cell = cells(bench()), Cell("grid", "av", "babble", -5.0)
    percent = {name: wer(found[one], rng=rng()).percent / 100
               for name, one in zip(("a", "v", "av"), (*unimodal_cells(found, cell), cell), strict=True)}
    whole = condition_shapley(found, cell, "wer", rng=rng())
    expected = shapley(-1.0, -percent["a"], -percent["v"], -percent["av"])
    assert (whole.sound.value, whole.video.value) == (pytest.approx(expected.sound), pytest.approx(expected.video))
    empty = {one: [*some, replace(some[0], id="silent", reference="...")] for one, some in found.items()}
    again = condition_shapley(empty, cell, "wer", rng=rng())
    assert (again.sound.value, again.without) == (pytest.approx(whole.sound.value), 1)


def test_a_condition_without_its_parts_is_an_error_and_without_losses_is_none():
    found, cell = cells(bench()), Cell("grid", "av", "babble", -5.0)
    without = {one: some for one, some in found.items() if one.modality != "none"}
    with pytest.raises(AvsrError, match="no rows of modality none to go with babble, intact video"):
        condition_shapley(without, cell, rng=rng())
    assert condition_shapley(without, cell, "wer", rng=rng()) == condition_shapley(found, cell, "wer", rng=rng())
    nothing = {one: [replace(row, loss=None) for row in some] for one, some in found.items()}
    assert condition_shapley(nothing, cell, rng=rng()) is None
    short = {**found, Cell("grid", "v"): found[Cell("grid", "v")][2:]}
    with pytest.raises(AvsrError, match="46 utterances of modality v, 48 of av, 2 in one only, such as 0-0"):
        condition_shapley(short, cell, rng=rng())


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(*3 * [st.integers(0, 8)]), min_size=2, max_size=8))
def test_shares_of_any_counts_add_up(counts):
    found = {}
    for modality, wrong in zip(("a", "v", "av"), zip(*counts, strict=True), strict=True):
        found[Cell("s", modality)] = [
            plain_row(id=str(i), speaker=f"s{i}", reference=" ".join(WORDS), hypothesis=" ".join(WORDS[n:]))
            for i, n in enumerate(wrong)]
    shares = condition_shapley(found, Cell("s", "av"), "wer", rng=rng(), n_draws=100)
    assert shares.sound.value + shares.video.value == pytest.approx(shares.total.value)
    assert all(one.low <= one.value + 1e-9 and one.value <= one.high + 1e-9
               for one in (shares.sound, shares.video, shares.total))
