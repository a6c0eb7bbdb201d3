"""Errors counted: texts or rows in, the fewest changes that turn references into hypotheses out, by jiwer.

    rows of {"reference", "hypothesis", "normaliser", ...}  ->  Score(errors, words, ...) of each
Both sides pass through the same normaliser. Pairs of texts are remembered: in a benchmark most come many times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from avsr.errors import AvsrError
from avsr.results import ResultRow
from avsr.text import NORMALISER, normalise, present_normaliser

Pair = tuple[str, str]                                      # reference, hypothesis, both normalised
REMEMBERED = 1 << 18                                        # texts, and pairs of them, of each unit: about 100 MB


@dataclass(frozen=True)
class Score:
    """Fewest changes that turn references into hypotheses; `words` counts the references' (or characters, for CER)."""

    errors: int
    words: int
    substitutions: int
    insertions: int
    deletions: int

    def __add__(self, other: Score) -> Score:
        return Score(self.errors + other.errors, self.words + other.words, self.substitutions + other.substitutions,
                     self.insertions + other.insertions, self.deletions + other.deletions)

    @property
    def percent(self) -> float | None:
        """Errors in 100 words, which may pass 100; None where the references have no word."""
        return 100 * self.errors / self.words if self.words else None


NOTHING = Score(0, 0, 0, 0, 0)


def word_errors(reference: str, hypothesis: str) -> Score:
    """Errors of one text in words, as written: normalise both sides first, or use `wer`.

    An empty reference has 0 words and each word of the hypothesis is an insertion.
    """
    return _word_errors([(reference, hypothesis)])[0]


def character_errors(reference: str, hypothesis: str) -> Score:
    """As `word_errors`, in characters, of which single spaces between words are some."""
    return _character_errors([(reference, hypothesis)])[0]


def scored(rows: Iterable[ResultRow], *, unit: str = "word", normaliser: Callable[[str], str] = normalise) -> list[Score]:
    """The errors of each row in "word"s, "character"s or "sentence"s (one error where any word is wrong, of one sentence).

    Raises AvsrError where rows name different normalisers, or one that this version does not have.
    """
    rows = list(rows)
    check_normaliser(rows, normaliser)
    spell = _spelt if normaliser is normalise else lru_cache(maxsize=None)(normaliser)
    pairs = [(spell(row.reference), spell(row.hypothesis)) for row in rows]
    if unit == "sentence":
        return [RIGHT if reference == hypothesis else WRONG for reference, hypothesis in pairs]
    known, count = _KNOWN[unit], _COUNT[unit]
    if len(known) > REMEMBERED:
        known.clear()
    new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    known.update(zip(new, count(new), strict=True))
    return [known[pair] for pair in pairs]


def check_normaliser(rows: Sequence[ResultRow], normaliser: Callable[[str], str] = normalise) -> None:
    """Raises AvsrError where rows name different normalisers, or one that is not `normaliser`."""
    named = Counter(present_normaliser(row.normaliser) for row in rows)
    if len(named) > 1:
        counts = " and ".join(f"{name} ({n} rows)" for name, n in named.most_common())
        raise AvsrError(f"rows to score: of {len(named)} normalisers, {counts}, whose rates cannot be compared.  "
                        "Score them apart, or make them again with one version of avsr.")
    if normaliser is normalise and named and NORMALISER not in named:
        (name,) = named
        raise AvsrError(f"rows to score: {len(rows)} of them are to be compared by the normaliser {name}, and this version "
                        f"has {NORMALISER}.  Use the version of avsr that wrote them.")


def empty_references(rows: Iterable[ResultRow], *, normaliser: Callable[[str], str] = normalise) -> int:
    """How many rows have a reference without a word once normalised: what is written for them counts as insertions."""
    spell = _spelt if normaliser is normalise else normaliser
    return sum(not spell(row.reference) for row in rows)


def spelt(row: ResultRow) -> Pair:
    """Reference and hypothesis of a row, normalised."""
    return _spelt(row.reference), _spelt(row.hypothesis)


_spelt = lru_cache(maxsize=REMEMBERED)(normalise)
RIGHT, WRONG = Score(0, 1, 0, 0, 0), Score(1, 1, 1, 0, 0)


def _word_errors(pairs: Sequence[Pair]) -> list[Score]:
    import jiwer

    if not pairs:
        return []
    return _scores(jiwer.process_words([one for one, _ in pairs], [one for _, one in pairs]))


def _character_errors(pairs: Sequence[Pair]) -> list[Score]:
    import jiwer

    if not pairs:
        return []
    return _scores(jiwer.process_characters([" ".join(one.split()) for one, _ in pairs],
                                            [" ".join(one.split()) for _, one in pairs]))


def _scores(found: Any) -> list[Score]:
    """Of each pair of texts, from jiwer's alignments: its counts are sums over all of them."""
    out = []
    for reference, chunks in zip(found.references, found.alignments, strict=True):
        substitutions = insertions = deletions = 0
        for chunk in chunks:
            if chunk.type == "substitute":
                substitutions += chunk.ref_end_idx - chunk.ref_start_idx
            elif chunk.type == "insert":
                insertions += chunk.hyp_end_idx - chunk.hyp_start_idx
            elif chunk.type == "delete":
                deletions += chunk.ref_end_idx - chunk.ref_start_idx
        out.append(Score(substitutions + insertions + deletions, len(reference), substitutions, insertions, deletions))
    return out


_COUNT: dict[str, Callable[[Sequence[Pair]], list[Score]]] = {"word": _word_errors, "character": _character_errors}
_KNOWN: dict[str, dict[Pair, Score]] = {unit: {} for unit in _COUNT}
