"""Which of several sound tracks and pictures are taken. The files are made here, of the demo clip's voice and face."""

from itertools import islice

import numpy as np
import pytest
from av.stream import Disposition
from made_tracks import write_programmes, write_tracks
from places import ROOT

from avsr import media, selection
from avsr.errors import AvsrError, BadMedia
from avsr.explain.input import ExplainSettings, open_input
from avsr.faces import MESH
from avsr.manifest import Utterance, content_hash
from avsr.prepare.crop import Job, PrepareSettings, work
from avsr.rates import SAMPLE_RATE
from avsr.runtime import no_progress
from avsr.selection import _examine

SECONDS = 4


def silence(seconds=SECONDS):
    return np.zeros(seconds * SAMPLE_RATE, np.float32)


def music(seconds=SECONDS):
    """A chord that swells and fades."""
    time = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    chord = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 277, 330))
    return (0.1 * chord * (1 + np.sin(2 * np.pi * 2 * time))).astype(np.float32)


@pytest.fixture(scope="module")
def voice(hello):
    return hello[: SECONDS * SAMPLE_RATE]


@pytest.fixture(scope="module")
def face():
    """(T, H, W, 3): the demo clip's picture, three seconds of it."""
    with media.open_recording(ROOT / "data" / "demo" / "hello.mp4", want_audio=False) as recording:
        return next(recording.windows(75)).video


@pytest.fixture(scope="module")
def screen():
    """(T, H, W, 3): what is no face."""
    picture = np.random.default_rng(5).integers(0, 255, (9, 16, 3)).repeat(20, axis=0).repeat(20, axis=1).astype(np.uint8)
    return np.repeat(picture[None], 75, axis=0)


def taken(path, **options):
    """(number of the sound track, number of the picture, problems)."""
    with selection.open_recording(path, landmarks=MESH, **options) as recording:
        numbers = [None if track is None else track.number for track in (recording.sound_track, recording.picture_track)]
        return *numbers, recording.problems


@pytest.mark.parametrize(("first", "second", "expected"), [
    (silence, None, 2), (music, None, 2), (None, music, 1), (None, None, 1), (silence, music, 2), (music, silence, 1)])
def test_the_sound_track_with_speech_is_taken_and_told(tmp_path, voice, first, second, expected):
    sounds = [voice if make is None else make() for make in (first, second)]
    path = write_tracks(tmp_path / "two.mkv", (), sounds, dispositions=[Disposition.default, 0])
    sound, picture, problems = taken(path)
    assert (sound, picture) == (expected, None)
    (told,) = problems
    assert f"two.mkv: it has 2 sound tracks; number {expected} (aac) was taken" in told
    assert f"Use --audio-track to take another: {3 - expected} (aac)." in told
    assert ("because number 1 has little or no speech" in told) == (expected == 2)


def test_a_track_that_is_asked_for_is_taken_without_a_look(tmp_path, voice):
    path = write_tracks(tmp_path / "two.mkv", (), (voice, silence()))
    assert taken(path, audio_track=2) == (2, None, [])
    assert not media.read(path, audio_track=2).audio.any()
    assert media.read(path, audio_track=1).audio.any()


def test_what_the_container_prefers_is_read_where_nobody_chooses(tmp_path, voice):
    path = write_tracks(tmp_path / "two.mkv", (), (silence(), voice), dispositions=[Disposition.default, 0])
    assert not media.read(path).audio.any()


def test_a_file_with_one_of_each_is_not_looked_into(tmp_path, voice, face):
    def never(*_):
        raise AssertionError("there was nothing to choose")

    path = write_tracks(tmp_path / "one.mkv", (face[:10],), (voice,))
    with media.open_recording(path, choose=never) as recording:
        assert recording.problems == []


def test_the_others_are_not_heard_where_the_first_is_clear():
    started = []

    def measure(name, steps):
        def go():
            started.append(name)
            yield from steps
        return go

    assert _examine([measure("a", [2.0, 2.0]), measure("b", [9.0])], 2.0, (4, 20)) == [2.0, 0.0]
    assert started == ["a"]
    assert _examine([measure("a", [0.0, 5.0]), measure("b", [9.0])], 3.0, (4, 20)) == [5.0, 9.0]
    assert _examine([measure("a", [0.0] * 30), measure("b", [1.0] * 30)], 3.0, (4, 20)) == [0.0, 4.0]
    assert _examine([measure("a", [0.0] * 30), measure("b", [0.1] * 30)], 9.0, (4, 20)) == [0.0, pytest.approx(2.0)]


@pytest.mark.parametrize(("language", "expected"), [("de", 2), ("fr", 3), ("en", 1), (None, 1), ("pl", 1)])
def test_a_track_in_the_language_that_is_asked_for_comes_first(tmp_path, voice, language, expected):
    tags = [{"language": "eng"}, {"language": "ger"}, {"language": "fre"}]
    path = write_tracks(tmp_path / "film.mkv", (), (voice,) * 3, tags=tags)
    assert taken(path, language=language)[0] == expected


def test_speech_counts_more_than_a_language_tag(tmp_path, voice):
    path = write_tracks(tmp_path / "film.mkv", (), (voice, silence()), tags=[{"language": "eng"}, {"language": "ger"}])
    assert taken(path, language="de")[0] == 1


