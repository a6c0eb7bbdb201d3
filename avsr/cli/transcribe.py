"""`avsr transcribe`: recordings to text, subtitles and word times."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import (
    CONTEXT,
    Number,
    ProgressBar,
    check_writable,
    limit_openmp_spinning,
    print_result,
    print_status,
    report_errors,
    without_garbage_collection,
)
from avsr.errors import AvsrError

if TYPE_CHECKING:
    from avsr.checkpoint import Checkpoint
    from avsr.transcript import Segment


@click.command("transcribe", context_settings=CONTEXT, short_help="Turn recordings into text and subtitles.")
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
@click.option("--model", default="default",
              help="default (Whisper tiny.en with lips), grid, a Whisper size (tiny.en to large-v3), a model's folder, or "
                   "owner/model of the hub.")
@click.option("--modality", type=click.Choice(["auto", "a", "v", "av"]), default="auto",
              help="Go by sound (a), sight (v), both (av), or whatever the file and the model allow (auto).")
@click.option("--language", default=None,
              help="Its code or English name (de, German); found out if not given and the model is multilingual.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--beam-size", type=click.IntRange(1, 256), default=None,
              help="Texts kept in the search; 1 is fastest.  [default: 5, of imported models their authors' 40]")
@click.option("--ctc-weight", type=Number(0, 1, max_open=True), default=None,
              help="Of CTC in the search, for imported models.  [default: their authors' 0.1]")
@click.option("--lm", type=click.Path(), default=None, metavar="FILE",
              help="A language model of words to help the search: n-grams as ARPA, plain or .gz.")
@click.option("--lm-weight", type=Number(0, 100), default=None, help="Of the language model.  [default: 0.3]")
@click.option("--batch-size", type=click.IntRange(1, 1024), default=8, help="Pieces of up to 30 s recognised at once.")
@click.option("--temperature", type=Number(0, 10), default=0.0,
              help="First temperature tried; 0 is beam search, the only one of imported models.")
@click.option("--max-missing", type=Number(0, 1), default=0.25,
              help="Share of frames that may lack a face before a piece goes by sound alone.")
@click.option("--vad/--no-vad", default=True, help="Look for speech first, or take everything as speech.")
@click.option("--audio-track", type=click.IntRange(min=1), default=None, metavar="N",
              help="Which of several sound tracks, counted from 1.  [default: one in which somebody speaks]")
@click.option("--video-track", type=click.IntRange(min=1), default=None, metavar="N",
              help="Which of several pictures, counted from 1.  [default: one that shows a face]")
@click.option("--save-lips", type=click.Path(file_okay=False), default=None, metavar="DIR",
              help="Write the mouths that were looked at, as a small video per file.")
@click.option("--format", "-f", "formats", default=None, metavar="LIST",
              help="Files to write: any of txt,srt,vtt,tsv,json, or all.  [default: txt where --output-dir is given]")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False), default=None, metavar="DIR",
              help="Where to write them.  [default: here where --format is given]")
@click.option("--word-timestamps", is_flag=True, help="Put the time of each word into json.")
@click.option("--highlight-words", is_flag=True, help="Underline each word in srt and vtt as it is said.")
@click.option("--max-line-width", type=click.IntRange(1, 10**6), default=None, help="Characters to a subtitle line.")
@click.option("--max-line-count", type=click.IntRange(1, 10**6), default=None, help="Lines to a subtitle.")
@click.option("--max-words-per-line", type=click.IntRange(1, 10**6), default=None, help="Words to a subtitle line.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no warnings; errors are still shown.")
def transcribe_command(paths: tuple[str, ...], formats: str | None, output_dir: str | None, quiet: bool,
                       word_timestamps: bool, highlight_words: bool, max_line_width: int | None,
                       max_line_count: int | None, max_words_per_line: int | None, **options) -> None:
    """Turn recordings into text: sound, video, anything FFmpeg reads.

    FILE is a path, an address such as https://host/clip.mp4, or - for standard input.
    """
    layout = {"word_timestamps": word_timestamps, "highlight_words": highlight_words, "max_line_width": max_line_width,
              "max_line_count": max_line_count, "max_words_per_line": max_words_per_line}
    files = _Files(paths)
    with report_errors(files.how_to_go_on):
        from avsr.transcript import parse_formats

        names = parse_formats(formats or "txt") if formats or output_dir else ()
        folder = Path(output_dir or ".")
        if names:
            check_writable(folder)
        with ProgressBar(quiet) as bars:
            checkpoint = _load(options, bars)
            if options["lm"] is not None:
                from avsr.lm import NGrams

                options["lm"] = NGrams.open(options["lm"], bars)         # once for all files
            output = _Output(names, folder, layout, _stems(paths))
            failures = _transcribe_all(files, checkpoint, options, bars, output)
    if failures:
        if len(paths) > 1:
            print_status(f"{len(failures)} of {len(paths)} files failed: {', '.join(failures)}")
        sys.exit(1)


class _Output:
    """Where and how transcripts are written; with no formats, nowhere."""

    def __init__(self, formats: Sequence[str], folder: Path, layout: dict, stems: dict[str, str]):
        self.formats, self.folder, self.layout, self.stems = formats, folder, layout, _distinct(stems)

    def lips(self, folder: str | None, path: str) -> Path | None:
        """The file of the mouths of a recording, where --save-lips names a folder."""
        return None if folder is None else Path(folder) / f"{self.stems[path]}.lips.mp4"


class _Files:
    """Which files there are, and how many of them are done."""

    def __init__(self, paths: Sequence[str]):
        self.paths, self.n_done = paths, 0

    def how_to_go_on(self) -> str:
        """For somebody who has stopped the command."""
        if self.n_done == len(self.paths):
            return "All files are done."
        at = self.paths[self.n_done]
        if len(self.paths) == 1:
            return f"{at} is not done, and no file was written for it.  Give the same command again; it begins anew."
        return (f"{self.n_done} of {len(self.paths)} files are done, and {at} is not.  Give the same command again with the "
                "files from that one on.")


def _load(options: dict, bars: ProgressBar) -> Checkpoint:
    """The model, once for all files. Heavy imports wait until here."""
    bars("loading the model", 0, None, None)
    limit_openmp_spinning()
    with without_garbage_collection():
        from avsr.runtime import pick_device
        from avsr.transcribe import load_model

        return load_model(options["model"], options["modality"], pick_device(options["device"]), bars)


def _transcribe_all(files: _Files, checkpoint: Checkpoint, options: dict, bars: ProgressBar, output: _Output) -> list[str]:
    """Each file in turn, whatever happens to the others. Returns the paths that failed."""
    from avsr.transcribe import transcribe
    from avsr.transcript import write

    failures, printer = [], _Printer()
    for n_done, path in enumerate(files.paths):
        files.n_done = n_done
        printer.between_files()
        bars.begin(path, heading=len(files.paths) > 1)
        try:
            settings = {**options, "model": checkpoint, "save_lips": output.lips(options["save_lips"], path)}
            transcript = transcribe(path, **settings, on_segment=printer, progress=bars)
            bars.warn(transcript.problems)
            if output.formats:
                write(transcript, output.formats, output_dir=output.folder, stem=output.stems[path], **output.layout)
        except AvsrError as error:
            failures.append(path)
            print_status(f"error: {error}")
        except (KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:                          # a mistake of ours must not cost the user the other files
            if os.environ.get("AVSR_DEBUG"):
                raise
            failures.append(path)
            print_status(f"error: {path}: {type(error).__name__}: {error}.  This is a mistake in avsr, please report it; "
                 "AVSR_DEBUG=1 shows where.")
    files.n_done = len(files.paths)
    return failures


class _Printer:
    """Texts on standard output, a segment a line, with an empty line between those of two files."""

    def __init__(self):
        self.printed = self.pending = False

    def between_files(self) -> None:
        self.pending = self.printed

    def __call__(self, segment: Segment) -> None:
        if self.pending:
            print_result("")
        print_result(segment.text)
        self.printed, self.pending = True, False


def _stems(paths: Sequence[str]) -> dict[str, str]:
    """A name to write under for each path: its stem, its full name where stems clash, numbered where those do."""
    from avsr.media import source_name

    names = {path: Path(source_name(path)) for path in paths}
    stems = Counter(name.stem for name in names.values())
    taken: Counter[str] = Counter()
    out = {}
    for path in names:
        name = names[path].stem if stems[names[path].stem] == 1 else names[path].name
        taken[name] += 1
        out[path] = name if taken[name] == 1 else f"{name}-{taken[name]}"
    return out


def _distinct(stems: dict[str, str]) -> dict[str, str]:
    """The same names, numbered where two of them differ in case alone, which some file systems ignore."""
    taken: set[str] = set()
    out = {}
    for path, stem in stems.items():
        tries = (stem if n == 1 else f"{stem}-{n}" for n in count(1))
        out[path] = next(name for name in tries if name.lower() not in taken)
        taken.add(out[path].lower())
    return out
