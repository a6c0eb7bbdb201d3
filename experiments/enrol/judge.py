"""Word error rate by lips alone on one speaker's clips that no enrolment learnt from: splits test and valid of a manifest.

    python experiments/enrol/judge.py MANIFEST SPEAKER MODEL...
"""

import argparse
from pathlib import Path

from avsr import checkpoint, manifest
from avsr.dataset import ManifestRow
from avsr.enrol.check import by_lips


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("speaker")
    parser.add_argument("models", nargs="+")
    asked = parser.parse_args()
    path = manifest.manifest_path(asked.manifest)
    rows = [ManifestRow(row, path.parent) for row in manifest.read(path) if row.speaker == asked.speaker]
    for name in asked.models:
        model = checkpoint.load(name)
        for splits in (("test",), ("test", "valid")):
            score = by_lips(model, [row for row in rows if row.utterance.split in splits])
            print(f"{asked.speaker} {'+'.join(splits):12} {name}: {score.percent:.1f} % of {score.words} words")


if __name__ == "__main__":
    main()
