"""`avsr tune`: the weight of a language model, of rescoring or of hotwords, chosen on validation data."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, ProgressBar, check_writable, print_result, print_status, report_errors
from avsr.cli.search_options import search_options
from avsr.errors import AvsrError

if TYPE_CHECKING:
    from avsr.metrics import Rate
    from avsr.tune import Tuned


@click.command("tune", context_settings=CONTEXT, short_help="Choose the weight of a language model or of hotwords.")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--split", default="valid", help="The split of the manifest to choose on; never the one to report.")
@click.option("--model", default="default", metavar="NAME", help="The model, by name or folder.")
@click.option("--lips", default=None, metavar="MODEL", help="A second model, which reads the lips, as for `avsr transcribe`.")
@click.option("--modality", default="a", help="Any of a (sound), v (video), av (both), with commas between.")
@click.option("--noise", default="speech-shaped", metavar="LIST", help="Noise families, as for `avsr benchmark`.")
@click.option("--snr", default="clean,0", metavar="LIST", help="Signal-to-noise ratios in dB, and clean.")
@search_options
@click.option("--weights", default=None, metavar="LIST",
              help="The weights to try; 0 is always tried.  [default: 0,0.1,0.2,0.3,0.5,0.7,1; hotwords 0,0.3,0.6,1,1.5,2]")
@click.option("--beam-size", type=click.IntRange(1, 256), default=None, help="Hypotheses kept in the beam search.")
@click.option("--limit", type=click.IntRange(1, 10**9), default=None, help="Use only so many utterances, evenly picked.")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/tune"), metavar="DIR",
              help="Where the rows of each weight are kept; the same command again continues there.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar; the table and errors are still shown.")
def tune_command(manifest: Path, output_dir: Path, weights: str | None, model: str, lips: str | None, modality: str, noise: str,
                 snr: str, quiet: bool, **options) -> None:
    """Try weights of --lm, of --rescore or of --hotwords on the prepared MANIFEST, and name the best one.

    The table has the word error rate of each weight with its interval. The last line is the option to use.
    """
    with report_errors("The rows of the weights measured so far are kept.  Give the same command again to go on."):
        from avsr.benchmark.conditions import BenchmarkSettings, parse_modalities, parse_noises, parse_snrs

        names, given = parse_noises([noise] if noise != "none" else [])
        asked = _weights(weights)
        settings = BenchmarkSettings(
            models=(model,), lips=() if lips is None else (lips,), noises=names, given=given, snrs=parse_snrs(snr),
            modalities=parse_modalities(modality), **options)
        check_writable(output_dir)
        from avsr.benchmark.run import CallOptions
        from avsr.tune import tune

        with ProgressBar(quiet, lines=True) as bars:
            call = CallOptions(shlex.join(["avsr", *sys.argv[1:]]), bars, lambda line: None if quiet else print_status(line))
            tuned = tune(manifest, output_dir, settings, weights=asked, options=call)
        print_result(_table(tuned), lines=True)
        print_result(tuned.option)


def _weights(text: str | None) -> tuple[float, ...] | None:
    """`0,0.3` -> (0.0, 0.3). Raises AvsrError."""
    try:
        found = None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if found is not None and not all(0 <= one <= 100 for one in found):
        raise AvsrError(f"weights {text!r}: not numbers from 0 to 100.  Write them as 0,0.1,0.3.")
    return found


def _table(tuned: Tuned) -> str:
    from tabulate import tabulate

    conditions = list(tuned.measured[0].by_cell)
    head = ["weight", "all", *(f"{cell.modality} {cell.noise or 'clean'}{'' if cell.snr_db is None else f' {cell.snr_db:g} dB'}"
                               for cell in conditions)]
    lines = [[f"{one.weight:g}", _rate(one.rate), *(_rate(one.by_cell[cell]) for cell in conditions)] for one in tuned.measured]
    return tabulate(lines, head, disable_numparse=True)


def _rate(rate: Rate) -> str:
    if rate.percent is None:
        return ""
    return f"{rate.percent:.1f}" + ("" if rate.low is None else f" ({rate.low:.1f} to {rate.high:.1f})")
