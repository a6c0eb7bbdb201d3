"""Recordings of twelve formats, made from the demo clip, to be damaged."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from avsr import media

SECONDS = 3
RATE = 48_000                                               # of the sound, which all codecs below take
SIZE = (192, 192)                                           # of the picture, in pixels; the face fills most of it

# By suffix: encoder of the picture, encoder of the sound.
FORMATS = {"mp4": ("libx264", "aac"), "mov": ("mjpeg", "pcm_s16le"), "mkv": ("libx265", "flac"),
           "webm": ("libvpx-vp9", "libopus"), "avi": ("mpeg4", "libmp3lame"), "mpg": ("mpeg1video", "mp2"),
           "ts": ("libx264", "ac3"), "flv": ("flv1", "libmp3lame"), "wav": (None, "pcm_s16le"),
           "ogg": (None, "libopus"), "mp3": (None, "libmp3lame"), "m4a": (None, "aac")}


def make_all(demo: Path, folder: Path) -> list[Path]:
    """A recording of SECONDS of each format in `folder`, from the first seconds of the demo clip."""
    clip = media.read(demo)
    paths = []
    for suffix, (video, audio) in FORMATS.items():
        paths.append(folder / f"clip.{suffix}")
        _encode(clip, paths[-1], video, audio)
    return paths


def _encode(clip: media.Clip, path: Path, video: str | None, audio: str) -> None:
    with av.open(str(path), "w") as out:
        streams = []
        if video is not None:
            form = "yuvj420p" if video == "mjpeg" else "yuv420p"
            options = {"x265-params": "log-level=none"} if video == "libx265" else {}
            stream = out.add_stream(video, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = *SIZE, form
            streams.append((stream, _pictures(clip, form)))
            stream.codec_context.gop_size = 25
        streams.append((out.add_stream(audio, rate=RATE, layout="mono"), _sounds(clip)))
        for stream, frames in streams:
            for frame in frames:
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))


def _pictures(clip: media.Clip, form: str):
    for i, picture in enumerate(clip.video[:SECONDS * 25]):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(*SIZE, form)
        frame.pts, frame.time_base = i, Fraction(1, 25)
        yield frame


def _sounds(clip: media.Clip):
    samples = np.repeat(clip.audio[:SECONDS * 16_000], RATE // 16_000)
    for start in range(0, len(samples), 960):
        frame = av.AudioFrame.from_ndarray(samples[None, start:start + 960], "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        yield frame
