"""Error counts: texts or rows in, the edit distance between reference and hypothesis out, by jiwer.

    rows  ->  Score(errors, words, ...) of each
Both sides pass through the same normaliser. Scores of text pairs are cached, because most pairs of a benchmark occur often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from avsr.errors import AvsrError
from avsr.results import ResultRow
from avsr.text import find_normaliser, present_normaliser

Pair = tuple[str, str]                                      # reference, hypothesis, both normalised
MAX_CACHED = 1 << 18                                        # texts, and pairs of texts of each unit: about 100 MB


@dataclass(frozen=True)
class Score:
    """Edit distance from references to hypotheses. words: those of the references, or their characters or sentences."""

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
        """Errors per 100 words, which may exceed 100; None where the references have no word."""
        return 100 * self.errors / self.words if self.words else None


NOTHING = Score(0, 0, 0, 0, 0)


def word_errors(reference: str, hypothesis: str) -> Score:
    """Word errors of one text as it is written; normalise both sides first, or use `wer`."""
    return _word_errors([(reference, hypothesis)])[0]


def scored(rows: Iterable[ResultRow], *, unit: str = "word") -> list[Score]:
    """The errors of each row, in units of "word", "character" (single spaces included) or "sentence" (1 if a word is wrong).

    Raises AvsrError if the rows name several normalisers, or one that this version does not have.
    """
    rows = list(rows)
    check_normaliser(rows)
    pairs = [normalised_pair(row) for row in rows]
    if unit == "sentence":
        return [RIGHT if reference == hypothesis else WRONG for reference, hypothesis in pairs]
    known, count = _CACHE[unit], _COUNT[unit]
    if len(known) > MAX_CACHED:
        known.clear()
    new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    known.update(zip(new, count(new), strict=True))
    return [known[pair] for pair in pairs]


def check_normaliser(rows: Sequence[ResultRow]) -> None:
    """Raise AvsrError if rows name different normalisers."""
    named = Counter(present_normaliser(row.normaliser) for row in rows)
    if len(named) > 1:
        counts = " and ".join(f"{name} ({n} rows)" for name, n in named.most_common())
        raise AvsrError(f"rows to score: of {len(named)} normalisers, {counts}, whose rates cannot be compared.  "
                        "Score them apart, or make them again with one version of avsr.")


def empty_references(rows: Iterable[ResultRow]) -> int:
    """How many rows have a reference without a word once normalised, so that all words of the hypothesis are insertions."""
    return sum(not normalised_pair(row)[0] for row in rows)


def normalised_pair(row: ResultRow) -> Pair:
    """The normalised reference and hypothesis of a row."""
    normalised = _cached_normaliser(row.normaliser)
    return normalised(row.reference), normalised(row.hypothesis)


@cache
def _cached_normaliser(name: str | None) -> Callable[[str], str]:
    return lru_cache(maxsize=MAX_CACHED)(find_normaliser(present_normaliser(name)))


RIGHT, WRONG = Score(0, 1, 0, 0, 0), Score(1, 1, 1, 0, 0)


def _word_errors(pairs: Sequence[Pair]) -> list[Score]:
    import jiwer

    return _scores(jiwer.process_words([one for one, _ in pairs], [one for _, one in pairs])) if pairs else []


def _character_errors(pairs: Sequence[Pair]) -> list[Score]:
    import jiwer

    ours, theirs = ([" ".join(pair[side].split()) for pair in pairs] for side in (0, 1))
    return _scores(jiwer.process_characters(ours, theirs)) if pairs else []


def _scores(found: Any) -> list[Score]:
    """The score of each pair of texts, from jiwer's alignments; jiwer's own counts are sums over all pairs."""
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
_CACHE: dict[str, dict[Pair, Score]] = {unit: {} for unit in _COUNT}
