"""What is explained: a recording in, a piece of it of at most 30 s out, with its sound, in noise if asked for, and its mouth.

    path | bytes | waveform | Clip  ->  Scene: clean sound, sound as it is heard, mouths, and how each was come by
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avsr import media, selection
from avsr.errors import AvsrError, BadMedia
from avsr.lips import MouthCropSettings, Mouths
from avsr.modality import sound_problems
from avsr.names import MODALITIES
from avsr.noise import NoiseSource, mix, open_families
from avsr.rates import SEGMENT_FRAMES, SEGMENT_SECONDS, VIDEO_FPS, frames_to_seconds
from avsr.recogniser import MIN_SAMPLES
from avsr.runtime import Progress
from avsr.segment import SpeechProbability, SpeechSegment, VadOptions, VadSegmenter
from avsr.stream import VIDEO_WINDOW_FRAMES, StreamReader, why_unreadable
from avsr.text import normalise

MAX_MISSING = 0.25                                          # share of frames without a face, as `transcribe` has it
SPEECH_PAD = 0.1                                            # s kept around speech


@dataclass(frozen=True)
class Settings:
    """What to explain; what `avsr explain --help` lists.

    noise: a family's name, or NAME=FOLDER of recordings; snr_db: at which level, both or neither. noise_config: a TOML file
    of families. seed: of the stretch of noise. reference: what was really said. start, end: seconds of the recording.
    language: two letters, for a model that writes several. audio_track, video_track: as `transcribe` has them.
    """

    noise: str | None = None
    snr_db: float | None = None
    noise_config: str | Path | None = None
    seed: int = 0
    reference: str | None = None
    start: float | None = None
    end: float | None = None
    language: str = "en"
    audio_track: int | None = None
    video_track: int | None = None

    def __post_init__(self):
        if self.noise is not None and self.snr_db is None:
            raise AvsrError(f"--noise {self.noise}: how loud is not said.  Add --snr with dB, such as --snr -5.")
        if self.noise is None and self.snr_db is not None:
            raise AvsrError(f"--snr {self.snr_db:g}: of what noise is not said.  Add --noise, such as --noise white.")
        if self.snr_db is not None and not np.isfinite(self.snr_db):
            raise AvsrError(f"--snr {self.snr_db}: not a level.  Give dB, such as -5; without noise leave both options out.")
        if self.reference is not None and not normalise(self.reference):
            raise AvsrError(f"--reference {self.reference!r}: it holds no word.  Give what was said, or leave it out.")
        start = 0.0 if self.start is None else self.start
        if not 0 <= start < np.inf or (self.end is not None and not start < self.end <= start + SEGMENT_SECONDS):
            raise AvsrError(f"--start {start:g}, --end {self.end}: not a stretch that can be explained.  Give seconds from the "
                            f"start of the recording, the end after the start and at most {SEGMENT_SECONDS} s after it.")


@dataclass(frozen=True)
class Disturbance:
    """The noise that was added: its name, dB asked for and achieved (active level), the same mix by plain RMS, its seed."""

    name: str
    snr_db: float
    snr_achieved: float
    snr_rms: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """A piece of a recording, in video frames from its start.

    clean, sound: (S,) float32 as recorded and as heard in noise, the same where none was asked for; None without sound.
    mouths: over the piece's frames; None where nobody can be seen. unseen: why that is so. chosen: how the piece was found.
    speech_s: where the clean sound holds speech, seconds from the piece's start; None where none is heard.
    duration_s: of the whole recording in seconds, None where its container does not say.
    """

    name: str
    piece: SpeechSegment
    chosen: str
    duration_s: float | None
    speech_s: tuple[float, float] | None
    clean: np.ndarray | None
    sound: np.ndarray | None
    mouths: Mouths | None
    unseen: str | None
    disturbance: Disturbance | None
    problems: tuple[str, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of names.MODALITIES that this piece allows."""
        absent = "a" * (self.sound is None) + "v" * (self.mouths is None)
        return tuple(one for one in MODALITIES if one == "none" or not set(one) & set(absent))


def open_scene(source: media.Source, mouth_crop: MouthCropSettings | None, settings: Settings, progress: Progress) -> Scene:
    """Choose the piece, hear and look at it, and add the noise.

    mouth_crop: how mouths are cut out, None for a model without trained lips. Raises BadMedia and AvsrError where there is
    nothing to explain: neither sound nor mouth, nobody who speaks, nothing at --start, noise that cannot be mixed.
    """
    noise = _open_noise(settings)                           # a name that is not known is told before anything slow is done
    with media.reopenable(source, progress) as source:      # it is gone through more than once
        return _open_scene(source, mouth_crop, settings, noise, progress)


