"""One recording to the packed utterances in it, by the same way as `transcribe`: read, track, crop, choose.

    Job (a recording, its utterances) -> list[Outcome], in a worker process
A recording is decoded once, in windows, however many utterances are cut from it; of an hour a worker holds seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from avsr import cache, manifest, media, selection
from avsr.errors import AvsrError
from avsr.faces import FaceTracker
from avsr.lips import MouthCropper, MouthCropSettings, Mouths, choose
from avsr.manifest import Problem, Utterance
from avsr.manifest.checks import step_curve
from avsr.names import INPUT_MODALITIES
from avsr.rates import VIDEO_FPS, frames_to_samples, samples_to_frames
from avsr.runtime import most_processes, n_cores

WINDOW = 25                           # frames decoded at a time: two windows of 1280x720 are 138 MB
MAX_SECONDS = cache.MAX_SECONDS       # of an utterance
PAST_END_S = 0.5                      # by which an utterance may reach past the end of its recording: it is cut there


@dataclass(frozen=True)
class PrepareSettings:
    """How to prepare; what `avsr prepare --help` lists under the same names.

    modality: av needs a face and sound, a leaves the picture alone, v the sound. max_missing: share of frames that may
    lack a face. max_dropped: share of utterances that may be dropped before it counts as a failure. valid_share: share of the
    training utterances that are drawn for split `valid` where the corpus has none, see manifest.draw_valid. workers: processes,
    None for one on each core. letters: those the tokenizer can write, None for all. max_bytes: of a shard. mouth_crop: how
    mouths are cut out, which must be that of the model the cache is for; on the command line one of lips.MOUTH_CROPS by name.
    """

    modality: str = "av"
    max_missing: float = 0.25
    max_dropped: float = 0.05
    valid_share: float = 0.05
    workers: int | None = None
    letters: str | None = None
    max_bytes: int = cache.MAX_BYTES
    mouth_crop: MouthCropSettings = field(default_factory=MouthCropSettings)

    def __post_init__(self) -> None:
        if self.modality not in INPUT_MODALITIES:
            raise AvsrError(f"modality {self.modality}: not known.  Use one of {', '.join(INPUT_MODALITIES)}.")
        for name in ("max_missing", "max_dropped", "valid_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise AvsrError(f"{name} {getattr(self, name)}: must be a share from 0 to 1.  Leave it out for the usual one.")
        if self.workers is not None and self.workers < 1:
            raise AvsrError(f"workers {self.workers}: must be at least 1.  Leave it out for one on each core.")
        if (self.workers or 1) > most_processes():
            raise AvsrError(f"workers {self.workers}: at most {most_processes()} on this machine of {n_cores()} cores.  "
                            "Leave it out for one on each core.")


@dataclass(frozen=True)
class Job:
    """A recording and the utterances to cut from it; path: as the worker opens it."""

    path: str
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of an utterance: packed, or the reason why not.

    share: of its frames without a face, None where nobody looked. problems, sound_hash, curve: see manifest.
    """

    id: str
    packed: cache.Packed | None = None
    dropped: str | None = None
    share: float | None = None
    problems: tuple[Problem, ...] = ()
    sound_hash: str | None = None
    curve: tuple[float, ...] | None = None


class _Unusable(Exception):
    """Why an utterance, or what is left of a recording, is dropped: kind, colon, numbers."""


def no_faces(share: float, limit: float) -> str | None:
    """The reason to drop an utterance for the share of its frames without a face, if it is one."""
    return f"no face: in {share:.0%} of the frames (limit {limit:.0%})" if share > limit else None


def work(job: Job, tick: Callable[[], None], *, settings: PrepareSettings) -> list[Outcome]:
    """Everything that is to be had of a recording, in the order of the job. `tick` is called now and then."""
    made: dict[str, Outcome] = {}
    problems: list[str] = []
    try:
        _cut(job, settings, made, problems, tick)
        reason = "outside the recording"
    except _Unusable as error:
        reason = str(error)
    except AvsrError as error:
        reason = f"cannot be read: {_sentence(error, job.path)}"
    except Exception as error:                               # a mistake of ours must not cost the user the other files
        reason = f"mistake in avsr: {type(error).__name__}: {error}"
    first = job.utterances[0].id
    told = tuple(Problem(first, "media", Path(job.path).name, sentence.partition(".  ")[0]) for sentence in problems)
    out = [made.get(utterance.id, Outcome(utterance.id, dropped=reason)) for utterance in job.utterances]
    if told and out[0].packed is not None:
        out[0] = Outcome(**{**vars(out[0]), "problems": out[0].problems + told})
    return out


def _sentence(error: AvsrError, path: str) -> str:
    """The error without the remedy and the file's name."""
    return str(error).split(".  ")[0].removeprefix(f"{path}: ").removeprefix(f"{Path(path).name}: ")


def _cut(job: Job, settings: PrepareSettings, made: dict[str, Outcome], problems: list[str], tick: Callable[[], None]) -> None:
    """Fill `made` while the recording goes by."""
    look, hear = "v" in settings.modality, "a" in settings.modality
    waiting = sorted(((utterance, *_span(utterance)) for utterance in job.utterances), key=lambda one: one[1])
    _drop_long(waiting, None, made)
    languages = {utterance.language for utterance in job.utterances}
    with selection.open_recording(job.path, want_video=look, want_audio=hear, landmarks=settings.mouth_crop.landmarks,
                                  language=languages.pop() if len(languages) == 1 else None) as recording:
        if look and not recording.has_video:
            raise _Unusable("no picture")
        if hear and not recording.has_audio:
            raise _Unusable("no sound")
        with _Senses(settings.mouth_crop if look else None) as senses:
            for clip in recording.windows(WINDOW):
                senses.update(clip)
                tick()
                _emit(waiting, senses, settings, made)
                _drop_long(waiting, senses.n_frames, made)
                if not waiting:                              # nobody asked for the rest
                    break
            senses.finish()
            problems += recording.problems
            _emit(waiting, senses, settings, made)


