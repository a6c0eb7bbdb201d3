"""`avsr correct`: n-best lists of a recogniser, and a corrector that is taught on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, Number, ProgressBar, check_writable, print_status, report_errors
from avsr.cli.train import training_options

if TYPE_CHECKING:
    from avsr.train import Trained


@click.group("correct", context_settings=CONTEXT, short_help="Train a model that corrects a recogniser's texts.")
def correct_command() -> None:
    """Train a model for --correct, which reads what a recogniser finds and writes the corrected text."""


@correct_command.command("train", context_settings=CONTEXT, short_help="Train a corrector as a config file says.")
@training_options
def train_command(config: str, overrides: tuple[str, ...], output_dir: str | None, resume: bool, minutes: float | None,
                  device: str, quiet: bool) -> None:
    """Train a corrector as the file CONFIG says, such as experiments/history/correct/config.toml.

    It is taught on n-best lists that `avsr correct nbest` made of clips which the recogniser was not trained on.
    """
    with report_errors("A state that was saved is kept.  Give the same command with --resume to go on from there."):
        from avsr.config import read_settings
        from avsr.correct.data import CorrectConfig

        settings = read_settings(CorrectConfig, config, overrides)
        folder = Path(output_dir or Path("runs") / settings.name)
        check_writable(folder)
        from avsr.correct.train import train_corrector
        from avsr.train import TrainOptions

        with ProgressBar(quiet, lines=True) as bars:
            options = TrainOptions(resume, minutes, device, say=bars.print_line, progress=bars)
            trained = train_corrector(settings, folder, options)
        again = [config, *(f"--set {override}" for override in overrides)] + (["-o", output_dir] if output_dir else [])
        print_status(_how_to_go_on(trained, " ".join(again)), lines=True)


def _how_to_go_on(trained: Trained, arguments: str) -> str:
    """What a run has written, and the next command. arguments: those it was started with."""
    lines = [] if trained.done else [f"Stopped at step {trained.step}.  Go on:  avsr correct train {arguments} --resume"]
    own, corrected = trained.scores["own"], trained.scores["corrected"]
    return "\n".join([*lines, f"The model is {trained.model} (validation WER {own:.1f} % before, {corrected:.1f} % after).",
                      f"Use it:  avsr transcribe clip.mp4 --model MODEL --correct {trained.model}"])


@correct_command.command("nbest", context_settings=CONTEXT, short_help="Write the n-best lists of a recogniser in noise.")
@click.argument("manifest", type=click.Path())
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", default="default", help="The recogniser, as in avsr transcribe.")
@click.option("--lips", default=None, metavar="MODEL", help="A second model, which reads the lips.  [default: the model alone]")
@click.option("--modality", type=click.Choice(["a", "v", "av"]), default=None,
              help="By what it recognises.  [default: av with --lips, else a]")
@click.option("--split", default="train", help="The split of the manifest.")
@click.option("--noise-of", "noise", type=click.Path(dir_okay=False), required=True, metavar="CONFIG",
              help="A config of avsr train, of whose [data.noise] the noise is made; test noise must not be in it.")
@click.option("--snr", default="clean,10,5,0,-5,-10", metavar="LIST",
              help="Signal-to-noise ratios in dB, and clean; one is drawn for each clip.")
@click.option("--corrupted", type=Number(0, 1), default=0.0,
              help="Share of mouths that are covered, blurred, shrunk or interrupted, where the lips have seen these clips.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=1, help="How often each clip is taken, in other noise.")
@click.option("--beam-size", type=click.IntRange(1, 256), default=None, help="As in avsr transcribe.  [default: the model's]")
@click.option("--batch-size", type=click.IntRange(1, 1024), default=8, help="Clips recognised at once.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar; errors are still shown.")
def nbest_command(manifest: str, output: Path, model: str, lips: str | None, modality: str | None, noise: str, snr: str,
                  corrupted: float, device: str, quiet: bool, **options) -> None:
    """Write the n-best lists of a recogniser for the clips of a prepared MANIFEST into OUTPUT, as JSON Lines.

    A line holds id, reference, own (the recogniser's text), lists by modality (texts, scores in nats a letter), noise and
    snr_db. The same command again goes on where it was stopped. The clips should be new to the recogniser.
    """
    with report_errors("The lists that were made are kept.  Give the same command again; it goes on where it was stopped."):
        from avsr.benchmark.conditions import parse_snrs
        from avsr.config import read_config

        snrs, settings = parse_snrs(snr), read_config(noise)
        check_writable(output.parent)
        from avsr.correct.collect import CollectSettings, collect
        from avsr.runtime import pick_device
        from avsr.transcribe.run import load_models

        modality = modality or ("a" if lips is None else "av")
        with ProgressBar(quiet, lines=True) as bars:
            checkpoint = load_models(model, lips, modality, pick_device(device), bars)
            asked = CollectSettings(modality=modality, snrs=snrs, p_corrupted=corrupted, **options)
            n = collect(manifest, checkpoint, settings, output, asked, say=bars.print_line, progress=bars)
        print_status(f"{n} n-best lists in {output}.")
