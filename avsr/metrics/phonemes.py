"""Confusions of sounds and of mouth shapes: rows in, what was said against what was written out.

    text -> words -> phonemes (CMU's dictionary) [-> visemes] of whole utterances, aligned by jiwer  ->  Confusions
What lips cannot tell apart is one viseme: that bin was written for pin is no fault of the eye.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from avsr.assets import find
from avsr.errors import AvsrError
from avsr.metrics.counting import check_normaliser, spelt
from avsr.results import ResultRow

# Lee & Yook 2002, as tabulated by Cappelletta & Harte 2012: 13 visemes that share out all 39 phonemes of the dictionary.
VISEMES: dict[str, tuple[str, ...]] = {
    "P": ("P", "B", "M"),
    "F": ("F", "V"),
    "T": ("T", "D", "S", "Z", "TH", "DH"),
    "CH": ("CH", "JH", "SH", "ZH"),
    "K": ("K", "G", "N", "NG", "L", "Y", "HH"),
    "W": ("W", "R"),
    "IY": ("IY", "IH"),
    "EH": ("EH", "EY", "AE"),
    "AA": ("AA", "AW", "AY"),
    "AH": ("AH",),
    "AO": ("AO", "OY", "OW"),
    "UH": ("UH", "UW"),
    "ER": ("ER",),
}
PHONEMES = tuple(phoneme for group in VISEMES.values() for phoneme in group)      # ARPAbet without stress, alike ones together
OF_PHONEME = {phoneme: viseme for viseme, group in VISEMES.items() for phoneme in group}
CLASSES = ("viseme", "phoneme")
Dictionary = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Confusions:
    """counts: (n + 1, n + 1) int64, row said, column written, by `names` (n); last column left out, last row put in.

    unknown: words that the dictionary does not have, by how often they come on either side. They keep their place in the
    alignment, and what is aligned with them is not counted.  utterances: how many rows.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    unknown: Counter[str]
    utterances: int

    @property
    def rates(self) -> np.ndarray:
        """(n, n + 1) float64: of each class that was said, how much was written as which; NaN in rows never said."""
        said = self.counts[:-1].sum(axis=1, keepdims=True)
        return np.divide(self.counts[:-1], said, out=np.full(self.counts[:-1].shape, np.nan), where=said > 0)

    @property
    def percent(self) -> float | None:
        """Error rate in classes: all that is off the diagonal over all that was said. None where nothing was."""
        said = self.counts[:-1].sum()
        return 100 * float((self.counts.sum() - np.trace(self.counts)) / said) if said else None


@lru_cache(maxsize=1)
def pronunciations() -> Dictionary:
    """CMU's dictionary for American English: 126,052 words, each as it is said first. Raises MissingAsset."""
    found: dict[str, tuple[str, ...]] = {}
    for line in find("cmudict-en-us.dict").read_text(encoding="ascii").splitlines():
        word, *phonemes = line.split()
        if not word.endswith(")"):                          # else another way to say it: tomato(2)
            found[word] = tuple(phonemes)
    return found


def confusions(rows: Iterable[ResultRow], classes: str = "viseme", dictionary: Dictionary | None = None) -> Confusions:
    """What was said as what, over all rows, in "viseme"s or "phoneme"s; both sides through the normaliser.

    dictionary: word -> phonemes, ARPAbet without stress; by default CMU's, in which the letter a is said as the article is.
    """
    if classes not in CLASSES:
        raise AvsrError(f"confusions: no classes {classes!r}.  Choose one of {', '.join(CLASSES)}.")
    rows = list(rows)
    check_normaliser(rows)
    dictionary = pronunciations() if dictionary is None else dictionary
    names = tuple(VISEMES) if classes == "viseme" else PHONEMES
    numbers = {name: i for i, name in enumerate(names)}
    symbols = {phoneme: OF_PHONEME[phoneme] if classes == "viseme" else phoneme for phoneme in PHONEMES}
    unknown: Counter[str] = Counter()
    pairs: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
    for row in rows:
        pairs[tuple(_said(text, dictionary, symbols, unknown) for text in spelt(row))] += 1
    counts = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    nothing = len(names)
    for (said, written), times in _aligned(pairs).items():
        if not {said, written} - {None} <= set(names):
            continue
        counts[numbers.get(said, nothing), numbers.get(written, nothing)] += times
    return Confusions(names, counts, unknown, len(rows))


def _said(text: str, dictionary: Dictionary, symbols: Mapping[str, str], unknown: Counter[str]) -> tuple[str, ...]:
    """The classes of a text; a word that is not in the dictionary is one of its own, with a mark before it."""
    out: list[str] = []
    for word in text.split():
        if word in dictionary:
            out += (symbols[phoneme] for phoneme in dictionary[word])
        else:
            unknown[word] += 1
            out.append(f"?{word}")
    return tuple(out)


def _aligned(pairs: Counter[tuple[tuple[str, ...], tuple[str, ...]]]) -> Counter[tuple[str | None, str | None]]:
    """How often each class is aligned with each; None: with nothing. pairs: of sequences, and how often each comes."""
    import jiwer

    found: Counter[tuple[str | None, str | None]] = Counter()
    differ = {pair: times for pair, times in pairs.items() if pair[0] != pair[1]}
    for (said, written), times in pairs.items():
        if said == written:
            for one in said:
                found[one, one] += times
    if not differ:
        return found
    out = jiwer.process_words([" ".join(said) for said, _ in differ], [" ".join(written) for _, written in differ])
    for ((said, written), times), chunks in zip(differ.items(), out.alignments, strict=True):
        for chunk in chunks:
            ours = said[chunk.ref_start_idx:chunk.ref_end_idx] if chunk.type != "insert" else ()
            theirs = written[chunk.hyp_start_idx:chunk.hyp_end_idx] if chunk.type != "delete" else ()
            length = max(len(ours), len(theirs))
            for one, two in zip(ours or [None] * length, theirs or [None] * length, strict=True):
                found[one, two] += times
    return found
