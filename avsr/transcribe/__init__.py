"""The main job: any recording of people talking -> text with word times.

The work is in run.py; this file imports nothing heavy, so that `import avsr` is quick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from avsr.names import DEFAULT_MODEL
from avsr.runtime import Progress, no_progress

if TYPE_CHECKING:
    from pathlib import Path

    from avsr import media
    from avsr.checkpoint import Checkpoint
    from avsr.transcribe.batches import SharedBatches
    from avsr.transcript import Segment, Transcript


def transcribe(source: media.Source | media.Clip, *, model: str | Path | Checkpoint = DEFAULT_MODEL,
               lips: str | Path | Checkpoint | None = None, modality: str = "auto", language: str | None = None,
               device: str = "auto", on_segment: Callable[[Segment], None] | None = None,
               progress: Progress = no_progress, shared: SharedBatches | None = None, **settings) -> Transcript:
    """What is said in a recording.

    source: a file's path, its address (https://..., s3://...), `-` for standard input, its bytes, an open file, a waveform (S,)
    float32 at 16 kHz, or a media.Clip.
    model: see checkpoint.load; give a Checkpoint to load it only once, on the device where it is to run.
    lips: a second model, which reads the lips while `model` uses the sound; the two need not have anything in common, see
    combine. `v` then uses this one alone.
    modality: `a` for audio, `v` for video, `av` for both, `auto` for what the recording and the model allow.
    language: its code or English name, as in Whisper (de, German); if None, a multilingual model detects it.
    on_segment: called with each segment as it is found. progress: called as runtime.Progress says, with bytes of
    what is downloaded, and then with seconds of the recording.
    shared: batches that calls in several threads fill together, see batches.SharedBatches. settings: fields of
    TranscribeSettings.

    Raises BadMedia, NoFace, BadCheckpoint, MissingAsset; lesser problems are listed in the transcript's `problems`.
    """
    from avsr.transcribe import run

    return run.transcribe(source, model=model, lips=lips, modality=modality, language=language, device=device,
                          on_segment=on_segment, progress=progress, shared=shared, **settings)
