"""Windows to words: each word of a long recording once, none of them cut, doubled or left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr import media, transcribe
from avsr.decode import Hypothesis
from avsr.lips import MouthCropSettings, Mouths
from avsr.rates import SAMPLE_RATE, SEGMENT_FRAMES, frames_to_samples
from avsr.segment import RestOptions, SpeechSegment, cuts_at_rests
from avsr.speakers import SpeakerTurn
from avsr.stream import StreamReader, StreamSettings, Window
from avsr.text import normalise
from avsr.transcribe.windows import (
    LONG,
    WrittenWindow,
    WrittenWord,
    halves,
    joined,
    n_before_cut,
    sentences,
    speech_frames,
    unwritten,
)
from avsr.transcript import Word

TEXT = "Hello, this video was made by a computer. You can read the words on my lips."


def word(text, start, end):
    return Word(f" {text}", start, end, 1.0)


# What overlaps

def test_a_word_that_both_windows_have_joins_them():
    before = [word("one", 27.0, 27.4), word("two", 27.6, 28.1), word("thr", 28.2, 28.3)]
    after = [word("o", 27.5, 27.7), word("Two", 27.7, 28.2), word("three", 28.2, 28.6)]
    assert n_before_cut(before, after, 28.0, 0.5) == (2, 2)


def test_without_such_a_word_each_counts_on_its_side_of_the_cut():
    before = [word("one", 27.0, 27.4), word("too", 27.6, 27.9), word("x", 28.1, 28.3)]
    after = [word("y", 27.7, 27.8), word("three", 28.2, 28.6)]
    assert n_before_cut(before, after, 28.0, 0.5) == (2, 1)
    assert n_before_cut([], after, 28.0, 0.5) == (0, 1)
    assert n_before_cut(before, [], 28.0, 0.5) == (2, 0)


def test_the_same_word_said_twice_is_not_taken_for_one():
    assert n_before_cut([word("no", 27.2, 27.4)], [word("no", 28.4, 28.6)], 28.0, 0.4) == (1, 0)


@settings(max_examples=25)
@given(st.lists(st.floats(0.1, 0.6), min_size=10, max_size=60), st.lists(st.integers(-3, 3), min_size=60, max_size=60))
def test_windows_that_heard_the_same_words_give_each_once(lengths, jitter):
    ends = np.cumsum(lengths)
    words = [word(f"w{number}", end - length, end) for number, (end, length) in enumerate(zip(ends, lengths, strict=True))]
    cut = int(ends[-1] * 25) // 2
    n_frames = int(ends[-1] * 25) + 1
    overlap = 8

    def heard(first, last, shift):
        inside = [one for one in words if one.start * 25 >= first and one.end * 25 <= last]
        moved = [Word(one.text, one.start + shift * x / 50, one.end + shift * x / 50, 1.0)
                 for one, x in zip(inside, jitter, strict=False)]
        return WrittenWindow(SpeechSegment(first, last), tuple(WrittenWord(one, (), Hypothesis((), 0.0), 0.0) for one in moved))

    windows = [heard(0, cut + overlap, 0), heard(cut - overlap, n_frames, 0)]
    out = [one.word.text for window in joined(windows) for one in window.words]
    assert len(out) == len(set(out)), "doubled"
    whole = [one.text for one in words if one.end * 25 <= cut + overlap or one.start * 25 >= cut - overlap]
    assert out == whole, "lost"


def test_windows_without_overlap_are_left_alone():
    windows = [WrittenWindow(SpeechSegment(0, 50), (WrittenWord(word("a", 0, 1), (1,), Hypothesis((1,), 0.0), 0.0),)),
               WrittenWindow(SpeechSegment(50, 75), ())]
    assert list(joined(windows)) == windows


# What is left out

@pytest.fixture(scope="module")
def talk(hello):
    """13 s: the voice of the demo, a pause, the voice again."""
    n = frames_to_samples(25)
    sound = np.concatenate([hello[:6 * SAMPLE_RATE], np.zeros(n, np.float32), hello[:6 * SAMPLE_RATE]])
    return Window(SpeechSegment(100, 100 + len(sound) // 640), sound, None)


def test_speech_without_words_is_recognised_again(talk):
    first = [word("a", 0.4, 3.0), word("b", 3.0, 5.8)]
    (hole,) = unwritten(talk, first)
    assert 100 + 5.6 * 25 <= hole.segment.start_frame <= 100 + 7.4 * 25
    assert hole.segment.end_frame == talk.segment.end_frame
    assert len(hole.audio) == frames_to_samples(hole.segment.end_frame - hole.segment.start_frame)
    assert unwritten(talk, [*first, word("c", 7.4, 10.0), word("d", 10.0, 12.8)]) == []


def test_a_pause_is_no_speech_without_words(talk):
    quiet = talk.part(0, 150)
    silence = np.zeros(frames_to_samples(LONG), np.float32)
    longer = Window(SpeechSegment(0, 150 + LONG), np.concatenate([quiet.audio, silence]), None)
    assert unwritten(longer, [word("a", 0.4, 3.0), word("b", 3.0, 5.8)]) == []
    assert halves(Window(SpeechSegment(0, LONG + 1), np.zeros(frames_to_samples(LONG + 1), np.float32), None)) == []


def test_short_windows_stay_as_they_are(talk):
    short = talk.part(0, LONG)
    assert unwritten(short, [word("a", 0.1, 0.2)]) == []
    assert halves(short) == []


def test_halves_meet_in_the_pause(talk):
    first, second = halves(talk)
    assert first.segment.end_frame == second.segment.start_frame
    assert 100 + 5.5 * 25 <= first.segment.end_frame <= 100 + 7.5 * 25
    assert np.array_equal(np.concatenate([first.audio, second.audio]), talk.audio)


def test_frames_with_speech(talk):
    speech = speech_frames(talk)
    assert len(speech) == talk.segment.end_frame - talk.segment.start_frame
    assert speech[25:100].mean() > 0.8
    assert not speech[155:170].any()


# Where a mouth rests

def mouth(*stretches):
    """(moves?, frames) each -> images (T, 96, 96)."""
    rng, images = np.random.default_rng(0), []
    for moves, n in stretches:
        for t in range(n):
            image = np.full((96, 96), 120, np.uint8)
            height = 4 + (int(10 * abs(np.sin(t))) if moves else 0)
            image[48 - height:48 + height, 30:66] = 40
            images.append(np.clip(image + rng.integers(-2, 3, image.shape), 0, 255).astype(np.uint8))
    return np.stack(images)


def test_a_mouth_is_cut_where_it_rests():
    first, second = cuts_at_rests(mouth((False, 15), (True, 60), (False, 30), (True, 50), (False, 20), (True, 60), (False, 10)))
    assert 78 <= first <= 102
    assert 158 <= second <= 173


def test_a_mouth_that_never_rests_is_cut_anyway_and_a_short_one_never():
    cuts = cuts_at_rests(mouth((True, 700)))
    assert np.diff([0, *cuts, 700]).max() <= RestOptions().longest
    assert np.diff([0, *cuts, 700]).min() >= 15
    assert cuts_at_rests(mouth((True, 40), (False, 20), (True, 40))) == []
    assert cuts_at_rests(np.zeros((0, 96, 96), np.uint8)) == []


def test_a_rest_is_not_read_by_itself():
    cuts = cuts_at_rests(mouth((True, 60), (False, 30), (True, 4), (False, 60), (True, 60)))
    assert len(cuts) == 1


def test_sentences_of_a_reliable_video_are_recognised_one_by_one():
    images = mouth((True, 60), (False, 30), (True, 60))
    n = len(images)
    mouths = Mouths(images, np.zeros(n, bool), np.ones(n), np.ones(n), 7, 0)
    window = Window(SpeechSegment(7, 7 + n), np.zeros(frames_to_samples(n), np.float32), mouths)
    assert sentences(window, 0.0, takes_30_s=True) == [window]
    for reliability, takes_30_s in ((0.8, True), (None, False), (0.0, False)):
        first, second = sentences(window, reliability, takes_30_s=takes_30_s)
        assert (first.segment.start_frame, second.segment.end_frame) == (7, 7 + n)
        assert first.segment.end_frame == second.segment.start_frame == second.mouths.start_frame
        assert len(first.mouths.images) + len(second.mouths.images) == n


@pytest.mark.slow
def test_silent_film_is_cut_the_same_in_any_windows(real_data, monkeypatch):
    clips = [media.read(path, want_audio=False) for path in sorted((real_data / "grid" / "s1").glob("*.mkv"))[:3]]
    video = np.concatenate([clip.video[:, ::2, ::2] for clip in clips])
    found = []
    for n_frames in (100, 61):
        monkeypatch.setattr("avsr.stream.VIDEO_WINDOW_FRAMES", n_frames)
        with media.open_recording(media.Clip(video)) as recording:
            found.append([one.segment for one in StreamReader(recording, MouthCropSettings(), StreamSettings(vad=False))])
    assert found[0] == found[1]
    assert len(found[0]) == 3, "three sentences"


@pytest.mark.slow
def test_half_a_minute_without_a_pause_is_written_once(tiny_en, hello):
    loud = np.flatnonzero(np.abs(hello) > 0.02)
    sound = np.tile(hello[loud[0] - 800:loud[-1] + 800], 6)
    assert len(sound) > frames_to_samples(SEGMENT_FRAMES)
    transcript = transcribe(sound, model=tiny_en, modality="a", beam_size=1, vad=False)
    words = normalise(transcript.text).split()
    assert [words.count(one) for one in ("computer", "made", "read", "words", "lips")] == [6] * 5, "each once a sentence"
    assert abs(len(words) - 96) <= 5, "it hears `the law` for one hello"


def test_a_part_of_a_window_keeps_who_speaks_and_that_lips_and_sound_are_apart():
    ones = np.ones(50, np.float32)
    mouths = Mouths(np.zeros((50, 96, 96), np.uint8), np.zeros(50, bool), 80 * ones, ones, 100, 3)
    turns = (SpeakerTurn(100, 120, (3,)), SpeakerTurn(120, 150, ()))
    sound = np.arange(frames_to_samples(50), dtype=np.float32)
    whole = Window(SpeechSegment(100, 150), sound, mouths, turns=turns, seen=np.ones(50, bool),
                   scores={3: np.arange(50, dtype=np.float32)}, apart=True)
    part = whole.part(30, 40)
    assert part.apart, "its lips must not be read either"
    assert (part.segment, part.turns) == (SpeechSegment(130, 140), turns[1:])
    assert part.scores[3].tolist() == list(range(30, 40))
    assert np.array_equal(part.audio, sound[frames_to_samples(30):frames_to_samples(40)])
    assert (len(part.seen), part.mouths.start_frame) == (10, 130)
    assert whole.part(0, 50) is whole
