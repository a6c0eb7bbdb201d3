"""Live recognition measured as the field does: when each word is committed after it was said, and what that costs in errors.

    manifest -> sessions: utterances of one speaker, one after another -> live.playback -> rows, one for each utterance
    live.jsonl  <->  LiveRow(system, modality, agreement_s, id, reference, hypothesis, offline, words with their delays, ...)
A word's delay is the time at which it was committed minus the time at which it was over, as the manifest has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path

from avsr import media
from avsr.checkpoint import Checkpoint
from avsr.errors import AvsrError, BadManifest
from avsr.live import LiveRecogniser, LiveSettings
from avsr.live.playback import PIECE_FRAMES, EmittedWord, Played, play
from avsr.manifest import Utterance, manifest_path, read
from avsr.names import INPUT_MODALITIES
from avsr.output import write_file
from avsr.rates import VIDEO_FPS, frames_to_seconds
from avsr.results import json_line
from avsr.runtime import Progress, no_progress, pick_device
from avsr.text import normalise
from avsr.transcribe.run import load_models, transcribe

NAME = "live.jsonl"
TIMED_TOLERANCE_S = 1.0                                     # by which the times of a word may differ to be the same word


@dataclass(frozen=True)
class LiveBenchmarkSettings:
    """What is measured. agreements: seconds for which looks must agree, see LiveSettings.stable_s; several draw the curve of
    errors against delay. limit: utterances, evenly picked. step: see LiveSettings.step_s."""

    models: tuple[str, ...] = ("default",)
    lips: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ("av",)
    split: str = "test"
    agreements: tuple[float, ...] = (LiveSettings().stable_s,)
    limit: int | None = None
    device: str = "auto"

    def __post_init__(self):
        if wrong := [one for one in self.modalities if one not in INPUT_MODALITIES]:
            raise AvsrError(f"--modality {wrong[0]}: cannot be played as if live.  Use any of {', '.join(INPUT_MODALITIES)}.")
        if not self.agreements or min(self.agreements) < 0:
            raise AvsrError("--agreement: seconds from 0 on are needed.  Write them as 0.2,0.4,0.8.")


@dataclass(frozen=True)
class LiveRow:
    """One utterance as it was recognised live.

    agreement_s: see LiveBenchmarkSettings. hypothesis: the words committed in its time; offline: what transcribe writes of the
    session there. delays: for each word that is right, seconds from its true end to when it was committed, computation-unaware
    and computation-aware. behind_s: by how many seconds recognition was behind at most in its session. busy: share of the
    session's time that was computed.
    """

    system: str
    modality: str
    agreement_s: float
    id: str
    speaker: str | None
    reference: str
    hypothesis: str
    offline: str
    delays: tuple[tuple[float, float], ...]
    behind_s: float
    busy: float
    duration_s: float
    session: int = 0

    @classmethod
    def parse(cls, line: str) -> LiveRow:
        """Read a line of live.jsonl."""
        values = json.loads(line)
        return cls(**{**values, "delays": tuple(map(tuple, values["delays"]))})


@dataclass
class _Session:
    """Utterances of one speaker and one size of picture, one after another. starts: their first frames, and the end."""

    utterances: list[tuple[Utterance, Path]]
    starts: list[int] = field(default_factory=list)

    def clips(self, n_frames: int = PIECE_FRAMES) -> Iterator[media.Clip]:
        """Their recordings as one, in Clips of a few frames."""
        self.starts, start = [], 0
        for utterance, path in self.utterances:
            self.starts.append(start)
            for clip in _clips(utterance, path, n_frames):
                yield replace(clip, start_frame=start)
                start += clip.n_frames
        self.starts.append(start)

    def whole(self) -> media.Clip:
        """All of it at once, for the offline recogniser."""
        return media.join(list(self.clips(100)))


def measure_live(manifest: Path, output: Path, settings: LiveBenchmarkSettings, *,
                 progress: Progress = no_progress) -> list[LiveRow]:
    """Play the utterances of a split as if they were being made, and write `live.jsonl` into `output`. Raises AvsrError."""
    sessions, rows, n_done = _sessions(manifest, settings), [], 0
    device = pick_device(settings.device)
    runs = [(model, lips, modality) for model in settings.models for lips in settings.lips or (None,)
            for modality in settings.modalities]
    total = len(runs) * len(settings.agreements) * len(sessions)
    for model, lips, modality in runs:
        checkpoint = load_models(model, lips, modality, device, progress)
        for number, session in enumerate(sessions):
            offline = _offline(session, checkpoint, modality)
            for agreement_s in settings.agreements:
                played = _played(session, checkpoint, modality, agreement_s)
                rows += _rows(session, number, played, offline, checkpoint.name, modality, agreement_s)
                n_done += 1
                progress("playing as if live", n_done, total, "files")
    write_file(output / NAME, "".join(json_line(asdict(row)) for row in rows))
    return rows


def _sessions(manifest: Path, settings: LiveBenchmarkSettings) -> list[_Session]:
    """Consecutive utterances of a speaker whose words have times. Raises BadManifest where there are none."""
    path = manifest_path(manifest)
    rows = [one for one in read(path) if one.split == settings.split]
    timed = [one for one in rows if one.words]
    if not timed:
        raise BadManifest(f"{path}: none of {len(rows)} utterances of split {settings.split!r} has times of words, from which "
                          "delays are counted.  Use a corpus that has them, such as GRID, or another split.")
    if settings.limit is not None and settings.limit < len(timed):
        timed = [timed[i * len(timed) // settings.limit] for i in range(settings.limit)]
    placed = [(one, path.parent / one.media) for one in timed]
    sized = [(one, where, _size(where)) for one, where in placed]
    sized.sort(key=lambda row: (str(row[0].speaker), row[2]))
    return [_Session([(one, where) for one, where, _ in group])
            for _, group in groupby(sized, key=lambda row: (row[0].speaker, row[2]))]


def _size(path: Path) -> tuple[int, int]:
    with media.open_recording(path) as recording:
        return recording.full_size


def _clips(utterance: Utterance, path: Path, n_frames: int) -> Iterator[media.Clip]:
    """The part of a recording that an utterance is."""
    first = round((utterance.start or 0.0) * VIDEO_FPS)
    last = None if utterance.end is None else round(utterance.end * VIDEO_FPS)
    with media.open_recording(path) as recording:
        for clip in recording.windows(n_frames, grey=True):
            part = clip.part(first, last)
            if part is not None:
                yield part


def _offline(session: _Session, checkpoint: Checkpoint, modality: str) -> list[str]:
    """What `transcribe` writes of the session in the time of each utterance."""
    words = transcribe(session.whole(), model=checkpoint, modality=modality).words
    return _texts(session, [(word.text, word.start, word.end) for word in words])


def _played(session: _Session, checkpoint: Checkpoint, modality: str, agreement_s: float) -> Played:
    with LiveRecogniser(checkpoint, modality=modality, has_audio="a" in modality, has_video="v" in modality,
                        settings=LiveSettings(stable_s=agreement_s)) as live:
        return play(session.clips(), live)


def _texts(session: _Session, words: Sequence[tuple[str, float, float]]) -> list[str]:
    """The words in the time of each utterance: those whose middle lies in it."""
    edges = [frames_to_seconds(start) for start in session.starts]
    out = []
    for number, (low, high) in enumerate(pairwise(edges)):
        low, high = (-1e9 if number == 0 else low), (1e9 if number == len(edges) - 2 else high)
        out.append(" ".join(text.strip() for text, start, end in words if low <= (start + end) / 2 < high))
    return out


def _rows(session: _Session, number: int, played: Played, offline: Sequence[str], system: str, modality: str,
          agreement_s: float) -> Iterator[LiveRow]:
    texts = _texts(session, [(one.word.text, one.word.start, one.word.end) for one in played.words])
    for i, (utterance, _) in enumerate(session.utterances):
        start_s, end_s = (frames_to_seconds(one) for one in session.starts[i:i + 2])
        delays = tuple(delays_of(utterance, start_s, played.words))
        yield LiveRow(system, modality, agreement_s, utterance.id, utterance.speaker, utterance.text, texts[i], offline[i],
                      delays, round(max(played.behind_s), 3), round(played.busy_s / played.duration_s, 3),
                      round(end_s - start_s, 3), number)


def delays_of(utterance: Utterance, start_s: float, words: Sequence[EmittedWord]) -> Iterator[tuple[float, float]]:
    """The delays of the words of an utterance that begins at `start_s`, computation-unaware and -aware, in seconds.

    A word counts that was committed with the same text at about the same time; each committed word counts once.
    """
    left = list(words)
    offset = start_s - (utterance.start or 0.0)
    for said in utterance.words or ():
        wanted, over_s = normalise(said.text), said.end + offset
        same = [one for one in left if normalise(one.word.text) == wanted and abs(one.word.end - over_s) <= TIMED_TOLERANCE_S]
        if same:
            found = min(same, key=lambda one: abs(one.word.end - over_s))
            left.remove(found)
            yield round(found.unaware_s - over_s, 3), round(found.aware_s - over_s, 3)


def read_live(folder: Path) -> list[LiveRow]:
    """The rows that `measure_live` wrote. Raises BadManifest where there are none."""
    path = folder / NAME
    try:
        return [LiveRow.parse(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadManifest(f"{path}: the rows of a live benchmark cannot be read ({error}).  Run avsr benchmark --live "
                          "again.") from error
