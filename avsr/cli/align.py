"""`avsr align`: a recording and its text to word and phone times, or its subtitles to the right times."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
)
from avsr.cli.files import FileQueue, distinct_stems
from avsr.errors import AvsrError

if TYPE_CHECKING:
    from avsr.checkpoint import Checkpoint
    from avsr.transcript import Transcript

SUBTITLES = (".srt", ".vtt")


@click.command("align", context_settings=CONTEXT, short_help="Find when each word of a text is said.")
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
@click.option("--text", default=None, metavar="PATH",
              help="What is said: a text file, - for standard input, or a folder with NAME.txt for each recording.")
@click.option("--subtitles", default=None, metavar="PATH",
              help="Subtitles that get new times: a .srt or .vtt file, or a folder with NAME.srt or NAME.vtt for each "
                   "recording. All but the times stays as it is.")
@click.option("--encoding", default=None, metavar="NAME",
              help="The encoding of the text or the subtitles, such as cp1252.  [default: UTF-8, or what the mark says]")
@click.option("--model", default="default",
              help="The model that hears the recording, and that --by attention and ctc use; as for `avsr transcribe`.")
@click.option("--by", type=click.Choice(["auto", "attention", "ctc", "hmm"]), default="auto",
              help="How times are found: the attention of the model's decoder, its CTC, phones of a hidden Markov model "
                   "(English by sound), or what was measured to be best (auto).")
@click.option("--modality", type=click.Choice(["auto", "a", "v", "av"]), default="auto",
              help="Use the sound (a), the lips (v), both (av), or the sound where there is any (auto).")
@click.option("--language", default=None, help="The language's code or English name, as for `avsr transcribe`.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--max-unlike", type=Number(0, 1), default=0.75,
              help="Largest share of the words of the text that may not be heard; beyond it the text is refused.")
@click.option("--audio-track", type=click.IntRange(min=1), default=None, metavar="N",
              help="Number of the sound track, counted from 1.  [default: one in which somebody speaks]")
@click.option("--format", "-f", "formats", default=None, metavar="LIST",
              help="Files to write: any of textgrid,ctm,json,srt,vtt,tsv,txt.  [default: textgrid where --output is given]")
@click.option("--output", "-o", default=None, metavar="PATH",
              help="Where to write: a file for one recording, whose suffix is the format, or a folder.  [default: here where "
                   "--format is given]")
@click.option("--highlight-words", is_flag=True, help="Underline each word in srt and vtt as it is said.")
@click.option("--max-words-per-line", type=click.IntRange(1, 10**6), default=None, help="Words per subtitle line.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no warnings; errors are still shown.")
def align_command(paths: tuple[str, ...], text: str | None, subtitles: str | None, encoding: str | None, formats: str | None,
                  output: str | None, highlight_words: bool, max_words_per_line: int | None, quiet: bool, **options) -> None:
    """Find when each word of a text, or each subtitle, is said.

    Prints start, end (seconds) and word, a line for each word, where no file is asked for. FILE is a path, an address such as
    https://host/clip.mp4, or - for standard input.
    """
    files = FileQueue(paths)
    with report_errors(files.resume_hint):
        if (text is None) == (subtitles is None):
            raise AvsrError("avsr align: there is no text to align.  Name it with --text, or old subtitles with --subtitles; "
                            "avsr transcribe writes what is said." if text is None else
                            "avsr align: both a text and subtitles are given.  Name one of them.")
        layout = {"highlight_words": highlight_words, "max_words_per_line": max_words_per_line, "word_timestamps": True}
        if text == "-" and "-" in paths:
            raise AvsrError("avsr align: standard input cannot be both the recording and the text.  Name a file for one.")
        given = _given(paths, text, SUBTITLES if text is None else (".txt",), subtitles)
        place = _Place.of(paths, formats, output, given if text is None else None)
        with ProgressBar(quiet) as bars:
            model = _load(options, bars)
            options |= {"model": model}

            def work(path: str) -> None:
                if text is None:
                    _retime(path, given[path], encoding, options, place, bars)
                else:
                    _align(path, given[path], encoding, options, place, layout, bars)

            files.run(work, bars)


@dataclass(frozen=True)
class _Place:
    """Where results are written, and in which formats; without formats they are printed. file: for one recording; else NAME in
    `folder`, by `stems`."""

    formats: tuple[str, ...]
    folder: Path
    stems: dict[str, str]
    file: Path | None = None

    @classmethod
    def of(cls, paths: Sequence[str], formats: str | None, output: str | None, subtitles: dict[str, str] | None) -> _Place:
        """As the options say. subtitles: the files that get new times, by recording; None for a text."""
        from avsr.transcript import FORMATS, WORD_FORMATS, parse_formats

        names = {f".{name}": name for name in (*FORMATS, *WORD_FORMATS)}
        suffix = "" if output is None else Path(output).suffix.lower()
        file = Path(output) if output is not None and suffix in names and not Path(output).is_dir() else None
        if file is not None and len(paths) > 1:
            raise AvsrError(f"{file}: one file for {len(paths)} recordings.  Name a folder with --output.")
        if subtitles is not None:
            (kinds := {Path(one).suffix.lower() for one in subtitles.values()}).discard(suffix)
            if formats is not None or (file is not None and kinds):
                raise AvsrError(f"avsr align: subtitles keep their format, {' and '.join(sorted(kinds)) or suffix}.  Leave out "
                                "--format, and give the output the same suffix.")
            wanted = ("subtitles",) if output is not None else ()
        else:
            usual = () if output is None else ("textgrid",) if file is None else (names[suffix],)
            wanted = parse_formats(formats) if formats else usual
            if file is not None and wanted != (names[suffix],):
                raise AvsrError(f"{file}: --format asks for {formats}.  Leave out --format, or name a folder with --output.")
        folder = file.parent if file is not None else Path(output or ".")
        if wanted:
            check_writable(folder)
        return cls(wanted, folder, distinct_stems(paths), file)


def _given(paths: Sequence[str], text: str | None, suffixes: Sequence[str], subtitles: str | None) -> dict[str, str]:
    """The file with the text or the subtitles of each recording, `-` for standard input."""
    name = subtitles if text is None else text
    assert name is not None, "one of them is given"
    if not Path(name).is_dir():
        if len(paths) > 1:
            raise AvsrError(f"{name}: one text for {len(paths)} recordings.  Name a folder with a file NAME{suffixes[0]} for "
                            "each.")
        return {paths[0]: name}
    out = {}
    for path in paths:
        found = [one for suffix in suffixes if (one := Path(name) / f"{Path(path).stem}{suffix}").is_file()]
        if not found:
            raise AvsrError(f"{name}: no text for {path}.  Put a file {Path(path).stem}{suffixes[0]} there.")
        out[path] = str(found[0])
    return out


def _load(options: dict, bars: ProgressBar) -> Checkpoint:
    """The model, once for all files. Heavy imports wait until here."""
    bars("loading the model", 0, None, None)
    limit_openmp_spinning()
    from avsr.transcribe.run import load_models

    return load_models(options["model"], None, options["modality"], options["device"], bars, kept_export=True)


def _align(path: str, given: str, encoding: str | None, options: dict, place: _Place, layout: dict, bars: ProgressBar) -> None:
    from avsr.align import align
    from avsr.align.given import decoded, read_given
    from avsr.output import write_file
    from avsr.transcript import format_transcript, write

    text = decoded(sys.stdin.buffer.read(), "standard input", encoding) if given == "-" else read_given(given, encoding)
    phones = bool({"textgrid", "json"} & set(place.formats))
    found = align(path, text=text, progress=bars, phones=phones, text_name="the text" if given == "-" else given, **options)
    bars.warn(found.problems)
    stem = place.stems[path]
    if place.file is not None:
        write_file(place.file, format_transcript(found, place.formats[0], stem=stem, **layout))
    elif place.formats:
        write(found, place.formats, output_dir=place.folder, stem=stem, **layout)
    else:
        _print_words(found)


def _print_words(found: Transcript) -> None:
    """A line for each word: start, end, word, and `interpolated` where it was not found."""
    for word in found.words:
        print_result("\t".join([f"{word.start:.3f}", f"{word.end:.3f}", word.text.strip(),
                                *(["interpolated"] if word.interpolated else [])]))


def _retime(path: str, given: str, encoding: str | None, options: dict, place: _Place, bars: ProgressBar) -> None:
    from avsr.align.subtitles import read_subtitles, retime
    from avsr.output import write_file

    subtitles = read_subtitles(given, encoding)
    found = retime(path, subtitles, progress=bars, **options)
    bars.warn(found.problems)
    if not place.formats:
        print_result(found.content.rstrip("\r\n"), lines=True)
        return
    target = place.file or place.folder / f"{place.stems[path]}{Path(given).suffix}"
    write_file(target, subtitles.encoded(found.content))
    changes = sorted(new - old.start for old, (new, _) in zip(subtitles.cues, found.times, strict=True))
    if not bars.quiet:
        print_status(f"{target}: {len(changes)} subtitles, moved by {changes[0]:+.2f} to {changes[-1]:+.2f} s, {found.moved} "
                     "of them with their neighbours.")
