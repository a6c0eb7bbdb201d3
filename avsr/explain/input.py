"""The input of an explanation: a recording in, a segment of at most 30 s of it out, with noise if asked for, and the mouth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from avsr.stream import VIDEO_WINDOW_FRAMES, StreamReader, StreamSettings, Window, why_unreadable
from avsr.text import normalise

MAX_MISSING = 0.25                                          # share of frames without a face, as in `transcribe`
SPEECH_PAD = 0.1                                            # s kept around speech


@dataclass(frozen=True)
class ExplainSettings:
    """What to explain; `avsr explain --help` describes each field.

    noise: a family's name, or NAME=FOLDER of recordings; with snr_db, its level. noise_config: a TOML file of families.
    seed: chooses the excerpt of the noise. reference: what was really said. start, end: seconds of the recording.
    language: two letters, for a model that writes several. audio_track, video_track: as in `transcribe`.
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

    def __post_init__(self) -> None:
        if self.noise is not None and self.snr_db is None:
            raise AvsrError(f"--noise {self.noise}: its level is missing.  Add --snr with dB, such as --snr -5.")
        if self.noise is None and self.snr_db is not None:
            raise AvsrError(f"--snr {self.snr_db:g}: the noise is missing.  Add --noise, such as --noise white.")
        if self.snr_db is not None and not np.isfinite(self.snr_db):
            raise AvsrError(f"--snr {self.snr_db}: not a level.  Give dB, such as -5; without noise leave both options out.")
        if self.reference is not None and not normalise(self.reference):
            raise AvsrError(f"--reference {self.reference!r}: it holds no word.  Give what was said, or leave it out.")
        start = 0.0 if self.start is None else self.start
        if not 0 <= start < np.inf or (self.end is not None and not start < self.end <= start + SEGMENT_SECONDS):
            raise AvsrError(f"--start {start:g}, --end {self.end}: not a segment that can be explained.  Give seconds from the "
                            f"start of the recording, the end after the start and at most {SEGMENT_SECONDS} s after it.")


@dataclass(frozen=True)
class AddedNoise:
    """The noise that was added: its name, dB asked for and achieved (active level), the same mix by plain RMS, its seed."""

    name: str
    snr_db: float
    snr_achieved: float | None
    snr_rms: float | None
    seed: int


