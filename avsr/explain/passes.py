"""The four passes: a Scene through the model with nothing, by sound, by sight and by both; who is worth how much of the text.

    Scene + Checkpoint  ->  Passes: memory, text and log-probabilities of each, Shapley shares of the whole and of each word
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from avsr.decode import DecodeOptions
from avsr.errors import AvsrError
from avsr.explain.looks import gated, watching
from avsr.explain.scene import Scene
from avsr.metrics import Score, Shapley, shapley, word_errors
from avsr.models.decoder import Memory
from avsr.recogniser import EncodedAudio, Recogniser
from avsr.runtime import Progress
from avsr.text import normalise, target_tokens

# `transcribe` tries again, up to five times, what it does not believe. Of what is written without sound that is nearly all
# where the lips cannot be read: the first text is no worse an account of it.
DEAF = DecodeOptions(temperatures=(0.0,))
CLEAN = {"a": "a_clean", "av": "av_clean"}                  # the same cases before noise was added


@dataclass(frozen=True)
class SharedWord:
    """A word, when it was said (seconds from the start of the piece), the sum of its tokens' log-probabilities in each
    case, given the words before it, and how the change from `none` to `av` is shared out."""

    text: str
    start: float
    end: float
    log_probs: dict[str, float]
    shares: Shapley


@dataclass(frozen=True)
class Passes:
    """What the cases have in common and where they part.

    memories: by case of names.MODALITIES; those that the scene does not allow are absent. texts: what each case writes, and
    `a_clean`, `av_clean` where noise was added. scores: word errors of each, None without a reference.
    explained: the text that is explained, which is `source`: "reference" or the case that wrote it; tokens: its tokens.
    values: mean log-probability of a token of it in each case, the end counted, in nats. shares: of `values`.
    wer_shares: of minus the word error rate, None without a reference. calls: what went through the gates below the decoder.
    audio: the encoded sound, in noise, from which the memories were made.
    """

    memories: dict[str, Memory]
    texts: dict[str, str]
    scores: dict[str, Score] | None
    explained: str
    source: str
    tokens: tuple[int, ...]
    values: dict[str, float]
    shares: Shapley
    wer_shares: Shapley | None
    words: tuple[SharedWord, ...]
    calls: dict[str, tuple]
    audio: EncodedAudio | None


@torch.no_grad()
def run_passes(recogniser: Recogniser, scene: Scene, reference: str | None, language: str, progress: Progress) -> Passes:
    """All cases of a scene. Raises AvsrError for a reference that is longer than the model can write."""
    progress("listening and looking", 0, None, None)
    mouths = None if scene.mouths is None else [scene.mouths]
    audio = None if scene.sound is None else recogniser.encode_audio([scene.sound])
    with watching(gated(recogniser.model)) as calls:
        found = {name: recogniser.encode(audio, mouths, name) for name in scene.modalities}
    before = {}
    if scene.disturbance is not None:
        clean = recogniser.encode_audio([scene.clean])
        before = {CLEAN[name]: recogniser.encode(clean, mouths, name) for name in found if name in CLEAN}
    hypotheses = {}
    progress("searching for texts", 0, None, None)
    for name, memory in (found | before).items():
        hypotheses[name] = recogniser.decode(memory, DecodeOptions() if "a" in name else DEAF, language)[0]
    texts = {name: recogniser.detokenize(one.tokens) for name, one in hypotheses.items()}
    if reference is not None:
        source, tokens = "reference", tuple(target_tokens(recogniser.tokenizer, reference))
    else:
        written = [name for name in ("av", "a", "v") if name in texts]
        source = next((name for name in written if texts[name]), written[0])
        tokens = hypotheses[source].tokens
    room = recogniser.model.dims.n_context - len(recogniser.tokenizer.prompt(language)) - 1
    if len(tokens) > room:
        raise AvsrError(f"--reference: it makes {len(tokens)} tokens, {recogniser.checkpoint.name} has room for {room}.  Give "
                        "only what is said in the piece, or choose a shorter piece with --start and --end.")
    log_probs = {name: recogniser.score(memory, [tokens], language)[0] for name, memory in found.items()}
    values = {name: one.double().mean().item() for name, one in log_probs.items()}
    best = before.get("av_clean", before.get("a_clean", found.get("av", found.get("a", found.get("v")))))
    words = _words(recogniser, scene, best, tokens, log_probs, language)
    scores = None if reference is None else {
        name: word_errors(normalise(reference), normalise(text)) for name, text in texts.items()}
    return Passes(found, texts, scores, recogniser.detokenize(tokens), source, tokens, values, share(values),
                  None if scores is None else _wer_shares(scores), words, calls, audio)


def share(values: Mapping[str, float]) -> Shapley:
    """The exact two-player Shapley value of a case's value; a sense that is not there changes nothing (a dummy player)."""
    nothing = values["none"]
    sound, sight = values.get("a", nothing), values.get("v", nothing)
    return shapley(nothing, sound, sight, values.get("av", sound if "a" in values else sight))


def _wer_shares(scores: Mapping[str, Score]) -> Shapley:
    """Of minus the word error rate, as a share of the words. With neither sense nothing counts as written: -1."""
    return share({"none": -1.0} | {name: -score.errors / score.words for name, score in scores.items()
                                   if name in ("a", "v", "av")})


def _words(recogniser: Recogniser, scene: Scene, memory: Memory, tokens: Sequence[int],
           log_probs: Mapping[str, torch.Tensor], language: str) -> tuple[SharedWord, ...]:
    """The words, timed by the clean sound (and the lips) where there is one, up to where speech ends: noise moves the look at
    the sound, and the last word would take all of the silence after it."""
    if not tokens:
        return ()
    end = scene.piece.duration_s if scene.speech_s is None else scene.speech_s[1]
    (timed,) = recogniser.align(memory, [tokens], [end], language)
    words, at = [], 0
    for word, parts in zip(timed, recogniser.tokenizer.words(list(tokens), language), strict=True):
        upto = at + len(parts.tokens)
        sums = {name: one[at:upto].double().sum().item() for name, one in log_probs.items()}
        words.append(SharedWord(word.text.strip(), word.start, min(word.end, end), sums, share(sums)))
        at = upto
    return tuple(words)
