"""The account: what was found out about a piece in, plain numbers and texts out, as explain.json holds them and the page shows.

    Found (scene, passes, looks, gates, CTC, saliency)  ->  dict of JSON values
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from avsr import __version__
from avsr.checkpoint import Checkpoint
from avsr.explain.looks import Gate, Looks, reading
from avsr.explain.passes import Passes
from avsr.explain.saliency import Saliency
from avsr.explain.scene import Scene
from avsr.metrics import Shapley
from avsr.rates import MEMORY_RATE, VIDEO_FPS
from avsr.text import NORMALISER, normalise

LAYOUT = 1
DIGITS = 5                                                  # of what is written


@dataclass(frozen=True)
class Found:
    """Everything about one piece. trust, familiar, heed: of Memory, None where nobody judges. looks: by "audio", "video".
    ctc: log-probabilities of trained heads; untrained: names of the others. saliency: None where nothing was seen or
    believed."""

    scene: Scene
    passes: Passes
    trust: float | None
    familiar: float | None
    heed: float | None
    looks: dict[str, Looks]
    gates: tuple[Gate, ...]
    ctc: dict[str, np.ndarray]
    untrained: tuple[str, ...]
    saliency: Saliency | None


def account(found: Found, checkpoint: Checkpoint, reference: str | None, language: str) -> dict[str, Any]:
    """All of it as JSON values. Times are in seconds from the start of the piece, log-probabilities in nats; the same clip
    and settings give the same numbers."""
    scene, passes = found.scene, found.passes
    noise = scene.disturbance
    out = {
        "layout": LAYOUT, "avsr": __version__, "recording": scene.name, "model": checkpoint.name, "language": language,
        "piece": {"start": scene.piece.start_s, "end": scene.piece.start_s + scene.piece.duration_s, "chosen": scene.chosen,
                  "recording": scene.duration_s, "speech": scene.speech_s},
        "sound": scene.sound is not None, "sight": scene.mouths is not None, "unseen": scene.unseen,
        "frames": None if scene.mouths is None else len(scene.mouths.images),
        "missing": None if scene.mouths is None else int(scene.mouths.missing.sum()),
        "noise": None if noise is None else asdict(noise),
        "reference": reference, "normaliser": NORMALISER,
        "outputs": {name: _output(passes, name, reference) for name in passes.texts},
        "explained": {"text": passes.explained, "source": passes.source, "tokens": len(passes.tokens)},
        "trust": found.trust, "familiar": found.familiar, "heed": found.heed,
        "shares": _shares(passes.shares), "wer_shares": None if passes.wer_shares is None else _shares(passes.wer_shares),
        "words": [{"text": word.text, "start": word.start, "end": word.end, "log_probs": word.log_probs, **_shares(word.shares)}
                  for word in passes.words],
        "gates": [asdict(gate) for gate in found.gates],
        "looks": {name: {"rate": MEMORY_RATE, "inside": one.inside.tolist(), "weights": one.weights.tolist()}
                  for name, one in found.looks.items()},
        "ctc": {name: {"text": reading(one)} for name, one in found.ctc.items()}, "ctc_untrained": list(found.untrained),
        "saliency": None if found.saliency is None else _saliency(found.saliency),
        "problems": list(scene.problems),
    }
    return _rounded(out)


def _shares(shares: Shapley) -> dict[str, float]:
    return {"sound": shares.sound, "sight": shares.sight, "total": shares.total}


def _output(passes: Passes, name: str, reference: str | None) -> dict[str, Any]:
    """A case: its text; against a reference its errors, and its words with what became of each; its value."""
    score = None if passes.scores is None else passes.scores[name]
    return {"text": passes.texts[name], "value": passes.values.get(name),
            "errors": None if score is None else score.errors, "words": None if score is None else score.words,
            "compared": None if reference is None else compared(normalise(reference), normalise(passes.texts[name]))}


def compared(reference: str, text: str) -> list[dict[str, str]]:
    """Words of a text against the reference, both normalised: {"word", "fate": right, wrong, added or lost} in order."""
    import jiwer

    found = jiwer.process_words(reference, text)
    there, here = found.references[0], found.hypotheses[0]
    out = []
    for chunk in found.alignments[0]:
        if chunk.type == "delete":
            out += [{"word": word, "fate": "lost"} for word in there[chunk.ref_start_idx:chunk.ref_end_idx]]
        else:
            fate = {"equal": "right", "substitute": "wrong", "insert": "added"}[chunk.type]
            out += [{"word": word, "fate": fate} for word in here[chunk.hyp_start_idx:chunk.hyp_end_idx]]
    return out


def _saliency(saliency: Saliency) -> dict[str, Any]:
    """pixels_total is what the integral adds up to, moving less still what it should."""
    return {"method": "integrated gradients", "modality": saliency.modality, "moving": saliency.moving, "still": saliency.still,
            "pixels_total": float(saliency.frames.sum()), "rate": VIDEO_FPS, "frames": saliency.frames.tolist()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
