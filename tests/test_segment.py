"""Where somebody speaks: the same in windows as at once, and no word lost between segments."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, SEGMENT_FRAMES, SEGMENT_SECONDS
from avsr.segment import STEP, ExtensionOptions, SegmentExtension, SpeechProbability, SpeechSegment, VadOptions, VadSegmenter

PER_SECOND = SAMPLE_RATE / STEP                             # 31.25 steps


# Probabilities

def probabilities(audio, *sizes):
    """In windows of these sizes, then the rest."""
    network, out, at = SpeechProbability(), [], 0
    for size in sizes:
        out.append(network.update(audio[at:at + size]))
        at += size
    return np.concatenate([*out, network.update(audio[at:]), network.finish()])


@pytest.fixture(scope="module")
def sound(hello):
    return np.concatenate([hello, np.zeros(20_000, np.float32), hello[30_000:] * 0.3, hello[:12_345]])


@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")   # in silero_vad itself
def test_they_are_sileros_own(sound):
    from silero_vad import load_silero_vad

    theirs = load_silero_vad(sequence=True).audio_forward(sound)
    ours = probabilities(sound)
    assert ours.shape == theirs.shape == (-(-len(sound) // STEP),)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert ours.min() < 0.1
    assert ours.max() > 0.9


@settings(max_examples=6, deadline=None)
@given(sizes=st.lists(st.integers(0, 60_000), max_size=8))
def test_windows_are_the_whole(sound, sizes):
    np.testing.assert_allclose(probabilities(sound, *sizes), probabilities(sound), atol=1e-6)


def test_an_hour_is_taken_in_blocks(sound, monkeypatch):
    whole = probabilities(sound)
    monkeypatch.setattr("avsr.segment.BLOCK", 7)
    np.testing.assert_allclose(probabilities(sound), whole, atol=1e-6)


@pytest.mark.parametrize(("n_samples", "n"), [(0, 0), (1, 1), (511, 1), (512, 1), (513, 2)])
def test_one_for_each_begun_step(n_samples, n):
    assert len(probabilities(np.zeros(n_samples, np.float32))) == n


# Segments

@st.composite
def speech(draw):
    """Probabilities as talk has them: stretches of speech, doubt and silence of any length, up to minutes."""
    stretches = draw(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), st.one_of(st.integers(1, 40), st.integers(
        1, 1500))), max_size=12))
    if not stretches:
        return np.zeros(0, np.float32)
    steps = np.concatenate([np.full(n, level) for level, n in stretches])
    ripple = np.random.default_rng(draw(st.integers(0, 99))).uniform(-0.1, 0.1, len(steps))
    return np.clip(steps + ripple, 0, 1).astype(np.float32)


OPTIONS = st.sampled_from([
    VadOptions(), VadOptions(pad=0.0), VadOptions(pad=1.0, min_silence=0.1), VadOptions(max_gap=0.0),
    VadOptions(min_speech=0.0, min_silence=0.03, max_gap=10.0)])


def cut(steps, options, *sizes):
    """Segments, in order; watches `settled` on the way."""
    cutter, segments, settled, at = VadSegmenter(options), [], 0, 0
    for size in [*sizes, len(steps)]:
        fresh = cutter.update(steps[at:at + size])
        at += size
        assert all(segment.start_frame >= settled for segment in fresh), "a segment begins in what was forgotten"
        assert cutter.settled >= settled
        assert cutter.settled * SAMPLES_PER_FRAME <= min(at, len(steps)) * STEP + SAMPLES_PER_FRAME
        settled, segments = cutter.settled, segments + fresh
    fresh = cutter.finish()
    assert all(segment.start_frame >= settled for segment in fresh)
    assert cutter.finish() == []
    return segments + fresh


@settings(max_examples=150, deadline=None)
@given(steps=speech(), options=OPTIONS, sizes=st.lists(st.integers(1, 2000), max_size=20))
def test_segments_in_any_windows(steps, options, sizes):
    segments = cut(steps, options)
    assert cut(steps, options, *sizes) == segments
    last_frame = -(-len(steps) * STEP // SAMPLES_PER_FRAME)
    for segment in segments:
        assert 0 <= segment.start_frame < segment.end_frame <= last_frame
        assert segment.end_frame - segment.start_frame <= SEGMENT_FRAMES
    pad = -(-round(options.pad * PER_SECOND) * STEP // SAMPLES_PER_FRAME) + 1
    for segment, following in pairwise(segments):
        assert segment.end_frame <= following.start_frame + 2 * pad, "beyond a cut through speech is what pads any segment"
        assert segment.start_frame < following.start_frame
        assert segment.end_frame < following.end_frame


def runs(flags, least):
    """(start, end) of runs of True that are `least` long at least."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]]).astype(int)))
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= least]


