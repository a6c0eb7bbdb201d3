"""Reading and writing recordings. Every clip is made here, with PyAV, but for the last two tests."""

import io
import os
import shutil
import tracemalloc
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from avsr import media
from avsr.errors import BadMedia, BadOutput
from avsr.media import Clip
from avsr.media.colour import joined
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, VIDEO_FPS, frames_to_samples

FLASHES = (1.0, 2.03, 2.97, 4.11)         # seconds, about: the nearest source frame before it is taken
WHITE, BLACK, GREY = 235, 16, 126         # as `level` below, not as RGB


def make(path, times, level, *, size=(64, 48), sound=None, sound_start=0.0, rate=44100, layout="mono", vcodec="libx264",
         acodec="aac", aspect=None, turn=None, mirrored=False, options=None):
    """Write a clip: frame i at times[i] (s), `level(i)` a grey value or an RGB array; sound (S,) or (C, S) float32."""
    with av.open(str(path), "w", options=options or {}) as out:
        video = audio = None
        if times is not None:
            video = out.add_stream(vcodec, rate=1000 if vcodec in ("libx264", "libvpx") else 25)
            video.width, video.height, video.pix_fmt = *size, "bgr0" if vcodec == "ffv1" else "yuv420p"
            video.codec_context.time_base = Fraction(1, 90000 if vcodec == "libx264" else 1000)
            video.codec_context.gop_size = 12
            if vcodec in ("mpeg1video", "mpeg4"):
                video.codec_context.time_base = Fraction(1, 25)
            if aspect:
                video.codec_context.sample_aspect_ratio = aspect
            if turn or mirrored:
                video.set_display_rotation(turn or 0, hflip=mirrored)
        if sound is not None:
            audio = out.add_stream(acodec, rate=rate, layout=layout)
        for i, time in enumerate(times if times is not None else ()):
            picture = level(i)
            if not isinstance(picture, np.ndarray):
                picture = np.full((size[1], size[0], 3), picture, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.time_base = video.codec_context.time_base
            frame.pts = round(time / frame.time_base)
            out.mux(video.encode(frame))
        if sound is not None:
            sound = np.atleast_2d(sound).astype(np.float32)
            for start in range(0, sound.shape[1], 4096):
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, start: start + 4096]), "fltp", layout)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = start + round(sound_start * rate)
                out.mux(audio.encode(frame))
        for stream in filter(None, (video, audio)):
            out.mux(stream.encode(None))
    return path


def clicks(times, seconds, rate=44100, start=0.0):
    """A 5 ms burst at each time (on the recording's clock), in sound that starts at `start`."""
    sound = np.zeros(round(seconds * rate), np.float32)
    for time in times:
        at = round((time - start) * rate)
        sound[at: at + rate // 200] = 0.8
    return sound


def onsets(clip):
    """(times of flashes, times of clicks), seconds."""
    bright = clip.video.mean(axis=(1, 2, 3)) > 128
    flashes = np.flatnonzero(bright & ~np.r_[False, bright[:-1]]) / VIDEO_FPS
    loud = np.abs(clip.audio) > 0.3
    quiet_before = np.r_[True, np.convolve(loud, np.ones(800), "full")[: len(loud) - 1] < 0.5]
    return flashes, np.flatnonzero(loud & quiet_before) / SAMPLE_RATE


def source_times(rate, seconds=5.0):
    """Presentation times of a source: frames a second, or None for a clock that wanders between 12 and 50."""
    if rate is None:
        gaps = np.random.default_rng(3).uniform(0.02, 0.085, 200)
        times = np.r_[0, np.cumsum(gaps)]
        return times[times < seconds]
    return np.arange(round(seconds * float(rate))) / float(rate)


def tone(seconds=2.0, rate=SAMPLE_RATE, level=0.3):
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """3 s at 30 frames a second with a different grey in each frame, and a tone."""
    path = tmp_path_factory.mktemp("plain") / "plain.mp4"
    return make(path, np.arange(90) / 30, lambda i: 30 + 2 * i, sound=tone(3.0, 44100))


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5)], ids=["together", "late-picture", "late-sound"])
@pytest.mark.parametrize("rate", [10, Fraction(24000, 1001), Fraction(30000, 1001), 50, None], ids=str)
def test_click_and_flash_stay_together(tmp_path, rate, offset):
    picture_start, sound_start = offset
    times = source_times(rate)
    starts = [int(np.searchsorted(times, flash, "right")) - 1 for flash in FLASHES]
    lit = {i for start in starts for i in range(start, len(times)) if times[i] < times[start] + 0.3}
    expected = times[starts] + picture_start
    path = make(tmp_path / "flash.mp4", times + picture_start, lambda i: WHITE if i in lit else BLACK,
                sound=clicks(expected, 5.6, start=sound_start), sound_start=sound_start)
    clip = media.read(path)
    flashes, sounds = onsets(clip)
    assert len(flashes) == len(sounds) == len(FLASHES)
    assert np.abs(flashes - expected).max() <= 0.0205
    assert np.abs(sounds - expected).max() <= 0.002
    assert np.abs(flashes - sounds).max() <= 0.021         # 20 ms, and AAC smears a click by 1 ms
    first_shown = np.flatnonzero(clip.shown)[0] / VIDEO_FPS
    assert abs(first_shown - picture_start) <= 0.0205
    assert not clip.video[~clip.shown].any()


