"""Cuts a recording into segments of speech, measures and labels them, and packs those that are kept, in one reading.

    LabelJob (a recording, labels that are known) -> Labelled, one for each segment -> RecordingEnd, in a worker process
The recording passes once through the same stream reader as in `transcribe`; a worker holds only seconds of an hour.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from avsr import media, selection, sync
from avsr.label import readings
from avsr.label.journal import RecordingEnd
from avsr.label.labels import Label, LabelLimits, utterance, why_left_out, why_unlabelled
from avsr.lips import Mouths
from avsr.manifest import Utterance
from avsr.prepare import PrepareSettings
from avsr.prepare.crop import Outcome, Unusable, make_outcome, why_failed, without_name
from avsr.segment import VadOptions
from avsr.speakers import ActiveSpeakerDetector
from avsr.stream import StreamReader, StreamSettings, Window

BATCH = 8                             # segments that are recognised at once
# A cut at every pause of 0.3 s, where transcription joins over 2 s: one wrong word should cost a sentence, not half a minute.
SPEECH = VadOptions(min_silence=0.3, pad=0.2, max_gap=0.3)
SHOWN_EACH = 2                        # segments of a recording left out for one reason that get a clip for the page


@dataclass(frozen=True)
class LabelSettings:
    """How to label a corpus of raw recordings. model: the recogniser; second_model: of the second pass, None for the same one
    on the sound in faint noise, see readings.Readings. device: auto, cpu or cuda. limits: what is kept.
    speech: how the sound is cut."""

    model: str
    second_model: str | None = None
    device: str = "auto"
    limits: LabelLimits = field(default_factory=LabelLimits)
    speech: VadOptions = SPEECH


@dataclass(frozen=True)
class LabelJob:
    """A recording. path: as the worker opens it. media: relative to the manifest. name: its path in the corpus without suffix.

    model: name of the recogniser, for the rows. known: labels of an earlier run, by first frame. packed: ids of utterances
    that are in the shards already.
    """

    path: str
    media: str
    name: str
    model: str
    known: Mapping[int, Label]
    packed: frozenset[str]


@dataclass(frozen=True)
class Labelled:
    """A segment with its label. utterance, outcome: where it is kept and not yet in the shards. clip: bytes of a small .mp4 of
    the mouth with the sound, for some of those that are left out."""

    label: Label
    utterance: Utterance | None = None
    outcome: Outcome | None = None
    clip: bytes | None = None


@dataclass(frozen=True)
class Share:
    """How much of the recording has been read, 0 to 1."""

    done: float


def work(job: LabelJob, tick: Callable[..., None], *, settings: LabelSettings, prepare: PrepareSettings) -> RecordingEnd:
    """Label a recording. `tick` is called with a Share for each part that was read, and with each Labelled segment."""
    reader = _Reading(job, settings, prepare, tick)
    reason = None
    recogniser = readings.loaded(settings.model, settings.second_model, settings.device)      # its errors are not the file's
    try:
        reader.run(recogniser)
    except Exception as error:                               # a bug in avsr must not cost the user the other files
        reason = why_failed(error, job.path)
    problems = tuple(without_name(sentence, job.path) for sentence in reader.problems)
    return RecordingEnd(job.media, round(reader.seconds, 2), reader.n_segments, problems, reason)


class _Reading:
    """One recording on its way through the reader and the recogniser."""

    def __init__(self, job: LabelJob, settings: LabelSettings, prepare: PrepareSettings, tick: Callable[..., None]):
        self.job, self.settings, self.prepare, self.tick = job, settings, prepare, tick
        self.limits, self.detector = settings.limits, ActiveSpeakerDetector()
        self.expected = next((one.expected for one in job.known.values() if one.text is not None), None)
        self.seconds, self.n_segments, self.problems = 0.0, 0, []
        self.n_clips: dict[str, int] = {}

    def run(self, recogniser: readings.Readings) -> None:
        want_video, language = "v" in self.prepare.modality, self.limits.code
        with selection.open_recording(self.job.path, want_video=want_video, language=language,
                                      landmarks=self.prepare.mouth_crop.face_landmarks) as recording:
            if want_video and not recording.has_video:
                raise Unusable("no picture")
            if not recording.has_audio:
                raise Unusable("no sound")
            reader = StreamReader(recording, self.prepare.mouth_crop if want_video else None,
                                  StreamSettings(speech=self.settings.speech), progress=self._progress)
            windows = iter(reader)
            while batch := list(islice(windows, BATCH)):
                for labelled in self._labelled(batch, recogniser):
                    self.tick(labelled)
                self.n_segments += len(batch)
            self.seconds, self.problems = reader.duration_s, list(recording.problems)

    def _progress(self, stage: str, done: float, total: float | None, unit: str | None) -> None:
        self.tick(Share(min(1.0, done / total) if total else 0.0))

    def _labelled(self, batch: Sequence[Window], recogniser: readings.Readings) -> Iterator[Labelled]:
        """The segments of a batch. What an earlier run left of a batch is recognised anew with all of it, so that a text never
        depends on where a run was stopped."""
        labels = [self._measured(window) for window in batch]
        wanted = [i for i, label in enumerate(labels) if why_unlabelled(label, self.limits) is None]
        known = [self.job.known.get(labels[i].start_frame) for i in wanted]
        if all(one is not None and one.text is not None for one in known):
            made = [one for one in known if one is not None]
        else:
            made = self._recognised([batch[i] for i in wanted], [labels[i] for i in wanted], recogniser)
        for i, label in zip(wanted, made, strict=True):
            labels[i] = label
        for window, label in zip(batch, labels, strict=True):
            yield self._packed(window, label)

    def _recognised(self, windows: Sequence[Window], labels: Sequence[Label], recogniser: readings.Readings) -> list[Label]:
        sounds = [np.zeros(0, np.float32) if window.audio is None else window.audio for window in windows]
        if self.expected is None:
            self.expected = self.limits.code or recogniser.language_of(sounds)
        found = recogniser.read(sounds, self.expected, seed=labels[0].start_frame)
        return [replace(label, expected=self.expected, **vars(one)) for label, one in zip(labels, found, strict=True)]

    def _measured(self, window: Window) -> Label:
        """A label with all but the texts."""
        start, end, mouths = window.segment.start_frame, window.segment.end_frame, window.mouths
        label = Label(self.job.media, self.job.name, start, end)
        if "v" not in self.prepare.modality:
            return label
        if mouths is None:
            return replace(label, missing=1.0)
        still = sync.motionless(mouths.images, mouths.missing)
        return replace(label, person=mouths.person, missing=round(float(mouths.missing.mean()), 4),
                       still=round(float(still.mean()), 4), in_step=self._in_step(mouths, window.audio))

    def _in_step(self, mouths: Mouths, audio: np.ndarray | None) -> float | None:
        """The mean score over the frames that show a mouth; None for crops that the detector does not know."""
        if audio is None or mouths.missing.all() or self.prepare.mouth_crop != self.detector.mouth_crop:
            return None
        scores = self.detector.scores(mouths.images, audio, mouths.missing)[~mouths.missing]
        return round(float(scores.mean()), 3)

    def _packed(self, window: Window, label: Label) -> Labelled:
        reason = why_left_out(label, self.limits)
        if reason is not None:
            return Labelled(label, clip=self._clip(window, reason.partition(":")[0]))
        row = utterance(label, self.job.model)
        if row.id in self.job.packed:
            return Labelled(label)
        return Labelled(label, row, make_outcome(row, window, self.prepare))

    def _clip(self, window: Window, kind: str) -> bytes | None:
        """A small video of the mouth with the sound, for the first segments that are left out for a reason."""
        if self.n_clips.get(kind, 0) >= SHOWN_EACH or (window.mouths is None and window.audio is None):
            return None
        self.n_clips[kind] = self.n_clips.get(kind, 0) + 1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            media.write(None if window.mouths is None else window.mouths.images, path, audio=window.audio, crf=23)
            return path.read_bytes()
