"""What was found of the people in a recording: where each is seen, and who speaks when; and the same as JSON.

    parts of face tracks, scores, turns -> SpeakerTimeline -> JSON
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from avsr.rates import VIDEO_FPS, frames_to_seconds
from avsr.speakers.turns import SpeakerTurn


@dataclass(frozen=True)
class Stretch:
    """A stretch of consecutive frames in which a person is followed. All pixels are those of the recording, upright.

    start_frame: number of its first frame, at VIDEO_FPS from the start of the recording
    box: (T, 4) float32 x, y, width, height in pixels: the face from chin to forehead; may reach outside the picture
    mouth: (T, 2) float32 x, y in pixels: the middle of the mouth
    size: (T,) float32: side in pixels of the square as large as the box
    missing: (T,) bool: True where the face was not found, and box and mouth are interpolated
    quality: (T,) float32 in 0..1: steadiness of the face; 0 where it is missing, or turned so far that lips cannot be read
    score: (T,) float32 log-odds that this person speaks, above 0 if likely; NaN where nobody speaks or the mouth is not seen
    """

    start_frame: int
    box: np.ndarray
    mouth: np.ndarray
    size: np.ndarray
    missing: np.ndarray
    quality: np.ndarray
    score: np.ndarray

    @property
    def end_frame(self) -> int:
        """One past the number of the last frame."""
        return self.start_frame + len(self.box)


@dataclass(frozen=True)
class Person:
    """Somebody who is seen. label: SPEAKER_NN for who speaks, in the order of their first turns; else PERSON_NN.

    number: as face tracks have it, from 0. speech_s: seconds in which this person speaks. stretches: in order of time.
    """

    number: int
    label: str
    speech_s: float
    stretches: tuple[Stretch, ...]


@dataclass(frozen=True)
class SpeakerTimeline:
    """The people in a recording.

    recording: its name. duration_s: its length in seconds. size: width and height of its upright picture in pixels.
    turns: who speaks when, in order; in a turn without persons somebody speaks who is not seen. offset_frames: frames by which
    the lips come after the sound, by which scores are moved; 0 where they are in step. notices: what the user should know.
    """

    recording: str
    duration_s: float
    size: tuple[int, int]
    persons: tuple[Person, ...]
    turns: tuple[SpeakerTurn, ...]
    offset_frames: int = 0
    notices: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[int, str]:
        """The label of each person by number."""
        return {person.number: person.label for person in self.persons}

    def to_json(self, *, every: int = 1) -> str:
        """The timeline as JSON, with the first of every `every` frames of a stretch.

        recording, duration (seconds), fps (frames a second that times are counted in), size [width, height], notices;
        persons: number, label, speech (seconds), stretches: start and end in seconds, and columns of the same length: time
        (seconds), box [x, y, width, height], mouth [x, y] and size in pixels, missing (true where the face was not found),
        quality (0 to 1; 0 where lips cannot be read), score (log-odds that this person speaks, null where nobody speaks);
        turns: start and end in seconds, persons (labels, the likeliest first; none where the speaker is not seen).
        """
        labels = self.labels
        table = {
            "recording": self.recording, "duration": round(self.duration_s, 3), "fps": VIDEO_FPS, "size": list(self.size),
            "lips_after_sound": frames_to_seconds(self.offset_frames),
            "persons": [{"number": person.number, "label": person.label, "speech": round(person.speech_s, 2),
                         "stretches": [_columns(stretch, every) for stretch in person.stretches]} for person in self.persons],
            "turns": [{"start": frames_to_seconds(turn.start_frame), "end": frames_to_seconds(turn.end_frame),
                       "persons": [labels[number] for number in turn.persons]} for turn in self.turns],
            "notices": list(self.notices),
        }
        return json.dumps(table, ensure_ascii=False) + "\n"


def _columns(stretch: Stretch, every: int) -> dict[str, object]:
    here = slice(None, None, every)
    return {"start": frames_to_seconds(stretch.start_frame), "end": frames_to_seconds(stretch.end_frame),
            "time": [frames_to_seconds(frame) for frame in range(stretch.start_frame, stretch.end_frame)[here]],
            "box": _rounded(stretch.box[here]), "mouth": _rounded(stretch.mouth[here]), "size": _rounded(stretch.size[here]),
            "missing": stretch.missing[here].tolist(), "quality": _rounded(stretch.quality[here], 2),
            "score": [round(value, 2) if np.isfinite(value) else None for value in stretch.score[here].tolist()]}


def _rounded(values: np.ndarray, digits: int = 1) -> list:
    return np.round(values.astype(np.float64), digits).tolist()


def labels_of(numbers: Iterable[int], turns: Sequence[SpeakerTurn]) -> dict[int, str]:
    """SPEAKER_NN for those who have a turn, in the order of their first one; PERSON_NN for the others, in order of number."""
    speakers = list(dict.fromkeys(number for turn in turns for number in turn.persons))
    others = [number for number in sorted(numbers) if number not in speakers]
    return {number: f"{kind}_{i:02d}" for kind, those in (("SPEAKER", speakers), ("PERSON", others))
            for i, number in enumerate(those)}


def joined_turns(turns: Sequence[SpeakerTurn]) -> tuple[SpeakerTurn, ...]:
    """The same turns, those of the same persons joined that follow each other without a pause."""
    out: list[SpeakerTurn] = []
    for turn in turns:
        if out and out[-1].end_frame == turn.start_frame and set(out[-1].persons) == set(turn.persons):
            turn = SpeakerTurn(out.pop().start_frame, turn.end_frame, turn.persons)
        out.append(turn)
    return tuple(out)


def joined_stretches(parts: Sequence[Stretch], scores: Mapping[int, np.ndarray]) -> tuple[Stretch, ...]:
    """The stretches of one person, whose parts follow each other in time, with the scores (T,) that begin at each frame."""
    ends = [i for i, (part, following) in enumerate(pairwise(parts), 1) if part.end_frame != following.start_frame]
    edges = [0, *ends, len(parts)]
    out = []
    for low, high in pairwise(edges):
        arrays = [np.concatenate([getattr(part, name) for part in parts[low:high]])
                  for name in ("box", "mouth", "size", "missing", "quality", "score")]
        stretch = Stretch(parts[low].start_frame, *arrays)
        for start, values in scores.items():
            first, last = max(start, stretch.start_frame), min(start + len(values), stretch.end_frame)
            if first < last:
                stretch.score[first - stretch.start_frame : last - stretch.start_frame] = values[first - start : last - start]
        stretch.score[~np.isfinite(stretch.score)] = np.nan
        out.append(stretch)
    return tuple(out)
