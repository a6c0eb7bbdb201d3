"""Confusions of phonemes and visemes: rows in, a matrix of what was said against what was written out.

    text -> words -> phonemes (CMU's dictionary) [-> visemes] of whole utterances, aligned by jiwer  ->  Confusions
Phonemes that look alike on the lips are one viseme: bin for pin is no viseme error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from avsr.assets import find
from avsr.errors import AvsrError
from avsr.metrics.counting import check_normaliser, normalised_pair
from avsr.results import ResultRow

# Lee & Yook 2002, as tabulated by Cappelletta & Harte 2012: 13 visemes, which cover all 39 phonemes of the dictionary.
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
PHONEMES = tuple(phoneme for group in VISEMES.values() for phoneme in group)      # ARPAbet without stress, by viseme
VISEME_OF_PHONEME = {phoneme: viseme for viseme, group in VISEMES.items() for phoneme in group}
CLASSES = ("viseme", "phoneme")
Dictionary = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Confusions:
    """counts: (n + 1, n + 1) int64, rows said and columns written, by `names` (n); deletions and insertions come last.

    unknown: words that are not in the dictionary, and how often they occur on either side. They keep their place in the
    alignment, and what is aligned with them is not counted.  utterances: the number of rows.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    unknown: Counter[str]
    utterances: int

    @property
    def rates(self) -> np.ndarray:
        """(n, n + 1) float64: the share of each said class that was written as each class; NaN for classes never said."""
        said = self.counts[:-1].sum(axis=1, keepdims=True)
        return np.divide(self.counts[:-1], said, out=np.full(self.counts[:-1].shape, np.nan), where=said > 0)

    @property
    def percent(self) -> float | None:
        """Error rate in classes: everything off the diagonal over everything said. None where nothing was said."""
        said = self.counts[:-1].sum()
        return 100 * float((self.counts.sum() - np.trace(self.counts)) / said) if said else None


@lru_cache(maxsize=1)
def pronunciations() -> Dictionary:
    """CMU's dictionary of American English: 126,052 words, each with its first pronunciation. Raises MissingAsset."""
    found: dict[str, tuple[str, ...]] = {}
    for line in find("cmudict-en-us.dict").read_text(encoding="ascii").splitlines():
        word, *phonemes = line.split()
        if not word.endswith(")"):                          # tomato(2) is another pronunciation
            found[word] = tuple(phonemes)
    return found


def confusions(rows: Iterable[ResultRow], classes: str = "viseme", dictionary: Dictionary | None = None) -> Confusions:
    """The confusions of classes, "viseme" or "phoneme", over all rows; both sides pass through the normaliser.

    dictionary: word -> phonemes, ARPAbet without stress; by default CMU's, which pronounces the letter a as the article.
    """
    if classes not in CLASSES:
        raise AvsrError(f"confusions: no classes {classes!r}.  Choose one of {', '.join(CLASSES)}.")
    rows = list(rows)
    check_normaliser(rows)
    dictionary = pronunciations() if dictionary is None else dictionary
    names = tuple(VISEMES) if classes == "viseme" else PHONEMES
    numbers: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    symbols = {phoneme: VISEME_OF_PHONEME[phoneme] if classes == "viseme" else phoneme for phoneme in PHONEMES}
    unknown: Counter[str] = Counter()
    pairs: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
    for row in rows:
        said, written = (_classes(text, dictionary, symbols, unknown) for text in normalised_pair(row))
        pairs[said, written] += 1
    counts = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    nothing = len(names)
    for (said, written), times in _aligned(pairs).items():
        if not {said, written} - {None} <= set(names):
            continue
        counts[numbers.get(said, nothing), numbers.get(written, nothing)] += times
    return Confusions(names, counts, unknown, len(rows))


def _classes(text: str, dictionary: Dictionary, symbols: Mapping[str, str], unknown: Counter[str]) -> tuple[str, ...]:
    """The classes of a text; a word that is not in the dictionary is a class of its own, with a question mark before it."""
    out: list[str] = []
    for word in text.split():
        if word in dictionary:
            out += (symbols[phoneme] for phoneme in dictionary[word])
        else:
            unknown[word] += 1
            out.append(f"?{word}")
    return tuple(out)


def _aligned(pairs: Counter[tuple[tuple[str, ...], tuple[str, ...]]]) -> Counter[tuple[str | None, str | None]]:
    """How often each class is aligned with each other, or with nothing (None). pairs: sequences and how often they occur."""
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