@settings(max_examples=150, deadline=None)
@given(steps=speech(), options=OPTIONS)
def test_all_that_is_surely_speech_is_in_a_segment(steps, options):
    segments = cut(steps, options)
    covered = np.zeros(len(steps) * STEP + SAMPLES_PER_FRAME, bool)
    for segment in segments:
        covered[segment.start_frame * SAMPLES_PER_FRAME:segment.end_frame * SAMPLES_PER_FRAME] = True
    for start, end in runs(steps >= options.threshold, max(1, round(options.min_speech * PER_SECOND))):
        assert covered[start * STEP:end * STEP].all(), (start, end, segments)


@settings(max_examples=100, deadline=None)
@given(speech())
def test_where_nobody_speaks_there_is_no_segment(steps):
    assert cut(np.minimum(steps, 0.49), VadOptions()) == []


def seconds(*stretches):
    """(probability, seconds) each -> steps."""
    return np.concatenate([np.full(round(length * PER_SECOND), level, np.float32) for level, length in stretches])


def times(segments):
    return [(segment.start_s, segment.start_s + segment.duration_s) for segment in segments]


def test_a_sentence_is_padded_on_both_sides():
    (start, end), = times(cut(seconds((0, 2), (1, 3), (0, 4)), VadOptions()))
    assert (start, end) == pytest.approx((1.7, 5.3), abs=0.06)


def test_pauses_are_bridged_up_to_a_length():
    def talk(pause):
        return seconds((0, 1), (1, 2), (0, pause), (1, 2), (0, 4))

    assert len(cut(talk(1.5), VadOptions())) == 1
    first, second = times(cut(talk(3.0), VadOptions()))
    assert first == pytest.approx((0.7, 3.3), abs=0.06)
    assert second == pytest.approx((5.7, 8.3), abs=0.06)


def test_a_click_is_no_speech():
    assert cut(seconds((0, 1), (1, 0.064), (0, 3)), VadOptions()) == []


def test_speech_to_the_very_end_is_kept():
    (start, end), = times(cut(seconds((0, 2), (1, 3)), VadOptions()))
    assert (start, end) == pytest.approx((1.7, 5.0), abs=0.06)


def test_a_minute_without_a_pause_is_cut_without_gap_and_what_is_beside_the_cut_is_in_both():
    segments = cut(seconds((1, 60)), VadOptions())
    assert times(segments)[0][0] == 0
    assert times(segments)[-1][1] == pytest.approx(60, abs=0.06)
    overlaps = [a.end_frame - b.start_frame for a, b in pairwise(segments)]
    assert overlaps == pytest.approx([2 * 0.3 * 25] * len(overlaps), abs=1.5)
    assert all(5 < segment.duration_s <= SEGMENT_SECONDS for segment in segments)


def test_the_cut_is_where_it_is_quietest():
    steps = seconds((1, 20), (0.4, 0.1), (1, 40))
    first, second, *_ = cut(steps, VadOptions())
    assert (first.end_frame + second.start_frame) / 50 == pytest.approx(20.05, abs=0.1)


def test_the_sound_tells_where_it_is_quietest():
    cutter, steps = VadSegmenter(), seconds((1, 20), (0.6, 0.1), (1, 40))
    levels = np.full(len(steps), -20.0)
    levels[round(23 * PER_SECOND) - 2:round(23 * PER_SECOND) + 2] = -40
    first, second, *_ = cutter.update(steps, levels) + cutter.finish()
    assert (first.end_frame + second.start_frame) / 50 == pytest.approx(23, abs=0.05)


