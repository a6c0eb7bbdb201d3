"""Recordings of strangers, without references: how many words does looking change? By the law none, where the sound is clean.

    uv run experiments/whisper_lips/wild.py FOLDER [--model default]
A line for each recording: words by sound alone, how many of them differ by both, and what `transcribe` went by.
"""

import argparse
from pathlib import Path

import avsr
from avsr.errors import AvsrError
from avsr.metrics import NOTHING, word_errors
from avsr.runtime import pick_device
from avsr.text import normalise
from avsr.transcribe.run import load_model


def main() -> int:
    """The number of recordings that could not be transcribed, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    checkpoint = load_model(asked.model, "av", pick_device(asked.device))
    total, n_failed = NOTHING, 0
    print("| recording | words by sound | differing | went by | why |\n|--|--:|--:|--|--|")
    for path in sorted(path for path in asked.folder.iterdir() if path.is_file()):
        try:
            sound, both = (avsr.transcribe(path, model=checkpoint, modality=modality) for modality in ("a", "av"))
        except AvsrError as error:
            n_failed += 1
            print(f"| {path.name} | - | - | - | {error} |", flush=True)
            continue
        score = word_errors(normalise(sound.text), normalise(both.text))
        total += score
        print(f"| {path.name} | {score.words} | {score.errors} | {both.modality} | {both.modality_reason} |", flush=True)
    print(f"\nOf {total.words} words by sound alone {total.errors} differ; {n_failed} recordings failed.")
    return int(n_failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
