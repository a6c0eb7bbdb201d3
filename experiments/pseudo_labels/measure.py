"""Measures labels: what the two passes of `avsr prepare --label` write for clips whose texts are known, clean and in babble.

    uv run python experiments/pseudo_labels/measure.py GRID --lombard LOMBARD --model grid -o rows.jsonl
GRID is a folder with splits.tsv, of which split valid is read; LOMBARD a folder of sound of which s30 to s37 make the babble.
One row per clip and signal-to-noise ratio: the label's confidence and disagreement, and its word errors against the truth.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

from avsr import media
from avsr.label import readings
from avsr.metrics.counting import word_errors
from avsr.noise.mixing import mix
from avsr.text import normalise

SNRS = (None, 10.0, 0.0, -5.0)        # dB
TALKERS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--lombard", type=Path, required=True)
    parser.add_argument("--model", default="grid")
    parser.add_argument("--second-model", default=None)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    passes = readings.load(asked.model, asked.second_model, "cpu")
    rng = np.random.default_rng(0)
    voices = [media.read(path, want_video=False).audio for path in _voices(asked.lombard, rng)]
    with (asked.grid / "splits.tsv").open() as table:
        rows = [row for row in csv.DictReader(table, delimiter="\t") if row["split"] == "valid"]
    rows = [rows[i] for i in np.linspace(0, len(rows) - 1, min(asked.limit or len(rows), len(rows))).round().astype(int)]
    with asked.output.open("w") as out:
        for row in rows:
            path = next((asked.grid / row["speaker"]).glob(f"{row['utterance']}.m*"))
            sound = media.read(path, want_video=False).audio
            sounds = [sound if snr is None else mix(sound, _babble(voices, len(sound), rng), snr, rng=rng).audio
                      for snr in SNRS]
            for snr, reading in zip(SNRS, passes.read(sounds, "en", seed=0), strict=True):
                score = word_errors(row["text"], normalise(reading.text))
                facts = {"id": row["utterance"], "snr_db": snr, "reference": row["text"], "errors": score.errors,
                         "words": score.words, **{name: value for name, value in vars(reading).items() if name != "words"}}
                out.write(json.dumps(facts) + "\n")
                out.flush()


def _voices(folder: Path, rng: np.random.Generator) -> list[Path]:
    paths = sorted(path for number in range(30, 38) for path in (folder / f"s{number}").glob("*.opus"))
    return [paths[i] for i in rng.choice(len(paths), 40, replace=False)]


def _babble(voices: list[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """The sound of TALKERS voices, equally loud, (n,) float32."""
    out = np.zeros(n, np.float32)
    for number in rng.choice(len(voices), TALKERS, replace=False):
        voice = np.resize(np.roll(voices[number], -int(rng.integers(len(voices[number])))), n)
        out += voice / np.sqrt(np.square(voice).mean() + 1e-9)
    return out


if __name__ == "__main__":
    main()
