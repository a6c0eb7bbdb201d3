"""Times that files claim: what packets bear out is believed, the rest is cut and told. Every file is made here."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from avsr import media
from avsr.errors import BadMedia
from avsr.rates import SAMPLE_RATE, VIDEO_FPS
from tests.test_media import BLACK, GREY, WHITE, clicks, make, onsets, tone

DAY = 24 * 3600


def read(path, **options):
    """(the whole as one Clip, problems)."""
    with media.open_recording(path, max_side=64, **options) as recording:
        clips = list(recording.windows(10**6 if "want_video" in options else 100))
        assert len(clips) <= 200, "more than 800 s"
        parts = {name: np.concatenate([getattr(clip, name) for clip in clips])
                 for name in ("video", "shown", "audio") if getattr(clips[0], name) is not None}
        return media.Clip(**parts), recording.problems


def sound_at(path, starts, *, seconds=1.0, rate=SAMPLE_RATE, level=0.5):
    """Sound without a picture: a stretch of `seconds` at each of the times."""
    with av.open(str(path), "w") as out:
        audio = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        audio.codec_context.time_base = Fraction(1, rate)
        for start in starts:
            for piece in range(round(10 * seconds)):
                samples = np.full((1, rate // 10), level * 32767, np.int16)
                frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = round(start * rate) + piece * (rate // 10)
                out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    return path


def talk(path, starts, *, seconds=2.0, late=0.0, **options):
    """Picture and sound of `seconds` from each of the times on, with a flash and a click half a second after each."""
    times, lit = [], set()
    for start in starts:
        for frame in range(round(25 * seconds)):
            lit |= {len(times)} if 12 <= frame < 20 else set()
            times.append(start + frame / 25)
    whole = round(max(starts) - starts[0] + seconds)
    with av.open(str(path), "w", options=options) as out:
        video, audio = out.add_stream("libx264", rate=25), out.add_stream("aac", rate=44100, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 90000)
        video.codec_context.gop_size, video.codec_context.max_b_frames = 12, 0
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), WHITE if number in lit else BLACK, np.uint8), "rgb24")
            frame.time_base, frame.pts = Fraction(1, 90000), round(time * 90000)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        assert whole
        for start in starts:
            sound = clicks([0.48], seconds)
            for at in range(0, len(sound) - 1023, 1024):
                frame = av.AudioFrame.from_ndarray(sound[None, at: at + 1024], "fltp", "mono")
                frame.sample_rate, frame.time_base = 44100, Fraction(1, 44100)
                frame.pts = at + round((start + late) * 44100)
                out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    return path


# What packets bear out, and what is sparse in truth.

@pytest.mark.parametrize(("every", "n"), [(10, 9), (60, 4)])
def test_a_slide_show_keeps_its_times(tmp_path, every, n):
    path = make(tmp_path / "slides.mkv", every * np.arange(n), lambda i: 25 * i + 20, vcodec="ffv1", size=(16, 16))
    clip, problems = read(path)
    levels = clip.video.mean(axis=(1, 2, 3))[[(every * i + every // 2) * VIDEO_FPS for i in range(n - 1)]]
    assert np.abs(levels - (25 * np.arange(n - 1) + 20)).max() < 3
    assert problems == []


@pytest.mark.slow
def test_a_picture_stands_as_long_as_the_sound_goes_on(tmp_path):
    path = make(tmp_path / "still.mkv", [0.0, 299.0], lambda i: 60 + 60 * i, vcodec="ffv1", size=(16, 16),
                sound=tone(300.0), rate=SAMPLE_RATE, acodec="pcm_s16le")
    clip, problems = read(path)
    assert abs(clip.duration_s - 300) < 0.1
    assert np.abs(clip.video[:298 * 25].astype(int).mean(axis=(1, 2, 3)) - 60).max() < 3
    assert problems == []


@pytest.mark.parametrize("want", [{}, {"want_video": False}])
def test_sound_that_starts_five_minutes_late(tmp_path, want):
    path = make(tmp_path / "late.mkv", np.arange(310.0), lambda i: GREY, vcodec="ffv1", size=(16, 16),
                sound=clicks([302.0], 5, SAMPLE_RATE, start=300.0), sound_start=300.0, rate=SAMPLE_RATE, acodec="pcm_s16le")
    clip, problems = read(path, **want)
    assert abs(np.flatnonzero(np.abs(clip.audio) > 0.3)[0] / SAMPLE_RATE - 302) < 0.01
    assert problems == []


def test_who_is_muted_for_twenty_minutes(tmp_path):
    clip, problems = read(sound_at(tmp_path / "muted.mkv", [0, 1201]), want_video=False)
    assert abs(len(clip.audio) / SAMPLE_RATE - 1202) < 0.01
    assert np.allclose(clip.audio[[8000, 1201 * SAMPLE_RATE + 8000]], 0.5, atol=1e-3)
    assert not clip.audio[2 * SAMPLE_RATE: 1200 * SAMPLE_RATE].any()
    assert problems == []


def test_a_pause_of_both_is_kept(tmp_path):
    clip, problems = read(talk(tmp_path / "pause.mkv", [0, 40]))
    flashes, sounds = onsets(clip)
    assert np.abs(flashes - [0.48, 40.48]).max() < 0.05
    assert np.abs(sounds - [0.48, 40.48]).max() < 0.06
    assert problems == []


# What nothing bears out.

def test_a_day_of_nothing_is_cut_from_sound(tmp_path):
    clip, problems = read(sound_at(tmp_path / "day.mkv", [0, DAY, DAY + 1]), want_video=False)
    assert abs(len(clip.audio) / SAMPLE_RATE - 3) < 0.01
    assert len(problems) == 1
    assert "day.mkv: the time stamps of the sound leap once, by 86399 s" in problems[0]


@pytest.mark.parametrize(("name", "starts"), [
    ("ahead.mkv", [0, 5000]), ("far.mkv", [0, DAY, 30 * DAY]), ("ahead.ts", [100, 5000]), ("late.mkv", [0.5, DAY])])
def test_the_same_is_cut_from_both(tmp_path, name, starts):
    clip, problems = read(talk(tmp_path / name, starts, late=0.2))
    assert abs(clip.duration_s - 2 * len(starts)) < 0.3 * len(starts)
    flashes, sounds = onsets(clip)
    assert len(flashes) == len(sounds) == len(starts)
    assert np.abs(sounds - flashes - 0.2).max() < 0.05
    assert len(problems) == 2
    assert all("leap" in problem for problem in problems)


@pytest.mark.parametrize("clocks", [(5000, 100), (100, 50), (50, 5000)])
def test_joined_recordings_with_another_clock(tmp_path, clocks):
    """The clock of MPEG-TS ends at 95,443 s, so FFmpeg takes an earlier one for one that has come round."""
    parts = [talk(tmp_path / f"{clock}.ts", [clock]).read_bytes() for clock in clocks]
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    clip, problems = read(tmp_path / "joined.ts")
    assert abs(clip.duration_s - 4) < 0.3
    flashes, sounds = onsets(clip)
    assert len(flashes) == len(sounds) == 2
    assert np.abs(flashes - sounds).max() < 0.06
    assert any("leap" in problem for problem in problems)


def test_a_clock_that_comes_round(tmp_path):
    clip, problems = read(talk(tmp_path / "round.ts", [95443 - 1.0]))
    assert abs(clip.duration_s - 2) < 0.2
    assert problems == []


@pytest.mark.parametrize(("wrong", "n"), [(40.0, 1), (DAY, 1), (2.5, 1), (23.0, 10), (DAY, 10), (2.5, 10)])
def test_wrong_time_stamps_move_nothing_else(tmp_path, wrong, n):
    times = np.arange(100) / 25
    times[30: 30 + n] += wrong                                # 2.5 s ahead lie other frames
    path = tmp_path / "stray.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 16, 16, "bgr0"
        video.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 2 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in video.encode(frame):
                packet.pts, packet.dts = round(time * 1000), 40 * number
                packet.time_base = Fraction(1, 1000)
                out.mux(packet)
    clip, problems = read(path)
    assert clip.n_frames == 100
    assert np.abs(clip.video.mean(axis=(1, 2, 3)) - 2 * np.arange(100)).max() < 3
    assert len(problems) == 1
    assert "leap once" in problems[0]


@pytest.mark.parametrize(("length", "expected"), [(30.0, 31.0), (40_000.0, 1.0)])
def test_how_long_the_last_picture_stands(tmp_path, length, expected):
    """Up to a minute for each of the 25 pictures is believed."""
    path = tmp_path / "end.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        packets = []
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 5 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        packets[-1].duration = round(length * 25)
        for packet in packets:
            out.mux(packet)
    clip, _ = read(path)
    assert abs(clip.duration_s - expected) < 0.1
    assert abs(float(clip.video[-1].mean()) - 120) < 4


def test_sound_whose_clock_cannot_be_meant_starts_with_the_picture(tmp_path):
    clip, problems = read(talk(tmp_path / "apart.mkv", [0], late=DAY))
    flashes, sounds = onsets(clip)
    assert abs(clip.duration_s - 2) < 0.2
    assert np.abs(flashes - sounds).max() < 0.06
    assert any("sound leap once" in problem for problem in problems)


def patched(path, at, value, form=">I"):
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at(data), value)
    path.write_bytes(data)
    return path


def after(tag, offset, which=0):
    """Where the bytes `offset` after the `which`-th `tag` are."""
    def at(data):
        place = -1
        for _ in range(which + 1):
            place = data.index(tag, place + 1)
        return place + offset
    return at


@pytest.mark.parametrize(("suffix", "at", "value", "form"), [
    ("mp4", after(b"mdhd", 16), 1, ">I"), ("mp4", after(b"mdhd", 16), 0, ">I"), ("mp4", after(b"mdhd", 16, 1), 1, ">I"),
    ("mp4", after(b"mdhd", 20), 2**31 - 1, ">I"), ("mp4", after(b"mvhd", 16), 1, ">I"),
    ("mp4", after(b"mvhd", 20), 2**30, ">I"), ("mp4", after(b"stts", 16), 2**30, ">I"),
    ("mp4", after(b"stts", 16, 1), 2**30, ">I"), ("avi", after(b"strh", 28), 1775894529, "<I"),
    ("avi", after(b"strh", 32), 1, "<I"), ("avi", after(b"strh", 28), 2**31 - 1, "<I"),
    ("avi", after(b"avih", 8), 2**31 - 1, "<I"), ("avi", after(b"strh", 28, 1), 2**30, "<I"),
    ("mkv", after(b"\x2a\xd7\xb1\x83", 4), 255, ">B"), ("mkv", after(b"\x44\x89\x88", 3), 2.0**60, ">d")])
def test_lies_of_headers(tmp_path, suffix, at, value, form):
    """Two seconds of picture and sound stay within what a recording of that size can be."""
    path = make(tmp_path / f"lies.{suffix}", np.arange(50) / 25, lambda i: 4 * i, sound=tone(2.0, 44100), size=(32, 32),
                vcodec="libx264" if suffix == "mp4" else "mpeg4", acodec="libmp3lame" if suffix == "avi" else "aac")
    clip, _ = read(patched(path, at, value, form))
    assert 1.9 <= clip.duration_s < 130


def header(rate, channels, n_bytes=32000):
    bits = struct.pack("<HHIIHH", 1, channels, rate, min(rate * channels * 2, 2**32 - 1), channels * 2 % 65536, 16)
    return (b"RIFF" + struct.pack("<I", 36 + n_bytes) + b"WAVEfmt " + struct.pack("<I", 16) + bits + b"data"
            + struct.pack("<I", n_bytes) + bytes(n_bytes))


@pytest.mark.parametrize(("name", "data", "words"), [
    ("one.au", b".snd" + struct.pack(">5I", 24, 32000, 3, 1, 1) + bytes(32000), "a rate of 1 Hz"),
    ("slow.wav", header(999, 1), "a rate of 999 Hz"),
    ("fast.wav", header(2**31 - 1, 1), "a rate of 2,147,483,647 Hz"),
    ("255.wav", header(SAMPLE_RATE, 255), "255 channels, and 1 to 64"),
    ("65.wav", header(SAMPLE_RATE, 65), "65 channels, and 1 to 64")])
def test_sound_that_nobody_records_is_refused(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadMedia, match=f"{name}: its sound claims {words}") as caught:
        media.read(tmp_path / name)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("rate", [1000, 4000, 384_000, 2_822_400])
def test_slow_and_fast_sound_is_read(tmp_path, rate):
    sound = media.read(header(rate, 1, rate // 5)).audio       # a tenth of a second
    assert abs(len(sound) - SAMPLE_RATE / 10) <= 1
