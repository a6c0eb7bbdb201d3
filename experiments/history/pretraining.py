"""The table of pretraining.md: WER by lips alone, with and without pre-training, by the share of the transcripts.

    uv run python experiments/history/pretraining.py runs/history-lips-benchmark
Reads the rows of `avsr benchmark` in that folder and prints the table in Markdown.
"""

from __future__ import annotations

import sys
from pathlib import Path

from table import GROUPS, markdown, rate, select, with_interval

from avsr.results import read_results


def table(folder: Path) -> str:
    """A line for each system: WER by lips of all speakers and of each group, with 95 % intervals."""
    rows = read_results(folder / "results.jsonl")[0]
    groups = (None, *GROUPS.values())
    lines = [[system, *(with_interval(rate(select(rows, system, "v", None, speakers))) for speakers in groups)]
             for system in dict.fromkeys(row.system for row in rows)]
    return markdown(["system", "all", *GROUPS], lines, 1)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
