"""How a model used sound and video: a recording in, one page of plots and a file of numbers out.

Inside: input -> ablations, attention, saliency (from the network) -> summary (numbers) -> plots -> page (HTML).
Of the sound by one model and the lips by another: input -> combined (texts, evidence, candidates) -> plots -> page.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from avsr import media
from avsr.checkpoint import Checkpoint, load, may_use_video
from avsr.combine import CombinedCheckpoint
from avsr.errors import AvsrError
from avsr.explain.ablations import run_ablations
from avsr.explain.attention import read_attention, read_ctc, read_gates
from avsr.explain.combined import draw, explain_combined, render_combined, summarise_combined
from avsr.explain.input import ExplainSettings, Input, open_input
from avsr.explain.page import make_recordings, render_page
from avsr.explain.plots import draw_plots
from avsr.explain.saliency import integrated_gradients
from avsr.explain.summary import Explanation, summarise
from avsr.memory import Memory
from avsr.models.avsr import AVSR
from avsr.names import DEFAULT_MODEL
from avsr.output import write_files
from avsr.rates import MEMORY_RATE
from avsr.recogniser import Recogniser, in_distribution
from avsr.runtime import Progress, no_progress, pick_device
from avsr.schema import from_keywords
from avsr.transcribe.run import load_models

__all__ = ["ExplainSettings", "Explanation", "Input", "explain", "explain_input"]

PAGE, NUMBERS = "explain.html", "explain.json"


def explain(source: media.Source, *, model: str | Path | Checkpoint = DEFAULT_MODEL,
            lips: str | Path | Checkpoint | None = None, output: str | Path | None = None, device: str = "auto",
            command: str | None = None, progress: Progress = no_progress, **settings: Any) -> Path:
    """Write explain.html and explain.json about a segment of a recording, of at most 30 s; returns the page's path.

    source, model, lips: as `transcribe` takes them; with `lips` the page shows how the two models were combined.
    output: the folder, out/NAME-explain where none is given.
    command: what the page says it was made with. settings: fields of ExplainSettings.
    Raises AvsrError and its kinds; lesser problems are shown on the page.
    """
    wanted = from_keywords(ExplainSettings, settings, "explain")
    model = _loaded(model, lips, device, progress)
    if wanted.language not in model.languages:
        raise AvsrError(f"{model.name}: does not write language {wanted.language!r}.  "
                        f"Use one of {', '.join(model.languages[:20])}, or another model.")
    given = open_input(source, model.mouth_crop if model.video_trained else None, wanted, progress)
    if isinstance(model, CombinedCheckpoint):
        both = explain_combined(given, model, wanted, progress)
        progress("drawing the page", 0, None, None)
        summary = summarise_combined(both, model, wanted)
        page = render_combined(summary, draw(both), make_recordings(given), command)
    else:
        result = explain_input(given, model, wanted, progress)
        progress("drawing the page", 0, None, None)
        summary = summarise(result, model, wanted)
        page = render_page(summary, draw_plots(result), make_recordings(given), command)
    folder = Path("out") / f"{Path(given.name).stem}-explain" if output is None else Path(output)
    texts = {folder / PAGE: page, folder / NUMBERS: json.dumps(summary, ensure_ascii=False) + "\n"}
    write_files(texts, lambda reason: f"{folder}: the page cannot be written ({reason}).  Make room or get permission there, "
                                      "or choose another folder with --output-dir.")
    return folder / PAGE


def _loaded(model: str | Path | Checkpoint, lips: str | Path | Checkpoint | None, device: str,
            progress: Progress) -> Checkpoint:
    """The model, or the two as one. Raises AvsrError for a single network into which explain cannot look."""
    if not isinstance(model, Checkpoint) or lips is not None:
        progress("loading the model", 0, None, None)
    if lips is not None:
        return load_models(model, lips, "av", pick_device(device), progress)
    if not isinstance(model, Checkpoint):
        model = load(model, lips=may_use_video(model), device=pick_device(device), dtype=torch.float32, progress=progress)
    if not isinstance(model, CombinedCheckpoint) and (not isinstance(model.model, AVSR) or not model.model.dims.n_mels):
        raise AvsrError(f"{model.name}: explain looks into gates, video reliability and log-mels, of which this network has "
                        "none.  Use a model that was trained here, or avsr benchmark.")
    return model


def explain_input(given: Input, checkpoint: Checkpoint, settings: ExplainSettings,
                  progress: Progress = no_progress) -> Explanation:
    """Everything that the page shows, as arrays and numbers."""
    recogniser, language = Recogniser(checkpoint), settings.language
    found = run_ablations(recogniser, given, settings.reference, language, progress)
    memory = found.memories[given.modalities[-1]]
    if given.sound is None:
        given = replace(given, problems=(*given.problems, *video_problems(checkpoint, given.name, memory)))
    n_positions = round(given.segment.duration_s * MEMORY_RATE)
    reliability, known = (None if one is None else one.item() for one in (memory.reliability, memory.in_distribution))
    attention, calls = read_attention(recogniser, memory, found.tokens, language, n_positions) if found.words else ({}, {})
    assert isinstance(checkpoint.model, AVSR)
    gates = read_gates(checkpoint.model, found.calls | calls, reliability, n_positions)
    ctc, untrained = read_ctc(checkpoint.model, found.memories, n_positions)
    saliency = None
    if given.mouths is not None and found.tokens and reliability != 0:      # nothing in unreliable video reaches the text
        saliency = integrated_gradients(recogniser, found.audio, given.mouths, found.tokens, language=language,
                                        progress=progress)
    return Explanation(given, found, reliability, known, attention, gates, ctc, untrained, saliency)


def video_problems(checkpoint: Checkpoint, name: str, memory: Memory) -> tuple[str, ...]:
    """Why `transcribe` would write nothing by itself about a recording without sound, whose video's memory this is."""
    why = "this model cannot tell whether it knows the lips in it"
    if checkpoint.model.reliability is not None:
        if in_distribution(memory).item():
            return ()
        why = "its lips are not like those in this model's training data, so what it reads there means little"
    return (f"{name}: there is no sound in it, and {why}.  avsr transcribe writes something of them only with --modality v.",)
