"""`CombinedRecogniser`: the sound by one model and the lips by another that never met, used like a Recogniser.

    sound + mouths -> CombinedMemory -> texts of both searches -> each scored by both -> the best, as the audio model writes it
The log-probabilities of two recognisers are added, with weights by how reliable each is (decision fusion: Potamianos et al.
2003; by reliability: Yu, Zeiler and Kolossa 2021, arXiv 2104.09482). Whole texts are compared, because the tokens of the two
models differ. Nothing is trained for the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from avsr import decode
from avsr.combine.candidates import Words, candidates
from avsr.combine.checkpoint import CombinedCheckpoint
from avsr.combine.memory import CombinedMemory
from avsr.combine.scores import frame_log_probs, n_letters, score_by_video
from avsr.combine.spelling import SpellingSearch
from avsr.combine.times import merged
from avsr.combine.weights import Evidence, best_candidate, lips_reliability, lips_score, mean_entropy
from avsr.decode import DecodeOptions, Hypothesis
from avsr.models.decoder import Memory
from avsr.recogniser import Audio, Recogniser, Video
from avsr.text import SentencePieceTokenizer, Tokenizer, normalise, target_tokens
from avsr.transcript import LipsUse, Word

N_LIPS = 10                                                 # hypotheses kept in the search by lips


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
            # What the sound wins is then written just as it would be by sound alone, guards and temperatures included.
            alone += [i for i in both if _needs_guards(texts[i], self.tokenizer, options)]
        if alone:
            found = self.sound.decode(memory.sound.select(torch.tensor(alone, device=self.device)), options, language)
            for i, text in zip(alone, found, strict=True):
                texts[i] = replace(text, lips=texts[i].lips if i in texts else None)
        return [texts[i] for i in range(memory.n_utterances)]

    def _decode_both(self, memory: CombinedMemory, options: DecodeOptions, language: str) -> list[Hypothesis]:
        by_lips = self.lips.nbest(memory.lips, self.lips_search)
        by_sound = self.sound.nbest(memory.sound, options, language)
        written = [self._words_of(self.sound, texts) for texts in by_sound]
        found = [candidates(list(own), list(self._words_of(self.lips, texts)))
                 for own, texts in zip(written, by_lips, strict=True)]
        others = [[words for words in one if words not in own] for one, own in zip(found, written, strict=True)]
        texts_by_sound = [[self.detokenize(text.tokens) for text in texts] for texts in by_sound]
        spelt = self.spelling.spell(memory.sound, others, language, written=texts_by_sound)
        out = []
        for i, own in enumerate(written):
            texts = own | {words: replace(by_sound[i][0], tokens=one.tokens, logprob=one.log_prob)
                           for words, one in zip(others[i], spelt[i], strict=True)}
            best_by_lips = next((words for words in self._words_of(self.lips, by_lips[i]) if words), ())
            out.append(self._chosen(memory.select(torch.tensor([i])), texts, best_by_lips))
        return out

    def _words_of(self, recogniser: Recogniser, texts: Sequence[Hypothesis]) -> dict[Words, Hypothesis]:
        """The texts by their words, in order; the most likely spelling of each."""
        out: dict[Words, Hypothesis] = {}
        for text in texts:
            words = tuple(normalise(recogniser.detokenize(text.tokens)).split())
            if words not in out or out[words].logprob < text.logprob:
                out[words] = text
        return out

    def _chosen(self, memory: CombinedMemory, texts: dict[Words, Hypothesis], best_by_lips: Words) -> Hypothesis:
        """The best of the texts of one utterance, of which the first is the audio model's own."""
        words = list(texts)
        sound = [text.logprob / n_letters(one) for one, text in texts.items()]
        lips = [lips_score(None if one.ctc is None else one.ctc / n_letters(of), one.decoder / n_letters(of))
                for of, one in zip(words, score_by_video(self.lips, memory.lips, words), strict=True)]
        evidence = Evidence(texts[words[0]].no_speech_prob, sound[0], memory.reliability.item())
        best = best_candidate(sound, lips, evidence.weight)
        text = texts[words[best]]
        # The guards of the search judge the mean log-probability of a token, which is low for what only the lips can tell.
        surer = max(sound[best], lips[best] if best else sound[best]) * n_letters(words[best])
        chosen = "both" if best == 0 and words[0] == best_by_lips else "sound" if best == 0 else (
            "lips" if words[best] == best_by_lips else "mixed")
        use = LipsUse(chosen, evidence.share, self.detokenize(texts[words[0]].tokens), " ".join(best_by_lips))
        return replace(text, logprob=surer, lips=use)

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


def _needs_guards(text: Hypothesis, tokenizer: Tokenizer | SentencePieceTokenizer, options: DecodeOptions) -> bool:
    """Whether the sound has won, and its text may be silence or a loop."""
    assert text.lips is not None
    return text.lips.chosen == "sound" and (decode.fails(text, tokenizer, options) or decode.is_silence(text, options))
