"""Tables: columns and values in, Markdown for people and CSV for programs out; the page shows the same ones.

    Table(name, title, columns, lines)  ->  markdown(table);  csv_text(tables of one name)
A value is a Rate, an Estimate or a Gain, a number, a word, or None where there is none: shown as a dash, and empty in CSV.
What has an interval is three columns there.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from avsr.metrics import Estimate, Gain, Rate

ABSENT = "–"
CHANCE = "p"                                                # the pattern of a p-value


@dataclass(frozen=True)
class Column:
    """name: in CSV.  title: for people; None keeps it to CSV.  pattern: of numbers.  interval: shown behind a Rate."""

    name: str
    title: str | None
    pattern: str = ".1f"
    interval: bool = True
    words: bool = False                                     # set left, numbers right


@dataclass(frozen=True)
class Line:
    """A value for each column. bold: the reader must look here.  strong: columns of which a value stands out."""

    values: tuple[Any, ...]
    bold: bool = False
    strong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """name: of the CSV, which may hold several tables.  note: what the reader must know, below it.  raw: for CSV alone."""

    name: str
    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    note: str = ""
    raw: bool = False

    @property
    def shown(self) -> list[int]:
        """Columns for people."""
        return [i for i, column in enumerate(self.columns) if column.title is not None]

    def texts(self, line: Line) -> list[str]:
        """What people read in it."""
        return [show(line.values[i], self.columns[i]) for i in self.shown]


def show(value: Any, column: Column) -> str:
    """`12.3 (10.1 to 14.6)`, `-5`, `babble`; a dash for what is absent."""
    if isinstance(value, Gain):
        return _gain(value)
    if isinstance(value, Rate | Estimate):
        middle, low, high = bounds(value)
        if middle is None:
            return ABSENT
        texts = [tidy(f"{one:{column.pattern}}") for one in (middle, low, high) if one is not None]
        return texts[0] if len(texts) < 3 or not column.interval else f"{texts[0]} ({texts[1]} to {texts[2]})"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    if isinstance(value, float) and column.pattern == CHANCE:
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if isinstance(value, float):
        return tidy(f"{value:{column.pattern}}")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def bounds(value: Rate | Estimate | Gain) -> tuple[float | None, float | None, float | None]:
    """The value itself, low, high."""
    middle = value.percent if isinstance(value, Rate) else value.db if isinstance(value, Gain) else value.value
    return middle, value.low, value.high


def _gain(value: Gain) -> str:
    """`+4.7 (+3.1 to +6.0)`, `> +20.0 (+14.2 to > +20.0)`: bounds that lie beyond the levels measured are those levels'."""
    def one(db: float) -> str:
        if math.isfinite(db):
            return tidy(f"{db:+.1f}")
        return f"{'>' if db > 0 else '<'} {tidy(f'{value.limits[db > 0]:+.1f}')}"

    if value.beyond == 0:                                   # at an end of the levels measured: nothing can be said
        return ABSENT
    texts = [one(db) for db in (value.db, value.low, value.high) if db is not None]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"


def tidy(number: str) -> str:
    """A zero has no sign to lose, and a minus is a minus: `-0.0` -> `0.0`, `-2.4` -> `−2.4`."""
    if not number.strip("+-0.,"):
        return number.lstrip("+-")
    return number.replace("-", "−")


def markdown(table: Table) -> str:
    """Title, table, note."""
    columns = [table.columns[i] for i in table.shown]
    lines = [f"**{_safe(table.title)}**", ""] if table.title else []
    lines.append("| " + " | ".join(_safe(column.title) for column in columns) + " |")
    lines.append("|" + "|".join("--" if column.words else "--:" for column in columns) + "|")
    for line in table.lines:
        texts = [f"**{_safe(text)}**" if line.bold or column.name in line.strong else _safe(text)
                 for column, text in zip(columns, table.texts(line), strict=True)]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join([*lines, *(["", escaped(table.note)] if table.note else [])]) + "\n"


def csv_text(tables: Sequence[Table]) -> str:
    """Tables of one name, one below the other, with all columns that any of them has."""
    records = [record for table in tables for record in _records(table)]
    names = list(dict.fromkeys(name for table in tables for name in _names(table)))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _names(table: Table) -> Iterable[str]:
    for i, column in enumerate(table.columns):
        yield column.name
        if any(isinstance(line.values[i], Rate | Estimate | Gain) for line in table.lines):
            yield from (f"{column.name}_low", f"{column.name}_high")


def _records(table: Table) -> Iterable[dict[str, Any]]:
    for line in table.lines:
        record: dict[str, Any] = {}
        for column, value in zip(table.columns, line.values, strict=True):
            if isinstance(value, Rate | Estimate | Gain):
                names = (column.name, f"{column.name}_low", f"{column.name}_high")
                record |= dict(zip(names, map(_number, bounds(value)), strict=True))
            else:
                record[column.name] = _number(value)
        yield record


def _number(value: Any) -> Any:
    """Six digits are more than any interval allows, and the same on every machine."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _safe(text: str) -> str:
    """A bar would end the column, a line break the row."""
    return escaped(text).replace("|", "\\|").replace("*", "\\*")


def escaped(text: str) -> str:
    """Markdown in which a name that looks like an element of HTML, a link or a picture stays text: `<script>`, `![x](y)`."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(text.split()))
    return re.sub(r"[\\`\[]", r"\\\g<0>", re.sub(r"<(?=[^\W\d]|[/!?])", "&lt;", text))
