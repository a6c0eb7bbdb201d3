"""What a model heard, saw and trusted: a recording in, one page of pictures and a file of numbers out.

    recording -> Scene (piece, noise) -> Passes (neither, sound, sight, both) -> looks, gates, CTC, saliency -> page

Inside: scene -> passes, looks, saliency (from the network) -> account (numbers) -> canvas, pictures -> page (HTML).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path

import torch

from avsr import media
from avsr.checkpoint import DEFAULT_MODEL, Checkpoint, load, may_see
from avsr.errors import AvsrError
from avsr.explain.account import Found, account
from avsr.explain.looks import look, read_ctc, read_gates
from avsr.explain.page import draw_all, record, render
from avsr.explain.passes import run_passes
from avsr.explain.saliency import integrated_gradients
from avsr.explain.scene import Scene, Settings, open_scene
from avsr.models.decoder import Memory
from avsr.output import write_files
from avsr.rates import MEMORY_RATE
from avsr.recogniser import Recogniser, in_distribution
from avsr.runtime import Progress, no_progress, pick_device

__all__ = ["PAGE", "Found", "Scene", "Settings", "explain", "find_out"]

PAGE, NUMBERS = "explain.html", "explain.json"
_UNKNOWN_LIPS = "its lips are not like those this model learnt from, so what it reads there means little"
_NO_JUDGE = "this model cannot tell whether it knows the lips in it"


def explain(source: media.Source, *, model: str | Path | Checkpoint = DEFAULT_MODEL, output: str | Path | None = None,
            device: str = "auto", command: str | None = None, progress: Progress = no_progress, **settings) -> Path:
    """Write explain.html and explain.json about a piece of a recording, of at most 30 s; returns the page's path.

    source, model: as `transcribe` takes them. output: the folder, out/NAME-explain where none is given.
    command: what the page says it was made with. settings: fields of Settings.
    Raises AvsrError and its kinds; what could be put up with is told on the page.
    """
    wanted = make_settings(settings)
    checkpoint = model
    if not isinstance(model, Checkpoint):
        progress("loading the model", 0, None, None)
        checkpoint = load(model, lips=may_see(model), device=pick_device(device), dtype=torch.float32, progress=progress)
    if checkpoint.model.ctc_units == "tokens" or not checkpoint.model.dims.n_mels:
        raise AvsrError(f"{checkpoint.name}: explain looks into gates, judges and log-mels, of which this network has none.  "
                        "Use a model that was trained here, or avsr benchmark.")
    if wanted.language not in checkpoint.languages:
        raise AvsrError(f"{checkpoint.name}: does not write language {wanted.language!r}.  "
                        f"Use one of {', '.join(checkpoint.languages[:20])}, or another model.")
    found = find_out(source, checkpoint, wanted, progress)
    progress("drawing the page", 0, None, None)
    numbers = account(found, checkpoint, wanted.reference, wanted.language)
    page = render(numbers, draw_all(found), record(found.scene), command)
    folder = Path("out") / f"{Path(found.scene.name).stem}-explain" if output is None else Path(output)
    texts = {folder / PAGE: page, folder / NUMBERS: json.dumps(numbers, ensure_ascii=False) + "\n"}
    write_files(texts, lambda reason: f"{folder}: the page cannot be written ({reason}).  Make room or get permission there, "
                                      "or choose another folder with --output-dir.")
    return folder / PAGE


def make_settings(values: Mapping[str, object]) -> Settings:
    """Settings from keyword arguments. Raises AvsrError for a name that does not exist."""
    known = [field.name for field in fields(Settings)]
    for name in values:
        if name not in known:
            nearest = (get_close_matches(name, known, 1, 0) or known)[0]
            raise AvsrError(f"explain has no setting {name!r}.  Use {nearest}, or any of {', '.join(known)}.")
    return Settings(**values)


def find_out(source: media.Source, checkpoint: Checkpoint, settings: Settings, progress: Progress = no_progress) -> Found:
    """Everything the page tells, as arrays and numbers."""
    scene = open_scene(source, checkpoint.mouth_crop if checkpoint.video_trained else None, settings, progress)
    recogniser = Recogniser(checkpoint)
    passes = run_passes(recogniser, scene, settings.reference, settings.language, progress)
    memory = passes.memories[scene.modalities[-1]]
    if scene.sound is None:
        scene = replace(scene, problems=(*scene.problems, *lips_problems(checkpoint, scene.name, memory)))
    n_positions = round(scene.piece.duration_s * MEMORY_RATE)
    trust, familiar, heed = (None if one is None else one.item() for one in (memory.reliability, memory.in_distribution, None))
    looks, calls = look(checkpoint, memory, passes.tokens, settings.language, n_positions) if passes.words else ({}, {})
    gates = read_gates(checkpoint.model, passes.calls | calls, trust, n_positions)
    ctc, untrained = read_ctc(checkpoint, passes.memories, n_positions)
    saliency = None
    if scene.mouths is not None and passes.tokens and trust != 0:       # of lips that are not believed nothing matters
        saliency = integrated_gradients(recogniser, passes.audio, scene.mouths, passes.tokens, language=settings.language,
                                        progress=progress)
    return Found(scene, passes, trust, familiar, heed, looks, gates, ctc, tuple(untrained), saliency)


def lips_problems(checkpoint: Checkpoint, name: str, memory: Memory) -> tuple[str, ...]:
    """What the user should know of a recording without sound of which `transcribe` would write nothing by itself; `memory` is
    of its lips alone."""
    if checkpoint.model.reliability is not None and in_distribution(memory).item():
        return ()
    why = _UNKNOWN_LIPS if checkpoint.model.reliability is not None else _NO_JUDGE
    return (f"{name}: there is no sound in it, and {why}.  avsr transcribe writes something of them only with --modality v.",)
