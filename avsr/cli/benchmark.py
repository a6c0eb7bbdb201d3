"""`avsr benchmark`: measure models in noise and with corrupted video, as rows that anybody can score."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
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
from avsr.cli.search_options import search_options
from avsr.errors import counted

if TYPE_CHECKING:
    from avsr.benchmark.conditions import BenchmarkSettings
    from avsr.benchmark.run import Benchmarked

N_SHOWN = 5                                                 # ids that are named for each reason to skip utterances


@click.command("benchmark", context_settings=CONTEXT, short_help="Measure models in noise and with corrupted video.")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--split", default="test", help="The split of the manifest to measure.")
@click.option("--model", "models", multiple=True, metavar="NAME",
              help="A model by name or folder; may be repeated; the word none stands for no model.  [default: the model called "
                   "default; with --rows no model]")
@click.option("--lips", multiple=True, metavar="MODEL",
              help="A second model, which reads the lips while --model uses the sound; by sound, by lips and by both it is "
                   "measured as one system, such as base+grid; may be repeated.")
@click.option("--against", multiple=True, metavar="RECOGNISER",
              help="Another recogniser to measure in the same noise: faster-whisper:SIZE, pocketsphinx, "
                   "pocketsphinx:FILE.gram, hmm:FOLDER; may be repeated.")
@click.option("--rows", "predictions", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A file of another system's predictions, to be scored in the same way: lines of {\"id\", \"hypothesis\", "
                   "\"noise\", \"snr_db\"}; may be repeated.")
@click.option("--modality", default="none,a,v,av",
              help="Any of a (sound), v (video), av (both), and the modality none (no input: the loss of the reference alone).")
@click.option("--noise", "noises", multiple=True, metavar="LIST",
              help="Noise families: white, pink, brown, speech-shaped, babble, talker, those of the noise config, or "
                   "NAME=FOLDER, whose path may hold commas; the word none stands for clean sound only.  [default: babble, or "
                   "speech-shaped where there are under 4 speakers]")
@click.option("--snr", default="clean,20,10,5,0,-5,-10", metavar="LIST", help="Signal-to-noise ratios in dB, and clean.")
@click.option("--corrupt", default="", show_default=False, metavar="LIST",
              help="Corruptions of the video: occlusion, blur, lowres, dropped, shift, noface, face, each with an amount, as "
                   "in blur:4, or else with its default amounts.  [default: none, only the video as it is]")
@click.option("--corrupt-snr", default="clean,0", metavar="LIST",
              help="SNRs in dB, and clean, at which corrupted video is shown.")
@click.option("--level", type=click.Choice(["active", "rms"]), default="active",
              help="How the level of speech is measured: while somebody speaks (ITU-T P.56), or over the whole clip.")
@click.option("--noise-config", type=click.Path(), default=None, metavar="FILE",
              help="A TOML file that describes noises in addition to the built-in ones.  [default: only those]")
@click.option("--noise-manifest", type=click.Path(), default=None, metavar="FILE",
              help="The file that says which noise each utterance gets; made if it does not exist.  [default: noise.jsonl in "
                   "the output]")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/benchmark"),
              metavar="DIR", help="Where the rows are written; the same command again continues where it was stopped.")
@click.option("--save-audio", type=click.Path(file_okay=False, path_type=Path), default=None, metavar="DIR",
              help="Write every mixture of speech and noise as a WAV file, for other recognisers.")
@click.option("--beam-size", type=click.IntRange(1, 256), default=None,
              help="Hypotheses kept in the beam search; 1 is fastest.  [default: 5; for imported models their authors' 40]")
@search_options
@click.option("--batch-size", type=click.IntRange(1, 1024), default=16, help="Utterances in a batch.")
@click.option("--max-missing", type=Number(0, 1), default=0.25,
              help="Largest share of frames without a face; beyond it an utterance is recognised by sound alone.")
@click.option("--limit", type=click.IntRange(1, 10**9), default=None, help="Measure only so many utterances, evenly picked.")
@click.option("--normaliser", type=click.Choice(["avsr", "whisper"]), default="avsr",
              help="How reports are to compare the texts: by our rules, or by Whisper's EnglishTextNormalizer, as many papers "
                   "do (English only).")
@click.option("--live", is_flag=True, default=False,
              help="Play the recordings as if they were being made, and measure the delay of each word as well. Clean sound "
                   "only; needs times of words in MANIFEST.")
@click.option("--agreement", default="0.4", metavar="LIST",
              help="With --live: seconds for which the text must stay the same before a word is committed; several draw the "
                   "curve of errors against delay.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--cluster", default=None, metavar="ADDRESS",
              help="Do the work on a Ray cluster: ray for one on this machine, ray:HOST:PORT on a machine of a cluster, "
                   "ray://HOST:PORT from elsewhere. With --device cuda each batch takes a GPU.  [default: this process]")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no summary; errors are still shown.")
def benchmark_command(manifest: Path, output_dir: Path, quiet: bool, predictions: tuple[Path, ...], save_audio: Path | None,
                      **options) -> None:
    """Measure models on the prepared MANIFEST (file or folder) with sound, with video and with both, from clean to loud noise.

    Every utterance gets the same noise in every run, on every machine. Look at the rows with avsr report.
    """
    with report_errors("Its rows are kept.  Give the same command again; it goes on where it was stopped."):
        live, agreement = options.pop("live"), options.pop("agreement")
        if live:
            return _benchmark_live(manifest, output_dir, quiet, agreement, options)
        cluster = options.pop("cluster")
        settings = _settings(options, predictions)
        check_writable(output_dir)
        from avsr.benchmark.run import CallOptions, benchmark  # heavy imports wait until the options are known to be sound

        with ProgressBar(quiet, lines=True) as bars:
            call = CallOptions(shlex.join(["avsr", *sys.argv[1:]]), bars, bars.print_line, cluster)
            done = benchmark(manifest, output_dir, settings, predictions=predictions, save_audio=save_audio, options=call)
        if not quiet:
            _show(done)


def _benchmark_live(manifest: Path, output_dir: Path, quiet: bool, agreement: str, options: dict) -> None:
    """Measure delays and errors of live recognition, and write rows, table and plot."""
    from avsr.errors import AvsrError

    context = click.get_current_context()
    usable = {"manifest", "split", "models", "lips", "modality", "limit", "device", "output_dir", "quiet", "live", "agreement"}
    given = [name for name in context.params if name not in usable
             and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if given:
        raise AvsrError(f"--live: it measures clean recordings as they come, and --{given[0].replace('_', '-')} has no meaning "
                        "there.  Leave it out.")
    try:
        agreements = tuple(float(one) for one in agreement.split(","))
    except ValueError as error:
        raise AvsrError(f"--agreement {agreement}: not a list of seconds.  Write it as 0.2,0.4,0.8.") from error
    check_writable(output_dir)
    asked = context.get_parameter_source("modality") is click.core.ParameterSource.COMMANDLINE
    limit_openmp_spinning()
    from avsr.benchmark.live import LiveBenchmarkSettings, measure_live
    from avsr.html.plot import file_bytes
    from avsr.html.table import markdown
    from avsr.output import write_file
    from avsr.report.live import live_figure, live_table

    settings = LiveBenchmarkSettings(
        models=options["models"] or ("default",), lips=options["lips"], split=options["split"], agreements=agreements,
        modalities=tuple(options["modality"].split(",")) if asked else ("av",), limit=options["limit"],
        device=options["device"])
    with ProgressBar(quiet) as bars:
        rows = measure_live(manifest, output_dir, settings, progress=bars)
    table = markdown(live_table(rows))
    write_file(output_dir / "live.md", table)
    write_file(output_dir / "live.png", file_bytes(live_figure(rows), "png"))
    if not quiet:
        print_result(table, lines=True)
        print_status(f"Rows, table and plot are in {output_dir}: live.jsonl, live.md, live.png.")


def _settings(options: dict, predictions: tuple[Path, ...]) -> BenchmarkSettings:
    from avsr.benchmark.conditions import BenchmarkSettings, parse_modalities, parse_noises, parse_snrs
    from avsr.corrupt import parse_corruptions

    typed = options.pop("noises")
    noises, given = parse_noises(text for text in typed if text != "none")
    models = options.pop("models") or (("none",) if predictions else ("default",))
    return BenchmarkSettings(
        models=tuple(name for name in models if name != "none"), noises=noises if typed else None, given=given,
        snrs=parse_snrs(options.pop("snr")), corruptions=parse_corruptions(options.pop("corrupt")),
        corrupt_snrs=parse_snrs(options.pop("corrupt_snr")), modalities=parse_modalities(options.pop("modality")), **options)


def _show(done: Benchmarked) -> None:
    """Say how many rows there are, what could not be measured, and what to do next."""
    if done.n_cut:
        print_status("warning: the last row had been cut off; it was computed again.")
    for reason, count in Counter(reason for _, reason in done.skipped).items():
        ids = [one for one, why in done.skipped if why == reason]
        named = f"{', '.join(ids[:N_SHOWN])}{', ...' if count > N_SHOWN else ''}"
        print_status(f"skipped: {counted(count, 'utterance')} ({named}): {reason}")
    print_status(f"{counted(done.n_rows, 'row')} in {done.folder}, {done.n_new} of them new.  "
                 f"Look at them:  avsr report {done.folder}")
