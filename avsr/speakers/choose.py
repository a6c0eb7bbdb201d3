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

# A smaller face is taken in place of the largest if its correlation with the sound is higher by this margin. On 156 GRID clips
# (train and valid) 97 % of the speakers are found where the largest face is a listener's who moves at other times, and 23 %
# where it says another sentence at the same time. A speaker who has the largest face is lost to such a second speaker in 2 %
# of the clips, to a listener in none.
SYNC_MARGIN = 0.25
COMPARED_S = 2                                         # seconds in which both faces must be seen


def choose_speaker(mouths: Iterable[Mouths], start_frame: int, end_frame: int,
                   sound: np.ndarray | None = None) -> Mouths | None:
    """The mouth of the likely speaker from `start_frame` to before `end_frame`.

    The speaker is the largest and steadiest of the faces whose mouths move. sound: (S,) float32 from `start_frame` on; a
    smaller face is taken if it is in sync with the sound by SYNC_MARGIN more than the largest. Where the speaker is not
    tracked, as after a cut to another camera, the next best person fills in who was never in sight beside those already taken.
    Returns (end_frame - start_frame) frames, black and missing where nobody is seen; None where nobody is seen at all.
    """
    people: dict[int, list[Mouths]] = defaultdict(list)
    for part in mouths:
        if part.start_frame < end_frame and part.end_frame > start_frame:
            people[part.person].append(part)
    stretches = [joined(parts, start_frame, end_frame) for parts in people.values()]
    stretches = [one for one in stretches if _weight(one) > 0]
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
    parts: dict[int, list[Mouths]] = defaultdict(list)
    for part in mouths:
        if part.start_frame < end_frame and part.end_frame > start_frame:
            parts[part.person].append(part)
    people = {person: joined(parts[person], start_frame, end_frame) for person in sorted(parts)}
    return {person: one for person, one in people.items() if not one.missing.all()}


def _likely_speaker(people: list[Mouths], sound: np.ndarray | None) -> Mouths:
    """The one of `people`, the largest first, who most likely makes the sound; see `choose_speaker`."""
    best = people[0]
    beside = [other for other in people[1:] if np.any((other.size > 0) & (best.size > 0))]
    moving = [other for other in beside if (sync.movement(other.images, other.missing) or 0.0) >= sync.STILL]
    if moving and sync.motionless(best.images, best.missing)[~best.missing].all():
        best = moving.pop(0)
    if sound is None:
        return best
    first, highest = best, SYNC_MARGIN
    for other in moving:
        both = ~first.missing & ~other.missing
        if both.sum() >= COMPARED_S * VIDEO_FPS:
            margin = sync.in_sync(other.images, sound, both) - sync.in_sync(first.images, sound, both)
            if margin > highest:
                best, highest = other, margin
    return best


def _weight(mouths: Mouths) -> float:
    """The area of the face times its steadiness, summed over the frames in which it was found."""
    return float((np.square(mouths.size, dtype=np.float64) * mouths.score * ~mouths.missing).sum())


def joined(parts: list[Mouths], start: int, end: int) -> Mouths:
    """One person from `start` to before `end`: black, missing and of size 0 where there is no part."""
    images = np.zeros((end - start, *parts[0].images.shape[1:]), np.uint8)
    missing = np.ones(end - start, bool)
    size, score = np.zeros((2, end - start), np.float32)
    for part in parts:
        low, high = max(start, part.start_frame), min(end, part.end_frame)
        there, here = slice(low - start, high - start), slice(low - part.start_frame, high - part.start_frame)
        images[there], missing[there] = part.images[here], part.missing[here]
        size[there], score[there] = part.size[here], part.score[here]
    return Mouths(images, missing, size, score, start, parts[0].person)


def _filled(best: Mouths, other: Mouths) -> Mouths:
    there = other.size > 0
    images = np.where(there[:, None, None], other.images, best.images)
    missing, size, score = (np.where(there, getattr(other, name), getattr(best, name)) for name in ("missing", "size", "score"))
    return Mouths(images, missing, size, score, best.start_frame, best.person)
