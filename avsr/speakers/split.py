"""Who speaks when in a segment of speech, and with whose lips each part of it is read.

    everybody's Mouths, sound of the segment and around it -> SpeakerTurns -> Mouths of whoever speaks in each frame
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from avsr import sync
from avsr.lips import Mouths
from avsr.media.level import frame_levels
from avsr.rates import VIDEO_FPS, frames_to_samples, samples_to_frames
from avsr.segment import SpeechSegment, speech_of_frames
from avsr.speakers.choose import choose_speaker, everybody, joined
from avsr.speakers.models import SpeakerDetector
from avsr.speakers.turns import SpeakerTurn, cut_at_pauses, speaker_turns

CONTEXT = VIDEO_FPS       # frames before and after a segment whose sound and mouths also tell who speaks in it


@dataclass(frozen=True)
class Conversation:
    """A segment of speech of several people.

    turns: who speaks when, from its first frame to its last, without a hole
    mouths: in each frame, the mouth of the one whose turn it is; black and missing where that is nobody in sight. None
        where nobody in sight speaks
    seen: (T,) bool, whether anybody's mouth is seen
    scores: for each person in sight, log-odds (T,) float32 of speaking, -inf where the mouth is not seen; empty without sound
    """

    turns: tuple[SpeakerTurn, ...]
    mouths: Mouths | None
    seen: np.ndarray
    scores: Mapping[int, np.ndarray] = field(default_factory=dict)


def find_turns(mouths: Iterable[Mouths], segment: SpeechSegment, sound: np.ndarray, sound_start: int,
               detector: SpeakerDetector) -> Conversation:
    """Who speaks when in a segment.

    sound: (S,) float32 from frame `sound_start` on, of the segment and of up to CONTEXT frames before and after it.
    """
    start, end, n_frames = segment.start_frame, segment.end_frame, segment.end_frame - segment.start_frame
    people = everybody(mouths, sound_start, max(end, sound_start + samples_to_frames(len(sound))))
    here, seen = slice(start - sound_start, end - sound_start), np.zeros(n_frames, bool)
    scores = {}
    for person, one in people.items():
        seen |= ~one.missing[here]
        silent = one.missing | sync.motionless(one.images, one.missing)         # a photograph says nothing
        if not silent[here].all():
            images = one.images if one.compared is None else one.compared
            scores[person] = detector.scores(images, sound, silent)[here]
    heard = sound[frames_to_samples(here.start) : frames_to_samples(here.stop)]
    speech, level_db = speech_of_frames(heard, n_frames), frame_levels(heard, n_frames)
    turns = cut_at_pauses(speaker_turns(scores, start, n_frames, speech), speech, level_db)
    return Conversation(tuple(turns), mouths_of_turns(people, turns), seen, scores)


def one_turn(mouths: Mouths | None, segment: SpeechSegment) -> Conversation:
    """A segment without sound, in which the person whose lips are read speaks."""
    persons = () if mouths is None else (mouths.person,)
    n_frames = segment.end_frame - segment.start_frame
    seen = np.zeros(n_frames, bool) if mouths is None else ~mouths.missing
    return Conversation((SpeakerTurn(segment.start_frame, segment.end_frame, persons),), mouths, seen)


def mouths_of_turns(people: Mapping[int, Mouths], turns: Sequence[SpeakerTurn]) -> Mouths | None:
    """In each frame of the turns, the mouth of the person whose turn it is; None where it is nobody's in all of them."""
    parts = [joined([people[turn.persons[0]]], turn.start_frame, turn.end_frame) for turn in turns if turn.persons]
    return choose_speaker(parts, turns[0].start_frame, turns[-1].end_frame) if parts else None
