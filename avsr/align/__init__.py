"""A recording and its text, or its subtitles -> the times of words and phones (forced alignment).

The work is in run.py and subtitles.py; this file imports nothing heavy, so that `import avsr` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avsr.names import DEFAULT_MODEL
from avsr.runtime import Progress, no_progress

if TYPE_CHECKING:
    from pathlib import Path

    from avsr import media
    from avsr.checkpoint import Checkpoint
    from avsr.transcript import Transcript


def align(source: media.Source | media.Clip, *, text: str, model: str | Path | Checkpoint = DEFAULT_MODEL, by: str = "auto",
          modality: str = "auto", language: str | None = None, device: str = "auto", progress: Progress = no_progress,
          **settings) -> Transcript:
    """When each word of a text is said in a recording of any length.

    source: as for avsr.transcribe. text: what is said; an empty line divides paragraphs.
    model: hears the recording, so that it is known where the text lies in it, and gives the times by `attention` and `ctc`.
    by: `attention` of the decoder, `ctc`, `hmm` (phones, English alone), or `auto`.
    modality: `a` for sound, `v` for the lips alone, `av` for both, `auto` for sound where there is any.
    language, device, progress: as for avsr.transcribe. settings: fields of run.AlignSettings.

    The words of the transcript are those of the text. What was not found in the recording is marked as `interpolated`, and
    named in `problems`. Raises AvsrError where most of the text does not fit, BadMedia, BadCheckpoint, MissingAsset.
    """
    from avsr.align import run

    return run.align(source, text=text, model=model, by=by, modality=modality, language=language, device=device,
                     progress=progress, **settings)
