"""Per-speaker text: windows are cut where the speaker changes, and every word has the name of who says it."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsr import media
from avsr.decode import Hypothesis
from avsr.errors import BadMedia
from avsr.lips import Mouths
from avsr.rates import frames_to_samples
from avsr.segment import SpeechSegment
from avsr.speakers import SpeakerTurn
from avsr.stream import Window
from avsr.text import normalise
from avsr.transcribe import transcribe
from avsr.transcribe.speakers import SpeakerNames, by_speaker, pieces
from avsr.transcribe.windows import WrittenWord
from avsr.transcript import Segment, Word, of_speaker

SENTENCES = {"s1/bbaf4p.mkv": "bin blue at f four please", "s4/sgib6s.mkv": "set green in b six soon"}
EMPTY = Hypothesis((), 0.0, 0.0, 0.0)


def window(lengths, persons, start=100):
    """A window whose turns are so long; its sound and its mouths count up."""
    edges = start + np.cumsum([0, *lengths])
    n = int(edges[-1] - start)
    turns = tuple(SpeakerTurn(int(a), int(b), who) for (a, b), who in zip(pairwise(edges), persons, strict=True))
    missing = np.concatenate([np.full(length, not who) for length, who in zip(lengths, persons, strict=True)])
    counted = np.arange(n, dtype=np.float32)
    mouths = Mouths(np.arange(n, dtype=np.uint8)[:, None, None], missing, counted, counted, start, 0)
    return Window(SpeechSegment(start, start + n), np.repeat(counted, frames_to_samples(1)), mouths, turns=turns, seen=~missing)


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from([(0,), (1,), (), (0, 1)])), min_size=1, max_size=8),
       st.integers(1, 80))
def test_pieces_are_all_of_the_window_and_long_enough(turns, shortest):
    whole = window([length for length, _ in turns], [who for _, who in turns])
    cut = pieces(whole, shortest)
    assert np.array_equal(np.concatenate([one.audio for one in cut]), whole.audio)
    assert [turn for one in cut for turn in one.turns] == list(whole.turns)
    assert np.array_equal(np.concatenate([one.seen for one in cut]), whole.seen)
    assert [one.segment.start_frame for one in cut[1:]] == [one.segment.end_frame for one in cut[:-1]]
    assert len(cut) == 1 or min(one.segment.end_frame - one.segment.start_frame for one in cut) >= shortest
    for one in cut:
        here = slice(one.segment.start_frame - 100, one.segment.end_frame - 100)
        if one.mouths is None:
            assert whole.mouths.missing[here].all()
        else:
            assert one.mouths.start_frame == one.segment.start_frame
            assert np.array_equal(one.mouths.images, whole.mouths.images[here])


def test_long_turns_are_pieces_and_a_short_one_joins_the_shorter_neighbour():
    cut = pieces(window([80, 5, 40, 60], [(0,), (1,), (0,), (2,)]), 25)
    assert [one.segment.end_frame - one.segment.start_frame for one in cut] == [80, 45, 60]
    untold = Window(SpeechSegment(0, 50), None, None)
    assert pieces(untold) == [untold]


def test_words_are_said_by_whoever_has_the_turn_in_their_middle():
    turns = window([25, 25, 25], [(4,), (), (4, 2)], 0).turns
    words = [Word(" a", 0.0, 0.4), Word(" b", 0.8, 1.3), Word(" c", 1.9, 2.0), Word(" d", 1.95, 2.6), Word(" e", 3.0, 3.2)]
    written = [WrittenWord(word, (), EMPTY, 0.0) for word in words]
    runs = [(persons, "".join(one.word.text for one in run)) for persons, run in by_speaker(written, turns)]
    assert runs == [((4,), " a"), ((), " b c"), ((4, 2), " d e")]
    assert list(by_speaker(written, None)) == [(None, written)]


def test_names_are_given_in_the_order_of_speaking_and_kept():
    names = SpeakerNames()
    part = Segment("Yes.", 0, 1, (Word("Yes.", 0, 1),))
    named = [names.name(part, persons) for persons in ((7,), (), (3, 7), (7,))]
    assert [one.speakers for one in named] == [("SPEAKER_00",), (), ("SPEAKER_01", "SPEAKER_00"), ("SPEAKER_00",)]
    assert [one.speaker for one in named] == ["SPEAKER_00", None, "SPEAKER_01", "SPEAKER_00"]
    assert all(one.words[0].speakers == one.speakers for one in named)
    assert names.name(part, None) == part
    assert names.problems("a.mp4") == []


def test_text_of_nobody_is_told_once_and_why():
    part = Segment("Yes.", 0, 1)
    unseen, off_screen, apart = SpeakerNames(), SpeakerNames(), SpeakerNames()
    off_screen.count(window([30], [(0,)]))
    apart.count(replace(window([30], [()]), apart=True))
    for names in (unseen, off_screen, apart):
        names.name(part, ())
    assert unseen.problems("a.mp4") == ["a.mp4: nobody is seen while somebody speaks, so no text has the name of a speaker."]
    assert off_screen.problems("a.mp4") == ["a.mp4: nobody in sight speaks, as far as lips and sound tell, so no text has the "
                                            "name of a speaker."]
    assert apart.problems("a.mp4") == ["a.mp4: lips and sound are too far apart to tell who speaks, so no text has the name of "
                                       "a speaker."]


def test_without_a_picture_speakers_cannot_be_told(tiny_en, hello):
    with pytest.raises(BadMedia, match=r"there is no picture in it, and --speakers tells from the picture who speaks\.  Leave"):
        transcribe(hello, model=tiny_en, speakers=True)


@pytest.fixture(scope="module")
def conversation(real_data):
    """A sentence of s1 on the left, then one of s4 on the right; whoever does not speak shows the pictures before the words."""
    clips = [media.read(real_data / "grid" / name) for name in SENTENCES]
    tiles = [np.stack([cv2.resize(one, (360, 288), interpolation=cv2.INTER_AREA) for one in clip.video]) for clip in clips]
    shown = []
    for now, tile in enumerate(tiles):
        rest = tiles[1 - now][:8]
        there_and_back = np.concatenate([rest, rest[-2:0:-1]])[np.arange(len(tile)) % 14]
        shown.append(np.concatenate([tile, there_and_back] if now == 0 else [there_and_back, tile], axis=2))
    pictures = np.concatenate(shown)
    audio = np.concatenate([clip.audio[: frames_to_samples(len(clip.video))] for clip in clips])
    return media.Clip(pictures, np.ones(len(pictures), bool), audio)


@pytest.mark.slow
def test_two_people_who_speak_in_turn_each_have_their_words(conversation):
    heard = []
    said = transcribe(conversation, speakers=True, on_segment=heard.append)
    assert said.modality == "av"
    assert tuple(heard) == said.segments, "names are known as the text is"
    for name, sentence in zip(("SPEAKER_00", "SPEAKER_01"), SENTENCES.values(), strict=True):
        assert normalise(of_speaker(said, name).text) == sentence
    assert {word.speaker for word in said.words} == {"SPEAKER_00", "SPEAKER_01"}