@pytest.mark.parametrize(("suffix", "vcodec", "acodec"), [
    ("mkv", "mpeg4", "pcm_s16le"), ("ts", "libx264", "aac"), ("mpg", "mpeg1video", "mp2"),
    ("webm", "libvpx", "libopus"), ("avi", "mpeg4", "mp3"), ("mov", "mpeg4", "pcm_s16le")])
def test_containers_agree_on_time(tmp_path, suffix, vcodec, acodec):
    rate = 48000
    lit = {i for flash in FLASHES for i in range(int(flash * 25), int(flash * 25) + 5)}
    expected = np.array([int(flash * 25) / 25 for flash in FLASHES])
    path = make(tmp_path / f"clip.{suffix}", np.arange(125) / 25, lambda i: WHITE if i in lit else BLACK, rate=rate,
                sound=clicks(expected, 5, rate), vcodec=vcodec, acodec=acodec)
    flashes, sounds = onsets(media.read(path))
    assert len(flashes) == len(sounds) == len(FLASHES)
    assert np.abs(flashes - sounds).max() <= 0.030        # an encoder may delay the sound: mp3 in avi does
    assert np.abs(np.diff(flashes) - np.diff(expected)).max() < 1e-6


def test_25_fps_is_taken_frame_by_frame(tmp_path):
    path = make(tmp_path / "exact.mkv", np.arange(60) / 25, lambda i: 4 * i, vcodec="ffv1")
    levels = media.read(path).video.mean(axis=(1, 2, 3))
    assert len(levels) == 60
    assert np.abs(levels - 4 * np.arange(60)).max() < 3


def test_windows_joined_are_the_whole(plain):
    whole = media.read(plain)
    for n in (1, 7, 25, 1000):
        clips = list(media.windows(plain, n))
        assert [clip.start_frame for clip in clips] == list(range(0, whole.n_frames, n))
        assert all(clip.n_frames == n for clip in clips[:-1])
        assert np.array_equal(np.concatenate([clip.video for clip in clips]), whole.video)
        assert np.array_equal(np.concatenate([clip.shown for clip in clips]), whole.shown)
        assert np.array_equal(np.concatenate([clip.audio for clip in clips]), whole.audio)


def test_a_clip_keeps_its_promises(plain):
    clip = media.read(plain)
    assert clip.video.dtype == np.uint8
    assert clip.video.shape[1:] == (48, 64, 3)
    assert clip.video.flags.c_contiguous
    assert clip.audio.dtype == np.float32
    assert clip.audio.ndim == 1
    assert clip.shown.dtype == bool
    assert len(clip.audio) == frames_to_samples(clip.n_frames)
    assert clip.duration_s == clip.n_frames / VIDEO_FPS
    assert 75 <= clip.n_frames <= 76
    assert clip.shown[:75].all()
    assert abs(np.sqrt(np.mean(clip.audio[8000:40000] ** 2)) - 0.3 / np.sqrt(2)) < 0.01
    later = list(media.windows(plain, 25))[1]
    assert later.start_s == 1.0