def test_a_cut_leaves_no_scrap_that_is_too_short_to_be_speech():
    longest = VadSegmenter()._longest
    steps = np.concatenate([np.full(longest - 1, 0.9), [0.6, 0.9]]).astype(np.float32)
    assert cut(steps, VadOptions())[-1].end_frame == -(-len(steps) * STEP // SAMPLES_PER_FRAME)


def test_a_long_talk_is_cut_at_its_pauses_and_pads_meet_in_the_middle():
    steps = seconds(*[(1, 12), (0, 0.576)] * 8)
    segments = cut(steps, VadOptions(pad=1.0))
    assert len(segments) == 4
    for i, (a, b) in enumerate(pairwise(segments), start=1):
        assert b.start_frame - a.end_frame in (0, 1)
        assert b.start_s == pytest.approx(i * 25.152 - 0.288, abs=0.05)


def test_memory_does_not_grow_with_the_recording():
    cutter, rng = VadSegmenter(), np.random.default_rng(0)
    longest = 0
    for _ in range(600):
        level = rng.choice([0.0, 1.0], p=[0.2, 0.8])
        cutter.update(np.full(60, level, np.float32))
        longest = max(longest, len(cutter._levels))
    assert longest <= SEGMENT_SECONDS * PER_SECOND
    assert cutter.settled / 25 > 600 * 60 / PER_SECOND - 2 * SEGMENT_SECONDS


def test_a_segment_knows_its_seconds():
    segment = SpeechSegment(50, 75)
    assert (segment.start_s, segment.duration_s) == (2.0, 1.0)


def test_the_demo_is_one_segment(hello):
    segments = VadSegmenter()
    found = segments.update(probabilities(hello)) + segments.finish()
    assert len(found) == 1
    assert found[0].start_s < 0.7
    assert found[0].start_s + found[0].duration_s > 5.5


# SegmentExtension

def sound_of(level_db):
    """A frame of it: how long a stretch is does not matter to how loud it is."""
    return np.full(SAMPLES_PER_FRAME, 10 ** (level_db / 20), np.float32)


SEEN = np.zeros(4, bool)
KINDS = {"speech": None, "loud": (-12, SEEN), "quiet": (-40, SEEN), "faceless": (-12, ~SEEN), "nobody": (-12, None)}


def widened(stretches):
    """(kind, frames) each -> what came out, what went in as (kind, SpeechSegment)."""
    extension, out, given, at = SegmentExtension(), [], [], 0
    for kind, n in stretches:
        segment = SpeechSegment(at, at + n)
        if kind == "speech":
            out += extension.speech(segment, sound_of(-12))
        else:
            level, missing = KINDS[kind]
            out += extension.between(segment, sound_of(level), missing)
        given.append((kind, segment))
        at += n
    return out + extension.finish(), given


def covered(segments):
    """[first frame, end] of what they cover, in order."""
    out = []
    for segment in segments:
        if out and out[-1][1] == segment.start_frame:
            out[-1][1] = segment.end_frame
        else:
            out.append([segment.start_frame, segment.end_frame])
    return out


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(
    st.tuples(st.just("speech"), st.integers(1, SEGMENT_FRAMES)),
    st.tuples(st.sampled_from(list(KINDS)), st.integers(1, 30))), max_size=40))
def test_widened_segments_hold_all_speech_and_all_that_is_doubtful_and_nothing_else(stretches):
    out, given = widened(stretches)
    assert covered(out) == covered(segment for kind, segment in given if kind in ("speech", "loud"))
    assert all(0 < segment.end_frame - segment.start_frame <= SEGMENT_FRAMES for segment in out)
    sure = [one for segment in out for one in ((segment,) if segment.unextended is None else segment.unextended)]
    assert sure == [segment for kind, segment in given if kind == "speech"], "without the doubtful, all is as it was"
    assert all(SpeechSegment(segment.start_frame, segment.end_frame) not in (segment.unextended or ()) for segment in out)


def test_segments_are_joined_only_across_what_is_doubtful():
    a, b, c = SpeechSegment(0, 50), SpeechSegment(75, 100), SpeechSegment(125, 150)
    out, _ = widened([("speech", 50), ("loud", 25), ("speech", 25), ("quiet", 25), ("speech", 25), ("speech", 10)])
    assert out == [SpeechSegment(0, 100, (a, b)), c, SpeechSegment(150, 160)]
    assert widened([("quiet", 25), ("loud", 25), ("quiet", 25)])[0] == [SpeechSegment(25, 50, ())]


@pytest.mark.parametrize(("speech_db", "level_db", "n_missing", "doubtful"), [
    (-17, -20, 0, True), (-17, -22, 0, False),              # as loud as speech, or clearly quieter
    (-40, -33, 0, True), (-40, -37, 0, False),              # quiet in any case
    (None, -23, 0, True), (None, -25, 0, False),            # no speech so far
    (-17, -17, 2, True), (-17, -17, 3, False),              # a face in most frames
])
def test_what_is_doubtful(speech_db, level_db, n_missing, doubtful):
    extension = SegmentExtension(ExtensionOptions())
    if speech_db is not None:
        extension.speech(SpeechSegment(0, 25), sound_of(speech_db))
    missing = np.arange(4) < n_missing
    out = extension.between(SpeechSegment(25, 50), sound_of(level_db), missing) + extension.finish()
    assert any(segment.unextended is not None for segment in out) == doubtful


def test_a_bang_is_not_loud_throughout():
    sound = np.tile(sound_of(-60), 25)
    sound[:5 * SAMPLES_PER_FRAME] = 0.9
    extension = SegmentExtension()
    assert extension.between(SpeechSegment(0, 25), sound, np.zeros(25, bool)) + extension.finish() == []


# The package that runs the network

@pytest.mark.slow
@pytest.mark.parametrize("home", ["empty", "/proc/nothing"])      # where nothing can be made
def test_onnxruntime_leaves_nothing_in_the_home_and_says_nothing(tmp_path, home):
    code = "from avsr.segment import SpeechProbability; SpeechProbability()"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    place = tmp_path if home == "empty" else Path(home)
    done = subprocess.run([sys.executable, "-c", code], env={**kept, "HOME": str(place)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.rglob("*")) == []
