"""Cuts the utterances out of one recording and packs them, with the same stream reader as `transcribe`.

    Job (a recording, its utterances) -> list[Outcome], in a worker process
A recording is decoded once, in windows, however many utterances are cut from it; a worker holds only seconds of an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from avsr import cache, manifest, selection
from avsr.errors import AvsrError, MissingAsset
from avsr.lips import MouthCropSettings
from avsr.manifest import Problem, Utterance
from avsr.manifest.checks import step_curve
from avsr.names import INPUT_MODALITIES
from avsr.rates import VIDEO_FPS
from avsr.runtime import max_processes, n_cores
from avsr.segment import SpeechSegment
from avsr.stream import StreamReader, StreamSettings, Window

WINDOW_FRAMES = 25                    # frames decoded at a time: two windows of 1280x720 are 138 MB
MAX_SECONDS = cache.MAX_SECONDS       # of an utterance
PAST_END_S = 0.5                      # an utterance may end this much after its recording, and is then cut there


@dataclass(frozen=True)
class PrepareSettings:
    """How to prepare a corpus; `avsr prepare --help` lists the options under the same names.

    modality: av needs a face and sound, a skips the picture, v the sound. max_missing: largest share of frames without a face.
    max_dropped: share of utterances that may be dropped before it is a failure. valid_share: share of the training utterances
    that become split `valid` if the corpus has none, see manifest.draw_valid. workers: processes, None for one on each core.
    cluster: the Ray cluster that does the work, see workers.address; None for this machine. max_bytes: of a shard. mouth_crop:
    how mouths are cut out, which must match the model that the cache is for; on the command line the name of one of
    lips.MOUTH_CROPS.
    """

    modality: str = "av"
    max_missing: float = 0.25
    max_dropped: float = 0.05
    valid_share: float = 0.05
    workers: int | None = None
    cluster: str | None = None
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
        if self.cluster is None and (self.workers or 1) > max_processes():
            raise AvsrError(f"workers {self.workers}: at most {max_processes()} on this machine of {n_cores()} cores.  "
                            "Leave it out for one on each core.")


@dataclass(frozen=True)
class Job:
    """A recording and the utterances to cut from it. path: the file as the worker opens it."""

    path: str
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True)
class Outcome:
    """The result for an utterance: packed, or dropped for a reason.

    share: the share of its frames without a face, None if no face was searched. problems, sound_hash, curve: see manifest.
    """

    id: str
    packed: cache.Packed | None = None
    dropped: str | None = None
    share: float | None = None
    problems: tuple[Problem, ...] = ()
    sound_hash: str | None = None
    curve: tuple[float, ...] | None = None


class Unusable(Exception):
    """Why an utterance, or what is left of a recording, is dropped: kind, colon, numbers."""


def no_faces(share: float, limit: float) -> str | None:
    """The reason to drop an utterance if the share of its frames without a face is over the limit, else None."""
    return f"no face: in {share:.0%} of the frames (limit {limit:.0%})" if share > limit else None


def work(job: Job, tick: Callable[[], None], *, settings: PrepareSettings) -> list[Outcome]:
    """The outcomes for the utterances of a recording, in the order of the job. `tick` is called for each window."""
    made: dict[str, Outcome] = {}
    problems: list[str] = []
    try:
        _cut(job, settings, made, problems, tick)
        reason = "outside the recording"
    except MissingAsset:                                     # of this machine, not of the file
        raise
    except Exception as error:                               # a bug in avsr must not cost the user the other files
        reason = why_failed(error, job.path)
    first = job.utterances[0].id
    noted = tuple(Problem(first, "media", Path(job.path).name, without_name(sentence, job.path)) for sentence in problems)
    out = [made.get(utterance.id, Outcome(utterance.id, dropped=reason)) for utterance in job.utterances]
    if noted and out[0].packed is not None:
        out[0] = Outcome(**{**vars(out[0]), "problems": out[0].problems + noted})
    return out


def why_failed(error: Exception, path: str) -> str:
    """Why a recording gave nothing, or nothing more: the reason for the table of what was dropped."""
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, AvsrError):
        return f"cannot be read: {without_name(str(error), path)}"
    return f"mistake in avsr: {type(error).__name__}: {error}"


def without_name(sentence: str, path: str) -> str:
    """A sentence about a file without the file's name and without the remedy."""
    return sentence.split(".  ")[0].removeprefix(f"{path}: ").removeprefix(f"{Path(path).name}: ").removesuffix(".")


