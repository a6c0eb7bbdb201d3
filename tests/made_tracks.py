"""Files of several sound tracks and pictures, and transport streams of several programmes, made with PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from avsr.rates import SAMPLE_RATE, VIDEO_FPS

TS_PACKET = 188                                             # bytes


def write_tracks(path: Path, pictures=(), sounds=(), *, tags=(), dispositions=(), options=None) -> Path:
    """pictures: (T, H, W, 3) uint8 each, 25 a second; sounds: (S,) float32 each, 16 kHz. tags, dispositions: of the sounds."""
    with av.open(str(path), "w", options=options or {}) as out:
        videos = [_add_picture(out, frames) for frames in pictures]
        audios = [_add_sound(out) for _ in sounds]
        for stream, tag in zip(audios, tags, strict=False):
            stream.metadata.update(tag)
        for stream, disposition in zip(audios, dispositions, strict=False):
            stream.disposition = disposition
        for stream, frames in zip(videos, pictures, strict=True):
            for number, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, VIDEO_FPS)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        for stream, sound in zip(audios, sounds, strict=True):
            for start in range(0, len(sound), 4000):
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None, start:start + 4000]), "fltp", "mono")
                frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def _add_picture(out: av.container.OutputContainer, frames: np.ndarray) -> av.VideoStream:
    stream = out.add_stream("libx264", rate=VIDEO_FPS)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt, stream.options = "yuv420p", {"preset": "ultrafast"}
    return stream


def _add_sound(out: av.container.OutputContainer) -> av.AudioStream:
    return out.add_stream("aac", rate=SAMPLE_RATE, layout="mono")


def write_programmes(path: Path, programmes) -> Path:
    """A transport stream of several programmes; of each (pictures, sounds), as write_tracks takes them."""
    parts = []
    for number, (pictures, sounds) in enumerate(programmes, start=1):
        options = {"mpegts_service_id": str(number), "mpegts_pmt_start_pid": str(0x1000 + 16 * number),
                   "mpegts_start_pid": str(0x100 * number)}
        part = write_tracks(path.with_suffix(f".{number}.ts"), pictures, sounds, options=options)
        data = part.read_bytes()
        part.unlink()
        packets = [data[start:start + TS_PACKET] for start in range(0, len(data), TS_PACKET)]
        parts.append([packet for packet in packets if packet[1] & 0x1F or packet[2]])       # without its table of programmes
    longest = max(map(len, parts))
    mixed = [packet for place in range(longest) for part in parts for packet in part[place:place + 1]]
    table = _programme_table([(number, 0x1000 + 16 * number) for number in range(1, len(parts) + 1)])
    path.write_bytes(table + b"".join(mixed))
    return path


def _programme_table(programmes: list[tuple[int, int]]) -> bytes:
    """The packet that lists programmes: of each its number and the id of the packets that list its streams."""
    entries = b"".join(number.to_bytes(2) + (0xE000 | pid).to_bytes(2) for number, pid in programmes)
    section = b"\x00" + (0xB000 | 9 + len(entries)).to_bytes(2) + b"\x00\x01\xc1\x00\x00" + entries
    section += _crc(section).to_bytes(4)
    return (b"\x47\x40\x00\x10\x00" + section).ljust(TS_PACKET, b"\xff")


def _crc(data: bytes) -> int:
    """CRC-32 as MPEG-2 has it."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value
