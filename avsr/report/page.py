"""The page: sections of plots, tables and examples in, one HTML file that needs no other out.

Plots are SVG elements whose colours follow the reader's light or dark screen; a narrow screen shows their panels one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from avsr.html.page import render
from avsr.html.plot import file_bytes, svg_element
from avsr.html.table import Table
from avsr.report.sheet import Sheet


@dataclass
class Section:
    """A part of the report. Plots (by name) and tables may be None, where there is nothing to show, and are left out.

    about: a sentence below the heading.  examples: lists of utterances by heading.
    """

    name: str
    title: str
    plots: Mapping[str, Sheet | None] = field(default_factory=dict)
    tables: Sequence[Table | None] = ()
    notes: Sequence[str] = ()
    about: str = ""
    examples: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sheets = {name: sheet for name, sheet in self.plots.items() if sheet is not None}
        self.all_tables = [table for table in self.tables if table is not None]
        self.shown_tables = [table for table in self.all_tables if not table.csv_only]
        self.empty = not (self.sheets or self.all_tables or self.notes or self.examples)


def render_page(sections: Sequence[Section], svgs: Mapping[str, bytes], **head: Any) -> str:
    """The page's text. svgs: the plots as files, by name.  head: what the top and the end of the page show."""
    plots = {name: {"svg": svg_element(svgs[name], name), "panels": sheet.boxes(), "root_scale": sheet.root_scale,
                    "legend": svg_element(file_bytes(sheet.legend(), "svg"), f"{name}-legend")}
             for section in sections for name, sheet in section.sheets.items()}
    percent = {"percent": lambda value: "–" if value is None else f"{value:.0f} %"}
    return render("report/page.html", percent, sections=sections, plots=plots, **head)