def test_a_commentary_is_only_taken_where_nobody_else_speaks(tmp_path, voice):
    comments = [Disposition.default, Disposition.comment]
    quiet = voice.copy()
    quiet[SAMPLE_RATE * 5 // 4:] = 0                        # little speech, and the commentary talks all the time
    assert taken(write_tracks(tmp_path / "a.mkv", (), (quiet, voice), dispositions=comments))[0] == 1
    assert taken(write_tracks(tmp_path / "b.mkv", (), (music(), voice), dispositions=comments))[0] == 2


def test_a_number_that_does_not_exist_names_those_that_do(tmp_path, voice):
    tags = [{"language": "eng"}, {"language": "ger", "title": "Kommentar\x1b[31m " + "x" * 99}]
    path = write_tracks(tmp_path / "two.mkv", (), (voice, voice), tags=tags)
    with pytest.raises(BadMedia) as caught:
        taken(path, audio_track=3)
    message = str(caught.value)
    assert message.startswith("two.mkv: there is no sound track 3 in it; it has 2.  Use --audio-track with one of: "
                              '1 (aac, eng), 2 (aac, ger, "Kommentar [31m xxx')
    assert message.isprintable()
    with pytest.raises(BadMedia, match=r"no picture 1 in it; it has 0\.  Leave --video-track out"):
        taken(path, video_track=1)
    with pytest.raises(BadMedia, match=r"no sound track 0 in it"):
        taken(path, audio_track=0)
    with pytest.raises(AvsrError, match=r"no tracks in an array.*--audio-track 2"):
        media.read(voice, audio_track=2)


@pytest.mark.slow
def test_the_picture_with_a_face_is_taken_and_told(tmp_path, voice, screen, face):
    path = write_tracks(tmp_path / "webcam.mp4", (screen, face), (voice,))
    sound, picture, problems = taken(path)
    assert (sound, picture) == (1, 2)
    assert problems == ["webcam.mp4: it has 2 pictures; number 2 (h264) was taken, because number 1 shows a face seldom or "
                        "never.  Use --video-track to take another: 1 (h264)."]
    assert taken(path, video_track=1) == (1, 1, [])
    assert taken(path, want_video=False) == (1, 1, [])      # nobody looks at it
    assert taken(path, want_audio=False)[1] == 2
    swapped = write_tracks(tmp_path / "swapped.mp4", (face, screen), (voice,))
    assert taken(swapped)[1] == 1
    assert media.read(path).video.shape[1:] == screen.shape[1:]
    assert media.read(path, video_track=2).video.shape[1:] == face.shape[1:]


@pytest.fixture(scope="module")
def two_programmes(tmp_path_factory, voice):
    """Programme 1: dark picture, silence; programme 2: a picture of another size, and speech."""
    dark, light = np.full((75, 48, 64, 3), 30, np.uint8), np.full((75, 96, 128, 3), 200, np.uint8)
    return write_programmes(tmp_path_factory.mktemp("tv") / "tv.ts", [((dark,), (silence(),)), ((light,), (voice,))])


def test_picture_and_sound_are_of_one_programme(two_programmes):
    sound, picture, problems = taken(two_programmes)
    assert (sound, picture) == (2, 2)
    assert "number 2 (aac) was taken, because number 1 has little or no speech, and the picture of the same" in problems[0]
    assert taken(two_programmes, audio_track=1) == (1, 1, [])
    assert taken(two_programmes, video_track=1)[:2] == (1, 1)
    assert taken(two_programmes, audio_track=1, video_track=2)[:2] == (1, 2)
    with media.open_recording(two_programmes) as recording:
        assert recording.sound_track.programme == recording.picture_track.programme


def test_a_radio_programme_has_no_picture_of_another(tmp_path, voice):
    dark = np.full((75, 48, 64, 3), 30, np.uint8)
    path = write_programmes(tmp_path / "radio.ts", [((dark,), (silence(),)), ((), (voice,))])
    sound, picture, problems = taken(path)
    assert (sound, picture) == (2, None)
    assert problems[1] == ("radio.ts: no picture is of the programme that was taken, so there is none.  Use --video-track to "
                           "take one of: 1 (h264).")


def test_explain_and_prepare_take_the_same(tmp_path, voice):
    dark = np.full((25 * SECONDS, 48, 64, 3), 30, np.uint8)
    path = write_tracks(tmp_path / "two.mkv", (dark,), (silence(), voice), dispositions=[Disposition.default, 0])
    expected = media.read(path, audio_track=2).audio
    scene = open_input(path, None, ExplainSettings(), no_progress)
    assert np.array_equal(scene.clean, expected[: len(scene.clean)])
    assert "number 2 (aac) was taken" in scene.problems[0]
    with pytest.raises(BadMedia, match="no speech was found in its sound"):
        open_input(path, None, ExplainSettings(audio_track=1), no_progress)
    job = Job(str(path), (Utterance("one", str(path), "hello"),))
    (outcome,) = work(job, lambda: None, settings=PrepareSettings(modality="a"))
    assert outcome.sound_hash == content_hash(media.read(path, audio_track=2, want_video=False).audio)
    assert "sound tracks; number 2 (aac) was taken" in outcome.problems[-1].reason
    assert "--audio-track" not in outcome.problems[-1].reason          # which prepare does not have


@pytest.mark.slow
def test_many_tracks_are_examined_in_bounds(tmp_path, voice):
    path = write_tracks(tmp_path / "many.mkv", (), [silence(1)] * 19 + [voice])
    sound, _, problems = taken(path)
    assert sound == 1                                       # the last is behind those that are examined
    assert "it has 20 sound tracks" in problems[0]
    assert "and 13 more" in problems[0]


def test_looking_gives_one_picture_a_second(tmp_path, face):
    path = write_tracks(tmp_path / "face.mp4", (face,), ())
    with media.open_recording(path) as recording:
        looks = list(islice(recording.contents.decode_video(recording.picture_track), 9))
    assert len(looks) == 3
    assert looks[0].shape == face.shape[1:]
