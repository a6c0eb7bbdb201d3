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
from avsr.combine.scores import frame_log_probs, n_letters, score_by_video
from avsr.combine.spelling import Candidate, Known, Spelled, SpellingSearch
from avsr.combine.times import merged
from avsr.combine.weights import Evidence, lips_reliability, lips_score, mean_entropy
from avsr.decode import DecodeOptions, Hypothesis
from avsr.models.decoder import Memory
from avsr.recogniser import Audio, Recogniser, Video
from avsr.text import normalise, target_tokens
from avsr.transcript import LipsUse, Word

N_LIPS = 10                                                 # hypotheses kept in the search by lips


@dataclass(frozen=True)
class _Comparison:
    """The candidates of an utterance. scores: by lips, nats a letter, of all; others: those that the sound did not find;
    known: the best total score of those that it found; by_lips: the best text by lips."""

    evidence: Evidence
    scores: dict[Words, float]
    others: list[Candidate]
    known: float
    by_lips: Words


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
        return lips_reliability(0.0 if log_probs is None else mean_entropy(log_probs), missing)

    def decode(self, memory: CombinedMemory, options: DecodeOptions | None = None, language: str = "en") -> list[Hypothesis]:
        """The text of each utterance; that of the audio model where no lips count, or they write another language."""
        options = self.search_options() if options is None else options
        both = memory.with_lips if language in self.checkpoint.lips.languages else []
        alone = [i for i in range(memory.n_utterances) if i not in both]
        texts: dict[int, Hypothesis] = {}
        if both:
            texts |= zip(both, self._decode_both(memory.select(torch.tensor(both)), options, language), strict=True)
            alone += [i for i in both if self._is_to_be_tried_again(texts[i], options)]
        if alone:
            found = self.sound.decode(memory.sound.select(torch.tensor(alone, device=self.device)), options, language)
            for i, text in zip(alone, found, strict=True):
                texts[i] = replace(text, lips=texts[i].lips if i in texts else None)
        return [texts[i] for i in range(memory.n_utterances)]

    def _decode_both(self, memory: CombinedMemory, options: DecodeOptions, language: str) -> list[Hypothesis]:
        by_lips = [self._words_of(self.lips, texts) for texts in self.lips.nbest(memory.lips, self.lips_search)]
        cache = self.sound.model.start(memory.sound)
        texts = self.sound.nbest(memory.sound, options, language, cache=cache.again())
        by_sound = [self._words_of(self.sound, one) for one in texts]
        found = [self._compared(memory.select(torch.tensor([i])), own, list(by_lips[i])) for i, own in enumerate(by_sound)]
        known = Known([[self.detokenize(text.tokens) for text in of_one] for of_one in texts], [one.known for one in found],
                      cache)
        spelt = self.spelling.spell(memory.sound, [one.others for one in found], language, known=known)
        return [self._chosen(*one) for one in zip(found, by_sound, spelt, strict=True)]

    def _is_to_be_tried_again(self, text: Hypothesis, options: DecodeOptions) -> bool:
        """Whether the text is by sound alone, and would not be taken there: it is then searched as without lips."""
        assert text.lips is not None
        again = len(options.temperatures) > 1 and decode.fails(text, self.tokenizer, options)
        return text.lips.chosen == "sound" and (again or decode.is_silence(text, options))

    def _words_of(self, recogniser: Recogniser, texts: Sequence[Hypothesis]) -> dict[Words, Hypothesis]:
        """The texts by their words, in order; the most likely spelling of each."""
        out: dict[Words, Hypothesis] = {}
        for text in texts:
            words = tuple(normalise(recogniser.detokenize(text.tokens)).split())
            if words not in out or out[words].logprob < text.logprob:
                out[words] = text
        return out

    def _compared(self, memory: CombinedMemory, by_sound: dict[Words, Hypothesis], by_lips: Sequence[Words]) -> _Comparison:
        """The candidates of one utterance with their scores by lips."""
        own, first = next(iter(by_sound.items()))
        evidence = Evidence(first.no_speech_prob, first.logprob / n_letters(own), memory.reliability.item())
        words = candidates(list(by_sound), by_lips)
        scores = {of: lips_score(None if one.ctc is None else one.ctc / n_letters(of), one.decoder / n_letters(of))
                  for of, one in zip(words, score_by_video(self.lips, memory.lips, words), strict=True)}
        known = max(text.logprob / n_letters(of) + evidence.weight * scores[of] for of, text in by_sound.items())
        others = [Candidate(of, evidence.weight * scores[of]) for of in words if of not in by_sound]
        return _Comparison(evidence, scores, others, known, next((of for of in by_lips if of), ()))

    def _chosen(self, found: _Comparison, by_sound: dict[Words, Hypothesis], spelt: Sequence[Spelled]) -> Hypothesis:
        """The best text of one utterance."""
        own, first = next(iter(by_sound.items()))
        texts = by_sound | {of.words: replace(first, tokens=one.tokens, logprob=one.log_prob)
                            for of, one in zip(found.others, spelt, strict=True)}
        sound = {of: text.logprob / n_letters(of) for of, text in texts.items()}
        best = max(texts, key=lambda of: sound[of] + found.evidence.weight * found.scores[of])
        of_lips = best == found.by_lips
        chosen = ("both" if of_lips else "sound") if best == own else "lips" if of_lips else "mixed"
        # The guards of the search judge the mean log-probability of a token, which is low for what only the lips can tell.
        surer = sound[best] if best == own else max(sound[best], found.scores[best])
        use = LipsUse(chosen, found.evidence.share, self.detokenize(first.tokens), " ".join(found.by_lips))
        return replace(texts[best], logprob=surer * n_letters(best), lips=use)

    def align(self, memory: CombinedMemory, texts: Sequence[Sequence[int]], seconds: Sequence[float],
              language: str = "en") -> list[list[Word]]:
        """The words of texts, with times and confidences by the model that is surer of them; see times.merged."""
        out = self.sound.align(memory.sound, texts, seconds, language)
        rows = [i for i in memory.with_lips if len(texts[i])] if language in self.checkpoint.lips.languages else []
        if rows:
            spelt = [target_tokens(self.lips.tokenizer, normalise(self.detokenize(texts[i]))) for i in rows]
            by_lips = self.lips.align(memory.lips.select(torch.tensor(rows, device=self.lips.device)), spelt,
                                      [seconds[i] for i in rows])
            for i, words in zip(rows, by_lips, strict=True):
                out[i] = merged(out[i], words)
        return out

    def detect_language(self, memory: CombinedMemory) -> str:
        """See Recogniser: by the sound."""
        return self.sound.detect_language(memory.sound)
