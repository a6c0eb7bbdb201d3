"""Who speaks in recordings of strangers? Detectors of the active speaker against labels by eye and ear (wild_labels.json).

    uv run experiments/active_speaker/wild.py FOLDER --detector ours --detector lr-asd
Frames count in which there is speech, by the detector of speech, and a face that is labelled is seen. The rule of evaluate.py.
"Another's sound" is the sound of the next recording beside the picture of one person: nobody in sight speaks.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import evaluate
import numpy as np

from avsr import media
from avsr.faces import FaceTracker
from avsr.lips import MouthCropper, MouthCropSettings
from avsr.rates import frames_to_samples
from avsr.segment import speech_of_frames
from avsr.speakers import SpeakerDetector

LABELS = Path(__file__).resolve().parent / "wild_labels.json"
NEAR = 0.1                                         # of the width: how far a face may be from where its label says


@dataclass
class Person:
    """One face track: its crops by mouth-crop settings, and in each frame where it is; from frame `start` on."""

    start: int
    images: list[Any] = field(default_factory=list)
    missing: Any = field(default_factory=list)
    place: Any = field(default_factory=list)

    def whole(self) -> Person:
        """Its parts as one array each: images (T, N, N) of each of the settings, missing (T,), place (T,)."""
        images = [np.concatenate(parts) for parts in self.images]
        return Person(self.start, images, np.concatenate(self.missing), np.concatenate(self.place))


def main() -> None:
    """A line for each recording and detector, by how many speak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--detector", action="append")
    parser.add_argument("--whole", action="store_true", help="see evaluate.py")
    asked = parser.parse_args()
    detectors = {name: evaluate.open_detector(name, asked.whole) for name in asked.detector or ["correlation"]}
    wanted = list({detector.mouth_crop: None for detector in detectors.values()})
    labels = json.loads(LABELS.read_text(encoding="utf-8"))
    del labels["about"]
    print("| recording | who speaks | frames | " + " | ".join(f"{name}: % right" for name in detectors) + " |")
    print("|--|--|--|" + "--|" * len(detectors))
    sums: dict[str, np.ndarray] = {}
    following = dict(zip(labels, [*list(labels)[1:], next(iter(labels))], strict=True))
    for name, spans in labels.items():
        people, sound, n_frames = read(asked.folder / name, wanted)
        heard = {"own": (sound, spans)}
        if all(span["speaking"] is None for span in spans):
            other = media.read(asked.folder / following[name], want_video=False).audio
            heard["another's"] = np.resize(other, len(sound)), [{"frames": [0, n_frames], "speaking": []}]
        found: dict[str, list[tuple[int, int]]] = {}
        for detector in detectors.values():
            evaluate.remember_faces(detector)
            for whose, (audio, labelled) in heard.items():
                scores = [scores_of(person, detector, wanted, audio) for person in people]
                for kind, pair in counts(people, scores, labelled, speech_of_frames(audio, n_frames) > 0.5).items():
                    found.setdefault(kind if whose == "own" else "another's sound", []).append(pair)
        for kind, pairs in found.items():
            row = np.array(pairs)
            sums[kind] = sums.get(kind, 0) + row
            print(line(name, kind, row), flush=True)
    for kind, row in sums.items():
        print(line("all", kind, row))


def line(name: str, kind: str, pairs: np.ndarray) -> str:
    """A row of the table. pairs: (detectors, 2), frames right and frames."""
    shares = " | ".join("-" if not n else f"{100 * right / n:.0f}" for right, n in pairs)
    return f"| {name} | {kind} | {pairs[0, 1]} | {shares} |"


def read(path: Path, wanted: list[MouthCropSettings]) -> tuple[list[Person], np.ndarray, int]:
    """Everybody in a recording, its sound (S,) and its number of frames."""
    people: dict[int, Person] = {}
    croppers, sound, n_frames = [MouthCropper(settings) for settings in wanted], [], 0
    with FaceTracker(landmarks=wanted[0].landmarks) as tracker:
        for clip in [*media.windows(path, 50), None]:
            tracks = tracker.finish() if clip is None else tracker.update(clip)
            if clip is not None:
                sound.append(clip.audio)
                n_frames, width = clip.start_frame + clip.n_frames, clip.video.shape[2]
            for track in tracks:
                person = people.setdefault(track.person, Person(track.start_frame, [[] for _ in wanted]))
                person.place.append(track.box[:, ::2].mean(axis=1) / width)
            for i, cropper in enumerate(croppers):
                for mouths in cropper.finish(tracks) if clip is None else cropper.update(clip, tracks):
                    people[mouths.person].images[i].append(mouths.images)
                    if i == 0:
                        people[mouths.person].missing.append(mouths.missing)
    return [person.whole() for person in people.values() if person.missing], np.concatenate(sound), n_frames


def scores_of(person: Person, detector: SpeakerDetector, wanted: list[MouthCropSettings], sound: np.ndarray) -> np.ndarray:
    """The scores (T,) of a person, from the frame of the first on."""
    images, missing = person.images[wanted.index(detector.mouth_crop)], person.missing
    first, last = frames_to_samples(person.start), frames_to_samples(person.start + len(images))
    return detector.scores(images, np.pad(sound[first:last], (0, max(0, last - max(first, len(sound))))), missing)


def counts(people: list[Person], scores: list[np.ndarray], spans: list[dict], speech: np.ndarray) -> dict[str, tuple[int, int]]:
    """Frames right and frames, by how many speak: "one", "two at once", "nobody in sight"."""
    out: dict[str, tuple[int, int]] = {}
    places = [person.place for person in people]
    for span in spans:
        named = span["speaking"]
        kind = "one" if named is None else ("nobody in sight", "one", "two at once")[len(named)]
        for frame in np.flatnonzero(speech[: span["frames"][1]]):
            seen = [i for i, person in enumerate(people) if 0 <= frame - person.start < len(scores[i])
                    and np.isfinite(scores[i][frame - person.start])]
            near = np.array([[abs(places[i][frame - people[i].start] - one) < NEAR for one in named or ()] for i in seen])
            if frame < span["frames"][0] or not seen or (named and not near.any(axis=0).all()):
                continue                                    # or who speaks is not seen
            speaking = np.ones(len(seen), bool) if named is None else near.any(axis=1) if named else np.zeros(len(seen), bool)
            values = np.array([scores[i][frame - people[i].start] for i in seen])
            right, total = out.get(kind, (0, 0))
            out[kind] = right + is_right(values, speaking, kind), total + 1
    return out


def is_right(values: np.ndarray, speaking: np.ndarray, kind: str) -> bool:
    """Whether the scores (n,) of one frame tell who is speaking (n,) bool. One face may have two tracks for a moment."""
    if kind == "one":
        return bool(values.max() > 0 and speaking[values.argmax()])
    return bool(((values > 0) == speaking).all())


if __name__ == "__main__":
    main()
