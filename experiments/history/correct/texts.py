"""Texts for the corrector: GRID's sentences without those of the splits valid, test and unseen, and other English.

    uv run python experiments/history/correct/texts.py SENTENCES.tsv MANIFEST.jsonl FOLDER
SENTENCES.tsv: columns speaker and utterance, the name of a GRID clip, which is its text. A sentence that any clip of the
manifest's other splits has is left out, whoever says it. The other English is that of Python's own help (`pydoc_data`), which
every machine has.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from pydoc_data import topics

from avsr import manifest
from avsr.corpora.grid import sentence
from avsr.text import normalise


def main() -> None:
    """Write grid.txt and other.txt, a sentence a line, each once, in order."""
    table, clips, folder = map(Path, sys.argv[1:4])
    held_out = {normalise(row.text) for row in manifest.read(clips) if row.split != "train"}
    names = [line.split("\t")[1] for line in table.read_text().splitlines()[1:]]
    grid = sorted({normalise(text) for name in names if (text := sentence(name)) is not None} - held_out)
    found = [" ".join(text.split()) for topic in topics.topics.values() for text in re.split(r"(?<=[.:?!])\s|\n\n", topic)]
    other = sorted({normalise(text) for text in found if re.fullmatch(r"[A-Za-z][A-Za-z',; -]{15,}[.:?!]?", text)})
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("grid.txt", grid), ("other.txt", other)):
        (folder / name).write_text("".join(f"{text}\n" for text in texts))
        print(f"{folder / name}: {len(texts)} sentences")


main()
