"""Ablations: an Input through the model by no modality, by sound, by video and by both; what each contributes to the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from avsr.decode import DecodeOptions
from avsr.errors import AvsrError
from avsr.explain.attention import Calls, gated_modules, record_calls
from avsr.explain.input import Input
from avsr.memory import Memory
from avsr.metrics import Score, Shapley, shapley, word_errors
from avsr.recogniser import EncodedAudio, Recogniser
from avsr.runtime import Progress
from avsr.text import normalise, target_tokens

# `transcribe` decodes again, up to five times, what looks wrong. Of texts written without sound that is nearly all where the
# lips cannot be read; the first text explains as much.
WITHOUT_SOUND = DecodeOptions(temperatures=(0.0,))


@dataclass(frozen=True)
class ScoredWord:
    """A word, its time in seconds from the start of the segment, the sum of its tokens' log-probabilities in each case, the
    words before it given, and how the change from `none` to `av` is shared out."""

    text: str
    start: float
    end: float
    log_probs: dict[str, float]
    shares: Shapley


@dataclass(frozen=True)
class Ablations:
    """What the model makes of an input in each case.
    memories: by modality; those that the input does not allow are absent.  texts: what each case writes, `a_clean` and
    `av_clean` among them where noise was added.  scores: word errors of each, None without a reference.
    explained: the text that is explained, from `source`, which is "reference" or the case that wrote it; tokens: its tokens.
    values: mean log-probability of its tokens in each case, the end counted, in nats.  shares: of `values`.
    wer_shares: of minus the word error rate, None without a reference.  calls: of the gated modules below the decoder.
    audio: the encoded sound, in noise, from which the memories were made."""

    memories: dict[str, Memory]
    texts: dict[str, str]
    scores: dict[str, Score] | None
    explained: str
    source: str
    tokens: tuple[int, ...]
    values: dict[str, float]
    shares: Shapley
    wer_shares: Shapley | None
    words: tuple[ScoredWord, ...]
    calls: Calls
    audio: EncodedAudio | None


@torch.no_grad()
def run_ablations(recogniser: Recogniser, given: Input, reference: str | None, language: str, progress: Progress) -> Ablations:
    """All cases of an input. Raises AvsrError for a reference that is longer than the model can write."""
    progress("encoding", 0, None, None)
    mouths = None if given.mouths is None else [given.mouths]
    audio = None if given.sound is None else recogniser.encode_audio([given.sound])
    with record_calls(gated_modules(recogniser.model)) as calls:
        memories = {name: recogniser.encode(audio, mouths, name) for name in given.modalities}
    clean = {}
    if given.noise is not None and given.clean is not None:
        clean_audio = recogniser.encode_audio([given.clean])
        clean = {f"{name}_clean": recogniser.encode(clean_audio, mouths, name) for name in memories if "a" in name}
    progress("searching for texts", 0, None, None)
    hypotheses = {name: recogniser.decode(memory, DecodeOptions() if "a" in name else WITHOUT_SOUND, language)[0]
                  for name, memory in (memories | clean).items()}
    texts = {name: recogniser.detokenize(one.tokens) for name, one in hypotheses.items()}
    written = [name for name in ("av", "a", "v") if name in texts]
    source = "reference" if reference is not None else next((name for name in written if texts[name]), written[0])
    tokens = hypotheses[source].tokens if reference is None else tuple(target_tokens(recogniser.tokenizer, reference))
    room = (recogniser.model.dims.n_context or len(tokens)) - len(recogniser.tokenizer.prompt(language)) - 1
    if len(tokens) > room:
        raise AvsrError(f"--reference: it makes {len(tokens)} tokens, {recogniser.checkpoint.name} has room for {room}.  Give "
                        "only what is said in the segment, or choose a shorter segment with --start and --end.")
    log_probs = {name: recogniser.score(memory, [tokens], language)[0] for name, memory in memories.items()}
    values = {name: one.double().mean().item() for name, one in log_probs.items()}
    known = memories | clean
    best = next(known[name] for name in ("av_clean", "a_clean", "av", "a", "v") if name in known)
    words = _score_words(recogniser, given, best, tokens, log_probs, language)
    scores = wer_shares = None
    if reference is not None:                               # without input nothing counts as written: a word error rate of 1
        scores = {name: word_errors(normalise(reference), normalise(text)) for name, text in texts.items()}
        wer_shares = shapley_shares({name: -score.errors / score.words for name, score in scores.items()} | {"none": -1.0})
    return Ablations(memories, texts, scores, recogniser.detokenize(tokens), source, tokens, values, shapley_shares(values),
                     wer_shares, words, calls, audio)


def shapley_shares(values: Mapping[str, float]) -> Shapley:
    """The exact two-player Shapley value of a case's value; a modality that is not there changes nothing (a dummy player)."""
    nothing = values["none"]
    sound, video = values.get("a", nothing), values.get("v", nothing)
    return shapley(nothing, sound, video, values.get("av", sound if "a" in values else video))


def _score_words(recogniser: Recogniser, given: Input, memory: Memory, tokens: Sequence[int],
                 log_probs: Mapping[str, torch.Tensor], language: str) -> tuple[ScoredWord, ...]:
    """The words, aligned with the clean sound (and the video) where there is one, up to where speech ends: noise moves the
    attention to the sound, and the last word would take all of the silence after it."""
    if not tokens:
        return ()
    end = given.segment.duration_s if given.speech_s is None else given.speech_s[1]
    (aligned,) = recogniser.align(memory, [tokens], [end], language)
    words, first = [], 0
    for word, parts in zip(aligned, recogniser.tokenizer.words(list(tokens), language), strict=True):
        last = first + len(parts.tokens)
        sums = {name: one[first:last].double().sum().item() for name, one in log_probs.items()}
        words.append(ScoredWord(word.text.strip(), word.start, min(word.end, end), sums, shapley_shares(sums)))
        first = last
    return tuple(words)
