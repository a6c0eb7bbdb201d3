"""WER by lips alone on speakers that a network never saw and on those it knows, and the paired difference from the first model.

    uv run experiments/strangers/evaluate.py data/grid --known s1 runs/strangers/control/model runs/strangers/faces/model
    prepared GRID, models -> one line of a table for each, and with --results one JSON row for each clip

Strangers are all clips, of whichever split, of speakers not named by --known; `known` are the test clips of those that are. The
text is found by beam search, as the model wants it. Intervals are bootstrapped over clips.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from avsr import checkpoint, manifest
from avsr.cache import read_entry
from avsr.dataset import ManifestRow
from avsr.decode import Hypothesis
from avsr.metrics import word_errors
from avsr.metrics.intervals import gap, interval, ratio
from avsr.recogniser import Recogniser
from avsr.text import normalise

AT_ONCE = 16


def groups(folder: Path, known: Sequence[str]) -> dict[str, list[ManifestRow]]:
    """The clips by group: strangers whose clips are in train, valid or test (`others`), those of `unseen`, and known ones."""
    path = manifest.manifest_path(folder)
    rows = [ManifestRow(row, path.parent) for row in manifest.read(path)]
    out = {"others": [row for row in rows if row.utterance.speaker not in known and row.utterance.split != "unseen"],
           "unseen": [row for row in rows if row.utterance.split == "unseen"],
           "valid": [row for row in rows if row.utterance.split == "valid" and row.utterance.speaker in known],
           "known": [row for row in rows if row.utterance.split == "test" and row.utterance.speaker in known]}
    return {name: some for name, some in out.items() if some}


@torch.inference_mode()
def transcribe(recogniser: Recogniser, rows: Sequence[ManifestRow], both_sides: bool) -> list[str]:
    """The text of each clip by lips alone. both_sides: from the mean of the memories of the mouth and of its mirror image."""
    texts = []
    for first in range(0, len(rows), AT_ONCE):
        mouths = [read_entry(row.base, row.cache) for row in rows[first:first + AT_ONCE]]
        memory = recogniser.encode(None, mouths, "v")
        if both_sides:
            mirrored = [replace(one, images=np.ascontiguousarray(one.images[:, :, ::-1])) for one in mouths]
            other = recogniser.encode(None, mirrored, "v")
            memory = replace(memory, video=(memory.video + other.video) / 2,
                             unfused_video=(memory.unfused_video + other.unfused_video) / 2)
        found: list[Hypothesis] = recogniser.decode(memory)
        texts += [recogniser.detokenize(one.tokens) for one in found]
    return texts


def counts(row: ManifestRow, text: str) -> tuple[float, float]:
    """The errors of a text and the words of its reference."""
    score = word_errors(normalise(row.utterance.text), normalise(text))
    return float(score.errors), float(score.words)


def measured(sums: np.ndarray, statistic) -> str:
    """A share of words in percent with its 95 % interval over clips. sums: (n, k), see intervals.interval."""
    value = float(statistic(sums.sum(axis=0))[0])
    low, high = interval(sums, statistic, np.random.default_rng(0))
    return f"{100 * value:.1f}" if low is None or high is None else f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    """Print the table, a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="GRID as avsr prepare leaves it")
    parser.add_argument("models", nargs="+", help="the first is the one the others are compared with")
    parser.add_argument("--known", nargs="+", default=["s1"], help="speakers that the models have seen")
    parser.add_argument("--both-sides", action="store_true", help="average each mouth with its mirror image")
    parser.add_argument("--results", type=Path, help="file to which a row for each clip is added")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sets, first = groups(args.grid, args.known), {}
    print("model | " + " | ".join(f"{name} ({len(rows)})" for name, rows in sets.items()))
    for model in args.models:
        recogniser, cells = Recogniser(checkpoint.load(model)), []
        recogniser.model.eval()
        both = {}
        for name, rows in sets.items():
            texts = transcribe(recogniser, rows, args.both_sides)
            both[name] = np.array([counts(row, text) for row, text in zip(rows, texts, strict=True)])
            _write(args.results, model, name, rows, texts, both[name])
        if {"others", "unseen"} <= both.keys():
            both["strangers"] = np.concatenate([both["others"], both["unseen"]])
        for name, sums in both.items():
            first.setdefault(name, sums)
            change = "" if first[name] is sums else f" [{measured(np.hstack([sums, first[name]]), gap)}]"
            cells.append(f"{name} {measured(sums, ratio)}{change}")
        print(model, "|", " | ".join(cells), flush=True)


def _write(path: Path | None, model: str, group: str, rows: Sequence[ManifestRow], texts: Sequence[str],
           sums: np.ndarray) -> None:
    if path is None:
        return
    with path.open("a", encoding="utf-8") as file:
        for row, text, (errors, words) in zip(rows, texts, sums, strict=True):
            file.write(json.dumps({"model": model, "group": group, "id": row.utterance.id, "reference": row.utterance.text,
                                   "hypothesis": text, "errors": int(errors), "words": int(words)}) + "\n")


if __name__ == "__main__":
    main()
