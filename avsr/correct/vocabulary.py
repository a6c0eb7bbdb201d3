"""N-best lists as one text for the network: pieces of words, with marks for the modality, the rank and the score of each text.

    {"a": [bin blue, been blue], "v": [bin blue]}  ->  <a1> <s2> bin blue <a2> <s3> been blue <v1> <s1> bin blue <eos>
The pieces are SentencePiece's (Kudo 2018), as in T5 (Raffel et al. 2020, arXiv 1910.10683).
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterable, Sequence
from pathlib import Path

from avsr.correct.lists import Lists
from avsr.errors import BadCheckpoint
from avsr.names import INPUT_MODALITIES
from avsr.text import CTC_LETTERS, SentencePieceTokenizer, write_sentencepiece

UNKNOWN, KEEP = "<unk>", "<keep>"                           # KEEP as the first piece: the text of the recogniser is left alone
MOST_RANKS = 6                                              # texts of a modality that there are marks for
MARKS = {modality: [f"<{modality}{rank}>" for rank in range(1, MOST_RANKS + 1)] for modality in INPUT_MODALITIES}
# Nats a letter above which a score has the next level. The first texts by tiny.en have 0.05 to 0.6, those by lips 0.03 to 1.
EDGES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
LEVELS = [f"<s{level}>" for level in range(len(EDGES) + 1)]
SPECIALS = [KEEP, *(mark for marks in MARKS.values() for mark in marks), *LEVELS]


def level_of(score: float) -> str:
    """The mark of a score, nats a letter (at most 0): `<s0>` is the surest."""
    return LEVELS[sum(not -score < edge for edge in EDGES) if math.isfinite(score) else len(EDGES)]


class Vocabulary:
    """The pieces of a corrector, and lists as such. end: also begins a text."""

    def __init__(self, path: Path | str):
        """Raises BadCheckpoint where the file is another tokenizer."""
        self.tokenizer = SentencePieceTokenizer(path)
        self.path, self.size, self.end = Path(path), self.tokenizer.n_tokens, self.tokenizer.end
        ids = {text: number for number, text in enumerate(self.tokenizer.texts)}
        if absent := [mark for mark in SPECIALS if mark not in ids]:
            raise BadCheckpoint(f"{path}: has no piece for {absent[0]}, by which a corrector's texts are marked.  Use a model "
                                "that avsr correct train made with this version.")
        self.ids = {mark: ids[mark] for mark in SPECIALS}
        self.keep = self.ids[KEEP]
        self.forbidden = (0, 1, *(number for mark, number in self.ids.items() if mark != KEEP))     # blank, unknown, marks

    def encode(self, text: str) -> list[int]:
        """The pieces of a normalised text, without end."""
        return self.tokenizer.encode(text) if text else []

    def decode(self, pieces: Sequence[int]) -> str:
        """The text of pieces; marks are left out."""
        marks = set(self.ids.values())
        return self.tokenizer.decode([piece for piece in pieces if piece not in marks]).strip()

    def encode_lists(self, lists: Lists, most: Sequence[int]) -> list[int]:
        """Lists as pieces. most: of how many texts by `a`, by `v` and by `av`."""
        out = []
        for modality, n in zip(INPUT_MODALITIES, most, strict=True):
            if modality in lists:
                found = zip(MARKS[modality], lists[modality].texts[:n], lists[modality].scores, strict=False)
                for mark, text, score in found:
                    out += [self.ids[mark], self.ids[level_of(score)], *self.encode(text)]
        return [*out, self.end]


def write_vocabulary(path: Path | str, texts: Iterable[str], n_pieces: int) -> Vocabulary:
    """Learn pieces of words from normalised texts, write them as a tokenizer.json, and open it. n_pieces: beside the marks."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    learner = tokenizers.Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=n_pieces, special_tokens=[UNKNOWN], unk_token=UNKNOWN, show_progress=False,
                                      initial_alphabet=list("\u2581" + CTC_LETTERS.strip() + string.digits + "."))
    learner.train_from_iterator(texts, trainer)
    scores = {piece: score for piece, score in json.loads(learner.to_str())["model"]["vocab"] if piece != UNKNOWN}
    write_sentencepiece(path, [UNKNOWN, *SPECIALS, *scores], scores)
    return Vocabulary(path)
