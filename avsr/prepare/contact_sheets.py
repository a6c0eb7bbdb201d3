"""Contact sheets of mouths: one picture per speaker, to see at a glance whether the crops are right.

    prepared utterances, cache -> contact_sheets/SPEAKER.png: a row per utterance, its id and frames spread over its length
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from avsr import cache
from avsr.manifest import Utterance
from avsr.names import file_name
from avsr.output import write_file

ROWS = 24                             # utterances on a sheet, spread over those of the speaker
FRAMES = 10                           # of each utterance
LABEL = 14                            # pixels above each row of mouths
RED = (40, 40, 230)                   # BGR: frame of a mouth where no face was found


def write_contact_sheets(folder: Path, utterances: Iterable[Utterance], base: str | Path | None = None) -> list[Path]:
    """Write a sheet for every speaker with mouths in the cache of `folder`, or of `base`. Raises BadOutput."""
    import cv2

    speakers: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if utterance.cache is not None and "v" in utterance.cache.modality:
            speakers[utterance.speaker or "unknown"].append(utterance)
    paths = []
    for speaker, theirs in sorted(speakers.items()):
        chosen = [theirs[i] for i in np.unique(np.linspace(0, len(theirs) - 1, ROWS).round().astype(int))]
        sheet = np.concatenate([_row(folder if base is None else base, utterance) for utterance in chosen])
        path = folder / "contact_sheets" / f"{file_name(speaker)}.png"
        write_file(path, cv2.imencode(".png", sheet)[1].tobytes())
        paths.append(path)
    return paths


def _row(base: str | Path, utterance: Utterance) -> np.ndarray:
    """(LABEL + 96, FRAMES * 96, 3) uint8 BGR."""
    import cv2

    assert utterance.cache is not None
    cached = cache.read_entry(base, utterance.cache, name=utterance.id)
    assert cached.images is not None
    assert cached.missing is not None
    size = cached.images.shape[1]
    row = np.zeros((LABEL + size, FRAMES * size, 3), np.uint8)
    text = f"{utterance.id}   {cached.n_frames} frames, {int(cached.missing.sum())} without a face   {utterance.text}"
    cv2.putText(row, text, (3, LABEL - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    for i, frame in enumerate(np.linspace(0, cached.n_frames - 1, FRAMES).round().astype(int)):
        here = row[LABEL:, i * size:(i + 1) * size]
        here[:] = cached.images[frame][:, :, None]
        if cached.missing[frame]:
            cv2.rectangle(here, (0, 0), (size - 1, size - 1), RED, 2)
    return row
