"""Reports: folders of benchmark rows in, figures, tables and one page out, from the rows alone and without torch.

Inside: runs (reading) -> result_table (rates by condition) -> tables, figures, sections (contribution, confusions, groups,
compare, examples) -> page (HTML).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avsr.errors import AvsrError, counted
from avsr.html import render
from avsr.html.plot import FORMATS, file_bytes, plot_style, svg_element
from avsr.html.table import Table, csv_text, escaped, markdown
from avsr.names import file_name
from avsr.output import locked, write_file
from avsr.report import figures, tables
from avsr.report.compare import comparison_section
from avsr.report.confusions import confusion_section
from avsr.report.contribution import contribution_section
from avsr.report.examples import example_section
from avsr.report.findings import findings
from avsr.report.groups import group_section
from avsr.report.result_table import ResultTable
from avsr.report.runs import Run, open_runs
from avsr.report.tables import Section
from avsr.runtime import Progress, no_progress

__all__ = ["Report", "ReportSettings", "report"]

PAGE, TABLES, WRITTEN = "index.html", "tables.md", "written.txt"
REMEDY = "Choose another folder with --output-dir, or make room."


@dataclass(frozen=True)
class ReportSettings:
    """group_by: columns by which errors are compared; None is speaker and every label.  formats: of the figures' files.
    where: only rows whose columns have these values.  normaliser: a key of text.NORMALISERS in place of what the rows name."""

    group_by: tuple[str, ...] | None = None
    title: str | None = None
    formats: tuple[str, ...] = ("png", "svg")
    where: Mapping[str, str] = field(default_factory=dict)
    normaliser: str | None = None

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.formats if kind not in FORMATS]:
            raise AvsrError(f"--format {unknown[0]}: figures are written as {', '.join(FORMATS)}.  Use any of these.")


@dataclass(frozen=True)
class Report:
    """page: the page.  written: every file.  summary: the main tables in Markdown.  warnings: what the reader should know."""

    page: Path
    written: list[Path]
    summary: str
    warnings: list[str]


def report(folders: Sequence[Path | str], output: Path | str, *, settings: ReportSettings | None = None,
           progress: Progress = no_progress) -> Report:
    """Write the report of one run, or of two compared, into a folder. Raises AvsrError, as where rows are broken."""
    settings, output = settings or ReportSettings(), Path(output)
    progress("reading rows", 0, None, None)
    runs = open_runs([Path(folder) for folder in folders], settings.where, settings.normaliser)
    results = ResultTable([row for run in runs for row in run.rows])
    title = settings.title or f"Benchmark: {' and '.join(run.name for run in runs)}"
    warnings = [warning for run in runs for warning in run.warnings]
    with locked(output, "avsr report"), plot_style():
        progress("counting errors", 0, None, None)
        sections = [section for section in make_sections(runs, results, settings) if not section.empty]
        progress("drawing figures", 0, None, None)
        files: dict[str, str | bytes] = {
            f"{name}.{kind}": sheet.svg if kind == "svg" else file_bytes(sheet.figure, kind)
            for section in sections for name, sheet in section.sheets.items() for kind in settings.formats}
        files[PAGE] = render_page(sections, title=title, facts=_facts(results), findings=findings(results), warnings=warnings,
                                  runs=[(run.name, _about(run.about)) for run in runs if run.about])
        texts = [f"## {section.title}\n\n" + "\n".join(map(markdown, section.shown_tables))
                 for section in sections if section.shown_tables]
        files[TABLES] = f"# {escaped(title)}\n\n" + "\n".join(texts)
        by_name: dict[str, list[Table]] = defaultdict(list)
        for table in (table for section in sections for table in section.all_tables):
            by_name[table.name].append(table)
        files |= {f"tables/{file_name(name)}.csv": csv_text(same) for name, same in by_name.items()}
        written = _write_files(output, files)
    notes = [note for section in sections if section.name != "examples" for note in section.notes]
    summary = "\n".join(map(markdown, by_name["compared" if len(runs) > 1 else "main"]))
    return Report(output / PAGE, written, summary, [*warnings, *notes])


def make_sections(runs: Sequence[Run], results: ResultTable, settings: ReportSettings) -> list[Section]:
    """Everything that is shown, in the order of the page."""
    compared = [comparison_section(runs, results)] if len(runs) > 1 else []
    return [
        *compared,
        Section("wer", "WER against noise", {"wer": figures.wer_sheet(results)},
                [*(tables.main_table(results, system, noise) for system in results.video_systems or [None]
                   for noise in results.panel_noises), tables.gain_table(results)],
                about="Word error rate, with bootstrap intervals of 95 % in brackets."),
        Section("corruption", "Corrupted video", {"corruption": figures.corruption_sheet(results)},
                tables.corruption_tables(results)),
        contribution_section(results),
        confusion_section(results),
        group_section(results, settings.group_by),
        example_section(results, runs[0].folder / "media"),
        Section("speed", "Speed", {"speed": figures.speed_sheet(results, runs)}, [tables.speed_table(runs)]),
        Section("errors", "Errors by kind", tables=[tables.error_table(results)]),
        Section("counts", "What was measured", tables=[tables.count_table(runs), tables.skipped_table(runs)])]


def render_page(sections: Sequence[Section], **head: Any) -> str:
    """The page: one HTML file that needs no other. Its plots are SVG elements whose colours follow the reader's light or dark
    screen; a narrow screen shows their panels one by one. head: what the top and the end of the page show."""
    plots = {name: {"svg": svg_element(sheet.svg, name), "panels": sheet.boxes(),
                    "legend": svg_element(file_bytes(sheet.legend(), "svg"), f"{name}-legend"), "root_scale": sheet.root_scale}
             for section in sections for name, sheet in section.sheets.items()}
    percent = {"percent": lambda value: "–" if value is None else f"{value:.0f} %"}
    return render("report/page.html", percent, sections=sections, plots=plots, **head)


def _write_files(folder: Path, files: dict[str, str | bytes]) -> list[Path]:
    """Write the files and a list of them, and remove the other files of an earlier report: an old figure beside new numbers
    would mislead. Raises BadOutput."""
    listed = folder / WRITTEN
    earlier = listed.read_text().splitlines() if listed.is_file() else []
    for name, data in (files | {WRITTEN: "".join(f"{name}\n" for name in sorted(files))}).items():
        write_file(folder / name, data, remedy=REMEDY)
    for path in (folder / name for name in earlier if name not in files):
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            path.unlink()
    return [folder / name for name in (*files, WRITTEN)]


def _facts(results: ResultTable) -> list[tuple[str, str]]:
    """What was measured, in a few lines."""
    ids = {row.id for row in results.rows}
    speakers = {row.speaker for row in results.rows} - {None}
    by = next((rate.by for cell in results.cells if (rate := results.rate(cell)) and rate.low is not None), None)
    splits = dict.fromkeys(row.split for row in results.rows if row.split)
    who = f" of {len(speakers)} speakers" if len(speakers) > 1 else "".join(f" of {speaker}" for speaker in speakers)
    found = [("systems", ", ".join(results.systems)),
             ("speech", f"{counted(len(ids), 'utterance')}{who}" + (f", split {', '.join(splits)}" if splits else "")),
             ("noise", ", ".join(results.noises)),
             ("intervals", f"95 %, by bootstrap over {by}s" if by else ""),
             ("normaliser", results.rows[0].normaliser)]
    return [(name, value) for name, value in found if value]


def _about(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The values of run.json, without what has a table of its own."""
    flat = [item for name, value in about.items() if name != "skipped"
            for item in (value.items() if isinstance(value, Mapping) else [(name, value)])]
    return [(str(name), ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for name, value in flat]
