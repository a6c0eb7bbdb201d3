"""The report as a whole: folders of runs in; the files written, and the main table as text, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avsr.errors import AvsrError, counted
from avsr.names import file_name
from avsr.output import locked, write_file
from avsr.report import counts, figures, tables
from avsr.report.bias import helped, swapped
from avsr.report.book import Book
from avsr.report.compare import compare
from avsr.report.draw import FORMATS, Drawing, drawn, file_bytes
from avsr.report.examples import Examples, worst_and_best
from avsr.report.findings import findings
from avsr.report.groups import fairness
from avsr.report.page import Page, Section, render, shown
from avsr.report.runs import NAMES, Run, open_runs
from avsr.report.shares import credited
from avsr.report.table import Table, csv_text, escaped, markdown
from avsr.report.visemes import confused
from avsr.runtime import Progress, no_progress

PAGE, TABLES, WRITTEN = "index.html", "tables.md", "written.txt"
REMEDY = "Choose another folder with --output-dir, or make room."


@dataclass(frozen=True)
class ReportSettings:
    """group_by: columns for fairness; None is speaker and every label there is.  formats: of the figures' files.
    where: only rows whose columns have these values."""

    group_by: tuple[str, ...] | None = None
    title: str | None = None
    formats: tuple[str, ...] = ("png", "svg")
    where: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if strange := [kind for kind in self.formats if kind not in FORMATS]:
            raise AvsrError(f"--format {strange[0]}: figures are written as {', '.join(FORMATS)}.  Use any of these.")


@dataclass(frozen=True)
class Report:
    """page: the page.  written: every file.  summary: the main tables in Markdown.  warnings: what the reader should know."""

    page: Path
    written: list[Path]
    summary: str
    warnings: list[str]


@dataclass(frozen=True)
class Part:
    """A section before it is drawn."""

    name: str
    title: str
    about: str = ""
    drawings: Sequence[Drawing | None] = ()
    tables: Sequence[Table | None] = ()
    notes: Sequence[str] = ()
    examples: Examples | None = None


def report(folders: Sequence[Path | str], output: Path | str, *, settings: ReportSettings | None = None,
           progress: Progress = no_progress) -> Report:
    """Write the report of one run, or of two compared, into a folder. Raises AvsrError, as where rows are broken."""
    settings, output = settings or ReportSettings(), Path(output)
    progress("reading rows", 0, None, None)
    runs, write = open_runs([Path(folder) for folder in folders], settings.where), Writer(output)
    with locked(output, "avsr report"):
        return _write_report(runs, write, settings, progress)


def _write_report(runs: Sequence[Run], write: Writer, settings: ReportSettings, progress: Progress) -> Report:
    """All files of the report of these runs."""
    book = Book([row for run in runs for row in run.rows])
    progress("counting errors", 0, None, None)
    parts = [part for part in parts_of(runs, book, settings) if any((*part.drawings, *part.tables, part.notes, part.examples))]
    sections = []
    progress("drawing figures", 0, None, None)
    for part in parts:
        sections.append(_drawn(part, settings, write))
    title = settings.title or f"Benchmark: {' and '.join(run.name for run in runs)}"
    warnings = [warning for run in runs for warning in run.warnings]
    how = [(run.name, _about(run.about)) for run in runs if run.about]
    page = Page(title, _facts(runs, book), findings(book), warnings, sections, how)
    write(PAGE, render(page))
    read = [(part, [table for table in part.tables if table and not table.raw]) for part in parts]
    texts = (f"## {part.title}\n\n" + "\n".join(map(markdown, kept)) for part, kept in read if kept)
    write(TABLES, f"# {escaped(title)}\n\n" + "\n".join(texts))
    _write_csv([table for part in parts for table in part.tables if table], write)
    (first,) = [kept for part, kept in read if part.name == ("compared" if len(runs) > 1 else "wer")]
    write.finish()
    notes = [note for part in parts if part.name != "examples" for note in part.notes]
    summary = "\n".join(markdown(table) for table in first if table.name in ("main", "compared"))
    return Report(write.folder / PAGE, write.written, summary, [*warnings, *notes])


def parts_of(runs: Sequence[Run], book: Book, settings: ReportSettings) -> list[Part]:
    """Everything that is shown, in the order of the page."""
    fair, visemes = fairness(book, settings.group_by), confused(book)
    examples, thanks = worst_and_best(book, runs[0].media), credited(book)
    faces, more = swapped(book, fair.columns)
    out = []
    if len(runs) > 1:
        compared = compare(runs, book)
        out.append(Part("compared", "The two runs compared", tables=compared.tables, notes=compared.notes))
    return [
        *out,
        Part("wer", "WER against noise", "Word error rate, with bootstrap intervals of 95 % in brackets.", [figures.wer(book)],
             [*tables.main(book), tables.gains(book)]),
        Part("corruption", "Bad pictures", "", [figures.corruption(book)], tables.corruptions(book)),
        Part("trust", "What it goes by", "", [figures.trust(book), thanks.drawing], [thanks.table], thanks.notes),
        Part("visemes", "Confusions", "", [visemes.drawing], [visemes.table], visemes.notes),
        Part("groups", "For whom it fails", "", [fair.drawing], [*fair.tables, helped(book, fair.columns), faces],
             [*fair.notes, *more]),
        Part("examples", "Worst and best", _how_chosen(examples, book), notes=examples.notes, examples=examples),
        Part("speed", "Speed", "", [figures.speed(book, counts.factors(runs))], [counts.speeds(runs)]),
        Part("errors", "Errors by kind", "", tables=[tables.kinds(book)]),
        Part("counts", "What was measured", "", tables=[counts.measured(runs, book), counts.left_out(runs)])]


class Writer:
    """Writes files into a folder and remembers them, in a file too: those that the next report has not are taken away then."""

    def __init__(self, folder: Path):
        self.folder, self.written = folder, []

    def finish(self) -> None:
        """An old figure beside new numbers would mislead. Raises BadOutput."""
        names = {path.relative_to(self.folder).as_posix() for path in self.written}
        listed = self.folder / WRITTEN
        for name in listed.read_text().splitlines() if listed.is_file() else ():
            path = self.folder / name
            if name not in names and path.is_file() and path.resolve().is_relative_to(self.folder.resolve()):
                path.unlink()
        self(WRITTEN, "".join(f"{name}\n" for name in sorted(names)))

    def __call__(self, name: str, data: str | bytes) -> None:
        """Raises BadOutput."""
        path = self.folder / name
        write_file(path, data, remedy=REMEDY)
        self.written.append(path)


def _drawn(part: Part, settings: ReportSettings, write: Writer) -> Section:
    """Its figures, in files and for the page: drawn once for both, as drawing is what takes the time."""
    figures = []
    for drawing in (drawing for drawing in part.drawings if drawing is not None):
        with drawn():
            sheet = drawing.draw()
            files = {kind: file_bytes(sheet.figure, kind) for kind in dict.fromkeys([*settings.formats, "svg"])}
            figures.append(shown(drawing, sheet, files["svg"].decode()))
        for kind in settings.formats:
            write(f"{drawing.name}.{kind}", files[kind])
    return Section(part.name, part.title, part.about, figures,
                   [table for table in part.tables if table is not None and not table.raw], list(part.notes), part.examples)


def _write_csv(found: Sequence[Table], write: Writer) -> None:
    by_name: dict[str, list[Table]] = {}
    for table in found:
        by_name.setdefault(table.name, []).append(table)
    for name, same in by_name.items():
        write(f"tables/{file_name(name)}.csv", csv_text(same))


def _facts(runs: Sequence[Run], book: Book) -> list[tuple[str, str]]:
    """What was measured, in a few lines."""
    ids = {row.id for row in book.rows}
    speakers = {row.speaker for row in book.rows} - {None}
    by = next((rate.by for cell in book.cells if (rate := book.rate(cell)) and rate.low is not None), None)
    splits = dict.fromkeys(str(row.split) for row in book.rows if row.split)
    who = f" of {len(speakers)} speakers" if len(speakers) > 1 else "".join(f" of {speaker}" for speaker in speakers)
    found = [("systems", ", ".join(book.systems)),
             ("speech", f"{counted(len(ids), 'utterance')}{who}" + (f", split {', '.join(splits)}" if splits else "")),
             ("noise", ", ".join(book.noises)),
             ("intervals", f"95 %, by bootstrap over {by}s" if by else ""),
             ("normaliser", book.rows[0].normaliser)]
    return [(name, value) for name, value in found if value]


def _about(about: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """run.json, flat, without what has a table of its own."""
    out = []
    for name, value in about.items():
        if isinstance(value, Mapping):
            out += [(str(key), _text(one)) for key, one in value.items()]
        elif name != "skipped":
            out.append((name, _text(value)))
    return out


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _how_chosen(examples: Examples, book: Book) -> str:
    who = f"{examples.system}, " if len(book.systems) > 1 else ""
    return (f"By {who}{NAMES[examples.modality]}, over all noises and levels; among equally good ones those that sound alone "
            "got worst. Underlined: wrong words; italic: added; struck out: lost.")
