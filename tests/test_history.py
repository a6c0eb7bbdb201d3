"""The story's page: each reference points at the line that it names, and the table is that of the rows on disk."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HISTORY = ROOT / "experiments" / "history"
sys.path.insert(0, str(HISTORY))
import run as story  # noqa: E402
import table  # noqa: E402


def test_each_reference_names_what_stands_on_its_line():
    text = (HISTORY / "README.md").read_text()
    found = re.findall(r"\[`?(\w+)`?\]\(\.\./\.\./(avsr/[\w/]+\.py)#L(\d+)\)", text)
    assert len(found) > 12
    for name, path, number in found:
        line = (ROOT / path).read_text().splitlines()[int(number) - 1]
        assert re.match(rf"\s*(def|class) {name}\b", line), f"{path}#L{number} is {line.strip()!r}, not {name}"


def test_every_folder_of_rows_is_of_one_system():
    folders = [story.folder_of(one) for one in story.systems()]
    assert len(set(folders)) == len(folders)


def test_stages_are_trained_before_what_starts_from_them():
    names = [name for name, _, _ in story.training()]
    assert len(set(names)) == len(names)
    assert names.index("pretrain") < names.index("lips-10-pretrained")


def test_the_table_is_that_of_the_rows():
    if not (HISTORY / "results.jsonl.gz").exists():
        pytest.fail("experiments/history/results.jsonl.gz is missing.  Run experiments/history/run.py table.")
    rows, timings, facts = table.load()
    assert {row.system for row in rows} == {fact["system"] for fact in facts}
    first = table.wer_table(rows, timings, facts)
    assert first in (HISTORY / "table.md").read_text()
