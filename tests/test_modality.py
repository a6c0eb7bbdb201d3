"""By which senses a recording is transcribed, and what is said of its sound: one answer for each trouble."""

import numpy as np
import pytest

from avsr import media, transcribe
from avsr.checkpoint import load
from avsr.errors import NoFace
from avsr.modality import decide, sound_problems
from avsr.rates import SAMPLE_RATE, VIDEO_FPS

TEXT = "Hello, this video was made by a computer. You can read the words on my lips."
ZEROS = np.zeros(3 * SAMPLE_RATE, np.float32)


@pytest.fixture(scope="module")
def default():
    """The model that is shipped, which estimates the video's reliability."""
    return load("default")


def clip_of(sound):
    return media.Clip(np.zeros((3 * VIDEO_FPS, 32, 32, 3), np.uint8), audio=sound)


@pytest.mark.parametrize(("modality", "sound", "used", "why"), [
    ("auto", None, "v", "the recording has no sound"),
    ("auto", ZEROS, "v", "there is only silence in the recording's sound"),
    ("av", ZEROS, "v", "there is only silence in the recording's sound"),
    ("a", ZEROS, "a", "there is only silence in the recording's sound"),
    ("auto", ZEROS + np.float32(1e-6), "v", "there is only silence in the recording's sound"),
])
def test_a_silent_sound_is_as_none(default, modality, sound, used, why):
    with media.open_recording(clip_of(sound), want_video=modality != "a") as recording:
        assert decide(modality, default, recording) == (used, why)


def test_a_model_without_a_video_encoder_finds_no_words_in_silence_and_is_not_refused(tiny_en):
    with media.open_recording(clip_of(ZEROS)) as recording:
        assert decide("auto", tiny_en, recording) == ("a", "there is only silence in the recording's sound")
        (told,) = sound_problems(recording, "a", level_db=-150.0, n_segments=0)
    assert told == ("clip: there is only silence in its sound (its samples are all zero), so nothing was written.  Check which "
                    "microphone or track was recorded, or use --modality v to have the lips in it read.")


@pytest.mark.slow
def test_a_silent_sound_leaves_the_lips_to_be_read_as_without_it(default):
    """Nobody is seen here: both say the same, that there is no face."""
    messages = []
    for sound in (None, ZEROS):
        with pytest.raises(NoFace) as caught:
            transcribe(clip_of(sound), model=default)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "no face in 75 of 75 frames" in messages[0]


@pytest.mark.parametrize("vad", [True, False])
def test_nothing_is_made_of_silence(tiny_en, vad):
    """Without looking for speech first, tiny.en wrote "you"."""
    for sound in (ZEROS, (np.random.default_rng(0).integers(0, 2, len(ZEROS)) / 32768).astype(np.float32)):
        transcript = transcribe(sound, model=tiny_en, vad=vad)
        assert transcript.segments == ()
        assert "only silence" in transcript.problems[0]


@pytest.mark.slow
def test_a_silent_half_minute_writes_nothing_beside_one_that_speaks(tiny_en, hello):
    sound = np.concatenate([np.zeros(30 * SAMPLE_RATE, np.float32), hello])
    transcript = transcribe(sound, model=tiny_en, beam_size=1, vad=False)
    assert transcript.text == TEXT
    assert transcript.segments[0].start >= 30


@pytest.mark.slow
def test_very_quiet_speech_is_amplified_and_told(tiny_en, hello):
    quiet = hello * np.float32(1e-3)
    transcript = transcribe(quiet, model=tiny_en, beam_size=1)
    assert transcript.text == TEXT
    (told,) = transcript.problems
    assert told.startswith("clip: its sound is very quiet (-7")
    assert "so it was amplified by 5" in told


def test_who_hears_nobody_tells_how_loud_it_is(tiny_en):
    noise = np.random.default_rng(0).standard_normal(len(ZEROS)).astype(np.float32)
    (told,) = transcribe(noise * 0.05, model=tiny_en).problems
    assert told == ("clip: nobody speaks in it, as far as can be heard, though its sound is not too quiet (-26 dB of full "
                    "scale at its loudest).  Use --no-vad to take it all as speech.")
    quiet, nobody = transcribe(noise * 1e-4, model=tiny_en).problems
    assert "very quiet (-80 dB of full scale at its loudest), so it was amplified by 62 dB" in quiet
    assert nobody == "clip: nobody speaks in it, as far as can be heard, even so.  Use --no-vad to take it all as speech."
