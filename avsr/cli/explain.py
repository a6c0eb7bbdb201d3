"""`avsr explain`: one page of plots that shows why a model writes what it writes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from avsr.cli.console import CONTEXT, Number, ProgressBar, check_writable, print_result, report_errors


@click.command("explain", context_settings=CONTEXT, short_help="Show how a model uses sound and video.")
@click.argument("path", metavar="FILE")
@click.option("--model", default="default", help="default, grid, a Whisper size, a model's folder, or owner/model of the hub.")
@click.option("--lips", default=None, metavar="MODEL",
              help="A second model, which reads the lips while --model uses the sound: the page then shows how the two were "
                   "combined.  [default: the model alone]")
@click.option("--noise", default=None, metavar="NAME",
              help="Noise to add: white, pink, brown, a name in --noise-config, or NAME=FOLDER of recordings.")
@click.option("--snr", "snr_db", type=Number(-100, 100), default=None, metavar="DB",
              help="Signal-to-noise ratio, such as -5.")
@click.option("--noise-config", type=click.Path(dir_okay=False, path_type=Path), default=None, metavar="FILE",
              help="A TOML file that defines more noises than the built-in ones.  [default: none]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Seed of the noise.")
@click.option("--reference", default=None, metavar="TEXT", help="What was said; without it, the model's own text is explained.")
@click.option("--start", type=Number(min=0), default=None, metavar="SECONDS",
              help="Start of the segment.  [default: all of a recording of up to 30 s, else its first speech segment]")
@click.option("--end", type=Number(min=0), default=None, metavar="SECONDS",
              help="End of the segment, at most 30 s later.")
@click.option("--language", default="en", help="The code of the language that a multilingual model is to write.")
@click.option("--audio-track", type=click.IntRange(min=1), default=None, metavar="N",
              help="Number of the sound track, counted from 1.  [default: one in which somebody speaks]")
@click.option("--video-track", type=click.IntRange(min=1), default=None, metavar="N",
              help="Number of the video track, counted from 1.  [default: one that shows a face]")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False, path_type=Path), default=None, metavar="DIR",
              help="The folder for explain.html and explain.json.  [default: out/NAME-explain]")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar; errors are still shown.")
def explain_command(path: str, output_dir: Path | None, quiet: bool, **options) -> None:
    """Show how a model uses the sound and the video of a recording, as one page of plots.

    The page shows what the model would have written from sound alone, from video alone and from neither, how much each of them
    contributes to each word, where in time the model attends, and which part of the mouth matters. With --lips it shows what
    each of the two models would have written, how much the lips counted and why, and the texts among which both chose, with
    their scores. The command prints the page's path; open it in a browser.
    """
    with report_errors():
        if output_dir is not None:
            check_writable(output_dir)
        with ProgressBar(quiet) as bars:
            bars.begin(path, heading=False)
            from avsr.explain import explain  # heavy imports wait until here

            command = shlex.join(["avsr", *sys.argv[1:]])
            page = explain(path, output=output_dir, command=command, progress=bars, **options)
        print_result(str(page))
