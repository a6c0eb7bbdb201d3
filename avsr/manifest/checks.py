"""Checks of utterances whose lines are well formed: a `Problem` for each thing that may be wrong.

    Utterance + images, missing, audio (from the cache) -> list[Problem] -> problems.tsv
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from avsr import sync
from avsr.manifest.rows import Dropped, Utterance
from avsr.output import write_file
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, SEGMENT_SECONDS, VIDEO_FPS


@dataclass(frozen=True)
class Problem:
    """id: that of the utterance, or `speaker NAME`. field, value: what is wrong, and its value. reason: why it is a problem."""

    id: str
    field: str
    value: str
    reason: str


@dataclass(frozen=True)
class Limits:
    """The limits beyond which something counts as a problem.

    min_s, max_s: seconds; the maximum is the longest segment of a model. max_letters_per_s: fast talkers reach 25, GRID 10.
    max_missing: share of frames without a face. max_apart: frames by which video and audio may differ in length (GRID has clips
    of 74 frames with 75 frames of audio).
    max_lag, clip_margin, clip_correlation, speaker_margin, min_clips: lips and sound are out of step if the peak of the
    correlation is more than `near` frames from 0 and exceeds all values within `near` by the margin; see `check_speakers`.
    """

    min_s: float = 0.2
    max_s: float = SEGMENT_SECONDS
    max_letters_per_s: float = 35.0
    max_missing: float = 0.25
    max_apart: int = 5
    max_lag: int = 12
    near: int = 2
    clip_margin: float = 0.35
    clip_correlation: float = 0.4
    speaker_margin: float = 0.02
    min_clips: int = 20


LIMITS = Limits()


def check(utterance: Utterance, *, images: np.ndarray | None = None, missing: np.ndarray | None = None,
          audio: np.ndarray | None = None, limits: Limits = LIMITS) -> list[Problem]:
    """The problems of one utterance by itself.

    images (T, 96, 96) uint8, missing (T,) bool, audio (S,) float32 at SAMPLE_RATE: as cached; None if there is none, or if it
    should not be checked.
    """
    found = [] if utterance.text.strip() else [Problem(utterance.id, "text", utterance.text, "the text is empty")]
    found += _length_problems(utterance, images, audio, limits)

    def problem(field: str, value: object, reason: str) -> None:
        found.append(Problem(utterance.id, field, str(value), reason))

    if missing is not None and len(missing) and missing.mean() > limits.max_missing:
        problem("missing", f"{int(missing.sum())} of {len(missing)}", f"no face in {missing.mean():.0%} of the frames")
    elif images is not None and len(images) and (share := sync.motionless(images, missing).mean()) > limits.max_missing:
        problem("mouth", f"{share:.0%}", f"the mouth does not move in {share:.0%} of the frames")
    if audio is not None and len(audio) and not np.isfinite(audio).all():
        problem("audio", "NaN", "the sound holds values that are no numbers")
    elif audio is not None and len(audio) and np.abs(audio).max() < 1e-4:
        problem("audio", "silence", "the sound is silent throughout")
    curve = None if found else step_curve(images, missing, audio, limits)
    if curve is not None:
        frames, height = sync.peak(curve)
        margin = height - _near(curve, limits)
        if abs(frames) > limits.near + 1 and height >= limits.clip_correlation and margin >= limits.clip_margin:
            problem("step", f"{frames:+d}", f"lips come {abs(frames)} frames {'after' if frames > 0 else 'before'} the sound")
    return found


def step_curve(images: np.ndarray | None, missing: np.ndarray | None, audio: np.ndarray | None,
               limits: Limits = LIMITS) -> np.ndarray | None:
    """(2 max_lag + 1,) the result of `sync.correlations` for one utterance, for `check_speakers`.

    None without video or audio, if less than a second remains at the largest lag, or if faces are missing: an interpolated
    mouth does not move in step.
    """
    if images is None or audio is None or len(images) < 2 * limits.max_lag + VIDEO_FPS:
        return None
    if missing is not None and missing.mean() > 0.1:
        return None
    curve = sync.correlations(sync.mouth_opening(images), sync.energy(audio, len(images)), limits.max_lag)
    return curve if curve.any() else None


def check_speakers(curves: Mapping[str, Iterable[np.ndarray]], *, limits: Limits = LIMITS) -> list[Problem]:
    """Speakers whose lips are out of step, by the `step_curve`s of their utterances; those with under `min_clips` are skipped.

    Draws of 20 clips of GRID: none of s1 (915 clips) or s4 (41) is flagged as it is; with lips shifted by 8 frames, all draws
    of s1 are flagged, and all (lips early) or 82 % (lips late, because s4's lips are ahead of the voice) of s4, each within 2
    frames of the truth. Draws of 10: 0 to 0.5 % falsely flagged. Single clips, by `check`: none of 981 falsely flagged, 9 % of
    those shifted by 8 frames found. The thresholds were chosen on about 120 clips of s1, s4, s26 and s31, so only s23, s30 and
    s33 (9 clips, peaks at 0) are independent of them.
    """
    out = []
    for speaker, rows in sorted(curves.items()):
        stack = np.array(list(rows))
        if len(stack) < limits.min_clips:
            continue
        curve = stack.mean(axis=0)
        frames, height = sync.peak(curve)
        if abs(frames) > limits.near and height - _near(curve, limits) >= limits.speaker_margin:
            out.append(Problem(f"speaker {speaker}", "step", f"{frames:+d}", f"over {len(stack)} utterances lips come "
                               f"{abs(frames)} frames {'after' if frames > 0 else 'before'} the sound"))
    return out


def check_all(utterances: Iterable[Utterance], hashes: Mapping[str, str] | None = None) -> list[Problem]:
    """Utterances that occur twice: by id, by recording and times, or by text and audio. hashes: `content_hash` by id."""
    seen: dict[tuple, str] = {}
    out = []
    for utterance in utterances:
        keys = [("id", "id", utterance.id), ("media", "recording and times", utterance.media, utterance.start, utterance.end)]
        if hashes and utterance.id in hashes:
            keys.append(("audio", "text and sound", utterance.text, hashes[utterance.id]))
        for key in keys:
            if key in seen:
                out.append(Problem(utterance.id, key[0], str(key[-1] if key[0] != "media" else utterance.media),
                                   f"the same {key[1]} as {seen[key]}"))
                break
        for key in keys:
            seen.setdefault(key, utterance.id)
    return out


def content_hash(audio: np.ndarray) -> str:
    """(S,) float32 -> the sha256 of the audio in 16 bits, so that the last bit of a decoder makes no difference."""
    clipped = np.clip(np.nan_to_num(audio), -1.0, 1.0)
    return hashlib.sha256((clipped * 32767).round().astype("<i2").tobytes()).hexdigest()


def write_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Write problems as a table with a header and columns separated by tabs. Raises BadOutput."""
    _write_table(path, Problem, problems)


def write_dropped(path: str | Path, dropped: Iterable[Dropped]) -> None:
    """Write what a reader could not use, as a table like that of `write_problems`. Raises BadOutput."""
    _write_table(path, Dropped, dropped)


def _write_table(path: str | Path, kind: type, rows: Iterable[Problem] | Iterable[Dropped]) -> None:
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow([f.name for f in fields(kind)])
    table.writerows([" ".join(str(value).split()) for value in astuple(row)] for row in rows)
    write_file(path, text.getvalue().encode(), remedy="Choose another place.")


def _near(curve: np.ndarray, limits: Limits) -> float:
    middle = len(curve) // 2
    return float(curve[middle - limits.near: middle + limits.near + 1].max())


def _length_problems(utterance: Utterance, images: np.ndarray | None, audio: np.ndarray | None,
                     limits: Limits) -> list[Problem]:
    n_samples, n_frames = None if audio is None else len(audio), None if images is None else len(images)
    if n_samples is None and n_frames is None and utterance.cache is not None:
        n_samples, n_frames = utterance.cache.n_samples or None, utterance.cache.n_frames or None
    out = []
    if n_samples and n_frames and abs(n_samples / SAMPLES_PER_FRAME - n_frames) > limits.max_apart:
        out.append(Problem(utterance.id, "length", f"{n_frames / VIDEO_FPS:.2f} s, {n_samples / SAMPLE_RATE:.2f} s",
                           "mouths and sound differ in length"))
    seconds = n_samples / SAMPLE_RATE if n_samples else n_frames / VIDEO_FPS if n_frames else None
    if seconds is None and utterance.end is not None:
        seconds = utterance.end - (utterance.start or 0.0)
    if seconds is None:
        return out
    n_letters = sum(letter.isalnum() for letter in utterance.text)
    if seconds < limits.min_s:
        out.append(Problem(utterance.id, "duration", f"{seconds:.2f} s", f"shorter than {limits.min_s:g} s"))
    elif seconds > limits.max_s:
        out.append(Problem(utterance.id, "duration", f"{seconds:.2f} s", f"longer than {limits.max_s:g} s"))
    elif n_letters > limits.max_letters_per_s * seconds:
        out.append(Problem(utterance.id, "duration", f"{seconds:.2f} s", f"too short for {n_letters} letters "
                           f"(more than {limits.max_letters_per_s:g} a second)"))
    return out