class _Pipe(io.RawIOBase):
    """A file that cannot go back."""

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def readable(self):
        return True

    def seekable(self):
        return False

    def read(self, size=-1):
        return self.data.read(size)


def test_path_bytes_and_files_are_one(plain):
    whole = media.read(plain)
    data = plain.read_bytes()
    with plain.open("rb") as file:
        others = [media.read(source) for source in (str(plain), data, io.BytesIO(data), _Pipe(data), file)]
    for other in others:
        assert np.array_equal(other.video, whole.video)
        assert np.array_equal(other.audio, whole.audio)


def test_arrays_and_clips_are_sources(plain):
    sound = tone(1.01)
    clip = media.read(sound)
    assert np.array_equal(clip.audio, sound)
    assert clip.video is None
    assert clip.shown is None
    assert clip.n_frames == 26
    assert [len(c.audio) for c in media.windows(sound, 10)] == [6400, 6400, 3360]
    whole = media.read(plain)
    later = Clip(whole.video[10:], whole.shown[10:], whole.audio[6400:], start_frame=10)
    again = list(media.windows(later, 20))
    assert [c.start_frame for c in again] == list(range(10, whole.n_frames, 20))
    assert np.array_equal(np.concatenate([c.video for c in again]), later.video)
    assert media.read(later, want_video=False).start_frame == 10


@pytest.mark.parametrize(("suffix", "acodec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac")])
def test_sound_only(tmp_path, suffix, acodec):
    path = make(tmp_path / f"sound.{suffix}", None, None, sound=tone(2.5, 44100), acodec=acodec)
    with media.open_recording(path) as recording:
        assert recording.has_audio
        assert not recording.has_video
        clips = list(recording.windows(25))
    assert all(clip.video is None for clip in clips)
    assert [clip.start_frame for clip in clips[:3]] == [0, 25, 50]
    assert abs(sum(len(clip.audio) for clip in clips) - 2.5 * SAMPLE_RATE) <= (1600 if suffix == "mp3" else 1)
    assert recording.problems == []


def test_16_khz_wav_comes_back_exactly(tmp_path):
    sound = np.round(tone(1.3) * 32768).astype(np.float32) / 32768
    path = make(tmp_path / "exact.wav", None, None, sound=sound, rate=SAMPLE_RATE, acodec="pcm_s16le")
    assert np.abs(media.read(path).audio - sound).max() <= 1 / 32768


def test_channels_are_averaged(tmp_path):
    both = np.stack([tone(1, 48000), np.zeros(48000, np.float32)])
    path = make(tmp_path / "stereo.wav", None, None, sound=both, rate=48000, layout="stereo", acodec="pcm_s16le")
    assert abs(np.abs(media.read(path).audio[2000:-2000]).max() - 0.15) < 0.003


def test_picture_only(tmp_path):
    path = make(tmp_path / "silent.mp4", np.arange(30) / 30, lambda i: GREY)
    clip = media.read(path)
    assert clip.audio is None
    assert clip.n_frames == 25
    assert clip.shown.all()
    with pytest.raises(BadMedia, match=r"silent\.mp4.*no sound"):
        media.read(path, want_video=False)


def test_only_what_is_wanted_is_decoded(plain):
    whole = media.read(plain)
    sound = media.read(plain, want_video=False)
    assert sound.video is None
    assert np.array_equal(sound.audio[: 74 * SAMPLES_PER_FRAME], whole.audio[: 74 * SAMPLES_PER_FRAME])
    picture = media.read(plain, want_audio=False)
    assert picture.audio is None
    assert np.array_equal(picture.video, whole.video[: picture.n_frames])


def test_late_sound_is_late_without_its_picture(tmp_path):
    path = make(tmp_path / "late.mp4", np.arange(100) / 25, lambda i: GREY, sound=clicks([1.5], 3, start=0.5),
                sound_start=0.5)
    click = np.flatnonzero(np.abs(media.read(path, want_video=False).audio) > 0.3)[0] / SAMPLE_RATE
    assert abs(click - 1.5) < 0.002


