"""A talking face without a camera: text in, a video of a portrait that says it out.

    text -> talking_voice: sound, phonemes, mouth shapes -> talking_portrait: frames -> render -> write: a file

The portrait is NASA's public-domain picture of Eileen Collins, which scikit-image carries; the voice is espeak-ng.
Nothing is random: the same text gives the same frames and samples, bit for bit.

    uv run data/demo/talking_face.py "Some text." out.mp4 --fps 25
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from talking_portrait import draw
from talking_voice import Phoneme, mouth_shapes, speak

from avsr.rates import SAMPLE_RATE

# What hello.mp4 says. With a full stop after "Hello" Whisper tiny.en writes the stop or a comma as the mood takes it.
HELLO = "Hello, this video was made by a computer. You can read the words on my lips."


@dataclass(frozen=True)
class Take:
    """A rendered scene.

    frames: (T, size, size * n_faces, 3) uint8 RGB at `fps`; samples: (S,) float32 at SAMPLE_RATE, as long as the frames
    shapes: (n_faces, T, 4) float32, the mouths that were asked for; phonemes: each face's, in the time of the take
    """

    frames: np.ndarray
    samples: np.ndarray
    fps: Fraction
    shapes: np.ndarray
    phonemes: tuple[tuple[Phoneme, ...], ...]


def render(
    text: str | Sequence[str],
    *,
    fps: float | Fraction = 25,
    size: int = 384,
    silence_s: tuple[float, float] = (0.2, 0.2),
    together: bool = False,
    voice: str = "en-us+f2",
    words_per_minute: int = 140,
    pitch: int = 50,
) -> Take:
    """Film one face, or one for each text, side by side, an empty text being a face that keeps silent.

    `silence_s` is before and after the speech. The faces speak in turn, or all at once where `together`."""
    texts = [text] if isinstance(text, str) else list(text)
    fps = Fraction(fps).limit_denominator(1001)
    sounds, phonemes, start = [], [], silence_s[0]
    end = start
    for line in texts:
        speech = speak(line, voice=voice, words_per_minute=words_per_minute, pitch=pitch)
        sounds.append((round(start * SAMPLE_RATE), speech.samples))
        phonemes.append(tuple(Phoneme(p.ipa, p.start_s + start, p.end_s + start) for p in speech.phonemes))
        end = max(end, start + len(speech.samples) / SAMPLE_RATE)
        start = silence_s[0] if together else end
    n_frames = max(1, int(np.ceil((end + silence_s[1]) * fps)))
    samples = np.zeros(max(round(n_frames / fps * SAMPLE_RATE), 1), np.float32)
    for first, sound in sounds:
        samples[first : first + len(sound)] += sound
    shapes = np.stack([mouth_shapes(said, n_frames, fps) for said in phonemes])
    frames = np.empty((n_frames, size, size * len(texts), 3), np.uint8)
    for person in range(len(texts)):
        for t in range(n_frames):
            image = draw(shapes[person, t], float(t / fps), size=size, person=person)
            frames[t, :, person * size : (person + 1) * size] = image
    return Take(frames, np.clip(samples, -1, 1), fps, shapes, tuple(phonemes))


def write(
    path: str | Path,
    text: str | Sequence[str],
    *,
    rotation: int = 0,
    sample_aspect: Fraction | int = 1,
    video_codec: str | None = "libx264",
    audio_codec: str | None = "aac",
    audio_rate: int = 48_000,
    crf: int = 23,
    **scene,
) -> Take:
    """Render `text` (with `render`'s arguments in `scene`) into a file of the kind its name says; returns the take.

    rotation: degrees counter-clockwise by which a player must turn the picture, in the display matrix; the stored
        pixels are turned the other way, so that a player which obeys shows the face upright
    sample_aspect: width of a pixel by its height, only declared; a codec of None leaves picture or sound out
    """
    take = render(text, **scene)
    with av.open(str(path), "w") as container:
        video = audio = None
        if video_codec:
            frames = np.rot90(take.frames, -rotation // 90, axes=(1, 2))
            options = {"crf": str(crf), "preset": "medium", "threads": "1"} if "264" in video_codec else {}
            video = container.add_stream(video_codec, rate=take.fps, options=options)
            video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
            video.codec_context.sample_aspect_ratio = Fraction(sample_aspect)
            if rotation:
                video.set_display_rotation(rotation)
        if audio_codec:
            audio = container.add_stream(audio_codec, rate=audio_rate, layout="mono")
        if video:
            for image in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if audio:
            frame = av.AudioFrame.from_ndarray(take.samples[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, 0  # without a time, AAC's lead-in would delay the sound by 21 ms
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return take


def main() -> None:
    """The command line: texts, one for each face, then the file to write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="+", help="what to say; one face for each, and a silent one for an empty text")
    parser.add_argument("out", type=Path, help="file to write, such as out.mp4")
    parser.add_argument("--fps", type=Fraction, default=Fraction(25), help="frames per second, such as 30000/1001")
    parser.add_argument("--size", type=int, default=384, help="pixels, width and height of one face")
    parser.add_argument("--rotation", type=int, default=0, choices=(0, 90, 180, 270), help="degrees, as metadata")
    parser.add_argument("--voice", default="en-us+f2", help="one of espeak-ng's voices")
    parser.add_argument("--together", action="store_true", help="speak all at once instead of in turn")
    options = vars(parser.parse_args())
    write(options.pop("out"), options.pop("text"), **options)


if __name__ == "__main__":
    main()
