"""The material of an enrolment: segments of speech with words, mouths and sound, of one person, and why others are left out.

    Recordings -> label (cut, written by the ears, filtered, packed) -> one person's rows, with the given text if any
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from avsr import manifest
from avsr.dataset import ManifestRow
from avsr.enrol.texts import laid_over
from avsr.errors import AvsrError, counted
from avsr.label import LabelledCorpus, LabelLimits, LabelSettings, Recording, label
from avsr.label.labeller import SPEECH as CORPUS_SPEECH
from avsr.label.labels import Label, why_left_out
from avsr.lips import MouthCropSettings
from avsr.manifest import TimedWord, Utterance
from avsr.prepare import PrepareSettings
from avsr.rates import VIDEO_FPS
from avsr.runtime import Progress, n_cores, pick_device
from avsr.text import normalise
from avsr.train.forced_alignment import with_word_times

MIN_SECONDS = 5.0                     # of speech that can be used: 5 clips of GRID have 10 s
MIN_UTTERANCES = 3                    # so that one can be held out for the check
OTHERS_SHARE = 0.1                    # of the seconds that may be another person's, as where a face is given a second number
# More of the rest around speech than a corpus has, as lips alone are read in whole recordings. Of 32 clips of s4, cut with
# 0.2 s around, the lips got worse on whole clips (41.7 -> 58.3 % WER), and better on clips cut like that.
SPEECH = replace(CORPUS_SPEECH, pad=0.6)
LOOSE = LabelLimits(min_confidence=0.0, min_word_confidence=0.0, max_disagreement=1.0)


@dataclass(frozen=True)
class Material:
    """What an enrolment learns from. rows: of one person, in order. left_out: segments that are not used, by reason."""

    rows: list[ManifestRow]
    left_out: Counter[str]

    @property
    def seconds(self) -> float:
        """The length of all segments."""
        return sum(row.n_frames for row in self.rows) / VIDEO_FPS


def gather(recordings: Sequence[Recording], folder: Path, ears: str, *, texts: Mapping[str, str], mouth_crop: MouthCropSettings,
           limits: LabelLimits, device: str, progress: Progress) -> Material:
    """The material of these recordings, packed into `folder`. Raises AvsrError where there is too little, or of two people."""
    corpus = label(recordings, folder, settings=LabelSettings(ears, device=device, limits=limits, speech=SPEECH),
                   prepare=PrepareSettings(valid_share=0, mouth_crop=mouth_crop, workers=_workers(recordings)),
                   progress=progress)
    reasons = Counter(end.reason for end in corpus.ends if end.reason is not None)
    reasons += Counter(reason for one in corpus.labels if (reason := why_left_out(one, limits)) is not None)
    kept = {label.id: label for label in corpus.kept}
    rows = [row for row in corpus.prepared.utterances if row.id in kept]
    reasons["out of step: its lips do not make its sound"] += len(kept) - len(rows)
    _check_one_person([kept[row.id] for row in rows])
    rows = _with_texts(rows, texts) if texts else rows
    rows = [replace(row, speaker="enrolled", words=_comparable(row.words)) for row in rows
            if normalise(row.text) and row.cache is not None]
    found = [ManifestRow(row, folder) for row in rows]
    found = with_word_times(found, ears, folder / "words.jsonl", pick_device(device), progress) if texts else found
    material = Material(found, +reasons)
    _check_amount(material, corpus)
    return material


def _comparable(words: Sequence[TimedWord] | None) -> tuple[TimedWord, ...] | None:
    """The words as they are compared, so that "now" and "Now." get one frame label."""
    return None if words is None else tuple(replace(word, text=normalise(word.text)) for word in words)


def _workers(recordings: Sequence[Recording]) -> int:
    return min(n_cores(), len(recordings))


def _check_one_person(labels: Sequence[Label]) -> None:
    """Raises AvsrError where several people speak in one recording."""
    seconds: dict[str, Counter[int]] = defaultdict(Counter)
    for one in labels:
        if one.person is not None:
            seconds[one.media][one.person] += one.end_frame - one.start_frame
    for media, people in seconds.items():
        (_, most), *others = people.most_common()
        theirs = sum(n for _, n in others)
        if theirs > OTHERS_SHARE * (most + theirs):
            raise AvsrError(f"{media}: {len(people)} people speak in it, one for {most / VIDEO_FPS:.0f} s and "
                            f"{'another' if len(others) == 1 else 'others'} for {theirs / VIDEO_FPS:.0f} s.  Give videos in "
                            "which only the person to enrol speaks.")


def _with_texts(rows: Sequence[Utterance], texts: Mapping[str, str]) -> list[Utterance]:
    """The utterances with the words of the given texts in place of those that the ears wrote."""
    by_recording: dict[str, list[Utterance]] = defaultdict(list)
    for row in rows:
        by_recording[row.id.rpartition("@")[0]].append(row)
    out = []
    for name, theirs in by_recording.items():
        words = laid_over([row.text for row in theirs], texts[name], theirs[0].media)
        out += [replace(row, text=text, words=None, labels={**row.labels, "text_by": "user"})
                for row, text in zip(theirs, words, strict=True)]
    return out


def _check_amount(material: Material, corpus: LabelledCorpus) -> None:
    """Raises AvsrError where there is too little to learn from and to check."""
    if len(material.rows) >= MIN_UTTERANCES and material.seconds >= MIN_SECONDS:
        return
    why = ""
    if material.left_out:
        kinds: Counter[str] = Counter()
        for reason, n in material.left_out.items():
            kinds[reason] += n
        reason, n = kinds.most_common(1)[0]
        why = f"; {counted(sum(kinds.values()), 'segment')} left out, such as {n} because of this: {reason}"
    raise AvsrError(f"{counted(len(corpus.ends), 'video')}: {material.seconds:.1f} s of speech in "
                    f"{counted(len(material.rows), 'segment')} can be used (at least {MIN_SECONDS:g} s in {MIN_UTTERANCES} are "
                    f"needed){why}.  Give more clear video of the person speaking, with the face in sight and its own sound.")


def write_folds(material: Material, held_out: Sequence[int]) -> Path:
    """A manifest in which the rows with these numbers are split `valid` and the others `train`; without any, the first row
    is in both."""
    rows = [replace(row.utterance, split="valid" if number in held_out else "train")
            for number, row in enumerate(material.rows)]
    if not held_out:
        rows.append(replace(rows[0], id=f"{rows[0].id} again", split="valid"))
    path = material.rows[0].base / f"rows-{'-'.join(map(str, held_out[:1])) or 'all'}.jsonl"
    manifest.write(path, rows)
    return path