def test_cover_art_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("libmp3lame", rate=44100, layout="mono")
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), "rgb24")
        frame.pts = 0
        out.mux(cover.encode(frame))
        out.mux(cover.encode(None))
        sound = av.AudioFrame.from_ndarray(tone(1, 44100)[None], "fltp", "mono")
        sound.sample_rate = 44100
        out.mux(audio.encode(sound))
        out.mux(audio.encode(None))
    clip = media.read(path)
    assert clip.video is None
    assert len(clip.audio) > 15000


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation(tmp_path, turn):
    """A white top left corner, turned by `turn` degrees counter-clockwise, as av_display_rotation_set and PyAV count."""
    picture = np.full((48, 64, 3), 20, np.uint8)
    picture[:24, :32] = 250
    clip = media.read(make(tmp_path / "turned.mp4", np.arange(10) / 25, lambda i: picture, turn=turn))
    expected = np.rot90(picture, turn // 90)
    assert clip.video.shape[1:] == expected.shape
    assert clip.video.flags.c_contiguous
    assert np.abs(clip.video[3].astype(int) - expected).mean() < 8


def test_mirrored_selfie(tmp_path):
    picture = np.full((48, 64, 3), 20, np.uint8)
    picture[:24, :32] = 250
    clip = media.read(make(tmp_path / "selfie.mp4", np.arange(10) / 25, lambda i: picture, mirrored=True))
    assert np.abs(clip.video[3].astype(int) - picture[:, ::-1]).mean() < 8


def test_sample_aspect(tmp_path):
    path = make(tmp_path / "wide.mp4", np.arange(5) / 25, lambda i: GREY, aspect=Fraction(16, 11))
    assert media.read(path).video.shape[1:3] == (48, 93)


@pytest.mark.parametrize(("size", "expected"), [
    ((8, 8), (8, 8)), ((3840, 2160), (720, 1280)), ((300, 1400), (1280, 274))])
def test_sizes(tmp_path, size, expected):
    path = make(tmp_path / "size.mkv", np.arange(3) / 25, lambda i: GREY, size=size, vcodec="mpeg4")
    clip = media.read(path)
    assert clip.video.shape[1:3] == expected
    assert abs(float(clip.video.mean()) - GREY) < 6
    assert max(media.read(path, max_side=100).video.shape[1:3]) == min(100, max(size))


@pytest.mark.parametrize("options", [
    {}, {"turn": 90}, {"mirrored": True}, {"aspect": Fraction(16, 11)}, {"vcodec": "ffv1"},
    {"vcodec": "mpeg4", "size": (1400, 300)}])
def test_grey_pictures_are_those_of_rgb_in_grey(tmp_path, options):
    """From the luma without RGB, also turned, mirrored, widened, scaled down, and from a format without luma."""
    width, height = options.get("size", (64, 48))
    ramp = np.linspace(30, 220, width).round().astype(np.uint8)[None, :, None] // np.arange(1, 4, dtype=np.uint8)
    picture = np.repeat(ramp, height, axis=0)                # from dark to light, reddish
    path = make(tmp_path / "grey.mkv", np.arange(3) / 25, lambda i: picture, **options)
    colour = media.read(path)
    with media.open_recording(path) as recording:
        (grey,) = recording.windows(grey=True)
    assert (grey.video.dtype, grey.video.shape) == (np.uint8, colour.video.shape[:3])
    assert grey.video.flags.c_contiguous
    expected = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in colour.video])
    assert np.abs(grey.video.astype(int) - expected).mean() < 1
    again = np.stack([joined(*one) for one in zip(grey.video, grey.chroma, strict=True)])
    assert np.abs(again.astype(int) - colour.video).mean() < 3
    with media.open_recording(colour) as again:
        (from_clip,) = again.windows(grey=True)
    assert np.array_equal(from_clip.video, expected)


def test_slide_show_is_held(tmp_path):
    times = [0.0, 1.0, 121.0]
    path = make(tmp_path / "slides.mkv", times, lambda i: 60 * i + 60, vcodec="ffv1")
    levels = [float(clip.video.mean()) for clip in media.windows(path, 25)]
    assert abs(levels[0] - 60) < 3
    assert abs(levels[1] - 120) < 3
    assert abs(levels[120] - 120) < 3
    assert abs(levels[121] - 180) < 3


