"""Small videos and sound files out of Clips, pictures and waveforms. A file appears when it is complete."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError

from avsr.errors import BadOutput
from avsr.media.recording import Clip
from avsr.output import reason_of, whole_file
from avsr.rates import SAMPLE_RATE, VIDEO_FPS


def write(frames: Iterable[np.ndarray] | Clip | None, path: str | Path, *, audio: np.ndarray | None = None,
          fps: int | Fraction = VIDEO_FPS, crf: int = 12) -> None:
    """Write a video (.mp4, .mkv or .mov: H.264 and AAC), or with `frames` None a sound file (.wav, .m4a), in one piece.

    frames: a Clip, or pictures (H, W, 3) uint8 RGB or (H, W) grey, as an array or one by one.
    audio: (S,) float32 mono, SAMPLE_RATE; a Clip brings its own. crf: 0 is lossless, 12 cannot be told from it by eye.
    The file appears when it is complete; on failure nothing is left behind. Raises BadOutput.
    """
    path = Path(path)
    if isinstance(frames, Clip):
        frames, audio = frames.video, frames.audio if audio is None else audio
    assert frames is not None or audio is not None
    try:
        with whole_file(path) as fresh, av.open(f"file:{fresh}", "w") as container:
            _mux(container, frames, audio, Fraction(fps), crf)
    except (FFmpegError, OSError, ValueError) as error:
        raise BadOutput(f"{path}: the file could not be written ({reason_of(error)}).  Check that the folder exists, may be "
                        "written to and has room, and that the name ends in .mp4, .mkv, .mov, .wav or .m4a.") from error


def _mux(container: OutputContainer, frames: Iterable[np.ndarray] | None, audio: np.ndarray | None,
         fps: Fraction, crf: int) -> None:
    """Encode picture and sound side by side, so that players need not search for either."""
    pictures = iter(() if frames is None else frames)
    first = next(pictures, None)
    video = None if first is None else _video_stream(container, first, fps, crf)
    sound = None if audio is None else _audio_stream(container)
    samples, done = np.zeros(0, np.float32) if audio is None else audio, 0
    for n, picture in enumerate(chain(() if first is None else (first,), pictures)):
        assert video is not None
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "gray" if picture.ndim == 2 else "rgb24")
        frame.pts, frame.time_base = n, 1 / fps
        container.mux(video.encode(frame))
        if sound is not None:
            until = int((n + 1) * SAMPLE_RATE / fps)
            _encode_sound(container, sound, samples[done:until], done)
            done = until
    if sound is not None:
        for start in range(done, len(samples), SAMPLE_RATE):
            _encode_sound(container, sound, samples[start: start + SAMPLE_RATE], start)
    for stream in filter(None, (video, sound)):
        container.mux(stream.encode(None))


def _video_stream(container: OutputContainer, first: np.ndarray, fps: Fraction, crf: int) -> av.VideoStream:
    height, width = first.shape[:2]
    has_x264 = "libx264" in av.codecs_available
    stream = container.add_stream("libx264" if has_x264 else "mpeg4", rate=fps)
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 or not has_x264 else "yuv444p"
    stream.options = {"crf": str(crf), "preset": "veryfast"} if has_x264 else {"qscale": "2"}
    return stream


def _audio_stream(container: OutputContainer) -> av.AudioStream:
    codec = "pcm_s16le" if container.format.name == "wav" else "aac"
    return container.add_stream(codec, rate=SAMPLE_RATE, layout="mono")


def _encode_sound(container: OutputContainer, stream: av.AudioStream, samples: np.ndarray, start: int) -> None:
    if not len(samples):
        return
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
    container.mux(stream.encode(frame))
