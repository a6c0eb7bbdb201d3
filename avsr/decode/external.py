"""What helps a search from outside the network: language models in the search or on n-best lists, and hotwords.

    names as the user gives them -> open_external -> fields of DecodeOptions -> scorers of a search; scores of whole texts
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from avsr.decode.hotwords import Hotwords, HotwordScorer, Vocabulary
from avsr.decode.options import DecodeOptions
from avsr.errors import AvsrError
from avsr.lm import FusionScorer, LanguageModel, open_language_model
from avsr.runtime import Progress, no_progress
from avsr.text import SentencePieceTokenizer, Tokenizer

AnyTokenizer = Tokenizer | SentencePieceTokenizer
# Each help of a search and its weight, as options of commands and fields of DecodeOptions.
HELPS = {"lm": "lm_weight", "rescore": "rescore_weight", "hotwords": "hotword_weight"}
NAMES = {"lm": "language model", "rescore": "language model", "hotwords": "list of words"}


def check_weights(options: Any) -> None:
    """Raises AvsrError for a weight that is out of range, or without what it weighs. options: has the fields of HELPS."""
    for name, weight in HELPS.items():
        value = getattr(options, weight)
        if value is not None and not 0 <= value <= 100:
            raise AvsrError(f"{weight} {value}: must be from 0 to 100.  Leave it out for the usual one.")
        if value is not None and getattr(options, name) is None:
            raise AvsrError(f"{weight} {value}: there is no {NAMES[name]} for it.  Name one with --{name}.")


def helps_of(options: Any) -> dict[str, Any]:
    """The helps and their weights among the fields of `options`."""
    return {name: getattr(options, name) for pair in HELPS.items() for name in pair}


def open_external(options: Any, tokenizer: AnyTokenizer, progress: Progress = no_progress) -> dict[str, Any]:
    """The fields of DecodeOptions for what `options` (with the fields of HELPS) names. Raises AvsrError, also where a language
    model scores tokens of another tokenizer. Rescoring takes any model, because it scores whole texts."""
    check_weights(options)
    found = helps_of(options)
    for name in ("lm", "rescore"):
        asked = getattr(options, name)
        found[name] = open_language_model(asked, progress) if isinstance(asked, str | Path) else asked
    if found["lm"] is not None:
        found["lm"].check(tokenizer)
    asked = options.hotwords
    found["hotwords"] = asked if asked is None or isinstance(asked, Hotwords) else Hotwords.parse(asked)
    return found


def scorers(options: DecodeOptions, tokenizer: AnyTokenizer, *, n_prompt: int, n_vocab: int) -> list[FusionScorer]:
    """The scorers that join one search."""
    found: list[FusionScorer] = []
    if options.lm is not None and options.lm_weight:
        found.append(options.lm.scorer(tokenizer, n_prompt=n_prompt, n_vocab=n_vocab, weight=options.lm_weight))
    if options.hotwords is not None and options.hotword_weight:
        found.append(HotwordScorer(options.hotwords, _vocabulary(tokenizer, n_vocab), end=tokenizer.end, n_prompt=n_prompt,
                                   weight=options.hotword_weight))
    return found


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: AnyTokenizer, n_vocab: int) -> Vocabulary:
    return Vocabulary([*tokenizer.texts, *[""] * (n_vocab - len(tokenizer.texts))])


def joins_search(options: DecodeOptions) -> bool:
    """Whether the sums of a search hold more than the network's own scores."""
    return bool((options.lm is not None and options.lm_weight) or (options.hotwords is not None and options.hotword_weight))


def rescored(options: DecodeOptions, texts: Sequence[str]) -> list[float]:
    """What the model for rescoring adds to the score of each text: its weighted log-probability; 0 where there is none."""
    return _weighted(options.rescore, options.rescore_weight, texts)


def text_scores(options: DecodeOptions, texts: Sequence[str]) -> list[float]:
    """What all helps together add to the score of each whole text, for texts that no search of this network has written."""
    total = [a + b for a, b in zip(_weighted(options.lm, options.lm_weight, texts), rescored(options, texts), strict=True)]
    if options.hotwords is not None:
        total = [one + options.hotword_weight * options.hotwords.units(text) for one, text in zip(total, texts, strict=True)]
    return total


def _weighted(model: LanguageModel | None, weight: float, texts: Sequence[str]) -> list[float]:
    if model is None or not weight or not texts:
        return [0.0] * len(texts)
    return [weight * one.logprob for one in model.score_texts(texts)]
