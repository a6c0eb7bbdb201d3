"""`avsr transcribe`: recordings to text, subtitles and word times."""

from __future__ import annotations

import gc
from collections.abc import Sequence
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
    report_errors,
)
from avsr.cli.files import FileQueue, distinct_stems
from avsr.cli.search_options import search_options

if TYPE_CHECKING:
    from avsr.checkpoint import Checkpoint
    from avsr.transcript import Segment


class _TranscribeCommand(click.Command):
    """A command whose flag --speakers may be followed by the word `separate`, which stands for --separate-speakers."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        out: list[str] = []
        for i, arg in enumerate(args):
            if arg == "--":
                return super().parse_args(ctx, out + args[i:])
            if arg == "--speakers=separate":
                out += ["--speakers", "--separate-speakers"]
            else:
                out.append("--separate-speakers" if arg == "separate" and out[-1:] == ["--speakers"] else arg)
        return super().parse_args(ctx, out)


@click.command("transcribe", cls=_TranscribeCommand, context_settings=CONTEXT,
               short_help="Turn recordings into text and subtitles.")
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
@click.option("--model", default="default",
              help="default (Whisper tiny.en with a video encoder), grid, a Whisper size (tiny.en to large-v3), a "
                   "model's folder, or owner/model of the hub.")
@click.option("--lips", default=None, metavar="MODEL",
              help="A second model, which reads the lips while --model uses the sound: grid, what `avsr enrol` or `avsr fetch` "
                   "keeps, a folder.  [default: the model alone]")
@click.option("--modality", type=click.Choice(["auto", "a", "v", "av"]), default="auto",
              help="Use the sound (a), the video (v), both (av), or what the file and the model allow (auto).")
@click.option("--language", default=None,
              help="The language's code or English name (de, German); a multilingual model detects it if it is not given.")
@click.option("--task", type=click.Choice(["transcribe", "translate"]), default="transcribe",
              help="translate: English text, whatever is spoken, by a multilingual Whisper (not turbo, which never learnt it). "
                   "The times of its words are rough.")
@click.option("--initial-prompt", default=None, metavar="TEXT",
              help="A text that could come before, for names and style: Whisper follows its spelling in the first 30 s.")
@click.option("--carry-initial-prompt", type=bool, default=False, metavar="BOOLEAN",
              help="True: --initial-prompt counts for the whole recording.  [default: False, as in Whisper]")
@click.option("--condition-on-previous-text", type=bool, default=False, metavar="BOOLEAN",
              help="True: the text so far is the prompt of each next 30 s, as is usual in Whisper's own command line. Then "
                   "--batch-size has no effect, which makes long recordings slower, and a mistake may be repeated.  "
                   "[default: False]")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--beam-size", type=click.IntRange(1, 256), default=None,
              help="Hypotheses kept in the beam search; 1 is fastest.  [default: 5; for imported models their authors' 40]")
@click.option("--ctc-weight", type=Number(0, 1, max_open=True), default=None,
              help="Weight of CTC in the search, for imported models.  [default: their authors' 0.1]")
@search_options
@click.option("--batch-size", type=click.IntRange(1, 1024), default=None,
              help="Segments of up to 30 s recognised at once.  [default: 8; for exports 4]")
@click.option("--temperature", type=Number(0, 10), default=0.0,
              help="First temperature tried; 0 is beam search, and imported models support only beam search.")
@click.option("--max-missing", type=Number(0, 1), default=0.25,
              help="Largest share of frames without a face; beyond it a segment is recognised by sound alone.")
@click.option("--vad/--no-vad", default=True, help="Find speech first, or take everything as speech.")
@click.option("--audio-track", type=click.IntRange(min=1), default=None, metavar="N",
              help="Number of the sound track, counted from 1.  [default: one in which somebody speaks]")
@click.option("--video-track", type=click.IntRange(min=1), default=None, metavar="N",
              help="Number of the video track, counted from 1.  [default: one that shows a face]")
@click.option("--mouth-crop", "--crop", type=click.Choice(["none"]), default=None,
              help="none: each picture is a mouth already, as in prepared sets.  [default: it is cut out as the model wants]")
@click.option("--save-lips", type=click.Path(file_okay=False), default=None, metavar="DIR",
              help="Write the mouth crops of each file as a small video.")
@click.option("--speakers", is_flag=True, default=False,
              help="Tell from the picture who says each word: SPEAKER_00, SPEAKER_01, ... in the order in which they begin to "
                   "speak; what nobody in sight says has no name. `--speakers separate` also writes a WebVTT file for each.")
@click.option("--speaker-model", default=None, metavar="MODEL",
              help="The network that tells who speaks: lr-asd, once fetched by `avsr fetch`, or a folder.  [default: our own]")
@click.option("--separate-speakers", is_flag=True, hidden=True, help="A WebVTT file for each speaker: --speakers separate.")
@click.option("--format", "-f", "formats", default=None, metavar="LIST",
              help="Files to write: any of txt,srt,vtt,tsv,json, or all of these; textgrid, ctm.  [default: txt where "
                   "--output-dir is given]")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False), default=None, metavar="DIR",
              help="Where to write them.  [default: here where --format is given]")
@click.option("--word-timestamps", is_flag=True, help="Write the time of each word to json.")
@click.option("--highlight-words", is_flag=True, help="Underline each word in srt and vtt as it is said.")
@click.option("--max-line-width", type=click.IntRange(1, 10**6), default=None, help="Characters per subtitle line.")
@click.option("--max-line-count", type=click.IntRange(1, 10**6), default=None, help="Lines per subtitle.")
@click.option("--max-words-per-line", type=click.IntRange(1, 10**6), default=None, help="Words per subtitle line.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no warnings; errors are still shown.")
def transcribe_command(paths: tuple[str, ...], formats: str | None, output_dir: str | None, quiet: bool,
                       separate_speakers: bool, word_timestamps: bool, highlight_words: bool, max_line_width: int | None,
                       max_line_count: int | None, max_words_per_line: int | None, **options) -> None:
    """Turn recordings into text: sound, video, anything FFmpeg reads.

    FILE is a path, an address such as https://host/clip.mp4, or - for standard input.
    """
    layout = {"word_timestamps": word_timestamps, "highlight_words": highlight_words, "max_line_width": max_line_width,
              "max_line_count": max_line_count, "max_words_per_line": max_words_per_line,
              "separate_speakers": separate_speakers}
    options["speakers"] |= separate_speakers or options["speaker_model"] is not None
    files = FileQueue(paths)
    with report_errors(files.resume_hint):
        from avsr.transcript import parse_formats

        names = parse_formats(formats or "txt") if formats or (output_dir and not separate_speakers) else ()
        folder = Path(output_dir or ".")
        if names or separate_speakers:
            check_writable(folder)
        with ProgressBar(quiet) as bars:
            checkpoint = _load(options, bars)
            options |= _open_helps(options, checkpoint, bars)            # once for all files
            if options["correct"] is not None:
                from avsr.correct import open_corrector

                options["correct"] = open_corrector(options["correct"])
            output = _Output(names, folder, layout, distinct_stems(paths))
            _transcribe_all(files, checkpoint, options, bars, output)


def _open_helps(options: dict, checkpoint: Checkpoint, bars: ProgressBar) -> dict:
    """The language models and hotwords of the search, opened."""
    from types import SimpleNamespace

    from avsr.decode import HELPS, helps_of, open_external

    asked = SimpleNamespace(**{name: options[name] for pair in HELPS.items() for name in pair})
    return open_external(asked, checkpoint.tokenizer, bars) if any(vars(asked).values()) else helps_of(asked)


class _Output:
    """Where and how transcripts are written. Without formats none are, but the files of single speakers."""

    def __init__(self, formats: Sequence[str], folder: Path, layout: dict, stems: dict[str, str]):
        self.formats, self.folder, self.layout, self.stems = formats, folder, layout, stems

    def lips(self, folder: str | None, path: str) -> Path | None:
        """The file for the mouth crops of a recording, if --save-lips names a folder."""
        return None if folder is None else Path(folder) / f"{self.stems[path]}.lips.mp4"


def _load(options: dict, bars: ProgressBar) -> Checkpoint:
    """The model, once for all files. Heavy imports wait until here."""
    bars("loading the model", 0, None, None)
    limit_openmp_spinning()
    from avsr.transcribe.run import load_models

    checkpoint = load_models(options["model"], options.pop("lips"), options["modality"], options["device"], bars,
                             kept_export=True)
    gc.freeze()                                             # collecting the modules again costs 0.5 s when the program ends
    return checkpoint


def _transcribe_all(files: FileQueue, checkpoint: Checkpoint, options: dict, bars: ProgressBar, output: _Output) -> None:
    """Transcribe each file in turn, whatever happens to the others."""
    from avsr.transcribe import transcribe
    from avsr.transcript import write

    printer = _Printer()

    def work(path: str) -> None:
        printer.between_files()
        settings = {**options, "model": checkpoint, "save_lips": output.lips(options["save_lips"], path)}
        transcript = transcribe(path, **settings, on_segment=printer, progress=bars)
        bars.warn(transcript.problems)
        if output.formats or output.layout["separate_speakers"]:
            write(transcript, output.formats, output_dir=output.folder, stem=output.stems[path], **output.layout)

    files.run(work, bars)


class _Printer:
    """Prints the text of each segment on a line of standard output, and an empty line between two files."""

    def __init__(self):
        self.printed = self.pending = False

    def between_files(self) -> None:
        self.pending = self.printed

    def __call__(self, segment: Segment) -> None:
        from avsr.transcript import label

        if self.pending:
            print_result("")
        print_result(f"{label(segment.speakers)}{segment.text}")
        self.printed, self.pending = True, False