@dataclass(frozen=True)
class Input:
    """A segment of a recording. segment: in video frames.  chosen: how it was chosen.  problems: what to know of it.

    clean, sound: (S,) float32 as recorded and as the model gets it, the same without noise; None without sound.
    mouths: over the segment's frames; None where nobody can be seen.  no_video: why that is so.
    speech_s: where the clean sound holds speech, seconds from the segment's start; None where there is none.
    duration_s: of the whole recording in seconds, None where its container does not say.
    """

    name: str
    segment: SpeechSegment
    chosen: str
    duration_s: float | None
    speech_s: tuple[float, float] | None
    clean: np.ndarray | None
    sound: np.ndarray | None
    mouths: Mouths | None
    no_video: str | None
    noise: AddedNoise | None
    problems: tuple[str, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of names.MODALITIES that this input allows."""
        absent = "a" * (self.sound is None) + "v" * (self.mouths is None)
        return tuple(one for one in MODALITIES if one == "none" or not set(one) & set(absent))


def open_input(source: media.Source, mouth_crop: MouthCropSettings | None, settings: ExplainSettings,
               progress: Progress) -> Input:
    """Choose the segment, read it, and add the noise.

    mouth_crop: None for a model without a trained video encoder. Raises BadMedia and AvsrError where there is nothing to
    explain: neither sound nor mouth, nobody who speaks, nothing at --start, noise that cannot be mixed.
    """
    noise = None
    if settings.noise is not None:                          # an unknown name is reported before anything slow is done
        family, given, folder = settings.noise.partition("=")
        noise = open_families([family], config=settings.noise_config, given={family: folder} if given else None)[family]
    with media.reopenable(source, progress) as source:      # it is read more than once
        with selection.open_recording(source, audio_track=settings.audio_track, video_track=settings.video_track,
                                      language=settings.language,
                                      landmarks=mouth_crop and mouth_crop.face_landmarks) as recording:
            # Whoever opens it again gets the same tracks.
            found = {"audio_track": recording.sound_track, "video_track": recording.picture_track}
            tracks: dict[str, Any] = {option: track.number for option, track in found.items() if track is not None}
        name = recording.name
        no_video = ("the recording has no picture" if not recording.has_video else
                    "this model has no trained video encoder" if mouth_crop is None else None)
        if not recording.has_audio and no_video:
            raise BadMedia(f"{name}: there is no sound in it, and {no_video}.  Use a model that reads lips, such as --model "
                           "default, or a recording with sound.")
        if not recording.has_audio and settings.noise is not None:
            raise BadMedia(f"{name}: there is no sound in it to which --noise {settings.noise} could be added.  Leave --noise "
                           "out.")
        segment, chosen = _choose_segment(source, tracks, recording, settings, progress)
        window, more = _read_window(source, tracks, None if no_video else mouth_crop, segment, progress)
    audio, mouths, problems = window.audio, window.mouths, [*dict.fromkeys((*recording.problems, *more))]
    if mouths is None and no_video is None:
        no_video = "no face was found in any frame"
    elif mouths is not None and (why := why_unreadable(mouths, MAX_MISSING, apart=window.apart)) is not None:
        missing = f"{int(mouths.missing.sum())} of {len(mouths.missing)} frames (limit {MAX_MISSING:.0%})"
        mouths, no_video = None, {"missing": f"no face was found in {missing}", "still": "the mouth in it does not move",
                                  "apart": "its lips and sound are not in step"}[why]
    if audio is not None and len(audio) < MIN_SAMPLES:
        audio = None
    speech_s = None if audio is None else _find_speech(audio, window.segment.duration_s)
    if mouths is None and (audio is None or (speech_s is None and settings.start is None and settings.end is None)):
        what = "there is no sound in it" if audio is None else "no speech was found in its sound"
        raise BadMedia(f"{name}: {what}, and {no_video}.  Name the segment to explain with --start and --end.")
    if audio is not None and speech_s is None:
        problems.append(f"{name}: no speech was found in the sound of this segment.")
    sound, added = _add_noise(audio, noise, name, settings)
    return Input(name, window.segment, chosen, recording.duration_s, speech_s, audio, sound, mouths, no_video, added,
                 tuple(problems))


def _find_speech(audio: np.ndarray, duration_s: float) -> tuple[float, float] | None:
    """From the first to the last speech in a segment, in seconds."""
    probability, segmenter = SpeechProbability(), VadSegmenter(VadOptions(pad=SPEECH_PAD))
    found = segmenter.update(np.concatenate([probability.update(audio), probability.finish()])) + segmenter.finish()
    return (found[0].start_s, min(found[-1].start_s + found[-1].duration_s, duration_s)) if found else None


def _choose_segment(source: media.Source, tracks: Mapping[str, Any], recording: media.Recording, settings: ExplainSettings,
                    progress: Progress) -> tuple[SpeechSegment, str]:
    """The segment and how it was chosen."""
    if settings.start is not None or settings.end is not None:
        start = int((settings.start or 0.0) * VIDEO_FPS)
        end = start + SEGMENT_FRAMES if settings.end is None else math.ceil(settings.end * VIDEO_FPS)
        return SpeechSegment(start, max(start + 1, min(end, start + SEGMENT_FRAMES))), "as asked for"
    if recording.duration_s is not None and recording.duration_s <= SEGMENT_SECONDS:
        return SpeechSegment(0, SEGMENT_FRAMES), "the whole recording"
    if recording.has_audio:
        with media.open_recording(source, want_video=False, **tracks) as again:
            looking = StreamSettings(stage="looking for speech in")
            first = next(iter(StreamReader(again, None, looking, progress=progress)), None)
        if first is not None:
            return first.segment, "the first segment in which somebody speaks"
    return SpeechSegment(0, SEGMENT_FRAMES), f"the first {SEGMENT_SECONDS} s"


def _read_window(source: media.Source, tracks: Mapping[str, Any], mouth_crop: MouthCropSettings | None, segment: SpeechSegment,
                 progress: Progress) -> tuple[Window, list[str]]:
    """The sound and mouths of the segment, cut to what there is, and what was wrong with the recording."""
    with media.open_recording(source, want_video=mouth_crop is not None, **tracks) as recording:
        reader = StreamReader(recording, mouth_crop)
        end_s = min(frames_to_seconds(segment.end_frame), recording.duration_s or math.inf)
        for _ in reader.clips(VIDEO_WINDOW_FRAMES):
            reader.forget(segment.start_frame)
            progress(f"reading {recording.name}", min(frames_to_seconds(reader.n_frames), end_s), end_s, "s")
            if segment.end_frame <= reader.settled:
                break
        problems = list(recording.problems)
        if recording.quiet_db is not None and recording.gain > 1:
            problems += sound_problems(recording, "a", level_db=recording.quiet_db, n_segments=1)
    if reader.n_frames <= segment.start_frame:
        raise AvsrError(f"{recording.name}: it ends after {frames_to_seconds(reader.n_frames):.2f} s, before --start "
                        f"{segment.start_s:g}.  Give an earlier one.")
    return reader.window(SpeechSegment(segment.start_frame, min(segment.end_frame, reader.n_frames))), problems


def _add_noise(audio: np.ndarray | None, source: NoiseSource | None, name: str,
               settings: ExplainSettings) -> tuple[np.ndarray | None, AddedNoise | None]:
    """The sound in the noise that was asked for, and what was added."""
    if source is None or audio is None or settings.noise is None or settings.snr_db is None:
        return audio, None
    if not audio.any():
        raise BadMedia(f"{name}: its sound is silent, so {settings.snr_db:g} dB to it have no meaning.  Leave --noise out.")
    rng = np.random.default_rng(settings.seed)
    mixed = mix(audio, source.draw(len(audio), rng), settings.snr_db, rng=rng)
    family = settings.noise.partition("=")[0]
    return mixed.audio, AddedNoise(family, settings.snr_db, mixed.snr_db, mixed.snr_rms, settings.seed)
