"""`avsr report`: figures, tables and a page from the rows of one benchmark, or of two to compare."""

from __future__ import annotations

from pathlib import Path

import click

from avsr.cli.console import CONTEXT, ProgressBar, check_writable, print_result, print_status, report_errors


@click.command("report", context_settings=CONTEXT, short_help="Draw figures and tables of a benchmark.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN]", type=click.Path(path_type=Path))
@click.option("--output-dir", "-o", type=click.Path(file_okay=False, path_type=Path), default=None, metavar="DIR",
              help="Where the report is written.  [default: report in the first RUN]")
@click.option("--group-by", default=None, metavar="LIST",
              help="Columns whose groups are compared, such as speaker,sex.  [default: speaker and every label of the rows]")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE",
              help="Use only rows with this value, such as speaker=s1 or noise=babble; may be repeated.")
@click.option("--normaliser", type=click.Choice(["avsr", "whisper"]), default=None,
              help="How texts are compared: by our rules, or by Whisper's EnglishTextNormalizer, as many papers do (English "
                   "only).  [default: as the rows say]")
@click.option("--title", default=None, help="Title of the page.  [default: the names of the runs]")
@click.option("--format", "-f", "formats", default="png,svg", metavar="LIST",
              help="File formats of the figures: any of png,svg,pdf.")
@click.option("--quiet", "-q", is_flag=True, help="No table, no progress bar and no warnings; errors are still shown.")
def report_command(runs: tuple[Path, ...], output_dir: Path | None, group_by: str | None, where: tuple[str, ...],
                   title: str | None, formats: str, normaliser: str | None, quiet: bool) -> None:
    """Show what a benchmark measured: figures, tables, and a page that needs no network. With two runs, compare them.

    RUN is a folder that `avsr benchmark` wrote. The main table is also printed to standard output.
    """
    with report_errors():
        from avsr.report import ReportSettings, report

        settings = ReportSettings(_words(group_by), title, _words(formats) or (), _pairs(where), normaliser)
        folder = output_dir or runs[0] / "report"
        if output_dir:
            check_writable(folder)
        with ProgressBar(quiet) as bars:
            made = report(runs, folder, settings=settings, progress=bars)
            bars.warn(made.warnings)
        if not quiet:
            print_result(made.summary, lines=True)
            print_status(f"{len(made.written)} files are in {folder}.  Open {made.page}")


def _words(text: str | None) -> tuple[str, ...] | None:
    """`speaker,sex` -> ("speaker", "sex")."""
    return None if text is None else tuple(filter(None, (word.strip() for word in text.split(","))))


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """`speaker=s1` -> {"speaker": "s1"}."""
    from avsr.errors import AvsrError

    for text in texts:
        if not all(text.partition("=")):
            raise AvsrError(f"--where {text}: it names no column and value.  Write it as speaker=s1.")
    return dict(text.split("=", 1) for text in texts)
