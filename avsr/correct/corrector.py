"""`Corrector`: n-best lists in, the corrected text out, and a guard that leaves alone what it is not sure of.

    Lists of B utterances -> beam search over pieces -> Correction: text, how sure, whether it is used
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from avsr import decode
from avsr.correct.folder import NEVER, CorrectorParts, Guard, load_parts
from avsr.correct.lists import Lists
from avsr.correct.network import padded
from avsr.decode import BeamSearch, DecodeOptions, DecoderScorer, SuppressTokens
from avsr.memory import Memory

if TYPE_CHECKING:
    from avsr.models.protocol import SpeechModel

BEAM = 4


@dataclass(frozen=True)
class Correction:
    """What a corrector makes of the lists of an utterance.

    text: normalised, the most likely one. own: what the recogniser wrote. margin: by how many nats the text is likelier than
    own. confidence: exp of the mean log-probability of its words and of its end, 0 to 1. keep: the probability that own is to
    be left alone. support: the share of its words that some text of the lists has. used: whether the guard lets the text pass;
    what is written is `own` otherwise. refused: why the lists were not read, None where they were.
    """

    text: str
    own: str
    margin: float = 0.0
    confidence: float = 0.0
    keep: float = 1.0
    support: float = 0.0
    used: bool = False
    refused: str | None = None


class Corrector:
    """A model in use. name: the folder as the user wrote it."""

    def __init__(self, parts: CorrectorParts, name: str = "corrector"):
        self.parts, self.name = parts, name
        self.model, self.vocabulary, self.guards = parts.model, parts.vocabulary, parts.guards

    @property
    def sha256(self) -> str:
        """Of its weights and its guards, by which rows of a benchmark tell correctors apart."""
        weights = b"".join(tensor.half().numpy().tobytes() for tensor in self.model.state_dict().values())
        return hashlib.sha256(weights + repr(self.guards).encode()).hexdigest()

    @torch.inference_mode()
    def correct(self, lists: Sequence[Lists], own: Sequence[str]) -> list[Correction]:
        """The correction of each utterance. own: the recogniser's normalised texts. Lists that are empty or too long for the
        network are not read; of lists for which no guard was fitted no text is used."""
        out = [Correction(text, text, refused=self._why_unreadable(of)) for of, text in zip(lists, own, strict=True)]
        rows = [i for i, one in enumerate(out) if one.refused is None]
        if rows:
            for i, one in zip(rows, self._read([lists[i] for i in rows], [own[i] for i in rows]), strict=True):
                out[i] = one
        return out

    def _why_unreadable(self, lists: Lists) -> str | None:
        if not any(any(one.texts) for one in lists.values()):
            return "there is no text in the lists"
        dims = self.model.dims
        n = len(self.vocabulary.encode_lists(lists, dims.n_lists))
        return None if n <= dims.n_input else f"the lists have {n} pieces, and the corrector reads {dims.n_input}"

    def _read(self, lists: Sequence[Lists], own: Sequence[str]) -> list[Correction]:
        end, dims = self.vocabulary.end, self.model.dims
        pieces, mask = padded([self.vocabulary.encode_lists(one, dims.n_lists) for one in lists], end)
        memory = self.model.encode(pieces, mask)
        found, keep, own_scores = self._search(memory), self._keep(memory), self._scores(memory, own)
        out = []
        for of, (tokens, logprob), kept, before, score in zip(lists, found, keep, own, own_scores, strict=True):
            text = self.vocabulary.decode(tokens)
            if tokens[:1] == (self.vocabulary.keep,) or not text:
                text = before
            confidence = math.exp(logprob / (len(text.split()) + 1))
            one = Correction(text, before, 0.0 if text == before else logprob - score, confidence, kept, support(text, of))
            out.append(replace(one, used=passes(self.guards.get(kind_of(of), NEVER), one)))
        return out

    def _search(self, memory: Memory) -> list[tuple[tuple[int, ...], float]]:
        """The most likely pieces of each utterance, and their log-probability."""
        options = DecodeOptions(beam_size=BEAM, length_penalty=0.0)
        strategy = BeamSearch(memory.n_utterances, options, self.vocabulary.end)
        scorer = DecoderScorer(cast("SpeechModel", self.model), memory, no_speech_token=None, start_token=self.vocabulary.end)
        prompt = torch.full((memory.n_utterances, 1), self.vocabulary.end)
        return decode.search([scorer], prompt, strategy, filters=[SuppressTokens(self.vocabulary.forbidden)],
                             max_tokens=self.model.dims.n_context - 2, length_penalty=0.0)

    def _keep(self, memory: Memory) -> list[float]:
        start = torch.full((memory.n_utterances, 1), self.vocabulary.end)
        first = self.model.step(start, self.model.start(memory)).softmax(dim=-1)
        return first[:, self.vocabulary.keep].tolist()

    def _scores(self, memory: Memory, texts: Sequence[str]) -> list[float]:
        """The log-probability of a text of each utterance; -inf for one that is longer than the network writes."""
        room = self.model.dims.n_context - 2
        tokens = [self.vocabulary.encode(text) for text in texts]
        fits = [len(one) <= room for one in tokens]
        end = self.vocabulary.end
        scores = decode.teacher_forced_log_probs(cast("SpeechModel", self.model), memory, [[end]] * len(texts),
                                                 [one if fit else [] for one, fit in zip(tokens, fits, strict=True)], end)
        return [one.sum().item() if fit else -math.inf for one, fit in zip(scores, fits, strict=True)]


def kind_of(lists: Lists) -> str:
    """Which lists there are, as a guard is named: `a`, `v`, `av`, or `a+v+av` of two models."""
    return "+".join(lists)


def support(text: str, lists: Lists) -> float:
    """The share of the words of a text that some text of the lists has."""
    heard = {word for one in lists.values() for found in one.texts for word in found.split()}
    words = text.split()
    return sum(word in heard for word in words) / len(words) if words else 0.0


def passes(guard: Guard, one: Correction) -> bool:
    """Whether a guard lets a correction pass, which then differs from the recogniser's own text."""
    return (one.refused is None and one.text != one.own and one.margin >= guard.margin and one.confidence >= guard.confidence
            and one.keep <= guard.keep and one.support >= guard.support)


def open_corrector(path: Path | str | Corrector) -> Corrector:
    """The corrector in a folder, or one that is open already. Raises BadCheckpoint."""
    return path if isinstance(path, Corrector) else Corrector(load_parts(Path(path)), str(path))
