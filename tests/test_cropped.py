"""Videos that are mouths already: each picture is the mouth; what cannot be one is refused, what cannot be known is said."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from made_corpus import config, corpus, say

from avsr import cache, checkpoint, media, prepare
from avsr.cli import main
from avsr.errors import AvsrError, BadCheckpoint, BadManifest, BadMedia
from avsr.lips import MOUTH_CROPS, UNCROPPED, MouthCropSettings
from avsr.manifest import Utterance
from avsr.prepare import PrepareSettings
from avsr.rates import SAMPLES_PER_FRAME
from avsr.segment import SpeechSegment
from avsr.stream import StreamReader, StreamSettings

NONE = MOUTH_CROPS["none"]


def mouth_video(path, side=96, *, height=None, fps=25, n_frames=30, sound=True):
    """Grey squares in which a bar moves, and a tone."""
    rows = np.arange(height or side)[:, None]
    frames = np.stack([np.where(abs(rows - side // 2) < 3 + 2 * (i % 8), 30, 180) * np.ones((1, side))
                       for i in range(n_frames)])
    audio = 0.1 * np.sin(np.arange(n_frames * SAMPLES_PER_FRAME) / 8).astype(np.float32) if sound else None
    media.write(frames.astype(np.uint8), path, audio=audio, fps=fps, crf=0)
    return frames.astype(np.uint8)


def read(path, mouth_crop=NONE):
    with media.open_recording(path) as recording:
        reader = StreamReader(recording, mouth_crop, StreamSettings(vad=False, amplify=False))
        windows = list(reader)
    return windows, recording.problems


def test_each_picture_is_the_mouth(tmp_path):
    frames = mouth_video(tmp_path / "a.mp4", sound=False)    # AAC is padded, and would add a frame that shows nothing
    (window,), problems = read(tmp_path / "a.mp4")
    assert problems == []
    assert np.abs(window.mouths.images.astype(int) - frames).max() <= 3       # grey -> YUV -> RGB -> grey
    assert not window.mouths.missing.any()
    assert (window.mouths.size == 96).all()


def test_other_sizes_and_rates_are_brought_to_the_usual_ones_with_a_notice(tmp_path):
    mouth_video(tmp_path / "a.mp4", 112, fps=30, n_frames=60, sound=False)
    (window,), problems = read(tmp_path / "a.mp4")
    assert window.mouths.images.shape == (50, 96, 96)
    assert problems == ["a.mp4: its pictures of 112x112 pixels were scaled to 96x96.",
                        "a.mp4: its pictures come 30 a second and were brought to 25, by leaving out or repeating some."]
    mouth_video(tmp_path / "b.mp4", 224)
    assert "b.mp4: pictures of 224x224 pixels are larger than mouth crops are (88 to 128), so they may show whole faces" in \
        read(tmp_path / "b.mp4")[1][1]


@pytest.mark.parametrize(("width", "height"), [(160, 90), (32, 32), (640, 640)])
def test_pictures_that_cannot_be_mouths_are_refused(tmp_path, width, height):
    clip = media.Clip(np.zeros((4, height, width, 3), np.uint8), np.ones(4, bool))
    with media.open_recording(clip) as recording, pytest.raises(BadMedia) as caught:
        list(StreamReader(recording, NONE, StreamSettings(vad=False)))
    assert f"its pictures are {width}x{height} pixels, and a mouth that is cropped already is a square of 64 to 512.  " in \
        str(caught.value)
    assert "leave out --mouth-crop none" in str(caught.value)


def test_frames_in_which_nothing_is_shown_are_missing():
    shown = np.array([False, True, True, False])
    clip = media.Clip(np.full((4, 96, 96, 3), 90, np.uint8), shown)
    with media.open_recording(clip) as recording:
        reader = StreamReader(recording, NONE, StreamSettings(vad=False))
        list(reader.clips())
        mouths = reader.window(SpeechSegment(0, 4)).mouths
    assert mouths.missing.tolist() == (~shown).tolist()
    assert mouths.images.max(axis=(1, 2)).tolist() == [0, 90, 90, 0]


def test_the_settings_are_a_kind_of_their_own(tmp_path):
    assert MouthCropSettings.from_dict(NONE.to_dict()) == NONE
    assert NONE.face_landmarks is None
    assert NONE.differences(MouthCropSettings()) == ["landmarks: none against mediapipe-mesh-478"]
    assert replace(NONE, size=88).differences(NONE) == ["size: 88 against 96"]
    with pytest.raises(BadCheckpoint, match="points, though each picture is taken as a mouth"):
        MouthCropSettings.from_dict({**MouthCropSettings().to_dict(), "landmarks": UNCROPPED})
    cache.write_mouth_crop(tmp_path, NONE)
    assert cache.read_mouth_crop(tmp_path, NONE) == NONE
    with pytest.raises(BadManifest, match=r"its mouths came cropped, nobody knows how, and the model is for mouths that are "
                                          r"cut out of faces \(mouth_crop\.landmarks: none against mediapipe-mesh-478\)\.  "):
        cache.read_mouth_crop(tmp_path, MouthCropSettings())
    cache.write_mouth_crop(tmp_path, MouthCropSettings())
    with pytest.raises(BadManifest, match="its mouths were cut out of faces, and the model is for mouths that came cropped"):
        cache.read_mouth_crop(tmp_path, NONE)


@pytest.mark.slow
def test_a_corpus_of_mouths_is_prepared_as_it_is_and_says_what_is_unknown(tmp_path):
    mouth_video(tmp_path / "a.avi.mp4")
    mouth_video(tmp_path / "silent.mp4", 88, sound=False)
    mouth_video(tmp_path / "wide.mp4", 128, height=64)
    rows = [Utterance(name, str(tmp_path / file), "a word") for name, file in
            (("a", "a.avi.mp4"), ("silent", "silent.mp4"), ("wide", "wide.mp4"))]
    found = prepare.prepare(rows, tmp_path / "out", settings=PrepareSettings(workers=1, mouth_crop=NONE, modality="v"))
    assert [row.id for row in found.utterances] == ["a", "silent"]
    (dropped,) = found.dropped
    assert dropped.reason == ("cannot be read: its pictures are 128x64 pixels, and a mouth that is cropped already is a "
                              "square of 64 to 512")
    assert "its pictures of 88x88 pixels were scaled to 96x96" in [problem.reason for problem in found.problems]
    assert "How it was cut out, and whether a face was found, cannot be known" in found.summary()
    (window,), _ = read(tmp_path / "a.avi.mp4")
    images = cache.read_entry(tmp_path / "out", found.utterances[0].cache).images
    assert np.array_equal(images, window.mouths.images[:30]), "the cache and the live path give the same mouths"
    assert cache.read_mouth_crop(tmp_path / "out") == NONE


@pytest.mark.slow
def test_a_model_trained_on_mouths_takes_pictures_as_mouths(tmp_path):
    from avsr.train import TrainOptions, train
    from avsr.transcribe import transcribe

    corpus(tmp_path)
    cache.write_mouth_crop(tmp_path, NONE)
    trained = train(config(tmp_path, "train.steps=2", "train.valid_every=2"), tmp_path / "run", TrainOptions())
    model = checkpoint.load(trained.model)
    assert model.mouth_crop == NONE
    said = say(["ab", "cd", "ef"] * 3)
    media.write(said.images, tmp_path / "mouth.mp4", audio=said.audio)
    read_with = transcribe(tmp_path / "mouth.mp4", model=replace(model, video_trained=True), modality="v", vad=False)
    assert read_with.modality == "v"
    assert not any("taken as mouths" in problem for problem in read_with.problems)
    media.write(np.zeros((20, 90, 160), np.uint8), tmp_path / "wide.mp4")
    with pytest.raises(BadMedia, match=r"wide\.mp4: its pictures are 160x90 pixels"):
        transcribe(tmp_path / "wide.mp4", model=replace(model, video_trained=True), modality="v")


def test_only_none_can_be_asked_of_a_transcription():
    from avsr.transcribe.run import TranscribeSettings

    assert TranscribeSettings(mouth_crop="none").mouth_crop == "none"
    with pytest.raises(AvsrError, match=r"mouth_crop 'auto-avsr': only none can be asked for"):
        TranscribeSettings(mouth_crop="auto-avsr")


def test_both_names_of_the_option_are_accepted():
    for command in ("prepare", "transcribe"):
        (option,) = (one for one in main.commands[command].params if one.name == "mouth_crop")
        assert set(option.opts) == {"--mouth-crop", "--crop"}
    assert "none" in CliRunner().invoke(main, ["transcribe", "--help"]).output
