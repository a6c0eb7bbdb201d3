"""What the search, rescoring and perplexity need of a language model: n-grams, LSTM and GPT all have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from avsr.arrays import Array
from avsr.text import SentencePieceTokenizer, Tokenizer

DESCRIPTION = "model.json"                                  # in the folder of a model of ours


@dataclass(frozen=True)
class TextScore:
    """How likely a text is to a language model.

    logprob: natural logarithm, the end of the sentence included. n_words, n_letters: of the normalised text, without its end;
    letters count the spaces between words. n_unknown: words that the model does not have, 0 where it scores parts of words;
    unknown_letters: the letters in them; unknown_logprob: what they have to do with logprob.
    """

    logprob: float
    n_words: int
    n_letters: int
    n_unknown: int = 0
    unknown_letters: int = 0
    unknown_logprob: float = 0.0


class FusionScorer(Protocol):
    """Both a decode.Scorer and a decode.PartialScorer, made for one search; see there."""

    weight: float

    def score(self, tokens: Array) -> Array: ...

    def score_partial(self, tokens: Array, candidates: Array) -> Array: ...

    def select(self, rows: Array, utterances: Array | None) -> None: ...


class LanguageModel(Protocol):
    """A model of text. name: what messages and rows call it, its path as the user wrote it."""

    name: str

    def check(self, tokenizer: Tokenizer | SentencePieceTokenizer) -> None:
        """Raises BadCheckpoint where the model cannot score the tokens of a recogniser with this tokenizer."""
        ...

    def scorer(self, tokenizer: Tokenizer | SentencePieceTokenizer, *, n_prompt: int, n_vocab: int,
               weight: float) -> FusionScorer:
        """A scorer for one search over `n_vocab` tokens, the first `n_prompt` of which are no text."""
        ...

    def score_texts(self, texts: Sequence[str]) -> list[TextScore]:
        """The score of each text as one sentence."""
        ...
