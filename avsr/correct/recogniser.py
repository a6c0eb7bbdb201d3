"""`CorrectedRecogniser`: any recogniser with a corrector after it (`--correct`), used like a Recogniser.

    memory -> n-best lists -> Corrector -> the corrected words, as the recogniser writes them -> Hypothesis
Times are those of the corrected text, aligned by the recogniser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from avsr.combine.memory import CombinedMemory
from avsr.combine.recogniser import CombinedRecogniser
from avsr.combine.spelling import Candidate, SpellingSearch
from avsr.correct.corrector import Correction, Corrector
from avsr.correct.lists import FoundLists, read_lists
from avsr.decode import DecodeOptions, Hypothesis
from avsr.memory import Memory
from avsr.recogniser import Audio, Recogniser, Video
from avsr.text import normalise, target_tokens
from avsr.transcript import Word

LANGUAGE = "en"                                             # the only one whose letters a corrector has


class CorrectedRecogniser(Recogniser):
    """A recogniser whose texts a corrector has read. modality: of its memories, by which a single model's list is marked."""

    def __init__(self, recogniser: Recogniser, corrector: Corrector, modality: str):
        super().__init__(recogniser.checkpoint)
        self.recogniser, self.corrector, self.modality = recogniser, corrector, modality
        self.sound = recogniser.sound if isinstance(recogniser, CombinedRecogniser) else recogniser
        self.spelling = SpellingSearch(self.sound) if self.tokenizer.encode("A1") else None

    @property
    def estimates_reliability(self) -> bool:
        """See Recogniser."""
        return self.recogniser.estimates_reliability

    def encode(self, audio: Audio | None, video: Video | None, modality: str, *,
               seconds: Sequence[float] | None = None) -> Memory:
        """See Recogniser."""
        return self.recogniser.encode(audio, video, modality, seconds=seconds)

    def decode(self, memory: Memory, options: DecodeOptions | None = None,
               language: str = LANGUAGE) -> list[Hypothesis]:
        """The corrected text of each utterance; that of the recogniser where the corrector's guard objects, and in another
        language than English."""
        if language != LANGUAGE:
            return self.recogniser.decode(memory, options, language)
        options = self.search_options() if options is None else options
        found = read_lists(self.recogniser, memory, self.modality, options, language)
        return [one for one, _ in self.correct(memory, found)]

    def correct(self, memory: Memory, found: Sequence[FoundLists]) -> list[tuple[Hypothesis, Correction]]:
        """The text of each utterance and how it came about, given what `read_lists` found in the memory."""
        own = [normalise(self.detokenize(one.own.tokens)) for one in found]
        corrections = self.corrector.correct([one.lists for one in found], own)
        rows = [i for i, one in enumerate(corrections) if one.used]
        texts = [one.own for one in found]
        for i, tokens in zip(rows, self._spelt(memory, rows, [corrections[i].text for i in rows]), strict=True):
            # The guards of the search have judged the recogniser's own text, so that its mean log-probability stays.
            texts[i] = replace(texts[i], tokens=tokens, logprob=texts[i].avg_logprob * (len(tokens) + 1),
                               corrected_from=self.detokenize(texts[i].tokens))
        return list(zip(texts, corrections, strict=True))

    def _spelt(self, memory: Memory, rows: Sequence[int], texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of texts of these utterances, as the recogniser would write them."""
        plain = [tuple(target_tokens(self.tokenizer, text)) for text in texts]
        if not rows or self.spelling is None:
            return plain
        heard = memory.sound if isinstance(memory, CombinedMemory) else memory
        part = heard.select(torch.tensor(rows, device=heard.device))
        spelt = self.spelling.spell(part, [[Candidate(tuple(text.split()))] for text in texts])
        return [found.tokens or tokens for (found,), tokens in zip(spelt, plain, strict=True)]

    def align(self, memory: Memory, texts: Sequence[Sequence[int]], seconds: Sequence[float],
              language: str = LANGUAGE) -> list[list[Word]]:
        """See Recogniser."""
        return self.recogniser.align(memory, texts, seconds, language)

    def detect_language(self, memory: Memory) -> str:
        """See Recogniser."""
        return self.recogniser.detect_language(memory)


def corrected(recogniser: Recogniser, corrector: Corrector | None, modality: str) -> Recogniser:
    """The recogniser, with a corrector after it where there is one."""
    return recogniser if corrector is None else CorrectedRecogniser(recogniser, corrector, modality)
