"""Tables: columns and rows of typed values in, cells for a page, Markdown and CSV out.

A value is a Rate, an Estimate or a Gain, a number, a word, or None where there is none: shown as a dash, and empty in CSV.
A value with an interval fills three columns of the CSV: NAME, NAME_low and NAME_high.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from avsr.metrics import Estimate, Gain, Rate

ABSENT = "–"
TEXT, P_VALUE = "s", "p"                                    # formats of columns that do not hold plain numbers
Row = Mapping[str, Any]                                     # values by the names of their columns


class Column(NamedTuple):
    """title: the heading; None keeps the column to the CSV.  format: of its numbers, or TEXT or P_VALUE."""

    title: str | None
    format: str = ".1f"


class TableCell(NamedTuple):
    """A value as text. interval: its bounds in brackets, or nothing.  strong: whether it stands out."""

    text: str
    interval: str
    strong: bool
    column: Column

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


@dataclass(frozen=True)
class Table:
    """name: of the CSV, which may hold several tables.  note: shown below the table.  csv_only: it is too long to be shown.
    highlighted, strong: numbers of rows that stand out, and columns that stand out in rows of these numbers."""

    name: str
    title: str
    columns: Mapping[str, Column]
    rows: Sequence[Row]
    note: str = ""
    csv_only: bool = False
    highlighted: Collection[int] = ()
    strong: Mapping[int, Collection[str]] = field(default_factory=dict)

    @property
    def shown(self) -> dict[str, Column]:
        """Columns that have a title."""
        return {name: column for name, column in self.columns.items() if column.title is not None}

    def cells(self, number: int) -> list[TableCell]:
        """The shown columns of a row."""
        row, strong = self.rows[number], self.strong.get(number, ())
        return [TableCell(*show(row.get(name), column.format), number in self.highlighted or name in strong, column)
                for name, column in self.shown.items()]


def bounds(value: Any) -> tuple[Any, float | None, float | None]:
    """A value itself, and its interval."""
    if isinstance(value, Rate | Estimate | Gain):
        middle = value.percent if isinstance(value, Rate) else value.db if isinstance(value, Gain) else value.value
        return middle, value.low, value.high
    return value, None, None


def show(value: Any, format: str) -> tuple[str, str]:
    """A value as text, and its interval as text: `12.3`, `(10.1 to 14.6)`; a dash for what is absent."""
    middle, low, high = bounds(value)
    if middle is None or (isinstance(middle, float) and math.isnan(middle)) or (isinstance(value, Gain) and value.beyond == 0):
        return ABSENT, ""                                   # a gain at an end of the levels measured says nothing
    texts = [_number(one, format, value) for one in (middle, low, high) if one is not None]
    alike = isinstance(value, Gain) and len(set(texts)) == 1
    return texts[0], "" if len(texts) < 3 or alike else f"({texts[1]} to {texts[2]})"


def _number(number: Any, format: str, value: Any) -> str:
    if isinstance(value, Gain):                             # a bound beyond the levels measured is written as that level
        limit = value.limits[number > 0]
        return signed(f"{number:+.1f}") if math.isfinite(number) else f"{'>' if number > 0 else '<'} {signed(f'{limit:+.1f}')}"
    if isinstance(number, float):
        if format == P_VALUE:
            return "< 0.001" if number < 0.001 else f"{number:.3f}"
        return signed(f"{number:{format}}")
    return f"{number:,}" if isinstance(number, int) and not isinstance(number, bool) else str(number)


def signed(number: str) -> str:
    """A number with a true minus sign, and a zero without any sign: `-2.4` -> `−2.4`, `-0.0` -> `0.0`."""
    return number.replace("-", "−") if number.strip("+-0.,") else number.lstrip("+-")


def markdown(table: Table) -> str:
    """Title, table and note."""
    from tabulate import tabulate

    texts = [[f"**{_escaped_cell(str(cell))}**" if cell.strong else _escaped_cell(str(cell)) for cell in table.cells(number)]
             for number in range(len(table.rows))]
    columns = table.shown.values()
    grid = tabulate(texts, [_escaped_cell(column.title or "") for column in columns], "pipe", disable_numparse=True,
                    colalign=["left" if column.format == TEXT else "right" for column in columns])
    return f"**{_escaped_cell(table.title)}**\n\n{grid}\n" + (f"\n{escaped(table.note)}\n" if table.note else "")


def csv_text(tables: Sequence[Table]) -> str:
    """Tables of one name, one below the other, with all columns that any of them has."""
    records = [{key: number for name in table.columns for key, number in _fields(name, row.get(name))}
               for table in tables for row in table.rows]
    out = io.StringIO()
    names: dict[str, None] = {}
    for table in tables:
        for name in table.columns:
            wide = any(isinstance(row.get(name), Rate | Estimate | Gain) for row in table.rows)
            names |= dict.fromkeys([name, f"{name}_low", f"{name}_high"] if wide else [name])
    writer = csv.DictWriter(out, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _fields(name: str, value: Any) -> list[tuple[str, Any]]:
    """A value as fields of a CSV: six digits are more than any interval allows, and the same on every machine."""
    parts = [name, f"{name}_low", f"{name}_high"] if isinstance(value, Rate | Estimate | Gain) else [name]
    return [(part, f"{one:.6g}" if isinstance(one, float) else one) for part, one in zip(parts, bounds(value), strict=False)]


def _escaped_cell(text: str) -> str:
    """A bar would end the column, and an asterisk begin bold type."""
    return escaped(text).replace("|", "\\|").replace("*", "\\*")


def escaped(text: str) -> str:
    """Markdown in which a name that looks like an element of HTML, a link or a picture stays text: `<script>`, `![x](y)`."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(text.split()))
    return re.sub(r"[\\`\[]", r"\\\g<0>", re.sub(r"<(?=[^\W\d]|[/!?])", "&lt;", text))