def test_gaps_in_the_sound_become_silence(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for start, level in ((0.0, 0.25), (1.0, 0.5), (2.5, 0.75), (3.4, 0.1)):     # the last overlaps by 0.1 s
            frame = av.AudioFrame.from_ndarray(np.full((1, SAMPLE_RATE), level * 32768, np.int16), "s16", "mono")
            frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
            frame.pts = round(start * SAMPLE_RATE)
            for packet in audio.encode(frame):
                out.mux(packet)
    sound = media.read(path).audio
    assert len(sound) == round(4.4 * SAMPLE_RATE)
    at = [float(sound[round(s * SAMPLE_RATE)]) for s in (0.5, 1.5, 2.2, 2.6, 3.45, 3.55)]
    assert np.allclose(at, [0.25, 0.5, 0.0, 0.75, 0.75, 0.1], atol=1e-3)


def test_two_recordings_in_one_file(tmp_path):
    """The clock starts again, pictures become wider, sound changes its rate and channels; all goes on after the first."""
    parts = []
    for name, size, rate, layout in (("a.ts", (64, 48), 44100, "mono"), ("b.ts", (96, 48), 48000, "stereo")):
        sound = np.tile(clicks([1.0, 4.0], 5, rate), (1 + (layout == "stereo"), 1))
        parts.append(make(tmp_path / name, np.arange(125) / 25, lambda i: WHITE if i % 75 in (25, 26) else BLACK,
                          size=size, sound=sound, rate=rate, layout=layout))
    path = tmp_path / "both.ts"
    path.write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    with media.open_recording(path) as recording:
        clip = next(recording.windows(1000))
    assert clip.video.shape[1:3] == (48, 64)
    assert 250 <= clip.n_frames <= 254
    flashes, sounds = onsets(clip)
    assert np.abs(flashes - [1.0, 4.0, 6.0, 9.0]).max() < 0.1
    assert np.abs(flashes - sounds).max() < 0.05


def test_samples_that_are_no_numbers(tmp_path):
    sound = tone(1.0)
    sound[5000:5010] = np.nan
    sound[9000] = np.inf
    path = make(tmp_path / "nan.wav", None, None, sound=sound, rate=SAMPLE_RATE, acodec="pcm_f32le")
    with media.open_recording(path) as recording:
        clips = list(recording.windows())
    assert np.isfinite(clips[0].audio).all()
    assert not clips[0].audio[5000:5010].any()
    assert len(recording.problems) == 1
    assert "nan.wav" in recording.problems[0]
    assert "11 samples" in recording.problems[0]


@pytest.mark.parametrize(("suffix", "options"), [("mp4", {"movflags": "faststart"}), ("mkv", {})])
def test_truncated_file_is_kept_as_far_as_it_goes(tmp_path, suffix, options):
    noise = np.random.default_rng(0).integers(0, 255, (100, 48, 64, 3), dtype=np.uint8)
    whole = make(tmp_path / f"whole.{suffix}", np.arange(100) / 25, lambda i: noise[i], sound=tone(4, 44100),
                 options=options)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    with media.open_recording(path) as recording:
        n = sum(clip.n_frames for clip in recording.windows())
    assert 40 < n < 80
    assert any(f"cut.{suffix}" in text and "cut short" in text and "of 4.0 s" in text for text in recording.problems)
    with media.open_recording(whole) as recording:
        assert sum(clip.n_frames for clip in recording.windows()) >= 100
    assert recording.problems == []


@pytest.mark.parametrize(("suffix", "vcodec", "acodec"), [
    ("mkv", "libx264", "aac"), ("ts", "libx264", "aac"), ("mpg", "mpeg1video", "mp2"), ("mp4", "libx264", "aac")])
def test_damage_in_the_middle_moves_nothing_else(tmp_path, suffix, vcodec, acodec):
    noise = np.random.default_rng(1).integers(0, 60, (150, 48, 64, 3), dtype=np.uint8)
    noise[120:126] = 240
    path = make(tmp_path / f"hurt.{suffix}", np.arange(150) / 25, lambda i: noise[i], vcodec=vcodec, acodec=acodec,
                sound=clicks([4.8], 6), options={"movflags": "faststart"} if suffix == "mp4" else None)
    data = bytearray(path.read_bytes())
    middle = len(data) * 2 // 5
    data[middle: middle + 3000] = np.random.default_rng(2).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    with media.open_recording(path) as recording:
        clips = list(recording.windows(1000))
    flashes, sounds = onsets(clips[0])
    assert 148 <= clips[0].n_frames <= 155
    assert abs(flashes[-1] - 4.8) <= 0.045
    assert abs(sounds[-1] - 4.8) <= 0.045
    assert all(f"hurt.{suffix}" in text for text in recording.problems)
    if suffix == "mp4":
        assert any("damaged packet" in text for text in recording.problems)


@pytest.mark.parametrize("how", ["unknown codec", "all packets damaged"])
def test_undecodable_sound_leaves_the_picture(tmp_path, how):
    path = make(tmp_path / "deaf.mkv", np.arange(50) / 25, lambda i: GREY, sound=tone(2, 44100))
    data = path.read_bytes()
    if how == "unknown codec":
        data = data.replace(b"A_AAC", b"A_XYZ")
    else:
        with av.open(str(path)) as container:
            packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size > 20]
        for packet in packets:
            data = data.replace(packet, b"\xff" * len(packet))
    path.write_bytes(data)
    with media.open_recording(path) as recording:
        assert recording.has_video
        assert not recording.has_audio
        assert sum(clip.n_frames for clip in recording.windows()) == 50
    assert len(recording.problems) == 1
    assert "deaf.mkv" in recording.problems[0]
    assert "sound" in recording.problems[0]


