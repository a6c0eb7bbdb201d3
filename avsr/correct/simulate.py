"""Lists for texts that nobody said: the errors of a recogniser, measured word by word on real lists, put onto other texts.

    LabelledLists of a recogniser -> Confusions;  text -> lists as that recogniser might have made them
A column is what all texts of an utterance's lists have for one word of the reference, so that errors which go together stay
together, as in a confusion network (Mangu, Brill and Stolcke 2000).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avsr.correct.lists import LabelledLists, Lists, NBest
from avsr.metrics import word_errors

Column = dict[str, tuple[str, ...]]
"""By modality, the words that each text has in place of one word of the reference; a word may be missing, or be several."""


def columns(one: LabelledLists) -> list[Column]:
    """The column of each word of the reference."""
    words = one.reference.split()
    parts = {modality: [aligned(words, text.split()) for text in found.texts] for modality, found in one.lists.items()}
    return [{modality: tuple(text[i] for text in texts) for modality, texts in parts.items()} for i in range(len(words))]


def aligned(reference: Sequence[str], words: Sequence[str]) -> list[str]:
    """For each word of the reference the words in its place, by the edit distance; inserted words go with the word before."""
    import jiwer

    out = [""] * len(reference)
    if not words:
        return out
    for chunk in jiwer.process_words(" ".join(reference), " ".join(words)).alignments[0]:
        said, heard = range(chunk.ref_start_idx, chunk.ref_end_idx), words[chunk.hyp_start_idx:chunk.hyp_end_idx]
        if chunk.type == "insert":
            at = max(0, chunk.ref_start_idx - 1)
            out[at] = " ".join(filter(None, [out[at], *heard])) if chunk.ref_start_idx else " ".join([*heard, out[at]])
        for i, word in zip(said, heard, strict=False):
            out[i] = f"{out[i]} {word}".strip()
    return out


@dataclass(frozen=True)
class _Example:
    lists: LabelledLists
    columns: list[Column]
    kind: tuple[int, int]


class Confusions:
    """What a recogniser made of words, from real lists."""

    def __init__(self, real: Sequence[LabelledLists]):
        examples = [_Example(one, columns(one), kind_of(one)) for one in real if one.reference and one.lists]
        self.examples = examples
        self.by_word: dict[tuple[tuple[int, int] | None, str], list[Column]] = defaultdict(list)
        self.by_kind: dict[tuple[int, int], list[tuple[str, Column]]] = defaultdict(list)
        for one in examples:
            for word, column in zip(one.lists.reference.split(), one.columns, strict=True):
                self.by_word[one.kind, word].append(column)
                self.by_word[None, word].append(column)
                self.by_kind[one.kind].append((word, column))

    def simulate(self, text: str, rng: np.random.Generator, template: int | None = None) -> Lists:
        """Lists for a text. template: the number of the example whose scores they get, and whose kind of noise; any if None."""
        model = self.examples[int(rng.integers(len(self.examples))) if template is None else template]
        chosen = [self._column(word, model.kind, rng) for word in text.split()]
        out = {}
        for modality, found in model.lists.lists.items():
            texts: dict[str, float] = {}
            for rank, score in enumerate(found.scores):
                words = [_at(one, modality, rank, word) for one, word in zip(chosen, text.split(), strict=True)]
                texts.setdefault(" ".join(filter(None, words)), score)
            out[modality] = NBest(tuple(texts), tuple(texts.values()))
        return out

    def _column(self, word: str, kind: tuple[int, int], rng: np.random.Generator) -> Column:
        """A column of the word in this kind of noise; else in any; else another word's, with this word where that was right."""
        for key in ((kind, word), (None, word)):
            if known := self.by_word.get(key):
                return known[int(rng.integers(len(known)))]
        other, column = self.by_kind[kind][int(rng.integers(len(self.by_kind[kind])))]
        return {modality: tuple(word if one == other else one for one in texts) for modality, texts in column.items()}


def _at(column: Column, modality: str, rank: int, word: str) -> str:
    texts = column.get(modality)
    return word if not texts else texts[min(rank, len(texts) - 1)]


def kind_of(one: LabelledLists) -> tuple[int, int]:
    """How well an utterance was heard and seen: the share of errors of the first text by sound and by lips, in three steps."""
    def step(modality: str) -> int:
        found = one.lists.get(modality)
        if found is None:
            return 3
        share = word_errors(one.reference, found.texts[0]).errors / len(one.reference.split())
        return int(share > 0) + int(share > 0.5)

    return step("a"), step("v")