def _open_scene(source: media.Source, mouth_crop: MouthCropSettings | None, settings: Settings, noise: NoiseSource | None,
                progress: Progress) -> Scene:
    """See open_scene."""
    with selection.open_recording(source, audio_track=settings.audio_track, video_track=settings.video_track,
                                  language=settings.language, landmarks=mouth_crop and mouth_crop.landmarks) as recording:
        name, duration_s, told = recording.name, recording.duration_s, recording.problems
        has_audio, has_video = recording.has_audio, recording.has_video
        # Whoever opens it again gets the same tracks.
        taken = {option: track.number for option, track in (("audio_track", recording.sound_track),
                                                            ("video_track", recording.picture_track)) if track is not None}
    unseen = ("the recording has no picture" if not has_video else "this model has no trained lips" if mouth_crop is None else
              None)
    if not has_audio and unseen:
        raise BadMedia(f"{name}: there is no sound in it, and {unseen}.  Use a model that reads lips, such as --model default, "
                       "or a recording with sound.")
    if not has_audio and settings.noise is not None:
        raise BadMedia(f"{name}: there is no sound in it to which --noise {settings.noise} could be added.  Leave --noise out.")
    piece, chosen = _choose(source, taken, duration_s, settings, progress, has_audio=has_audio)
    piece, audio, mouths, problems = _gather(source, taken, None if unseen else mouth_crop, piece, progress)
    problems = tuple(dict.fromkeys((*told, *problems)))
    if mouths is None and unseen is None:
        unseen = "no face was found in any frame"
    elif mouths is not None and (why := why_unreadable(mouths, MAX_MISSING)) is not None:
        missing = f"{int(mouths.missing.sum())} of {len(mouths.missing)} frames (limit {MAX_MISSING:.0%})"
        mouths, unseen = None, f"no face was found in {missing}" if why == "missing" else "the mouth in it does not move"
    if audio is not None and len(audio) < MIN_SAMPLES:
        audio = None
    speech_s = None if audio is None else _speech(audio, piece.duration_s)
    if mouths is None and (audio is None or (speech_s is None and settings.start is None and settings.end is None)):
        what = "there is no sound in it" if audio is None else "nobody speaks in it, as far as can be heard"
        raise BadMedia(f"{name}: {what}, and {unseen}.  Name the stretch to look into with --start and --end.")
    if audio is not None and speech_s is None:
        problems = (*problems, f"{name}: nobody speaks in this piece, as far as can be heard.")
    sound, disturbance = _disturb(audio, noise, name, settings)
    return Scene(name, piece, chosen, duration_s, speech_s, audio, sound, mouths, unseen, disturbance, problems)


def _speech(audio: np.ndarray, duration_s: float) -> tuple[float, float] | None:
    """From the first to the last sound of speech in a piece, in seconds."""
    probability, cutter = SpeechProbability(), VadSegmenter(VadOptions(pad=SPEECH_PAD))
    pieces = cutter.update(np.concatenate([probability.update(audio), probability.finish()])) + cutter.finish()
    return (pieces[0].start_s, min(pieces[-1].start_s + pieces[-1].duration_s, duration_s)) if pieces else None


def _choose(source: media.Source, taken: Mapping[str, int], duration_s: float | None, settings: Settings,
            progress: Progress, *, has_audio: bool) -> tuple[SpeechSegment, str]:
    """The piece and how it was chosen. taken: the numbers of the tracks."""
    if settings.start is not None or settings.end is not None:
        start = int((settings.start or 0.0) * VIDEO_FPS)
        end = start + SEGMENT_FRAMES if settings.end is None else math.ceil(settings.end * VIDEO_FPS)
        return SpeechSegment(start, max(start + 1, min(end, start + SEGMENT_FRAMES))), "as asked for"
    whole = SpeechSegment(0, SEGMENT_FRAMES)
    if duration_s is not None and duration_s <= SEGMENT_SECONDS:
        return whole, "the whole recording"
    if has_audio:
        with media.open_recording(source, want_video=False, **taken) as recording:
            first = next(iter(StreamReader(recording, None, stage="looking for speech in", progress=progress)), None)
        if first is not None:
            return first.segment, "the first stretch in which somebody speaks"
    return whole, f"the first {SEGMENT_SECONDS} s"


def _gather(source: media.Source, taken: Mapping[str, int], mouth_crop: MouthCropSettings | None, piece: SpeechSegment,
            progress: Progress) -> tuple[SpeechSegment, np.ndarray | None, Mouths | None, tuple[str, ...]]:
    """The piece cut to what there is, its sound (S,), its mouths, and what was wrong with the recording."""
    with media.open_recording(source, want_video=mouth_crop is not None, **taken) as recording:
        reader = StreamReader(recording, mouth_crop)
        end_s = min(frames_to_seconds(piece.end_frame), recording.duration_s or math.inf)
        for _ in reader.clips(VIDEO_WINDOW_FRAMES, faces_from=piece.start_frame):
            reader.forget(piece.start_frame)
            progress(f"reading {recording.name}", min(frames_to_seconds(reader.n_frames), end_s), end_s, "s")
            if piece.end_frame <= reader.settled:
                break
        problems = tuple(recording.problems)
        if recording.gain > 1:
            problems += tuple(sound_problems(recording, "a", level_db=recording.quiet_db, n_segments=1))
    if reader.n_frames <= piece.start_frame:
        raise AvsrError(f"{recording.name}: it ends after {frames_to_seconds(reader.n_frames):.2f} s, before --start "
                        f"{piece.start_s:g}.  Give an earlier one.")
    window = reader.window(SpeechSegment(piece.start_frame, min(piece.end_frame, reader.n_frames)))
    return window.segment, window.audio, window.mouths, problems


def _open_noise(settings: Settings) -> NoiseSource | None:
    if settings.noise is None:
        return None
    family, given, folder = settings.noise.partition("=")
    return open_families([family], config=settings.noise_config, given={family: folder} if given else None)[family]


def _disturb(audio: np.ndarray | None, source: NoiseSource | None, name: str,
             settings: Settings) -> tuple[np.ndarray | None, Disturbance | None]:
    """The sound in the noise that was asked for, and what was added."""
    if source is None or audio is None:
        return audio, None
    if not audio.any():
        raise BadMedia(f"{name}: its sound is silent, so {settings.snr_db:g} dB to it have no meaning.  Leave --noise out.")
    rng = np.random.default_rng(settings.seed)
    mixed = mix(audio, source.draw(len(audio), rng), settings.snr_db, rng=rng)
    family = settings.noise.partition("=")[0]
    return mixed.audio, Disturbance(family, settings.snr_db, mixed.snr_db, mixed.snr_rms, settings.seed)
