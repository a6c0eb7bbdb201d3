"""Small videos and sound files out of Clips, pictures and waveforms. A file appears when it is complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.stream import Stream

from avsr.errors import BadOutput
from avsr.media.decoder import Opener
from avsr.media.recording import Clip
from avsr.media.timestamps import read_packets
from avsr.output import reason_of, whole_file
from avsr.rates import SAMPLE_RATE, VIDEO_FPS


def write(frames: Iterable[np.ndarray] | Clip | None, path: str | Path, *, audio: np.ndarray | None = None,
          fps: int | Fraction = VIDEO_FPS, crf: int = 12) -> None:
    """Write a video (.mp4, .mkv or .mov: H.264 and AAC), or with `frames` None a sound file (.wav, .m4a), in one piece.

    frames: a Clip, or pictures (H, W, 3) uint8 RGB or (H, W) grey, as an array or one by one.
    audio: (S,) float32 mono, SAMPLE_RATE; a Clip brings its own. crf: 0 is lossless, 12 cannot be told from it by eye.
    The file appears when it is complete; on failure nothing is left behind. Raises BadOutput.
    """
    if isinstance(frames, Clip):
        frames, audio = frames.video, frames.audio if audio is None else audio
    assert frames is not None or audio is not None
    _write(_parts(frames, audio, Fraction(fps)), path, Fraction(fps), crf)


def write_clips(clips: Iterable[Clip], path: str | Path, *, crf: int = 12) -> None:
    """Write Clips that follow one another as one video with its sound, each as it comes, so that memory does not grow.

    All have pictures of the size of the first. The file, crf and errors are those of `write`.
    """
    parts = (part for clip in clips for part in _parts(clip.video, clip.audio, Fraction(VIDEO_FPS)))
    _write(parts, path, Fraction(VIDEO_FPS), crf)


def with_sound(source: str | Path | bytes | BinaryIO, audio: np.ndarray, *, silent: bool = False) -> bytes:
    """A recording's picture as it is, not decoded, with another sound, as a Matroska file.

    audio: (S,) float32 mono, SAMPLE_RATE, from the start of the recording on; it is stored as it is, beyond 1.0 too. The
    pictures end where it ends. silent: leave the sound out. Raises BadMedia where the recording cannot be opened.
    """
    opener, out = Opener(source), BytesIO()
    try:
        with opener.open() as container, av.open(out, "w", format="matroska") as made:
            picture = container.streams.best("video")
            copy = None if picture is None or picture.codec_context is None else made.add_stream_from_template(picture)
            sound = None if silent else made.add_stream("pcm_f32le", rate=SAMPLE_RATE, layout="mono")
            if picture is not None and copy is not None:
                _copy_packets(container, picture, made, copy, len(audio) / SAMPLE_RATE)
            if sound is not None:
                for start in range(0, len(audio), SAMPLE_RATE):
                    _encode_sound(made, sound, audio[start : start + SAMPLE_RATE], start, "flt")
                made.mux(sound.encode(None))
    finally:
        opener.close()
    return out.getvalue()


def _copy_packets(container: InputContainer, picture: Stream, made: OutputContainer, copy: Stream, end_s: float) -> None:
    """Copy the pictures that begin before `end_s` seconds."""
    unit = picture.time_base
    assert unit is not None
    zero = round((container.start_time or 0) / 1_000_000 / unit)
    for packet in read_packets(container, [picture], lambda: None):
        if not packet.size or packet.pts is None:            # the last, empty one
            continue
        decoded = packet.pts if packet.dts is None else packet.dts           # Matroska has no dts for the first
        if (decoded - zero) * unit >= end_s:
            break
        packet.pts, packet.dts = packet.pts - zero, decoded - zero if packet.dts is not None else None
        packet.stream = copy
        made.mux(packet)


Part = tuple[np.ndarray | None, np.ndarray | None]
"""A picture and the sound (S,) that goes with it; None for a kind that the file does not have, or that has ended."""


def _parts(frames: Iterable[np.ndarray] | None, audio: np.ndarray | None, fps: Fraction) -> Iterator[Part]:
    """Each picture with its sound, then the rest of the sound."""
    done = 0
    for n, picture in enumerate(() if frames is None else frames):
        until = int((n + 1) * SAMPLE_RATE / fps)
        yield picture, None if audio is None else audio[done:until]
        done = until
    if audio is not None:
        for start in range(done, len(audio), SAMPLE_RATE):
            yield None, audio[start: start + SAMPLE_RATE]


def _write(parts: Iterator[Part], path: str | Path, fps: Fraction, crf: int) -> None:
    path = Path(path)
    try:
        with whole_file(path) as fresh, av.open(f"file:{fresh}", "w") as container:
            _mux(container, parts, fps, crf)
    except (FFmpegError, OSError, ValueError) as error:
        raise BadOutput(f"{path}: the file could not be written ({reason_of(error)}).  Check that the folder exists, may be "
                        "written to and has room, and that the name ends in .mp4, .mkv, .mov, .wav or .m4a.") from error


def _mux(container: OutputContainer, parts: Iterator[Part], fps: Fraction, crf: int) -> None:
    """Encode picture and sound side by side, so that players need not search for either."""
    first = next(parts, (None, None))
    video = None if first[0] is None else _video_stream(container, first[0], fps, crf)
    sound = None if first[1] is None else _audio_stream(container)
    n_pictures = n_samples = 0
    for picture, samples in chain((first,), parts):
        if video is not None and picture is not None:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "gray" if picture.ndim == 2 else "rgb24")
            frame.pts, frame.time_base = n_pictures, 1 / fps
            container.mux(video.encode(frame))
            n_pictures += 1
        if sound is not None and samples is not None:
            _encode_sound(container, sound, samples, n_samples)
            n_samples += len(samples)
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


def _encode_sound(container: OutputContainer, stream: av.AudioStream, samples: np.ndarray, start: int,
                  format: str = "fltp") -> None:
    if not len(samples):
        return
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), format, "mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
    container.mux(stream.encode(frame))
