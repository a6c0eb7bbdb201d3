"""Cut the King James Bible, as Debian's `bible` prints it, into texts to train, validate and test with, by chapters.

    bible -f -l4000 "Ge1:1-Re22:21" > data/text/kjv.txt
    uv run python experiments/history/lm/bible.py data/text/kjv.txt data/text/bible
writes train.txt, valid.txt and test.txt, a verse a line: 90, 5 and 5 % of the 1,189 chapters, drawn by a seed.
"""

import re
import sys
from itertools import groupby
from pathlib import Path

import numpy as np

SHARES = {"valid": 0.05, "test": 0.05}
VERSE = re.compile(r"(\d?[A-Za-z]+\d+):(\d+) (.*)")


def main(source: str, folder: str) -> None:
    """Write the three texts."""
    verses = [VERSE.fullmatch(line.strip()) for line in Path(source).read_text(encoding="latin-1").splitlines()]
    if not all(verses):
        sys.exit(f"{source}: {sum(one is None for one in verses)} lines are no verse such as `Ge1:1 In the beginning ...`.  "
                 "Print it with bible -f -l4000.")
    chapters = [[verse[3] for verse in some] for _, some in groupby(verses, key=lambda verse: verse[1])]
    order = np.random.default_rng(1).permutation(len(chapters)).tolist()
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, share in SHARES.items():
        n = round(share * len(chapters))
        _write(Path(folder) / f"{name}.txt", chapters, order[:n])
        order = order[n:]
    _write(Path(folder) / "train.txt", chapters, order)


def _write(path: Path, chapters: list[list[str]], numbers: list[int]) -> None:
    lines = [verse for number in sorted(numbers) for verse in chapters[number]]
    path.write_text("".join(f"{line}\n" for line in lines))
    print(f"{path}: {len(numbers)} chapters, {len(lines)} verses, {sum(len(line.split()) for line in lines)} words")


if __name__ == "__main__":
    main(*sys.argv[1:])