def _span(utterance: Utterance) -> tuple[int, int | None]:
    """First frame, and one past the last; None is the recording's end."""
    start = round((utterance.start or 0.0) * VIDEO_FPS)
    return start, None if utterance.end is None else max(start + 1, round(utterance.end * VIDEO_FPS))


def _drop_long(waiting: list[tuple[Utterance, int, int | None]], n_frames: int | None, made: dict[str, Outcome]) -> None:
    """Take out what is longer than MAX_SECONDS; what lasts to the recording's end, once `n_frames` of it have passed."""
    for item in list(waiting):
        utterance, start, end = item
        end = n_frames if end is None else end
        if end is not None and end - start > MAX_SECONDS * VIDEO_FPS:
            waiting.remove(item)
            made[utterance.id] = Outcome(utterance.id, dropped=f"too long: over {MAX_SECONDS} s")


def _emit(waiting: list[tuple[Utterance, int, int | None]], senses: _Senses, settings: PrepareSettings,
          made: dict[str, Outcome]) -> None:
    """Take out of `waiting` what has been seen to its end."""
    for item in list(waiting):
        utterance, start, end = item
        if senses.ended:
            over = 0 if end is None else end - senses.n_frames
            if start >= senses.n_frames or over > PAST_END_S * VIDEO_FPS:
                continue                                     # outside the recording
            end = senses.n_frames if end is None else min(end, senses.n_frames)
        elif end is None or end > senses.settled:
            continue
        waiting.remove(item)
        made[utterance.id] = _outcome(utterance, senses, start, end, settings)
    senses.forget(min((start for _, start, _ in waiting), default=senses.n_frames))


def _outcome(utterance: Utterance, senses: _Senses, start: int, end: int, settings: PrepareSettings) -> Outcome:
    share, mouths = None, None
    audio = senses.sound(start, end) if "a" in settings.modality else None
    if senses.tracker is not None:
        mouths = choose(senses.mouths, start, end, audio)
        share = 1.0 if mouths is None else float(mouths.missing.mean())
        reason = "no face: in any frame" if mouths is None else no_faces(share, settings.max_missing)
        if reason is not None:
            return Outcome(utterance.id, dropped=reason, share=share)
    if audio is not None and not len(audio):
        return Outcome(utterance.id, dropped="no sound: it ends before the utterance starts", share=share)
    images, missing = (None, None) if mouths is None else (mouths.images, mouths.missing)
    limits = manifest.Limits(max_missing=settings.max_missing)
    problems = manifest.check(utterance, images=images, missing=missing, audio=audio, letters=settings.letters, limits=limits)
    curve = step_curve(images, missing, audio, limits)
    facts = {"text": utterance.text, "speaker": utterance.speaker, "language": utterance.language, "labels": utterance.labels,
             "words": None if utterance.words is None else [asdict(word) for word in utterance.words]}
    return Outcome(
        utterance.id, cache.pack(utterance.id, cache.Cached(images, missing, audio), facts), None, share, tuple(problems),
        None if audio is None else manifest.content_hash(audio),
        None if curve is None else tuple(round(float(value), 5) for value in curve))


class _Senses:
    """Mouths and sound of a recording that goes by, as far back as they are still asked for."""

    def __init__(self, mouth_crop: MouthCropSettings | None) -> None:
        self.tracker = None if mouth_crop is None else FaceTracker(landmarks=mouth_crop.landmarks)
        self.cropper = None if mouth_crop is None else MouthCropper(mouth_crop)
        self.mouths: list[Mouths] = []
        self.chunks: list[tuple[int, np.ndarray]] = []       # first frame, samples
        self.n_frames, self.ended = 0, False
        # Frames that tracker and cropper may hold back, see there and listen.py.
        self.lag = 0 if mouth_crop is None else self.tracker.max_gap + 4 * self.tracker.stride + mouth_crop.smooth

    def __enter__(self) -> _Senses:
        return self

    def __exit__(self, *_) -> None:
        if self.tracker is not None:
            self.tracker.close()

    @property
    def settled(self) -> int:
        """Frames up to here are final."""
        return self.n_frames - self.lag

    def update(self, clip: media.Clip) -> None:
        self.n_frames = clip.start_frame + clip.n_frames
        if clip.audio is not None:
            self.chunks.append((clip.start_frame, clip.audio))
        if self.tracker is not None:
            self.mouths += self.cropper.update(clip, self.tracker.update(clip))

    def finish(self) -> None:
        if self.tracker is not None:
            self.mouths += self.cropper.finish(self.tracker.finish())
        self.ended = True

    def sound(self, start: int, end: int) -> np.ndarray:
        """(S,) float32; without a picture the last frame may be half full, and stays so."""
        parts = [samples[max(0, frames_to_samples(start - first)):frames_to_samples(end - first)]
                 for first, samples in self.chunks if first < end]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def forget(self, before: int) -> None:
        self.mouths = [mouths for mouths in self.mouths if mouths.end_frame > before]
        self.chunks = [(first, samples) for first, samples in self.chunks if first + samples_to_frames(len(samples)) > before]
