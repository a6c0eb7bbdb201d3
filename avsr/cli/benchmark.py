"""`avsr benchmark`: how models hold up in noise and under bad pictures, as rows that anybody can score."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, Number, ProgressBar, check_writable, print_status, report_errors
from avsr.errors import counted

if TYPE_CHECKING:
    from avsr.benchmark.run import Benchmarked

SHOWN = 5                                                   # ids of what was skipped, of each reason


@click.command("benchmark", context_settings=CONTEXT, short_help="Measure models in noise and under bad pictures.")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--split", default="test", help="Which utterances of the manifest.")
@click.option("--model", "models", multiple=True, metavar="NAME",
              help="A model by name or folder; may be given again; none for no model.  [default: default, or none with --rows]")
@click.option("--against", multiple=True, metavar="RECOGNISER",
              help="Another recogniser in the same noise: faster-whisper:SIZE, pocketsphinx, pocketsphinx:FILE.gram; may be "
                   "given again.")
@click.option("--rows", "outside", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="What another system wrote, to be scored alike: lines of {\"id\", \"hypothesis\", \"noise\", \"snr_db\"}; "
                   "may be given again.")
@click.option("--modality", default="none,a,v,av",
              help="Any of a (sound), v (lips), av (both), none (neither: what the model expects unheard and unseen).")
@click.option("--noise", "noises", multiple=True, metavar="LIST",
              help="Families of noise: white, pink, brown, speech-shaped, babble, talker, those of the noise config, or "
                   "NAME=FOLDER, whose path may hold commas; none for clean only.  [default: babble, or speech-shaped where "
                   "there are under 4 speakers]")
@click.option("--snr", default="clean,20,10,5,0,-5,-10", metavar="LIST", help="Signal-to-noise ratios in dB, and clean.")
@click.option("--corrupt", default="", metavar="LIST",
              help="Bad pictures: occlusion, blur, lowres, dropped, shift, noface, face, each with an amount of its own as "
                   "blur:4, or with the usual ones.")
@click.option("--corrupt-snr", default="clean,0", metavar="LIST", help="Where bad pictures are shown, in dB.")
@click.option("--level", type=click.Choice(["active", "rms"]), default="active",
              help="How loud speech is: while somebody speaks (ITU-T P.56), or over all of the clip.")
@click.option("--noise-config", type=click.Path(), default=None, metavar="FILE",
              help="A TOML file that says which noises there are beside the built-in ones.  [default: none]")
@click.option("--noise-manifest", type=click.Path(), default=None, metavar="FILE",
              help="Which noise each utterance gets; made where it is not there.  [default: noise.jsonl in the output]")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/benchmark"),
              metavar="DIR", help="Where rows go; the same command again goes on where it was stopped.")
@click.option("--save-audio", type=click.Path(file_okay=False, path_type=Path), default=None, metavar="DIR",
              help="Write every mix as a WAV file, for recognisers outside.")
@click.option("--beam-size", type=click.IntRange(1, 256), default=None,
              help="Texts kept in the search; 1 is fastest.  [default: 5, of imported models their authors' 40]")
@click.option("--batch-size", type=click.IntRange(1, 1024), default=16, help="Utterances recognised at once.")
@click.option("--max-missing", type=Number(0, 1), default=0.25,
              help="Share of frames that may lack a face before an utterance goes by sound alone.")
@click.option("--limit", type=click.IntRange(1, 10**9), default=None, help="Only so many utterances, evenly picked.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no summary; errors are still shown.")
def benchmark_command(manifest: Path, output_dir: Path, quiet: bool, outside: tuple[Path, ...], save_audio: Path | None,
                      **options) -> None:
    """Measure models on the prepared MANIFEST (file or folder) by sound, by lips and by both, from clean to loud noise.

    Every utterance meets the same noise in every run, on every machine. Look at the rows with avsr report.
    """
    with report_errors("Its rows are kept.  Give the same command again; it goes on where it was stopped."):
        settings = _settings(options, outside)
        check_writable(output_dir)
        from avsr.benchmark.run import Options, benchmark  # heavy imports wait until the options are known to be sound

        with ProgressBar(quiet, lines=True) as bars:
            how = Options(shlex.join(["avsr", *sys.argv[1:]]), bars, bars.print_line)
            done = benchmark(manifest, output_dir, settings, outside=outside, save_audio=save_audio, options=how)
        if not quiet:
            _tell(done)


def _settings(options: dict, outside: tuple[Path, ...]):
    """Settings out of what was typed. Raises AvsrError."""
    from avsr.benchmark.conditions import parse_modalities, parse_noises, parse_snrs
    from avsr.benchmark.settings import Settings
    from avsr.corrupt import parse_corruptions

    typed = options.pop("noises")
    noises, given = parse_noises(text for text in typed if text != "none")
    models = options.pop("models") or (("none",) if outside else ("default",))
    return Settings(models=tuple(name for name in models if name != "none"), noises=noises if typed else None, given=given,
                    snrs=parse_snrs(options.pop("snr")), corruptions=parse_corruptions(options.pop("corrupt")),
                    corrupt_snrs=parse_snrs(options.pop("corrupt_snr")),
                    modalities=parse_modalities(options.pop("modality")), **options)


def _tell(done: Benchmarked) -> None:
    """What there is now, what could not be measured, and what to do next."""
    if done.n_cut:
        print_status("warning: the last row had been cut off; it was computed again.")
    for reason, count in Counter(reason for _, reason in done.skipped).items():
        ids = [one for one, why in done.skipped if why == reason]
        named = f"{', '.join(ids[:SHOWN])}{', ...' if count > SHOWN else ''}"
        print_status(f"skipped: {counted(count, 'utterance')} ({named}): {reason}")
    print_status(f"{counted(done.n_rows, 'row')} in {done.folder}, {done.n_new} of them new.  "
                 f"Look at them:  avsr report {done.folder}")