def bad_files(folder, plain):
    """name -> a source that must be refused."""
    data = plain.read_bytes()
    files = {"text.mp4": b"this is no video\n" * 200, "notes.txt": b"hello, hello\n" * 50, "empty.mp4": b"",
             "half.mp4": data[: len(data) // 3], "noise.avi": np.random.default_rng(0).bytes(50000),
             "words.srt": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n\n",
             "list.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nplain.mp4\n",
             "header.wav": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\0\0\0"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder.mp4").mkdir()
    return [*files, "folder.mp4", "missing.mp4", "a:b.mp4"]


def test_bad_input_is_refused_with_name_and_remedy(tmp_path, plain):
    for name in bad_files(tmp_path, plain):
        with pytest.raises(BadMedia) as caught:
            media.read(tmp_path / name)
        problem, _, remedy = str(caught.value).partition(".  ")
        assert name in problem, name
        assert remedy.endswith("."), caught.value
        assert "\n" not in str(caught.value)
        if (tmp_path / name).is_file():
            with pytest.raises(BadMedia):
                media.read((tmp_path / name).read_bytes())
    for source in (b"", np.zeros((2, 100), np.float32), np.zeros(0, np.float32), np.zeros(9, np.int16), Clip()):
        with pytest.raises(BadMedia):
            media.read(source)


def test_unreadable_file(tmp_path, plain, monkeypatch):
    path = shutil.copy(plain, tmp_path / "secret.mp4")
    os.chmod(path, 0)
    if os.access(path, os.R_OK):                          # root reads everything: let the library say no

        def refuse(*args, **kwargs):
            raise av.error.PermissionError(13, "Permission denied")

        monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(BadMedia, match=r"secret\.mp4.*may not read.*permissions"):
        media.read(path)


@pytest.mark.parametrize("name", ["with space.mp4", "qu'o\"te.mp4", "смех 笑.mp4", "100%d.mp4", "a:b.mp4", "-dash.mp4"])
def test_names(tmp_path, plain, name):
    shutil.copy(plain, tmp_path / name)
    clip = media.read(tmp_path / name)
    assert clip.n_frames >= 75


def test_a_demuxer_that_always_fails_ends(plain):
    class Broken(io.BytesIO):
        fails = False

        def read(self, size=-1):
            if self.fails:
                raise OSError("the disk is gone")
            return super().read(size)

    file = Broken(plain.read_bytes())
    with media.open_recording(file) as recording:
        file.fails = True
        n = sum(clip.n_frames for clip in recording.windows())
    assert n <= 80


def test_ffmpeg_is_quiet(tmp_path, plain, capfd):
    for name in bad_files(tmp_path, plain):
        with pytest.raises(BadMedia):
            media.read(tmp_path / name)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    """A window of 25 frames is 3.7 MB; 2 minutes would be 440 MB. Sound comes after all of the picture in the file."""
    size = (256, 192)
    path = make(tmp_path / "long.mkv", np.arange(120 * 25) / 25, lambda i: i % 200, size=size, vcodec="mpeg4",
                sound=tone(120), rate=SAMPLE_RATE, acodec="pcm_s16le")
    window = 25 * size[0] * size[1] * 3
    tracemalloc.start()
    n = sum(clip.n_frames for clip in media.windows(path, 25))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 3000
    assert peak < 2.5 * window


def test_write_grey_crops_with_sound(tmp_path):
    ramp = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    frames = np.stack([np.roll(ramp, i, axis=1) for i in range(50)])
    path = tmp_path / "lips.mp4"
    media.write(frames, path, audio=tone(2.0))
    clip = media.read(path)
    assert clip.video.shape[1:] == (96, 96, 3)
    assert clip.shown.sum() == 50
    error = np.abs(clip.video[:50, ..., 1].astype(int) - frames)
    assert np.median(error) <= 2
    assert abs(np.sqrt(np.mean(clip.audio[8000:24000] ** 2)) - 0.3 / np.sqrt(2)) < 0.01
    assert os.listdir(tmp_path) == ["lips.mp4"]


def test_write_a_clip_and_read_it_back(tmp_path, plain):
    clip = media.read(plain)
    media.write(clip, tmp_path / "again.mkv")
    again = media.read(tmp_path / "again.mkv")
    assert again.n_frames in (clip.n_frames, clip.n_frames + 1)
    assert np.abs(again.video[:75].astype(int) - clip.video[:75]).max() <= 4
    media.write(None, tmp_path / "sound.wav", audio=clip.audio)
    assert np.abs(media.read(tmp_path / "sound.wav").audio - clip.audio).max() <= 1 / 32768
    media.write(clip.video[:10, :47, :63], tmp_path / "odd.mp4", fps=10)
    odd = media.read(tmp_path / "odd.mp4")
    assert odd.video.shape == (25, 47, 63, 3)


@pytest.mark.parametrize("name", ["no/such/folder/a.mp4", "a.unknown", "file"])
def test_write_refuses_and_leaves_nothing(tmp_path, name):
    with pytest.raises(BadOutput) as caught:
        media.write(np.zeros((3, 16, 16), np.uint8), tmp_path / name)
    assert name in str(caught.value)
    assert "Check" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_write_that_fails_midway_leaves_nothing(tmp_path):
    def frames():
        yield np.zeros((16, 16), np.uint8)
        raise RuntimeError("the maker of frames gave up")

    (tmp_path / "kept.mp4").write_bytes(b"before")
    with pytest.raises(RuntimeError, match="gave up"):
        media.write(frames(), tmp_path / "kept.mp4")
    assert os.listdir(tmp_path) == ["kept.mp4"]
    assert (tmp_path / "kept.mp4").read_bytes() == b"before"


@pytest.mark.slow
def test_real_files_are_read_or_refused(real_data):
    n_read, refused = 0, {}
    for path in sorted([*(real_data / "wild").iterdir(), *(real_data / "broken").iterdir()]):
        try:
            with media.open_recording(path, max_side=160) as recording:
                n_frames = sum(clip.n_frames for clip in recording.windows())
                assert abs(n_frames / VIDEO_FPS - recording.duration_s) < 0.15, path
                assert all(path.name in text for text in recording.problems)
                n_read += 1
        except BadMedia as error:
            refused[path.name] = str(error)
    assert n_read >= 19
    assert len(refused) == 2
    assert all(name in message for name, message in refused.items())


def test_grid_is_75_frames(real_data):
    paths = sorted((real_data / "grid").glob("s*/*.mpg"))[:3]
    assert paths
    for path in paths:
        clip = media.read(path)
        assert clip.n_frames == 75
        assert clip.shown.all()
        assert clip.duration_s == 3.0
        assert len(clip.audio) == 48000
