"""Word error rate and right speakers of per-speaker text on conversations made of GRID, for several shortest pieces.

    GRID -> conversations -> speaker turns -> pieces -> words with speakers -> a line for each kind and shortest piece
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import conversations
import jiwer
import numpy as np
from conversations import NOBODY, Conversation

from avsr import checkpoint, media, sync
from avsr.modality import VideoUse
from avsr.rates import VIDEO_FPS, frames_to_samples, samples_to_frames
from avsr.recogniser import Recogniser
from avsr.speakers import ActiveSpeakerDetector, find_turns, split
from avsr.stream import StreamReader, Window
from avsr.text import normalise
from avsr.transcribe import run, speakers, transcriber

WHOLE = 10**6                                               # frames: no segment is cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="GRID, with splits.tsv")
    parser.add_argument("--cache", type=Path, default=Path("data/speaker_text"), help="folder for the crops (60 MB)")
    parser.add_argument("--kind", nargs="*", choices=conversations.KINDS)
    parser.add_argument("--number", type=int, default=6, help="conversations of each kind")
    parser.add_argument("--shortest", type=int, nargs="*", default=[1, 13, 25, 50, WHOLE], help="frames of the shortest piece")
    parser.add_argument("--model", default="default")
    parser.add_argument("--modality", default="av")
    parser.add_argument("--oracle", action="store_true", help="turns by what is known in place of the detector")
    parser.add_argument("--turns-only", action="store_true", help="frames with the right speaker, without a recogniser")
    asked = parser.parse_args()
    people, model = conversations.read(asked.grid), None if asked.turns_only else checkpoint.load(asked.model)
    for kind in asked.kind or conversations.KINDS:
        made = [conversations.make(people, kind, i) for i in range(asked.number)]
        found = [windows(one, asked.cache) for one in made]
        if asked.oracle:
            found = [windows(one, asked.cache, columns(one, there)) for one, there in zip(made, found, strict=True)]
        right = np.mean([right_frames(*pair) for pair in zip(made, found, strict=True)])
        print(f"{kind}: frames with the right speaker {right:.1%}, "
              f"turns {sum(len(window.turns or ()) for one in found for window in one)} of {len(made) * 6}")
        for shortest in [] if model is None else asked.shortest:
            start = time.process_time()
            rows = [words_right(one, transcribed(one, there, model, asked.modality, shortest))
                    for one, there in zip(made, found, strict=True)]
            n_words, errors, right, n_pieces = (sum(row[i] for row in rows) for i in range(4))
            print(f"  shortest {shortest:7d}: WER {errors / n_words:.1%}, right words with the right speaker "
                  f"{right / n_words:.1%}, {n_pieces} pieces, {time.process_time() - start:.0f} s of CPU", flush=True)


class Oracle:
    """Scores of the person in a column, by what is known."""

    def __init__(self, conversation: Conversation, first: int, places: list[int]):
        self.conversation, self.first, self.places = conversation, first, places

    def scores(self, images: np.ndarray, audio: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
        place = self.places.pop(0)
        heard = [truth(self.conversation, (self.first + i + 0.5) / VIDEO_FPS) for i in range(len(images))]
        return np.array([3.0 if one == place else -3.0 for one in heard])


def windows(conversation: Conversation, cache: Path, place: dict[int, int] | None = None) -> list[Window]:
    """The segments of a conversation with their turns, as StreamReader gives them, from crops that are kept. place: the column
    of each person, by which their turns are known."""
    mouths, out = conversations.crops(conversation, cache), []
    with media.open_recording(conversation.audio) as recording:
        for window in StreamReader(recording, None):
            first = max(0, window.segment.start_frame - split.CONTEXT)
            last = window.segment.end_frame + split.CONTEXT
            sound = conversation.audio[frames_to_samples(first) : frames_to_samples(last)]
            detector = ActiveSpeakerDetector()
            if place is not None:
                seen = split.everybody(mouths, first, max(window.segment.end_frame, first + samples_to_frames(len(sound))))
                moving = [one for one in seen if not (seen[one].missing | sync.motionless(seen[one].images, seen[one].missing))[
                    window.segment.start_frame - first : window.segment.end_frame - first].all()]
                detector = Oracle(conversation, first, [place.get(one, -2) for one in moving])
            found = find_turns(mouths, window.segment, sound, first, detector)
            out.append(Window(window.segment, window.audio, found.mouths, turns=found.turns, seen=found.seen))
    return out


def columns(conversation: Conversation, found: list[Window]) -> dict[int, int]:
    """The column of each person, by where most of his turns lie."""
    votes: dict[int, Counter[int]] = {}
    for window in found:
        for turn in window.turns or ():
            for person in turn.persons[:1]:
                for frame in range(turn.start_frame, turn.end_frame):
                    votes.setdefault(person, Counter())[truth(conversation, frame / VIDEO_FPS)] += 1
    return {person: max((n, column) for column, n in count.items() if column is not None and column != NOBODY)[1]
            for person, count in votes.items() if any(column not in (None, NOBODY) for column in count)}


def truth(conversation: Conversation, second: float) -> int | None:
    """Who is heard at a time: a column, NOBODY for off screen, None in a pause."""
    return next((one.column for one in conversation.sentences if one.start <= second < one.end), None)


def right_frames(conversation: Conversation, found: list[Window]) -> float:
    """Share of the frames of speech whose turn is that of exactly the one who is heard."""
    place, n, right = columns(conversation, found), 0, 0
    for window in found:
        for turn in window.turns or ():
            said = {place.get(person, -2) for person in turn.persons} or {NOBODY}
            for frame in range(turn.start_frame, turn.end_frame):
                heard = truth(conversation, (frame + 0.5) / VIDEO_FPS)
                if heard is not None:
                    n, right = n + 1, right + (said == {heard})
    return right / max(1, n)


def transcribed(conversation: Conversation, found: list[Window], model, modality: str, shortest: int):
    """The segments of text of a conversation, with `persons` of each, and how many pieces were recognised."""
    options = run.TranscribeSettings(speakers=True)
    with media.open_recording(conversation.clip()) as recording:
        use = VideoUse(model, recording, modality, max_missing=0.25, only_in_distribution=False)
    writer = transcriber.Transcriber(Recogniser(model), modality, "en", options, use)
    writer.speaker_names = Persons()
    cut = [piece for window in found for piece in speakers.pieces(window, shortest)]
    transcriber.pieces = lambda window: [window]
    return list(writer.transcribe(cut)), columns(conversation, found), len(cut)


class Persons(speakers.SpeakerNames):
    """Keeps the persons of a segment in place of their names."""

    def name(self, segment, persons):
        return segment, persons


def words_right(conversation: Conversation, found) -> tuple[int, int, int, int]:
    """Words of the reference, word errors, right words with exactly the right speaker, pieces."""
    segments, place, n_pieces = found
    reference = [(word, one.column) for one in conversation.sentences for word in one.text.split()]
    said = [(word, {place.get(person, -2) for person in persons} or {NOBODY})
            for segment, persons in segments for word in normalise(segment.text).split()]
    result = jiwer.process_words(" ".join(word for word, _ in reference), " ".join(word for word, _ in said) or "-")
    right = sum(said[chunk.hyp_start_idx + i][1] == {reference[chunk.ref_start_idx + i][1]}
                for chunk in result.alignments[0] if chunk.type == "equal"
                for i in range(chunk.ref_end_idx - chunk.ref_start_idx))
    return len(reference), result.substitutions + result.insertions + result.deletions, right, n_pieces


if __name__ == "__main__":
    main()
