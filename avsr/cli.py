"""The command line: parse, call, print, exit status. Text goes to standard output, all else to standard error."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr import __version__
from avsr.errors import AvsrError, BadOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avsr.checkpoint import Checkpoint
    from avsr.train import Trained
    from avsr.transcript import Segment

# Whisper's users type underscores: both spellings are understood.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True,
           "token_normalize_func": lambda name: name.replace("_", "-") if name.startswith("-") or "_" in name else name}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="avsr")
def main() -> None:
    """Speech recognition that reads lips: any talking video to text and subtitles."""


@main.command("transcribe", context_settings=CONTEXT)
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
@click.option("--model", default="default",
              help="default (Whisper tiny.en with lips), grid, a Whisper size (tiny.en to large-v3), a model's folder, or "
                   "owner/model of the hub.")
@click.option("--modality", type=click.Choice(["auto", "a", "v", "av"]), default="auto",
              help="Go by sound (a), sight (v), both (av), or whatever the file and the model allow (auto).")
@click.option("--language", default=None, help="Two letters, e.g. en; found out if not given and the model is multilingual.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--beam-size", type=click.IntRange(min=1), default=5, help="Texts kept in the search; 1 is fastest.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, help="Pieces of up to 30 s recognised at once.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, help="First temperature tried; 0 is beam search.")
@click.option("--max-missing", type=click.FloatRange(0, 1), default=0.25,
              help="Share of frames that may lack a face before a piece goes by sound alone.")
@click.option("--vad/--no-vad", default=True, help="Look for speech first, or take everything as speech.")
@click.option("--save-lips", type=click.Path(file_okay=False), default=None, metavar="DIR",
              help="Write the mouths that were looked at, as a small video per file.")
@click.option("--format", "-f", "formats", default=None, metavar="LIST",
              help="Files to write: any of txt,srt,vtt,tsv,json, or all.  [default: txt where --output-dir is given]")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False), default=None, metavar="DIR",
              help="Where to write them.  [default: here where --format is given]")
@click.option("--word-timestamps", is_flag=True, help="Put the time of each word into json.")
@click.option("--highlight-words", is_flag=True, help="Underline each word in srt and vtt as it is said.")
@click.option("--max-line-width", type=click.IntRange(min=1), default=None, help="Characters to a subtitle line.")
@click.option("--max-line-count", type=click.IntRange(min=1), default=None, help="Lines to a subtitle.")
@click.option("--max-words-per-line", type=click.IntRange(min=1), default=None, help="Words to a subtitle line.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no warnings; errors are still shown.")
def transcribe_command(paths: tuple[str, ...], formats: str | None, output_dir: str | None, quiet: bool,
                       word_timestamps: bool, highlight_words: bool, max_line_width: int | None,
                       max_line_count: int | None, max_words_per_line: int | None, **options) -> None:
    """Turn recordings into text: sound, video, anything FFmpeg reads."""
    layout = {"word_timestamps": word_timestamps, "highlight_words": highlight_words, "max_line_width": max_line_width,
              "max_line_count": max_line_count, "max_words_per_line": max_words_per_line}
    with _told():
        from avsr.transcript import parse_formats

        names = parse_formats(formats or "txt") if formats or output_dir else ()
        folder = Path(output_dir or ".")
        if names:
            _check_writable(folder)
        with _Bars(quiet) as bars:
            checkpoint = _load(options, bars)
            failures = _transcribe_all(paths, checkpoint, options, bars, _Output(names, folder, layout, _stems(paths)))
    if failures:
        if len(paths) > 1:
            _say(f"{len(failures)} of {len(paths)} files failed: {', '.join(failures)}")
        sys.exit(1)


@main.command("prepare", context_settings=CONTEXT)
@click.argument("corpus")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--workers", type=click.IntRange(min=1), default=None, help="Processes.  [default: one on each core]")
@click.option("--max-missing", type=click.FloatRange(0, 1), default=0.25,
              help="Share of frames that may lack a face before an utterance is dropped.")
@click.option("--max-dropped", type=click.FloatRange(0, 1), default=0.05,
              help="Share of utterances that may be dropped before it is an error.")
@click.option("--modality", type=click.Choice(["av", "a", "v"]), default="av",
              help="Keep mouths and sound (av), sound alone (a), or mouths alone (v).")
@click.option("--split-list", default=None, metavar="FILE",
              help="Table of which utterance is in which split, or a name the corpus knows.  [default: the corpus's own]")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no summary; errors are still shown.")
def prepare_command(corpus: str, source: Path, output: Path, split_list: str | None, quiet: bool, **options) -> None:
    """Crop the mouths of a corpus and write a manifest with a cache, from which models are trained.

    CORPUS is a layout (folder, grid, lombard, lrs2, lrs3, tcd-timit), SOURCE its folder. The same command again goes on
    where it was stopped.
    """
    with _told():
        from avsr.corpora import CORPORA
        from avsr.prepare import PrepareSettings, prepare

        if corpus not in CORPORA:
            raise AvsrError(f"{corpus}: not a corpus this program knows.  Use one of {', '.join(CORPORA)}.")
        settings = PrepareSettings(**options)
        found = CORPORA[corpus](source, split_list=split_list)
        with _Bars(quiet) as bars:
            prepared = prepare(found.utterances, output, settings=settings, dropped=found.dropped, progress=bars)
        if not quiet:
            _say(prepared.summary())
        prepared.check()


@main.command("train", context_settings=CONTEXT)
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="A setting in place of the config's, as train.lr=3e-4.")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False), default=None, metavar="DIR",
              help="Where the run is kept.  [default: runs/NAME]")
@click.option("--resume", is_flag=True, help="Go on with the run that is there.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=None,
              help="Stop after so long; --resume goes on from there.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--quiet", "-q", is_flag=True, help="No line per step; errors are still shown.")
def train_command(config: str, overrides: tuple[str, ...], output_dir: str | None, resume: bool, minutes: float | None,
                  device: str, quiet: bool) -> None:
    """Train a model as a config says; under torchrun, on several GPUs or machines."""
    with _told():
        from avsr.config import read_config

        settings = read_config(config, overrides)
        folder = Path(output_dir or Path("runs") / settings.name)
        from avsr.train import Options, train  # heavy imports wait until the config is known to be sound

        say = (lambda line: None) if quiet else _say
        trained = train(settings, folder, Options(resume=resume, minutes=minutes, device=device, say=say))
        again = [config, *(f"--set {override}" for override in overrides)] + (["-o", output_dir] if output_dir else [])
        _say(_how_to_go_on(trained, " ".join(again)))


def _how_to_go_on(trained: Trained, arguments: str) -> str:
    """What the user may do with what a run has left. arguments: those it was started with."""
    lines = [] if trained.done else [f"Stopped at step {trained.step}.  Go on:  avsr train {arguments} --resume"]
    if trained.model is None:
        return "\n".join([*lines, "Nothing was validated yet, so there is no model to use; see train.valid_every."])
    scores = ", ".join(f"{name} {score:.1f}" for name, score in trained.scores.items())
    return "\n".join([*lines, f"The model is {trained.model} (validation WER %: {scores}).",
                      f"Use it:  avsr transcribe clip.mp4 --model {trained.model}"])


class _Output:
    """Where and how transcripts are written; with no formats, nowhere."""

    def __init__(self, formats: Sequence[str], folder: Path, layout: dict, stems: dict[str, str]):
        self.formats, self.folder, self.layout, self.stems = formats, folder, layout, stems


def _load(options: dict, bars: _Bars) -> Checkpoint:
    """The model, once for all files. Heavy imports wait until here."""
    bars("loading the model", 0, None)
    from avsr.runtime import pick_device
    from avsr.transcribe import load_model

    return load_model(options["model"], options["modality"], pick_device(options["device"]), bars)


def _transcribe_all(paths: Sequence[str], checkpoint: Checkpoint, options: dict, bars: _Bars, output: _Output) -> list[str]:
    """Each file in turn, whatever happens to the others. Returns the paths that failed."""
    from avsr.transcribe import transcribe
    from avsr.transcript import write

    failures = []
    for path in paths:
        bars.begin(path, heading=len(paths) > 1)
        try:
            transcript = transcribe(path, **{**options, "model": checkpoint}, on_segment=_print_segment, progress=bars)
            bars.warn(transcript.problems)
            if output.formats:
                write(transcript, output.formats, output_dir=output.folder, stem=output.stems[path], **output.layout)
        except AvsrError as error:
            failures.append(path)
            _say(f"error: {error}")
        except (KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:                          # a mistake of ours must not cost the user the other files
            if os.environ.get("AVSR_DEBUG"):
                raise
            failures.append(path)
            _say(f"error: {path}: {type(error).__name__}: {error}.  This is a mistake in avsr, please report it; "
                 "AVSR_DEBUG=1 shows where.")
    return failures


def _print_segment(segment: Segment) -> None:
    print(segment.text, flush=True)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def _told() -> Iterator[None]:
    """Errors as one sentence and status 1; a reader that went away, as in `| head`, is no error."""
    try:
        yield
    except AvsrError as error:
        _say(f"error: {error}")
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())   # else Python complains once more on leaving
        sys.exit(1)


def _check_writable(folder: Path) -> None:
    """Before an hour of work, not after it. Raises BadOutput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".avsr-{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadOutput(f"{folder}: cannot be written to ({error.strerror}).  Choose another with --output-dir.") from error


