"""The summary: the result of an explanation in, plain numbers and texts out, as explain.json holds them and the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from avsr import __version__
from avsr.checkpoint import Checkpoint
from avsr.explain.ablations import Ablations
from avsr.explain.attention import Gate, greedy_text
from avsr.explain.input import ExplainSettings, Input
from avsr.explain.saliency import Saliency
from avsr.html import word_edits
from avsr.rates import MEMORY_RATE, VIDEO_FPS
from avsr.text import NORMALISER, normalise

LAYOUT = 2
DIGITS = 5                                                  # of what is written


@dataclass(frozen=True)
class Explanation:
    """Everything about one segment. reliability, in_distribution: of Memory.  attention: by "audio", "video".  ctc:
    log-probabilities of trained heads; untrained: names of the others.  saliency: None without reliable video."""

    given: Input
    ablations: Ablations
    reliability: float | None
    in_distribution: float | None
    attention: dict[str, np.ndarray]
    gates: tuple[Gate, ...]
    ctc: dict[str, np.ndarray]
    untrained: list[str]
    saliency: Saliency | None


def summarise(result: Explanation, checkpoint: Checkpoint, settings: ExplainSettings) -> dict[str, Any]:
    """All of it as JSON values. Times are in seconds from the start of the segment, log-probabilities in nats; the same clip
    and settings give the same numbers."""
    given, found, reference = result.given, result.ablations, settings.reference
    return rounded({
        "layout": LAYOUT, "avsr": __version__, "model": checkpoint.name, "language": settings.language,
        **describe_input(given, reference),
        "outputs": {name: _output(found, name, reference) for name in found.texts},
        "explained": {"text": found.explained, "source": found.source, "tokens": len(found.tokens)},
        "video_reliability": result.reliability, "in_distribution": result.in_distribution,
        "shares": asdict(found.shares), "wer_shares": None if found.wer_shares is None else asdict(found.wer_shares),
        "words": [{"text": word.text, "start": word.start, "end": word.end, "log_probs": word.log_probs, **asdict(word.shares)}
                  for word in found.words],
        "gates": [asdict(gate) for gate in result.gates],
        "attention": {name: {"rate": MEMORY_RATE, "inside": one.sum(axis=1).tolist(), "weights": one.tolist()}
                      for name, one in result.attention.items()},
        "ctc": {name: {"text": greedy_text(one)} for name, one in result.ctc.items()}, "ctc_untrained": result.untrained,
        "saliency": None if result.saliency is None else _saliency(result.saliency)})


def describe_input(given: Input, reference: str | None) -> dict[str, Any]:
    """What was explained, as JSON values: the recording, its segment, the noise, what could be used of it, and problems."""
    return {
        "recording": given.name,
        "segment": {"start": given.segment.start_s, "end": given.segment.start_s + given.segment.duration_s,
                    "chosen": given.chosen, "recording": given.duration_s, "speech": given.speech_s},
        "sound": given.sound is not None, "video": given.mouths is not None, "no_video": given.no_video,
        "frames": None if given.mouths is None else len(given.mouths.images),
        "missing": None if given.mouths is None else int(given.mouths.missing.sum()),
        "noise": None if given.noise is None else asdict(given.noise), "reference": reference, "normaliser": NORMALISER,
        "problems": list(given.problems)}


def _output(found: Ablations, name: str, reference: str | None) -> dict[str, Any]:
    """A case: its text; against a reference its errors and edits; its value."""
    score = None if found.scores is None else found.scores[name]
    edits = None if reference is None else word_edits(normalise(reference), normalise(found.texts[name]))
    return {"text": found.texts[name], "value": found.values.get(name), "errors": score and score.errors,
            "words": score and score.words, "edits": edits}


def _saliency(saliency: Saliency) -> dict[str, Any]:
    """pixels_total is what the integral adds up to; moving minus still is what it should add up to."""
    frames = saliency.pixels.sum(axis=(1, 2), dtype=np.float64)
    return {"method": "integrated gradients", "modality": saliency.modality, "moving": saliency.moving, "still": saliency.still,
            "pixels_total": float(frames.sum()), "rate": VIDEO_FPS, "frames": frames.tolist()}


def rounded(value: Any) -> Any:
    """A JSON value with all its numbers rounded to DIGITS."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
