"""The page: sections of figures, tables and examples in, one HTML file that needs no other out.

    Page(title, findings, sections, ...)  ->  render(page) -> str
Figures are SVG in the page, in colours that follow the reader's light or dark screen; a narrow one shows their panels singly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from avsr.report.draw import Drawing, Sheet, file_bytes, page_svg
from avsr.report.examples import Examples
from avsr.report.table import Column, Line, Table

PIXELS = 1.45                                               # CSS pixels to a point: 8 pt are 11.6 px on a telephone
LONG_TEXT = 40                                              # characters from which on a text may be broken into lines
LONG = 32                                                   # lines from which on a table is folded


@dataclass(frozen=True)
class Panel:
    """A part of a figure for a narrow screen. box: of the figure, as SVG's viewBox.  width: CSS pixels that it should fill."""

    box: str
    width: int


@dataclass(frozen=True)
class Shown:
    """A figure as an SVG element.

    panels: the parts that a narrow screen shows one below the other, with `legend` above them; none where there is only one.
    """

    name: str
    title: str
    caption: str
    svg: str
    legend: str | None
    panels: list[Panel]


@dataclass(frozen=True)
class Section:
    """A part of the page. about: a sentence below the heading."""

    name: str
    title: str
    about: str = ""
    figures: list[Shown] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    examples: Examples | None = None

    @property
    def empty(self) -> bool:
        """Nothing to show."""
        return not (self.figures or self.tables or self.notes or self.examples)


@dataclass(frozen=True)
class Page:
    """What is on it. facts: (name, value) of what was measured.  about: (name, value) of how, from run.json."""

    title: str
    facts: list[tuple[str, str]]
    findings: list[str]
    warnings: list[str]
    sections: list[Section]
    about: list[tuple[str, list[tuple[str, Any]]]]


def shown(drawing: Drawing, sheet: Sheet, svg: str) -> Shown:
    """svg: the drawing as a file."""
    name, element = f"figure-{drawing.name}", page_svg(svg, drawing.name, drawing.caption)
    if sheet.columns == 1:
        return Shown(name, drawing.title, drawing.caption, element, None, [])
    legend = sheet.legend()
    legend = legend and page_svg(file_bytes(legend, "svg").decode(), f"{drawing.name}-legend", "legend")
    panels = [Panel(" ".join(f"{part:g}" for part in box), round(PIXELS * box[2])) for box in sheet.boxes()]
    return Shown(name, drawing.title, drawing.caption, element, legend, panels)


def render(page: Page) -> str:
    """The file's text."""
    import jinja2

    loader = jinja2.PackageLoader("avsr.report", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    environment.filters |= {"cells": cells, "wer": lambda percent: "–" if percent is None else f"{percent:.0f} %"}
    sections = [section for section in page.sections if not section.empty]
    return environment.get_template("page.html").render(page=page, sections=sections, long=LONG)


def cells(table: Table) -> list[dict[str, Any]]:
    """Lines of a table: each text in two, the value and its interval, and its classes in CSS."""
    columns = [table.columns[i] for i in table.shown]
    out = []
    for line in table.lines:
        parts = [text.partition(" (") if text.endswith(")") and " to " in text else (text, "", "")
                 for text in table.texts(line)]
        out.append({"bold": line.bold, "cells": [(value, f"({rest}" if rest else "", _classes(column, line, value))
                                                 for (value, _, rest), column in zip(parts, columns, strict=True)]})
    return out


def _classes(column: Column, line: Line, value: str) -> str:
    names = ["words"] * column.words + ["strong"] * (column.name in line.strong) + ["long"] * (len(value) > LONG_TEXT)
    return " ".join(names)
