"""Active speakers: scores of mouths, and turns made of them."""

import numpy as np

from avsr.speakers import SpeakerTurn, speaker_turns


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
