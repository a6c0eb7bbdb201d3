"""The utterances that were got worst and best, to be heard and seen on the report's page.

    rows + cache -> FOLDER/media/ID.mp4: the mouth, and the sound as it was recorded
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from avsr import media
from avsr.cache import read_entry
from avsr.dataset import ManifestRow
from avsr.metrics import extremes
from avsr.names import file_name
from avsr.results import ResultRow

MEDIA = "media"
MOST = 5                                                    # of the worst, and of the best, of each model
CRF = 23                                                    # 30 kB for 3 s; the page holds all of them


def keep(folder: Path, rows: Iterable[ResultRow], utterances: Mapping[str, ManifestRow]) -> int:
    """Write those that are not there yet; returns how many there are. Raises BadOutput."""
    rows = list(rows)
    systems = {row.system for row in rows}
    wanted = {one for system in systems for ids in extremes(rows, system, MOST) for one in ids}
    (folder / MEDIA).mkdir(parents=True, exist_ok=True)
    for one in sorted(wanted & set(utterances)):
        cached = read_entry(utterances[one].base, utterances[one].utterance.cache)
        path = folder / MEDIA / f"{file_name(one)}{'.mp4' if cached.images is not None else '.m4a'}"
        if not path.exists():
            media.write(cached.images, path, audio=cached.audio, crf=CRF)
    return len(wanted)