def _stems(paths: Sequence[str]) -> dict[str, str]:
    """A name to write under for each path: its stem, its full name where stems clash, numbered where those do."""
    stems = Counter(Path(path).stem for path in set(paths))
    taken: Counter[str] = Counter()
    out = {}
    for path in dict.fromkeys(paths):
        name = Path(path).stem if stems[Path(path).stem] == 1 else Path(path).name
        taken[name] += 1
        out[path] = name if taken[name] == 1 else f"{name}-{taken[name]}"
    return out


class _Bars:
    """Progress on standard error: one bar that shows the stage at hand. Silent where nobody watches."""

    def __init__(self, quiet: bool):
        self.quiet, self.rich, self.task, self.stage = quiet, None, None, ""
        self.shown = not quiet and sys.stderr.isatty()

    def __enter__(self) -> _Bars:
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self.rich = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeElapsedColumn(),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True,
                redirect_stdout=sys.stdout.isatty(), redirect_stderr=True)
            self.rich.start()
        return self

    def __exit__(self, *_) -> None:
        if self.rich is not None:
            self.rich.stop()

    def begin(self, path: str, *, heading: bool) -> None:
        """The next file."""
        self.stage, self.name = "", Path(path).name
        if heading and not self.quiet:
            _say(f"{path}:")

    def warn(self, problems: Sequence[str]) -> None:
        """What the user should know though the work was done."""
        if not self.quiet:
            for problem in problems:
                _say(f"warning: {problem}")

    def __call__(self, stage: str, done: float, total: float | None) -> None:
        """See runtime.Progress."""
        if self.rich is None:
            return
        if stage != self.stage:
            if self.task is not None:
                self.rich.remove_task(self.task)
            self.stage, self.began = stage, (time.monotonic(), done)
            name = self.name if stage == "transcribe" else stage
            self.task = self.rich.add_task(name, total=total, completed=done, amount="")
        rate = (done - self.began[1]) / max(time.monotonic() - self.began[0], 1e-3)
        self.rich.update(self.task, completed=done, total=total, amount=_amount(stage, done, total, rate))


def _amount(stage: str, done: float, total: float | None, rate: float) -> str:
    """Seconds of the recording, clips with their rate, or megabytes of a download."""
    if stage == "prepare":
        return f"{done:.0f} of {total:.0f} clips, {rate:.1f}/s"
    if stage == "transcribe":
        return f"{done:.0f} s" if total is None else f"{done:.0f} of {total:.0f} s"
    return f"{done / 1e6:.0f} MB" if total is None else f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else ""


if __name__ == "__main__":
    main()
