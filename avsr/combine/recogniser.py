"""`CombinedRecogniser`: the sound by one model and the lips by another that never met, used like a Recogniser.

    sound + mouths -> CombinedMemory -> texts of both searches -> each scored by both -> the best, as the audio model writes it
The log-probabilities of two recognisers are added, with weights by how reliable each is (decision fusion: Potamianos et al.
2003; by reliability: Yu, Zeiler and Kolossa 2021, arXiv 2104.09482). Whole texts are compared, because the tokens of the two
models differ. Nothing is trained for the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from avsr import decode
from avsr.combine.candidates import Words, candidates
from avsr.combine.checkpoint import CombinedCheckpoint
from avsr.combine.memory import CombinedMemory
from avsr.combine.scores import frame_log_probs, has_room, n_letters, score_by_lips
from avsr.combine.spelling import Candidate, Known, Spelled, SpellingSearch
from avsr.combine.times import merged
from avsr.combine.weights import LETTERS, PIECES, Evidence, lips_reliability, lips_score, mean_entropy
from avsr.decode import DecodeOptions, Hypothesis
from avsr.memory import Memory
from avsr.recogniser import Audio, Recogniser, Video
from avsr.text import normalise, target_tokens
from avsr.transcript import LipsUse, Word

N_LIPS = 10                                                 # hypotheses kept in the search by lips


@dataclass(frozen=True)
class ComparedText:
    """A candidate with its scores in nats a letter.

    origin: `sound` or `lips`, whose search found it, `both` where both did, or `mixed` from words of the best of each.
    sound: -inf where its spelling was given up, see spelling.Known. lips: see weights.lips_score. total: sound, plus lips
    times Evidence.weight, plus what language models and hotwords add, see decode.text_scores.
    """

    words: Words
    origin: str
    sound: float
    lips: float
    total: float


@dataclass(frozen=True)
class Comparison:
    """How the text of an utterance was chosen. texts: all candidates, the best first. chosen: the first, as it is written."""

    evidence: Evidence
    texts: tuple[ComparedText, ...]
    chosen: Hypothesis


@dataclass(frozen=True)
class _Scored:
    """The candidates of an utterance, scored by lips. scores: in nats a letter, of all; added: what all but the
    sound add to the total of each; others: those that the sound did not
    find; known: the best total score of those that it found; by_lips: the texts by lips, the best first."""

    evidence: Evidence
    scores: dict[Words, float]
    added: dict[Words, float]
    others: list[Candidate]
    known: float
    by_lips: list[Words]


class CombinedRecogniser(Recogniser):
    """A Recogniser whose memories, texts and times come of two models. By sound alone it is the audio model's recogniser."""

    checkpoint: CombinedCheckpoint

    def __init__(self, checkpoint: CombinedCheckpoint):
        super().__init__(checkpoint)
        self.sound, self.lips = Recogniser(checkpoint), Recogniser(checkpoint.lips)
        self.spelling = SpellingSearch(self.sound)
        self.lips_search = self.lips.search_options()
        self.lips_search = replace(self.lips_search, beam_size=max(N_LIPS, self.lips_search.beam_size))

    @property
    def estimates_reliability(self) -> bool:
        """See Recogniser."""
        return True

    def encode(self, audio: Audio | None, video: Video | None, modality: str, *,
               seconds: Sequence[float] | None = None) -> CombinedMemory:
        """The memory of B utterances by `av`; other modalities are those of `sound` and `lips`. See Recogniser.encode."""
        assert modality == "av", "a combined memory is of both"
        assert audio is not None
        assert video is not None
        sound = self.sound.encode(audio, None, "a", seconds=seconds)
        lips = self.lips.encode(None, video, "v", seconds=seconds)
        reliability = [0.0 if one is None or one.missing.all() else self._reliability(lips, i, float(one.missing.mean()))
                       for i, one in enumerate(video)]
        return CombinedMemory(sound, lips, torch.tensor(reliability))

    def _reliability(self, lips: Memory, i: int, missing: float) -> float:
        log_probs = frame_log_probs(self.lips, lips.select(torch.tensor([i], device=lips.device)))
        entropy = 0.0 if log_probs is None else mean_entropy(log_probs)
        return lips_reliability(entropy, missing, PIECES if self.lips.model.joint_ctc else LETTERS)

    def decode(self, memory: CombinedMemory, options: DecodeOptions | None = None, language: str = "en") -> list[Hypothesis]:
        """The text of each utterance; that of the audio model where no lips count, or they write another language."""
        return self.decide(memory, self.compare(memory, options, language), options, language)

    def compare(self, memory: CombinedMemory, options: DecodeOptions | None = None,
                language: str = "en") -> list[Comparison | None]:
        """The candidates of each utterance with their scores; None where no lips count, or they write another language."""
        options = self.search_options() if options is None else options
        out: list[Comparison | None] = [None] * memory.n_utterances
        if both := memory.with_lips if language in self.checkpoint.lips.languages else []:
            for i, one in zip(both, self._compare(memory.select(torch.tensor(both)), options, language), strict=True):
                out[i] = one
        return out

    def decide(self, memory: CombinedMemory, compared: Sequence[Comparison | None], options: DecodeOptions | None = None,
               language: str = "en") -> list[Hypothesis]:
        """The text of each utterance from what `compare` gave for the same arguments. Without a comparison, and where the text
        chosen is by sound alone and fails the guards of the search, it is searched as without lips."""
        options = self.search_options() if options is None else options
        texts = {i: one.chosen for i, one in enumerate(compared) if one is not None}
        alone = [i for i in range(memory.n_utterances) if i not in texts]
        alone += [i for i, text in texts.items() if self._is_to_be_tried_again(text, options)]
        if alone:
            found = self.sound.decode(memory.sound.select(torch.tensor(alone, device=self.device)), options, language)
            for i, text in zip(alone, found, strict=True):
                texts[i] = replace(text, lips=texts[i].lips if i in texts else None)
        return [texts[i] for i in range(memory.n_utterances)]

    def _compare(self, memory: CombinedMemory, options: DecodeOptions, language: str) -> list[Comparison]:
        by_lips = [words_of(self.lips, texts) for texts in self.lips.nbest(memory.lips, self.lips_search)]
        cache = self.sound.model.start(memory.sound)
        texts = self.sound.nbest(memory.sound, options, language, cache=cache.again())
        by_sound = [words_of(self.sound, one) for one in texts]
        found = [self._scored(memory.select(torch.tensor([i])), own, list(by_lips[i]), options)
                 for i, own in enumerate(by_sound)]
        known = Known([[self.detokenize(text.tokens) for text in of_one] for of_one in texts], [one.known for one in found],
                      cache)
        spelt = self.spelling.spell(memory.sound, [one.others for one in found], language, known=known)
        return [self._compared(*one) for one in zip(found, by_sound, spelt, strict=True)]

    def _is_to_be_tried_again(self, text: Hypothesis, options: DecodeOptions) -> bool:
        """Whether the text is by sound alone, and would not be taken there: it is then searched as without lips."""
        assert text.lips is not None
        again = len(options.temperatures) > 1 and decode.fails(text, self.tokenizer, options)
        return text.lips.chosen == "sound" and (again or decode.is_silence(text, options))

    def _scored(self, memory: CombinedMemory, by_sound: dict[Words, Hypothesis], by_lips: list[Words],
                options: DecodeOptions) -> _Scored:
        """The candidates of one utterance with their scores by lips, and by language models and hotwords."""
        own, first = next(iter(by_sound.items()))
        evidence = Evidence(first.no_speech_prob, first.logprob / n_letters(own), memory.reliability.item())
        words = candidates(list(by_sound), by_lips)
        scores = {of: lips_score(None if one.ctc is None else one.ctc / n_letters(of), one.decoder / n_letters(of))
                  for of, one in zip(words, score_by_lips(self.lips, memory.lips, words), strict=True)}
        helped = decode.text_scores(options, [" ".join(of) for of in words])
        added = {of: evidence.weight * scores[of] + one / n_letters(of) for of, one in zip(words, helped, strict=True)}
        known = max(text.logprob / n_letters(of) + added[of] for of, text in by_sound.items())
        others = [Candidate(of, added[of]) for of in words if of not in by_sound]
        return _Scored(evidence, scores, added, others, known, by_lips)

    def _compared(self, found: _Scored, by_sound: dict[Words, Hypothesis], spelt: Sequence[Spelled]) -> Comparison:
        """The comparison of one utterance."""
        own, first = next(iter(by_sound.items()))
        texts = by_sound | {of.words: replace(first, tokens=one.tokens, logprob=one.log_prob)
                            for of, one in zip(found.others, spelt, strict=True)}
        compared = []
        for of, text in texts.items():
            sound, lips = text.logprob / n_letters(of), found.scores[of]
            origin = ("both" if of in found.by_lips else "sound") if of in by_sound else (
                "lips" if of in found.by_lips else "mixed")
            compared.append(ComparedText(of, origin, sound, lips, sound + found.added[of]))
        compared.sort(key=lambda one: -one.total)
        best, by_lips = compared[0], next((of for of in found.by_lips if of), ())
        of_lips = best.words == by_lips
        chosen = ("both" if of_lips else "sound") if best.words == own else "lips" if of_lips else "mixed"
        # The guards of the search judge the mean log-probability of a token, which is low for what only the lips can tell.
        surer = best.sound if best.words == own else max(best.sound, best.lips)
        use = LipsUse(chosen, found.evidence.share, self.detokenize(first.tokens), " ".join(by_lips))
        text = replace(texts[best.words], logprob=surer * n_letters(best.words), lips=use)
        return Comparison(found.evidence, tuple(compared), text)

    def align(self, memory: CombinedMemory, texts: Sequence[Sequence[int]], seconds: Sequence[float],
              language: str = "en") -> list[list[Word]]:
        """The words of texts, with times and confidences by the model that is surer of them; see times.merged."""
        return [merged(*one) for one in self.align_each(memory, texts, seconds, language)]

    def align_each(self, memory: CombinedMemory, texts: Sequence[Sequence[int]], seconds: Sequence[float],
                   language: str = "en") -> list[tuple[list[Word], list[Word]]]:
        """The words of texts as the audio model times them, and as the video model does: none where no lips count."""
        out: list[tuple[list[Word], list[Word]]] = [
            (words, []) for words in self.sound.align(memory.sound, texts, seconds, language)]
        rows = memory.with_lips if language in self.checkpoint.lips.languages else []
        spelt = {i: target_tokens(self.lips.tokenizer, normalise(self.detokenize(texts[i]))) for i in rows}
        spelt = {i: tokens for i, tokens in spelt.items() if tokens and has_room(self.lips, tokens)}
        if spelt:
            part = memory.lips.select(torch.tensor(list(spelt), device=self.lips.device))
            by_lips = self.lips.align(part, list(spelt.values()), [seconds[i] for i in spelt])
            for i, words in zip(spelt, by_lips, strict=True):
                out[i] = (out[i][0], words)
        return out

    def detect_language(self, memory: CombinedMemory) -> str:
        """See Recogniser: by the sound."""
        return self.sound.detect_language(memory.sound)


def words_of(recogniser: Recogniser, texts: Sequence[Hypothesis]) -> dict[Words, Hypothesis]:
    """The texts by their words, in order; the most likely spelling of each."""
    out: dict[Words, Hypothesis] = {}
    for text in texts:
        words = tuple(normalise(recogniser.detokenize(text.tokens)).split())
        if words not in out or out[words].logprob < text.logprob:
            out[words] = text
    return out
