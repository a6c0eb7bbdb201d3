"""Active speakers: scores of mouths, and turns made of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from avsr.lips import Mouths
from avsr.rates import SAMPLES_PER_FRAME
from avsr.segment import SpeechSegment
from avsr.speakers import SpeakerTurn, find_turns, speaker_turns, split
from avsr.speakers.turns import REACH, cut_at_pauses


def test_turns_fill_the_speech_and_follow_the_higher_score():
    first = np.r_[np.full(100, 3.0), np.full(100, -3.0)].astype(np.float32)
    second = np.r_[np.full(100, -3.0), np.full(50, 3.0), np.full(50, -3.0)].astype(np.float32)
    turns = speaker_turns({4: first, 7: second}, 1000, 200)
    assert [turn.persons for turn in turns] == [(4,), (7,), ()]
    assert [turn.start_frame for turn in turns] == [1000, 1100, 1150]
    assert [turn.end_frame for turn in turns] == [1100, 1150, 1200]


def test_nobody_in_sight_is_nobodys_turn():
    assert speaker_turns({}, 10, 5) == [SpeakerTurn(10, 15, ())]
    assert speaker_turns({0: np.full(5, -np.inf, np.float32)}, 10, 5) == [SpeakerTurn(10, 15, ())]


def log_odds(*parts):
    """(T,) float32 of parts, each a value and how many frames it lasts."""
    return np.concatenate([np.full(n, value, np.float32) for value, n in parts])


def persons_and_lengths(turns):
    return [(turn.persons, turn.end_frame - turn.start_frame) for turn in turns]


def test_a_moment_of_doubt_changes_no_speaker():
    scores = {0: log_odds((3, 60), (-3, 4), (3, 60)), 1: log_odds((-3, 60), (3, 4), (-3, 60))}
    assert persons_and_lengths(speaker_turns(scores, 0, 124)) == [((0,), 124)]


def test_a_mouth_that_is_not_seen_for_a_moment_goes_on_speaking_and_one_gone_for_long_does_not():
    unseen = -np.inf
    assert persons_and_lengths(speaker_turns({5: log_odds((3, 50), (unseen, 10), (3, 50))}, 0, 110)) == [((5,), 110)]
    turns = speaker_turns({5: log_odds((3, 50), (unseen, 100))}, 0, 150)
    assert persons_and_lengths(turns) == [((5,), 50), ((), 100)]


def test_two_speak_at_once_only_where_both_clearly_do():
    scores = {0: log_odds((3, 50), (2.5, 50)), 1: log_odds((-3, 50), (3, 50))}
    assert persons_and_lengths(speaker_turns(scores, 0, 100)) == [((0,), 50), ((1, 0), 50)]
    scores[0][50:] = 0.5
    assert speaker_turns(scores, 0, 100)[1].persons == (1,)


def test_a_turn_goes_on_through_a_pause_whatever_the_mouths_do_in_it():
    speech = log_odds((1, 50), (0, 40), (1, 50))
    scores = {0: log_odds((3, 50), (-3, 90)), 1: log_odds((-3, 90), (3, 50))}
    turns = speaker_turns(scores, 0, 140, speech)
    assert [turn.persons for turn in turns] == [(0,), (1,)]
    assert 50 <= turns[0].end_frame <= 90


def test_cuts_move_to_the_quietest_place_near_and_no_further():
    speech, level = np.ones(100), np.full(100, -20.0)
    level[54:56] = -60
    turns = [SpeakerTurn(200, 250, (0,)), SpeakerTurn(250, 300, (1,))]
    assert cut_at_pauses(turns, speech, level)[0].end_frame in (254, 255, 256)
    level = np.full(100, -20.0)
    level[80:82] = -60
    assert cut_at_pauses(turns, speech, level)[0].end_frame <= 250 + REACH, "far from the cut"
    speech[50:90] = 0
    assert cut_at_pauses(turns, speech, level)[0].end_frame in (280, 281, 282), "within the same pause"


PARTS = st.lists(st.tuples(st.sampled_from([-np.inf, -4.0, 0.0, 2.0, 5.0]), st.integers(1, 40)), min_size=1, max_size=5)


@given(st.lists(PARTS, max_size=5), st.integers(1, 120), st.integers(0, 1000))
def test_turns_fill_any_speech_without_a_hole_and_so_do_they_once_they_are_cut_at_pauses(people, n_frames, start):
    scores = {person: np.resize(log_odds(*parts), n_frames) for person, parts in enumerate(people)}
    rng = np.random.default_rng(n_frames)
    speech, level = rng.uniform(size=n_frames), rng.uniform(-70, 0, n_frames)
    turns = speaker_turns(scores, start, n_frames, speech)
    for some in (turns, cut_at_pauses(turns, speech, level)):
        starts, ends = [turn.start_frame for turn in some], [turn.end_frame for turn in some]
        assert [start, *ends] == [*starts, start + n_frames]
        assert all(turn.start_frame < turn.end_frame for turn in some)
        assert [turn.persons for turn in some] == [turn.persons for turn in turns]
        assert all(set(turn.persons) <= set(scores) and len(turn.persons) <= 2 for turn in some)


class Known:
    """A detector that knows whose sound it is: the mouths' grey level in each frame, less 100, is the score."""

    def scores(self, images, audio, missing):
        return np.where(missing, -np.inf, images.mean(axis=(1, 2)) - 100).astype(np.float32)


def test_each_frame_shows_the_mouth_of_whoever_speaks_and_the_photograph_of_nobody(monkeypatch):
    monkeypatch.setattr(split.sync, "motionless", lambda images, missing: np.zeros(len(images), bool))

    def mouth(person, levels, start=0):
        n = len(levels)
        images = np.broadcast_to(levels.astype(np.uint8)[:, None, None], (n, 96, 96))
        return Mouths(images, np.zeros(n, bool), np.full(n, 80, np.float32), np.full(n, 0.5, np.float32), start, person)

    left, right = mouth(3, log_odds((104, 75), (96, 125))), mouth(8, log_odds((97, 75), (105, 50), (95, 75)))
    sound = np.random.default_rng(0).normal(0, 0.1, 200 * SAMPLES_PER_FRAME).astype(np.float32)
    monkeypatch.setattr(split, "speech_of_frames", lambda sound, n: np.ones(n))
    found = find_turns([left, right], SpeechSegment(25, 175), sound, 0, Known())
    assert [turn.persons for turn in found.turns] == [(3,), (8,), ()]
    edges = [turn.end_frame - 25 for turn in found.turns]
    assert abs(edges[0] - 50) <= REACH
    assert (found.mouths.images[: edges[0]] >= 96).all()
    assert not found.mouths.missing[: edges[1]].any()
    assert found.mouths.missing[edges[1] :].all(), "nobody's lips are read where nobody in sight speaks"
    assert found.seen.all()
    alone = find_turns([mouth(0, log_odds((90, 200)))], SpeechSegment(0, 200), sound, 0, Known())
    assert (alone.turns[0].persons, alone.mouths) == ((), None)


def test_a_photograph_is_not_even_asked():
    class Never:
        def scores(self, *_):
            raise AssertionError

    images = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 96, 96), np.uint8), 100, axis=0)
    ones = np.ones(100, np.float32)
    still = Mouths(images, np.zeros(100, bool), 80 * ones, ones, 0, 0)
    sound = np.random.default_rng(0).normal(0, 0.1, 100 * SAMPLES_PER_FRAME).astype(np.float32)
    found = find_turns([still], SpeechSegment(0, 100), sound, 0, Never())
    assert ([turn.persons for turn in found.turns], found.mouths) == ([()], None)
    assert found.seen.all()
