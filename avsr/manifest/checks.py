"""What may be wrong with utterances whose lines are well formed: one `Problem` for each thing found.

    Utterance + images, missing, audio (from the cache) -> list[Problem] -> problems.tsv
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from avsr import sync
from avsr.errors import BadManifest
from avsr.manifest.rows import Dropped, Utterance
from avsr.output import write_file
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, SEGMENT_SECONDS, VIDEO_FPS

Arrays = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]


@dataclass(frozen=True)
class Problem:
    """id: of the utterance, or `speaker NAME`. field: what is wrong; value: as it is; reason: why that is a problem."""

    id: str
    field: str
    value: str
    reason: str


@dataclass(frozen=True)
class Limits:
    """From where on something counts as a problem.

    min_s, max_s: seconds; the longest is what a model is given at once. max_letters_per_s: fast talkers reach 25, GRID 10.
    max_missing: share of frames without a face. max_apart: frames by which mouths and sound may differ in length (GRID
    has clips of 74 frames with 75 frames of sound).
    max_lag, clip_margin, clip_correlation, speaker_margin, min_clips: lips and sound are out of step where the peak lies
    more than `near` frames from 0, and is higher than all within `near` by the margin: see `check_speakers`.
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
          audio: np.ndarray | None = None, letters: str | None = None, limits: Limits = LIMITS) -> list[Problem]:
    """What is wrong with one utterance, seen alone.

    images (T, 96, 96) uint8, missing (T,) bool, audio (S,) float32 of SAMPLE_RATE: as cached; None where there is none,
    or where it is not looked at. letters: those the tokenizer can write; None for all.
    """
    found = _text_problems(utterance, letters) + _length_problems(utterance, images, audio, limits)

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
    """(2 max_lag + 1,) what `sync.correlations` gives for one utterance, to be kept for `check_speakers`.

    None without lips or sound, when under a second remains at the largest lag, or when faces are missing: a mouth that
    is guessed does not keep step.
    """
    if images is None or audio is None or len(images) < 2 * limits.max_lag + VIDEO_FPS:
        return None
    if missing is not None and missing.mean() > 0.1:
        return None
    curve = sync.correlations(sync.mouth_opening(images), sync.energy(audio, len(images)), limits.max_lag)
    return curve if curve.any() else None


def check_speakers(curves: Mapping[str, Iterable[np.ndarray]], *, limits: Limits = LIMITS) -> list[Problem]:
    """Speakers whose lips are out of step, from the `step_curve`s of their utterances; one with under `min_clips` is left.

    Draws of 20 clips of GRID: none of s1's (915 clips) or s4's (41) is flagged as it is; with lips shifted by 8 frames
    all of s1's are, and of s4's all (lips early) or 82 % (lips late: his lips are ahead of his voice), each within 2
    frames of the truth. Draws of 10: 0 to 0.5 % falsely flagged. Single clips, by `check`: none of 981 falsely flagged, 9 %
    of those shifted by 8 frames found. Thresholds were chosen on some 120 clips of s1, s4, s26 and s31, so that s23, s30
    and s33 (9 clips, peaks at 0) are the only speakers that had no say.
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
    """Utterances that are there twice: by id, by recording and times, by text and sound (`content_hash`, by id)."""
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
    """(S,) float32 -> sha256 of the sound in 16 bits, so that the last bit of a decoder makes no difference."""
    clipped = np.clip(np.nan_to_num(audio), -1.0, 1.0)
    return hashlib.sha256((clipped * 32767).round().astype("<i2").tobytes()).hexdigest()


def validate(utterances: Iterable[Utterance], base: str | Path, *, letters: str | None = None,
             arrays: Callable[[Utterance], Arrays] | None = None, limits: Limits = LIMITS) -> list[Problem]:
    """Everything above for a whole manifest, and recordings that are not there.

    base: folder of the manifest, from which media paths count. arrays: gives images, missing and audio of a prepared
    utterance (see `check`); None leaves them out.
    """
    utterances, out = list(utterances), []
    curves: dict[str, list[np.ndarray]] = defaultdict(list)
    hashes: dict[str, str] = {}
    for utterance in utterances:
        if "://" not in utterance.media and utterance.cache is None and not (Path(base) / utterance.media).exists():
            out.append(Problem(utterance.id, "media", utterance.media, "no such file"))
        images, missing, audio = arrays(utterance) if arrays and utterance.cache else (None, None, None)
        out += check(utterance, images=images, missing=missing, audio=audio, letters=letters, limits=limits)
        if audio is not None and len(audio):
            hashes[utterance.id] = content_hash(audio)
        curve = step_curve(images, missing, audio, limits)
        if curve is not None and utterance.speaker is not None:
            curves[utterance.speaker].append(curve)
    return out + check_all(utterances, hashes) + check_speakers(curves, limits=limits)


def write_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Problems as a table with a header, columns parted by tabs. Raises BadOutput."""
    _write_table(path, Problem, problems)


def read_problems(path: str | Path) -> list[Problem]:
    """What `write_problems` wrote. Raises BadManifest."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file, delimiter="\t")
        if header != [f.name for f in fields(Problem)]:
            raise ValueError
        return [Problem(*row) for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise BadManifest(f"{path}: no table of problems.  Write it with avsr prepare.") from error


def write_dropped(path: str | Path, dropped: Iterable[Dropped]) -> None:
    """What a reader could not use, as a table like `write_problems`'. Raises BadOutput."""
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


def _text_problems(utterance: Utterance, letters: str | None) -> list[Problem]:
    if not utterance.text.strip():
        return [Problem(utterance.id, "text", utterance.text, "the text is empty")]
    strange = sorted(set(utterance.text) - set(letters)) if letters is not None else []
    return [Problem(utterance.id, "text", utterance.text, f"the tokenizer cannot write {' '.join(map(repr, strange))}")] \
        if strange else []


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
