"""How the sound by one model and the lips by another were combined: an Input in, numbers and plots for a page out (`--lips`).

    Input -> what sound alone, lips alone and both write; the evidence, the candidates, the words -> numbers, plots
Such a pair has no gates and no attention between sound and lips: all that passes between the two are scores of whole texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from avsr import __version__
from avsr.combine import JOINED_BY, CombinedCheckpoint
from avsr.combine.memory import CombinedMemory
from avsr.combine.recogniser import CombinedRecogniser, Comparison
from avsr.combine.scores import frame_log_probs
from avsr.combine.times import lips_lead, matched, merged
from avsr.combine.weights import FLOOR, mean_entropy
from avsr.decode import Hypothesis
from avsr.errors import BadMedia
from avsr.explain.attention import greedy_text
from avsr.explain.input import ExplainSettings, Input
from avsr.explain.page import CASES, FILTERS
from avsr.explain.plots import Plot, draw_combined_plots
from avsr.explain.summary import describe_input, rounded
from avsr.html import render, word_edits
from avsr.metrics import word_errors
from avsr.runtime import Progress
from avsr.text import normalise
from avsr.transcript import Word

LAYOUT = 1                                                  # of explain.json for a pair
MOST_CANDIDATES = 12                                        # that the page shows; explain.json has all


@dataclass(frozen=True)
class TimedWord:
    """A word of the text of both, as `transcribe` times it. timed_by: `sound` or `lips`. sound, lips: what each model says of
    it; lips has several words for a number in digits, and none where the two cannot be matched."""

    word: Word
    timed_by: str
    sound: Word
    lips: tuple[Word, ...]


@dataclass(frozen=True)
class CombinedExplanation:
    """Everything about one segment.

    texts: what each case of page.CASES writes.  comparison: None where the lips did not count, and why_not says why.
    searched_again: whether the best candidate looked wrong, so that the sound was searched by itself, see
    CombinedRecogniser.decide.
    log_probs: (T, V) float32 of CTC on the lips, None without a CTC head; letters: whether its classes are letters.
    entropy: mean of `log_probs`, nats a frame.  missing: share of frames without a face.
    """

    given: Input
    texts: dict[str, str]
    comparison: Comparison | None
    why_not: str | None
    searched_again: bool
    words: tuple[TimedWord, ...]
    log_probs: np.ndarray | None
    letters: bool
    entropy: float | None
    missing: float | None


@torch.no_grad()
def explain_combined(given: Input, checkpoint: CombinedCheckpoint, settings: ExplainSettings,
                     progress: Progress) -> CombinedExplanation:
    """All that the page shows. Raises BadMedia for a recording without sound, of which only one model would have a part."""
    if given.sound is None:
        raise BadMedia(f"{given.name}: there is no sound in it, so {checkpoint.name} has nothing to combine.  Explain the "
                       "model that reads its lips: name it with --model, and leave --lips out.")
    recogniser, language = CombinedRecogniser(checkpoint), settings.language
    progress("encoding", 0, None, None)
    memory = recogniser.encode([given.sound], [given.mouths], "av", seconds=[given.segment.duration_s])
    progress("searching for texts", 0, None, None)
    (comparison,) = compared = recogniser.compare(memory, language=language)
    (both,) = recogniser.decide(memory, compared, language=language)
    found = {"a": recogniser.sound.decode(memory.sound, language=language)[0], "av": both}
    reads = language in checkpoint.lips.languages
    texts = {name: recogniser.detokenize(one.tokens) for name, one in found.items()}
    if given.mouths is not None and reads:
        (by_lips,) = recogniser.lips.decode(memory.lips)
        texts["v"] = recogniser.lips.detokenize(by_lips.tokens)
    if given.noise is not None and given.clean is not None:
        clean = recogniser.encode([given.clean], [given.mouths], "av", seconds=[given.segment.duration_s])
        texts["a_clean"] = recogniser.detokenize(recogniser.sound.decode(clean.sound, language=language)[0].tokens)
        texts["av_clean"] = recogniser.detokenize(recogniser.decode(clean, language=language)[0].tokens)
    log_probs = None if given.mouths is None else frame_log_probs(recogniser.lips, memory.lips)
    return CombinedExplanation(
        given, {name: texts[name] for name in CASES if name in texts}, comparison,
        None if comparison is not None else _why_not(given, checkpoint, language, reads),
        comparison is not None and both is not comparison.chosen,
        _timed_words(recogniser, memory, both, given.segment.duration_s, language),
        None if log_probs is None else log_probs.float().cpu().numpy(), not checkpoint.lips.model.joint_ctc,
        None if log_probs is None else mean_entropy(log_probs),
        None if given.mouths is None else float(given.mouths.missing.mean()))


def _why_not(given: Input, checkpoint: CombinedCheckpoint, language: str, reads: bool) -> str:
    """Why the lips did not count."""
    if given.mouths is None:
        return given.no_video or "no mouth was found"
    if not reads:
        return f"{checkpoint.lips.name} reads lips in another language than {language} ({', '.join(checkpoint.lips.languages)})"
    return f"{checkpoint.lips.name} is so unsure of these lips that their reliability is 0"


def _timed_words(recogniser: CombinedRecogniser, memory: CombinedMemory, text: Hypothesis, duration_s: float,
                 language: str) -> tuple[TimedWord, ...]:
    """The words of a text with their times, as `align` gives them, and what each model says of them."""
    if not text.tokens:
        return ()
    (each,) = recogniser.align_each(memory, [text.tokens], [duration_s], language)
    lead = lips_lead(*each)
    return tuple(TimedWord(replace(word, text=word.text.strip()), "lips" if lead and lips else "sound", sound, tuple(lips))
                 for word, (sound, lips) in zip(merged(*each), matched(*each), strict=True))


def summarise_combined(result: CombinedExplanation, checkpoint: CombinedCheckpoint,
                       settings: ExplainSettings) -> dict[str, Any]:
    """All of it as JSON values: times in seconds from the start of the segment, scores in nats a letter of a text; a score that
    was given up, see ComparedText, is None."""
    found, model = result.comparison, checkpoint.lips
    return rounded({
        "layout": LAYOUT, "kind": "combined", "avsr": __version__, "model": checkpoint.name, "lips_model": model.name,
        "sound_model": checkpoint.name.removesuffix(f"{JOINED_BY}{model.name}"), "language": settings.language,
        **describe_input(result.given, settings.reference),
        "outputs": {name: _output(text, settings.reference) for name, text in result.texts.items()},
        "lips_not_used": result.why_not,
        "chosen": None if found is None or found.chosen.lips is None else found.chosen.lips.chosen,
        "evidence": None if found is None else {
            **asdict(found.evidence), "entropy": result.entropy, "missing": result.missing, "weight": found.evidence.weight,
            "share": found.evidence.share},
        "searched_again": result.searched_again,
        "candidates": [] if found is None else _candidates(found, settings.reference),
        "words": [_word(one) for one in result.words],
        "ctc": _ctc(result)})


def _output(text: str, reference: str | None) -> dict[str, Any]:
    """A case: its text; against a reference its errors and edits."""
    if reference is None:
        return {"text": text, "errors": None, "words": None, "edits": None}
    score = word_errors(normalise(reference), normalise(text))
    edits = word_edits(normalise(reference), normalise(text))
    return {"text": text, "errors": score.errors, "words": score.words, "edits": edits}


def _candidates(found: Comparison, reference: str | None) -> list[dict[str, Any]]:
    """The candidates, the best first; of those whose spelling was given up the likeliest by lips first."""
    said = None if reference is None else normalise(reference)
    texts = sorted(found.texts, key=lambda one: (-one.total, -one.lips))
    return [{"text": " ".join(one.words), "origin": one.origin, "sound": _finite(one.sound), "lips": one.lips,
             "total": _finite(one.total), "chosen": one is found.texts[0],
             "said": None if said is None else " ".join(one.words) == said} for one in texts]


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None


def _word(one: TimedWord) -> dict[str, Any]:
    sure = [word.confidence for word in one.lips if word.confidence is not None]
    return {"text": one.word.text, "start": one.word.start, "end": one.word.end, "confidence": one.word.confidence,
            "timed_by": one.timed_by,
            "sound": {"start": one.sound.start, "end": one.sound.end, "confidence": one.sound.confidence},
            "lips": {"start": one.lips[0].start, "end": one.lips[-1].end,
                     "confidence": sum(sure) / len(sure) if sure else None} if one.lips else None}


def _ctc(result: CombinedExplanation) -> dict[str, Any] | None:
    """The entropy of CTC on the lips by position; rate: positions a second; text: its greedy reading, if letters."""
    if result.log_probs is None:
        return None
    return {"rate": len(result.log_probs) / result.given.segment.duration_s, "mean_entropy": result.entropy,
            "text": greedy_text(result.log_probs) if result.letters else None,
            "entropy": frame_entropy(result.log_probs).tolist()}


def frame_entropy(log_probs: np.ndarray) -> np.ndarray:
    """Log-probabilities (T, V) -> entropy (T,), nats."""
    return -(np.exp(log_probs) * log_probs).sum(axis=1)


def draw(result: CombinedExplanation) -> dict[str, Plot]:
    """The plots of the page."""
    entropy = None if result.log_probs is None else frame_entropy(result.log_probs)
    return draw_combined_plots(result.given, [one.word for one in result.words],
                               result.log_probs if result.letters else None, entropy)


def render_combined(summary: Mapping[str, Any], plots: Mapping[str, Plot], recordings: Mapping[str, str],
                    command: str | None) -> str:
    """The page's text. command: what makes the page again, None where it was not made by a command."""
    return render("explain/combined.html", FILTERS, it=summary, plots=plots, recordings=recordings, cases=CASES,
                  command=command, most=MOST_CANDIDATES, floor=FLOOR)
