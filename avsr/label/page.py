"""The page of a labelled corpus: what was kept and what was left out, with clips, texts and scores, as one HTML file.

    LabelledCorpus, cache, clips of segments that were left out -> labels.html
Segments are spread evenly over the recordings: those kept, and some of every reason for which others were left out.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avsr import cache, media
from avsr.html import data_uri, render, word_edits
from avsr.label.labels import Label, why_left_out
from avsr.label.result import CLIPS, LabelledCorpus
from avsr.manifest import Utterance
from avsr.names import file_name
from avsr.output import write_file
from avsr.text import normalise

N_KEPT, N_EACH = 24, 6                # segments shown that were kept, and of each reason for which others were left out


def write_page(corpus: LabelledCorpus) -> Path:
    """Write labels.html beside the manifest. Raises BadOutput."""
    prepared, folder = corpus.prepared, corpus.prepared.manifest.parent
    rows = {(row.media, round((row.start or 0.0) * 100)): row for row in prepared.utterances}
    kept = [(label, row) for label in corpus.kept if (row := rows.get((label.media, round(label.start_s * 100)))) is not None]
    groups = [{"title": "Kept", "count": len(kept), "note": "", "rows": [_kept(folder, *one) for one in _spread(kept, N_KEPT)]}]
    reasons: dict[str, list[tuple[Label, str]]] = defaultdict(list)
    for label in corpus.labels:
        if (reason := why_left_out(label, corpus.limits)) is not None:
            kind, _, numbers = reason.partition(": ")
            reasons[kind].append((label, numbers))
    for kind, theirs in sorted(reasons.items(), key=lambda one: -len(one[1])):
        with_clip = [one for one in theirs if _clip_path(folder, one[0]).is_file()]
        groups.append({"title": f"Left out: {kind}", "count": len(theirs), "note": theirs[0][1] if len(theirs) == 1 else "",
                       "rows": [_left_out(folder, *one) for one in _spread(with_clip or theirs, N_EACH)]})
    unread = [{"recording": end.media, "reason": end.reason} for end in corpus.ends if end.reason is not None]
    page = render("label/page.html", {}, manifest=prepared.manifest.name, summary=corpus.notes(), groups=groups, unread=unread,
                  limits=corpus.limits, counts=_counts(corpus))
    path = folder / "labels.html"
    write_file(path, page)
    return path


def _counts(corpus: LabelledCorpus) -> dict[str, Any]:
    return {"segments": len(corpus.labels), "kept": len(corpus.kept), "recordings": len(corpus.ends),
            "seconds": sum(label.seconds for label in corpus.labels), "seconds_kept": sum(one.seconds for one in corpus.kept)}


def _spread(items: Sequence[Any], n: int) -> list[Any]:
    """At most `n` of the items, spread evenly over them."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, n).round().astype(int))] if items else []


def _kept(folder: Path, label: Label, row: Utterance) -> dict[str, Any]:
    assert row.cache is not None
    cached = cache.read_entry(folder, row.cache, name=row.id)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"clip.{'mp4' if cached.images is not None else 'm4a'}"
        media.write(cached.images, path, audio=cached.audio, crf=23)
        clip = data_uri(path.read_bytes(), "video/mp4" if cached.images is not None else "audio/mp4")
    return _row(label, clip, cached.images is not None, "")


def _left_out(folder: Path, label: Label, numbers: str) -> dict[str, Any]:
    path = _clip_path(folder, label)
    clip = data_uri(path.read_bytes(), "video/mp4") if path.is_file() else None
    return _row(label, clip, label.person is not None, numbers)


def _clip_path(folder: Path, label: Label) -> Path:
    return folder / CLIPS / f"{file_name(label.id)}.mp4"


def _row(label: Label, clip: str | None, has_picture: bool, numbers: str) -> dict[str, Any]:
    """What the page shows of a segment. edits: the words of the second pass against the first."""
    edits = word_edits(normalise(label.text or ""), normalise(label.second or "")) if normalise(label.text or "") else []
    return {"label": label, "clip": clip, "has_picture": has_picture, "numbers": numbers, "edits": edits}
