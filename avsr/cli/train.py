"""`avsr train`: mouths and sound to a model."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from avsr.cli.console import CONTEXT, Number, ProgressBar, print_status, report_errors
from avsr.runtime import is_first_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from avsr.train import Trained


Options = TypeVar("Options", bound="Callable[..., None]")


def training_options(command: Options) -> Options:
    """The arguments and options that `avsr train` and `avsr pretrain` share."""
    for option in reversed((
            click.argument("config", type=click.Path(dir_okay=False)),
            click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                         help="Override a setting of the config, such as train.lr=3e-4."),
            click.option("--output-dir", "-o", type=click.Path(file_okay=False), default=None, metavar="DIR",
                         help="Where the run is kept.  [default: runs/NAME]"),
            click.option("--resume", is_flag=True, help="Continue the run in the output folder."),
            click.option("--minutes", type=Number(0, 10**7, min_open=True), default=None,
                         help="Stop after so many minutes; --resume continues from there."),
            click.option("--device", default="auto", help="auto, cpu or cuda."),
            click.option("--quiet", "-q", is_flag=True,
                         help="No line per step and no progress bar; errors are still shown."))):
        command = option(command)
    return command


profile_option = click.option("--profile", is_flag=True,
                              help="Record a few steps with torch.profiler; the trace is written to the output folder.")


@click.command("train", context_settings=CONTEXT, short_help="Train a model as a config file says.")
@training_options
@profile_option
def train_command(**options) -> None:
    """Train a model as the file CONFIG says, a TOML such as those in experiments/.

    On several GPUs or machines, under torchrun: torchrun --nproc-per-node 2 -m avsr train CONFIG. With --set train.shard=true
    they share the network, which then need not fit on one. With --max-restarts 3 a run whose process ends goes on by itself.
    """
    run_training("train", _how_to_go_on, **options)


def run_training(verb: str, summary: Callable[[Trained, str], str], *, config: str, overrides: tuple[str, ...],
                 output_dir: str | None, resume: bool, minutes: float | None, device: str, profile: bool, quiet: bool) -> None:
    """Run avsr.train.train or avsr.pretrain.pretrain, the function of the module `verb`, and print the summary of the run."""
    folder = None

    def go_on() -> str:
        saved = folder is not None and (folder / "state.json").exists()
        return ("The last state that was saved is kept.  Give the same command with --resume to go on from there." if saved else
                "No state was saved yet.  Give the same command again; it begins anew.")

    with report_errors(go_on):
        from avsr.config import read_config

        settings = read_config(config, overrides, lambda line: print_status(f"warning: {line}") if is_first_process() else None)
        folder = Path(output_dir or Path("runs") / settings.name)
        work = getattr(import_module(f"avsr.{verb}"), verb)  # heavy imports wait until the config is known to be sound
        from avsr.train import TrainOptions

        with ProgressBar(quiet, lines=True) as bars:
            trained = work(settings, folder, TrainOptions(resume, minutes, device, say=bars.print_line, progress=bars,
                                                          profile=profile))
        again = [config, *(f"--set {override}" for override in overrides)] + (["-o", output_dir] if output_dir else [])
        if is_first_process():
            print_status(summary(trained, " ".join(again)), lines=True)


def _how_to_go_on(trained: Trained, arguments: str) -> str:
    """What a run has written, and the next command. arguments: those it was started with."""
    lines = [] if trained.done else [f"Stopped at step {trained.step}.  Go on:  avsr train {arguments} --resume"]
    if trained.model is None:
        return "\n".join([*lines, "Nothing was validated yet, so there is no model to use; see train.valid_every."])
    scores = ", ".join(f"{name} {score:.1f}" for name, score in trained.scores.items())
    return "\n".join([*lines, f"The model is {trained.model} (validation WER %: {scores}).",
                      f"Use it:  avsr transcribe clip.mp4 --model {trained.model}"])
