"""Words with times and confidences by two models: from sound and from lips, whichever finds the text likelier.

    words as the audio model writes and times them, the same words as the video model times them -> Words
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avsr.text import normalise
from avsr.transcript import Word


def merged(by_sound: Sequence[Word], by_lips: Sequence[Word]) -> list[Word]:
    """The words as the audio model writes them, with the times of the model that is surer of them on the whole.

    The confidence of a word is the higher one of the two, because either model alone may know it. Where the words of the two
    cannot be matched, those by sound stay as they are.
    """
    lead, out = lips_lead(by_sound, by_lips), []
    for word, own in matched(by_sound, by_lips):
        times = {"start": own[0].start, "end": own[-1].end} if own and lead else {}
        out.append(replace(word, confidence=max(word.confidence or 0.0, _mean_confidence(own)), **times) if own else word)
    return out


def matched(by_sound: Sequence[Word], by_lips: Sequence[Word]) -> list[tuple[Word, list[Word]]]:
    """Each word by sound with those of the same letters by lips: several for a number, none where they cannot be matched."""
    counts = [len(normalise(word.text).split()) for word in by_sound]
    spelt = [word for word in by_lips if normalise(word.text)]
    if sum(counts) != len(spelt):
        return [(word, []) for word in by_sound]
    out, at = [], 0
    for word, count in zip(by_sound, counts, strict=True):
        out.append((word, spelt[at:at + count]))
        at += count
    return out


def lips_lead(by_sound: Sequence[Word], by_lips: Sequence[Word]) -> bool:
    """Whether the video model is surer of the words on the whole, so that it times those that can be matched."""
    return _mean_confidence(by_lips) > _mean_confidence(by_sound)


def _mean_confidence(words: Sequence[Word]) -> float:
    sure = [word.confidence for word in words if word.confidence is not None]
    return sum(sure) / len(sure) if sure else 0.0