def _cut(job: Job, settings: PrepareSettings, made: dict[str, Outcome], problems: list[str], tick: Callable[[], None]) -> None:
    """Fill `made` while the recording is read."""
    want_video, want_audio = "v" in settings.modality, "a" in settings.modality
    waiting = sorted(((utterance, *_span(utterance)) for utterance in job.utterances), key=lambda one: one[1])
    _drop_long(waiting, None, made)
    languages = {utterance.language for utterance in job.utterances}
    with selection.open_recording(job.path, want_video=want_video, want_audio=want_audio,
                                  landmarks=settings.mouth_crop.face_landmarks,
                                  language=languages.pop() if len(languages) == 1 else None) as recording:
        if want_video and not recording.has_video:
            raise Unusable("no picture")
        if want_audio and not recording.has_audio:
            raise Unusable("no sound")
        reader = StreamReader(recording, settings.mouth_crop if want_video else None, StreamSettings(amplify=False))
        for _ in reader.clips(WINDOW_FRAMES):
            tick()
            _emit(waiting, reader, settings, made)
            _drop_long(waiting, reader.n_frames, made)
            if not waiting:                                  # no utterance needs the rest
                break
        problems += recording.problems
        _emit(waiting, reader, settings, made)


def _span(utterance: Utterance) -> tuple[int, int | None]:
    """The first frame, and one past the last, or None for the end of the recording."""
    start = round((utterance.start or 0.0) * VIDEO_FPS)
    return start, None if utterance.end is None else max(start + 1, round(utterance.end * VIDEO_FPS))


def _drop_long(waiting: list[tuple[Utterance, int, int | None]], n_frames: int | None, made: dict[str, Outcome]) -> None:
    """Drop the utterances that are longer than MAX_SECONDS; one to the recording's end counts to `n_frames`, those read."""
    for item in list(waiting):
        utterance, start, end = item
        end = n_frames if end is None else end
        if end is not None and end - start > MAX_SECONDS * VIDEO_FPS:
            waiting.remove(item)
            made[utterance.id] = Outcome(utterance.id, dropped=f"too long: over {MAX_SECONDS} s")


def _emit(waiting: list[tuple[Utterance, int, int | None]], reader: StreamReader, settings: PrepareSettings,
          made: dict[str, Outcome]) -> None:
    """Take the utterances that have been read to their end out of `waiting`, and add their outcomes."""
    for item in list(waiting):
        utterance, start, end = item
        if reader.ended:
            over = 0 if end is None else end - reader.n_frames
            if start >= reader.n_frames or over > PAST_END_S * VIDEO_FPS:
                continue                                     # outside the recording
            end = reader.n_frames if end is None else min(end, reader.n_frames)
        elif end is None or end > reader.settled:
            continue
        waiting.remove(item)
        made[utterance.id] = make_outcome(utterance, reader.window(SpeechSegment(start, end)), settings)
    reader.forget(min((start for _, start, _ in waiting), default=reader.n_frames))


def make_outcome(utterance: Utterance, window: Window, settings: PrepareSettings) -> Outcome:
    """The utterance that a window holds, packed, or the reason why it is dropped."""
    share, audio, mouths = None, window.audio, window.mouths
    if "v" in settings.modality:
        share = 1.0 if mouths is None else float(mouths.missing.mean())
        reason = "no face: in any frame" if mouths is None else no_faces(share, settings.max_missing)
        if reason is None and window.apart:
            reason = "out of step: its lips do not make its sound"
        if reason is not None:
            return Outcome(utterance.id, dropped=reason, share=share)
    if audio is None and "a" in settings.modality:
        return Outcome(utterance.id, dropped="no sound: it ends before the utterance starts", share=share)
    images, missing = (None, None) if mouths is None else (mouths.images, mouths.missing)
    limits = manifest.Limits(max_missing=settings.max_missing)
    problems = manifest.check(utterance, images=images, missing=missing, audio=audio, limits=limits)
    curve = step_curve(images, missing, audio, limits)
    facts = {"text": utterance.text, "speaker": utterance.speaker, "language": utterance.language, "labels": utterance.labels,
             "words": None if utterance.words is None else [asdict(word) for word in utterance.words]}
    return Outcome(
        utterance.id, cache.pack(utterance.id, cache.Cached(images, missing, audio), facts), None, share, tuple(problems),
        None if audio is None else manifest.content_hash(audio),
        None if curve is None else tuple(round(float(value), 5) for value in curve))
