"""Chooses the speaker of a segment among the people in sight.

    everybody's Mouths, sound of the segment (S,) float32 -> Mouths of the one who most likely speaks
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from avsr import sync
from avsr.lips import Mouths
from avsr.rates import VIDEO_FPS
from avsr.speakers.detector import ActiveSpeakerDetector

# A smaller face is taken in place of the largest if its mean score is higher by this margin, in log-odds. In 180 sentences of
# conversations made of GRID (experiments/speaker_text) this finds all speakers, whichever face is larger, whether the other one
# listens or says something else; so do all margins up to 3. By correlation it was 23 % of those beside another talker.
MARGIN = 1.0
LARGEST_SCORE = 5.0                                    # log-odds beyond which a score says no more
COMPARED_S = 1                                         # seconds in which both faces must be seen


def choose_speaker(mouths: Iterable[Mouths], start_frame: int, end_frame: int,
                   sound: np.ndarray | None = None) -> Mouths | None:
    """The mouth of the likely speaker from `start_frame` to before `end_frame`.

    The speaker is the largest and steadiest of the faces whose mouths move. sound: (S,) float32 from `start_frame` on; a
    smaller face is taken if the detector's scores for it are higher by MARGIN than for the largest. Where the speaker is not
    tracked, as after a cut to another camera, the next best person fills in who was never in sight beside those already taken.
    Returns (end_frame - start_frame) frames, black and missing where nobody is seen; None where nobody is seen at all.
    """
    stretches = [one for one in _people(mouths, start_frame, end_frame) if _weight(one) > 0]
    stretches.sort(key=lambda one: (-_weight(one), one.person))
    if not stretches:
        return None
    best = first = _likely_speaker(stretches, sound)
    for other in stretches:
        if other is not first and not np.any((other.size > 0) & (best.size > 0)):
            best = _filled(best, other)
    return best


def everybody(mouths: Iterable[Mouths], start_frame: int, end_frame: int) -> dict[int, Mouths]:
    """The mouth of each person who is seen, from `start_frame` to before `end_frame`."""
    return {one.person: one for one in _people(mouths, start_frame, end_frame) if not one.missing.all()}


def _people(mouths: Iterable[Mouths], start_frame: int, end_frame: int) -> list[Mouths]:
    """The mouth of each person of whom there is a part, in order of number."""
    parts: dict[int, list[Mouths]] = defaultdict(list)
    for part in mouths:
        if part.start_frame < end_frame and part.end_frame > start_frame:
            parts[part.person].append(part)
    return [joined(parts[person], start_frame, end_frame) for person in sorted(parts)]


def _likely_speaker(people: list[Mouths], sound: np.ndarray | None) -> Mouths:
    """The one of `people`, the largest first, who most likely makes the sound; see `choose_speaker`."""
    best = people[0]
    beside = [other for other in people[1:] if np.any((other.size > 0) & (best.size > 0))]
    moving = [other for other in beside if (sync.movement(other.images, other.missing) or 0.0) >= sync.STILL]
    if moving and sync.motionless(best.images, best.missing)[~best.missing].all():
        best = moving.pop(0)
    if sound is None:
        return best
    detector, first, highest = ActiveSpeakerDetector(), best, MARGIN
    compared = [other for other in moving if (~first.missing & ~other.missing).sum() >= COMPARED_S * VIDEO_FPS]
    scores = {one.person: _scores(detector, one, sound) for one in (first, *compared)} if compared else {}
    for other in compared:
        both = ~first.missing & ~other.missing
        margin = float((scores[other.person] - scores[first.person])[both].mean())
        if margin > highest:
            best, highest = other, margin
    return best


def _scores(detector: ActiveSpeakerDetector, mouths: Mouths, sound: np.ndarray) -> np.ndarray:
    return detector.scores(mouths.images, sound, mouths.missing).clip(-LARGEST_SCORE, LARGEST_SCORE)


def _weight(mouths: Mouths) -> float:
    """The area of the face times its steadiness, summed over the frames in which it was found."""
    return float((np.square(mouths.size, dtype=np.float64) * mouths.score * ~mouths.missing).sum())


def joined(parts: list[Mouths], start: int, end: int) -> Mouths:
    """One person from `start` to before `end`: black, missing and of size 0 where there is no part."""
    images = np.zeros((end - start, *parts[0].images.shape[1:]), np.uint8)
    missing = np.ones(end - start, bool)
    size, score = np.zeros((2, end - start), np.float32)
    compared = None if parts[0].compared is None else np.zeros((end - start, *parts[0].compared.shape[1:]), np.uint8)
    for part in parts:
        low, high = max(start, part.start_frame), min(end, part.end_frame)
        there, here = slice(low - start, high - start), slice(low - part.start_frame, high - part.start_frame)
        images[there], missing[there] = part.images[here], part.missing[here]
        size[there], score[there] = part.size[here], part.score[here]
        if compared is not None and part.compared is not None:
            compared[there] = part.compared[here]
    return Mouths(images, missing, size, score, start, parts[0].person, compared)


def _filled(best: Mouths, other: Mouths) -> Mouths:
    there = other.size > 0
    images = np.where(there[:, None, None], other.images, best.images)
    missing, size, score = (np.where(there, getattr(other, name), getattr(best, name)) for name in ("missing", "size", "score"))
    return Mouths(images, missing, size, score, best.start_frame, best.person)
