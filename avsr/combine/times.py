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
    lips_lead = _mean_confidence(by_lips) > _mean_confidence(by_sound)
    counts = [len(normalise(word.text).split()) for word in by_sound]
    spelt = [word for word in by_lips if normalise(word.text)]
    if sum(counts) != len(spelt):
        return list(by_sound)
    out, at = [], 0
    for word, count in zip(by_sound, counts, strict=True):
        own, at = spelt[at:at + count], at + count
        if not own:
            out.append(word)
            continue
        confidence = max(word.confidence or 0.0, _mean_confidence(own))
        times = {"start": own[0].start, "end": own[-1].end} if lips_lead else {}
        out.append(replace(word, confidence=confidence, **times))
    return out


def _mean_confidence(words: Sequence[Word]) -> float:
    sure = [word.confidence for word in words if word.confidence is not None]
    return sum(sure) / len(sure) if sure else 0.0
