"""Long recordings to time and weigh, made of real clips one after another (they may not be committed).

    uv run experiments/speed/make_recording.py 10 /tmp/ten.mkv       # minutes of GRID, picture and sound
    uv run experiments/speed/make_recording.py 10 /tmp/ten.wav       # of the wild clips' sound: natural speech
    uv run experiments/speed/make_recording.py 10 /tmp/heads.mkv --heads    # two talking heads in turn, 512x512
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from avsr import media
from avsr.rates import SAMPLE_RATE

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TALKS = ("ajinkyaT__00005.avi", "astorfi__sample_video.mp4", "facerecognition__short_hamilton_clip.mp4",
         "omniavsr__Sa27SUR0Mlo_00013_h264.mp4", "omniavsr__ZJNESMhIxQ0_00001_h264.mp4", "sadtalker__RD_Radio34_000.mp4",
         "sadtalker__WDA_KatieHill_000.mp4", "videoretalking__3.mp4", "visualvoice__interview.mp4")
MINUTES_ENCODED = 2                                         # the rest is the same packets again


def clips(heads: bool) -> Iterator[media.Clip]:
    """About `MINUTES_ENCODED` minutes: GRID clips of one speaker, 3 s each, or two talking heads, 8 s each."""
    paths = sorted((DATA / "grid" / "s1").glob("*.mkv"))
    if heads:
        paths = sorted((DATA / "wild").glob("sadtalker__*.mp4")) * 8
    for path in itertools.islice(paths, MINUTES_ENCODED * 20):
        yield media.read(path)


def repeat(source: Path, target: Path, times: int) -> None:
    """The packets of `source` several times over, without decoding."""
    with av.open(str(target), "w") as output:
        with av.open(str(source)) as container:             # all streams before the first packet: the header is written then
            streams = [output.add_stream_from_template(stream) for stream in container.streams]
        shift = 0.0
        for _ in range(times):
            with av.open(str(source)) as container:
                end = 0.0
                for packet in container.demux():
                    if packet.dts is None:
                        continue
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                    ticks = round(shift / packet.time_base)
                    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                    packet.stream = streams[packet.stream_index]
                    output.mux(packet)
            shift += end


def main() -> None:
    """See the module."""
    minutes, target = int(sys.argv[1]), Path(sys.argv[2])
    if target.suffix == ".wav":
        pause = np.zeros(SAMPLE_RATE // 2, np.float32)
        talk = np.concatenate([part for name in TALKS for part in
                               (media.read(DATA / "wild" / name, want_video=False).audio, pause)])
        media.write(None, target, audio=np.resize(talk, minutes * 60 * SAMPLE_RATE))
        return
    short = target.with_name(f".{target.stem}.part.mkv")
    parts = list(clips("--heads" in sys.argv))
    media.write((frame for clip in parts for frame in clip.video), short, audio=np.concatenate([clip.audio for clip in parts]),
                crf=23)
    repeat(short, target, -(-minutes // MINUTES_ENCODED))
    short.unlink()


if __name__ == "__main__":
    main()
