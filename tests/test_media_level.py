"""How loud a sound is, and what becomes of channels that cancel each other out."""

import struct

import numpy as np
import pytest

from avsr import media
from avsr.media.audio import Downmixer
from avsr.media.level import FLOOR_DB, QUIET_DB, SILENT_DB, USUAL_DB, Loudness, amplified, gain_of, is_silent, level_unless_loud

RATE = 16_000


def noise(seconds, db, seed=0):
    """White noise (S,) float32 at a level in dB of full scale."""
    return (np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 10 ** (db / 20)).astype(np.float32)


def write(path, channels, kind=np.float32):
    """A WAV of channels (C, n): 32-bit float, or 16-bit integers."""
    number, data = (3, channels) if kind is np.float32 else (1, np.round(channels * 32767))
    data = np.ascontiguousarray(data.T, kind).tobytes()
    width = np.dtype(kind).itemsize * len(channels)
    head = struct.pack("<HHIIHH", number, len(channels), RATE, RATE * width, width, 8 * np.dtype(kind).itemsize)
    path.write_bytes(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + head
                     + b"data" + struct.pack("<I", len(data)) + data)
    return path


@pytest.mark.parametrize("n_chunk", [100, 640, 1000, 100_000])
def test_the_level_does_not_depend_on_the_chunks(n_chunk):
    sound, loudness = np.concatenate([noise(1, -60), noise(0.4, -30, 1), noise(1, -60)]), Loudness()
    for first in range(0, len(sound), n_chunk):
        loudness.update(sound[first:first + n_chunk])
    assert loudness.db == pytest.approx(-30, abs=1)


def test_a_click_makes_no_sound_loud_and_a_word_does():
    sound = np.zeros(2 * RATE, np.float32)
    sound[8000:8100] = 1.0
    assert is_silent(sound)
    sound[8000:12_000] = 0.1
    assert not is_silent(sound)
    assert level_unless_loud([sound]) == pytest.approx(-20, abs=0.1)


def test_silence_is_what_the_last_of_sixteen_bits_holds_and_less():
    rng = np.random.default_rng(0)
    toggling = (rng.integers(0, 2, RATE) / 32768).astype(np.float32)
    dither = np.round(rng.triangular(-1, 0, 1, RATE)).astype(np.float32) / 32768
    for sound in (np.zeros(RATE, np.float32), np.zeros(0, np.float32), np.zeros(10, np.float32), toggling, dither):
        assert is_silent(sound)
    assert not is_silent(noise(1, -80))
    assert level_unless_loud([np.zeros(RATE, np.float32)]) == FLOOR_DB


def test_no_more_is_read_than_it_takes_to_know_that_it_is_loud():
    read = []

    def chunks():
        for number, db in enumerate((-60, -60, -20, -20)):
            read.append(number)
            yield noise(1, db, number)

    assert level_unless_loud(chunks()) >= QUIET_DB
    assert read == [0, 1, 2]


@pytest.mark.parametrize(("level", "db"), [
    (-20.0, 0), (QUIET_DB, 0), (SILENT_DB - 0.1, 0), (FLOOR_DB, 0), (-60.0, 60 + USUAL_DB)])
def test_only_what_is_very_quiet_and_not_silent_is_amplified(level, db):
    assert gain_of(level) == pytest.approx(10 ** (db / 20))


def test_amplifying_ends_at_full_scale_and_changes_nothing_without_need():
    sound = np.array([1e-3, -1e-3, 0.5], np.float32)
    assert np.allclose(amplified(sound, 100), [0.1, -0.1, 1.0])
    assert amplified(sound, 1.0) is sound


def test_a_recording_says_that_it_is_quiet_or_silent_and_is_read_from_its_start_all_the_same(tmp_path):
    for name, db, quiet, silent in (("loud", -20, False, False), ("quiet", -70, True, False), ("silent", -120, True, True)):
        sound = noise(3, db)
        for source in (sound, write(tmp_path / f"{name}.wav", sound[None]), (tmp_path / f"{name}.wav").read_bytes()):
            with media.open_recording(source) as recording:
                assert (recording.quiet_db is not None, recording.is_silent) == (quiet, silent)
                assert recording.gain == pytest.approx(10 ** ((USUAL_DB + 70) / 20) if name == "quiet" else 1, rel=0.1)
                (clip,) = recording.windows(100)
                assert np.allclose(clip.audio, sound, atol=1e-9)


def test_without_sound_there_is_nothing_quiet():
    with media.open_recording(media.Clip(video=np.zeros((5, 8, 8, 3), np.uint8))) as recording:
        assert (recording.quiet_db, recording.is_silent, recording.gain) == (None, False, 1.0)


# Channels

@pytest.mark.parametrize("make", [
    lambda voice: [voice, -voice], lambda voice: [voice, -0.95 * voice], lambda voice: [voice, -voice, 0 * voice, 0 * voice],
    lambda voice: [voice + noise(len(voice) / RATE, -60), -voice],
], ids=["upside down", "nearly", "with two silent ones", "with noise of its own"])
def test_channels_that_cancel_each_other_out_give_one_of_them_and_it_is_told(make, hello, tmp_path):
    channels = np.stack(make(hello)).astype(np.float32)
    with media.open_recording(write(tmp_path / "phase.wav", channels, np.int16)) as recording:
        (clip,) = recording.windows(1000)
    likeness = np.corrcoef(clip.audio, hello)[0, 1]
    assert abs(likeness) > 0.95
    assert np.abs(clip.audio).max() > 0.9 * np.abs(hello).max()
    (told,) = recording.problems
    assert told.startswith("phase.wav: the channels of the sound cancel each other out")


@pytest.mark.parametrize("make", [
    lambda voice, other: [voice, voice], lambda voice, other: [voice, other], lambda voice, other: [voice, 0 * voice],
    lambda voice, other: [voice] + [0 * voice] * 6, lambda voice, other: [voice, -0.5 * voice],
    lambda voice, other: [0 * voice, 0 * voice],
], ids=["alike", "different", "one of two", "one of seven", "half", "silent"])
def test_other_channels_are_mixed_as_ever(make, hello, tmp_path):
    channels = np.stack(make(hello, noise(len(hello) / RATE, -20))).astype(np.float32)
    with media.open_recording(write(tmp_path / "sound.wav", channels)) as recording:
        (clip,) = recording.windows(1000)
    assert np.allclose(clip.audio, channels.mean(axis=0), atol=1e-6)
    assert recording.problems == []


def test_the_channel_that_is_taken_stays_the_same_until_another_is_much_louder():
    voice, downmix = noise(1, -20), Downmixer()
    left, right, centre = np.stack([voice, -voice]), np.stack([voice, -1.1 * voice]), np.stack([voice, voice])
    assert [np.array_equal(downmix(block), voice) for block in (left, right, centre, left)] == [True] * 4
    assert downmix.n_cancelled == 3 * len(voice)
    assert np.array_equal(downmix(np.stack([voice, -voice, 3 * voice, -3 * voice])), 3 * voice)
