"""Errors of word borders by each method of alignment, on prepared GRID clips whose words people have marked (.align files).

    prepared clips + their texts -> each Method of avsr.align -> errors of starts and ends -> a line of JSON for each method
Run it as `python experiments/history/alignment/measure.py --split valid`, or with `--split test,unseen`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from avsr import checkpoint
from avsr.align.methods import Method, open_method
from avsr.cache import read_entry
from avsr.dataset import ManifestRow, sound_of
from avsr.manifest import manifest_path, read
from avsr.recogniser import Recogniser
from avsr.segment import SpeechSegment
from avsr.stream import Window

# name: method, model, modality
SYSTEMS = {
    "HMM, phones": ("hmm", "grid", "a"),
    "attention, grid": ("attention", "grid", "a"),
    "CTC, grid, sound": ("ctc", "grid", "a"),
    "CTC, grid, both": ("ctc", "grid", "av"),
    "CTC, grid, lips": ("ctc", "grid", "v"),
    "attention, grid, lips": ("attention", "grid", "v"),
    "attention, tiny.en": ("attention", "tiny.en", "a"),
    "attention, base": ("attention", "base", "a"),
}


def clips(path: Path, splits: list[str], limit: int) -> list[ManifestRow]:
    """Clips with marked words of some splits, at most `limit`, drawn with a fixed seed."""
    rows = [ManifestRow(one, path.parent) for one in read(path) if one.words and one.split in splits]
    order = np.random.default_rng(0).permutation(len(rows))[:limit]
    return [rows[i] for i in sorted(order)]


def window_of(row: ManifestRow, modality: str) -> Window:
    """A prepared clip as the stream reader would give it."""
    mouths = read_entry(row.base, row.cache) if "v" in modality else None
    return Window(SpeechSegment(0, row.n_frames), sound_of(row) if "a" in modality else None,
                  mouths)  # pyright: ignore[reportArgumentType] cached mouths have what the model takes of Mouths


def errors(method: Method, rows: list[ManifestRow], modality: str) -> Iterator[tuple[float, float]]:
    """Found minus marked, seconds, of the start and the end of each word."""
    for row in rows:
        marked = row.utterance.words
        assert marked is not None, "clips() takes none without"
        with torch.inference_mode():
            found = method.align(window_of(row, modality), [f" {word.text}" for word in marked])
        for word, truth in zip(found, marked, strict=True):
            assert word is not None, f"{row.utterance.id}: {truth.text} has no time"
            yield word.start - truth.start, word.end - truth.end


def summary(found: np.ndarray) -> dict[str, float]:
    """Medians and 95th percentiles in ms of errors (words, 2): of all borders, and of starts and ends apart."""
    out = {}
    for name, part in (("all", found), ("start", found[:, 0]), ("end", found[:, 1])):
        size = 1000 * np.abs(part)
        out |= {f"{name}_median_ms": round(float(np.median(size))), f"{name}_p95_ms": round(float(np.quantile(size, 0.95))),
                f"{name}_bias_ms": round(1000 * float(np.median(part)))}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("data/grid"))
    parser.add_argument("--split", default="valid", help="valid, or test,unseen")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--systems", default="", help="a part of their names")
    options = parser.parse_args()
    rows = clips(manifest_path(options.manifest), options.split.split(","), options.clips)
    for name, (by, model, modality) in SYSTEMS.items():
        if options.systems in name:
            method = open_method(by, Recogniser(checkpoint.load(model)), modality, "en")
            began = time.process_time()
            found = np.array(list(errors(method, rows, modality)))
            seconds = (time.process_time() - began) / len(rows)
            print(json.dumps({"system": name, "split": options.split, "clips": len(rows), "words": len(found),
                              **summary(found), "cpu_s_per_clip": round(seconds, 2)}), flush=True)


if __name__ == "__main__":
    main()
