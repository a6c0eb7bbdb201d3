"""What a person's lips gain from 5 to 32 clips: adapted as `avsr enrol` does, read on clips that nothing was chosen on.

    python experiments/enrol/sizes.py LABELLED MANIFEST SPEAKER --lips MODEL --clips 5 10 20 32 [--true]
LABELLED: what `avsr prepare folder CLIPS LABELLED --label base` made of the speaker's training clips, with the limits of an
enrolment. MANIFEST: the prepared corpus, whose splits test and valid are read. --true: its texts in place of the ears'.
"""

import argparse
import json
import resource
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from avsr import manifest
from avsr.dataset import ManifestRow
from avsr.enrol.adaptation import adapt, load_lips
from avsr.enrol.check import by_lips
from avsr.enrol.material import Material, _comparable, write_folds
from avsr.runtime import no_progress, pick_device
from avsr.text import normalise
from avsr.train.forced_alignment import with_word_times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("labelled", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("speaker")
    parser.add_argument("--lips", required=True)
    parser.add_argument("--clips", type=int, nargs="+", required=True)
    parser.add_argument("--true", action="store_true")
    asked = parser.parse_args()
    path = manifest.manifest_path(asked.manifest)
    corpus = [row for row in manifest.read(path) if row.speaker == asked.speaker]
    held_out = [ManifestRow(row, path.parent) for row in corpus if row.split in ("test", "valid")]
    truth = {Path(row.media).stem: row.text for row in corpus}
    rows = [row for row in manifest.read(asked.labelled / "manifest.jsonl") if normalise(row.text)]
    order = manifest.shuffled([row.id for row in rows], 0)
    rows = [ManifestRow(replace(row, words=_comparable(row.words)), asked.labelled) for row in rows]
    if asked.true:
        rows = [replace(row, utterance=replace(row.utterance, text=truth[row.utterance.id.rpartition("@")[0]], words=None))
                for row in rows]
        rows = with_word_times(rows, "base", asked.labelled / "true-words.jsonl", pick_device("cpu"), no_progress)
    lips = load_lips(asked.lips, no_progress)
    for n in (0, *asked.clips):
        adapted, began = lips, cpu()
        if n:
            chosen = set(order[:n])
            material = Material([row for row in rows if row.utterance.id in chosen], Counter())
            with tempfile.TemporaryDirectory() as folder:
                adapted = adapt(lips, asked.lips, write_folds(material, []), Path(folder), device="cpu", progress=no_progress)
        spent = cpu() - began
        score = {split: by_lips(adapted, [row for row in held_out if row.utterance.split == split])
                 for split in ("test", "valid")}
        both = score["test"] + score["valid"]
        print(json.dumps({"speaker": asked.speaker, "clips": n, "text": "true" if asked.true else "ears", "lips": asked.lips,
                          "test": round(score["test"].percent, 1), "test+valid": round(both.percent, 1), "words": both.words,
                          "cpu_s": round(spent)}), flush=True)


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
