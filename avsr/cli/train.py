"""`avsr prepare` and `avsr train`: a corpus to mouths and sound, and those to a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, Number, ProgressBar, print_status, report_errors
from avsr.errors import AvsrError
from avsr.runtime import is_first_process

if TYPE_CHECKING:
    from avsr.train import Trained


@click.command("prepare", context_settings=CONTEXT, short_help="Crop the mouths of a corpus for training.")
@click.argument("corpus")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--workers", type=click.IntRange(1, 1024), default=None, help="Processes.  [default: one on each core]")
@click.option("--max-missing", type=Number(0, 1), default=0.25,
              help="Largest share of frames without a face; beyond it an utterance is dropped.")
@click.option("--max-dropped", type=Number(0, 1), default=0.05,
              help="Share of utterances that may be dropped before the command fails.")
@click.option("--valid-share", type=Number(0, 1, max_open=True), default=0.05,
              help="Share of each speaker's training utterances that become split valid, if the corpus has no such split.")
@click.option("--modality", type=click.Choice(["av", "a", "v"]), default="av",
              help="Keep mouths and sound (av), sound alone (a), or mouths alone (v).")
@click.option("--mouth-crop", type=click.Choice(["avsr", "auto-avsr"]), default="avsr",
              help="How mouths are cut out: as for this program's models, or as for lip readers published with auto_avsr.")
@click.option("--recipe", "old_mouth_crop", type=click.Choice(["avsr", "auto-avsr"]), default=None, hidden=True)
@click.option("--split-list", default=None, metavar="FILE",
              help="A table that gives each utterance's split; for GRID also `seen` or `unseen`.  [default: the corpus's own]")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no summary; errors are still shown.")
def prepare_command(corpus: str, source: Path, output: Path, mouth_crop: str, old_mouth_crop: str | None,
                    split_list: str | None, quiet: bool, **options) -> None:
    """Crop the mouths of a corpus, and write the manifest and the cache from which models are trained.

    CORPUS is a layout (folder, grid, lombard, lrs2, lrs3, tcd-timit), SOURCE its folder. The same command, given again,
    continues where it was stopped.
    """
    with report_errors("What is prepared is kept.  Give the same command again; it goes on where it was stopped."):
        from avsr.corpora import CORPORA
        from avsr.lips import MOUTH_CROPS
        from avsr.prepare import PrepareSettings, prepare

        if old_mouth_crop is not None:
            print_status("warning: the option --recipe is now called --mouth-crop; the old name still works.")
        if corpus not in CORPORA:
            raise AvsrError(f"{corpus}: not a corpus this program knows.  Use one of {', '.join(CORPORA)}.")
        settings = PrepareSettings(**options, mouth_crop=MOUTH_CROPS[old_mouth_crop or mouth_crop])
        found = CORPORA[corpus](source, split_list=split_list)
        with ProgressBar(quiet, lines=True) as bars:
            prepared = prepare(found.utterances, output, settings=settings, dropped=found.dropped, progress=bars)
        if not quiet:
            print_status(prepared.summary(), lines=True)
        prepared.check()


@click.command("train", context_settings=CONTEXT, short_help="Train a model as a config file says.")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override a setting of the config, such as train.lr=3e-4.")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False), default=None, metavar="DIR",
              help="Where the run is kept.  [default: runs/NAME]")
@click.option("--resume", is_flag=True, help="Continue the run in the output folder.")
@click.option("--minutes", type=Number(0, 10**7, min_open=True), default=None,
              help="Stop after so many minutes; --resume continues from there.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--quiet", "-q", is_flag=True, help="No line per step and no progress bar; errors are still shown.")
def train_command(config: str, overrides: tuple[str, ...], output_dir: str | None, resume: bool, minutes: float | None,
                  device: str, quiet: bool) -> None:
    """Train a model as the file CONFIG says, a TOML such as those in experiments/.

    On several GPUs or machines, under torchrun: torchrun --nproc-per-node 2 -m avsr train CONFIG
    """
    folder = None

    def go_on() -> str:
        saved = folder is not None and (folder / "state.json").exists()
        return ("The last state that was saved is kept.  Give the same command with --resume to go on from there." if saved else
                "No state was saved yet.  Give the same command again; it begins anew.")

    with report_errors(go_on):
        from avsr.config import read_config

        settings = read_config(config, overrides, lambda line: print_status(f"warning: {line}") if is_first_process() else None)
        folder = Path(output_dir or Path("runs") / settings.name)
        from avsr.train import TrainOptions, train  # heavy imports wait until the config is known to be sound

        with ProgressBar(quiet, lines=True) as bars:
            trained = train(settings, folder, TrainOptions(resume, minutes, device, say=bars.print_line, progress=bars))
        again = [config, *(f"--set {override}" for override in overrides)] + (["-o", output_dir] if output_dir else [])
        if is_first_process():
            print_status(_how_to_go_on(trained, " ".join(again)), lines=True)


def _how_to_go_on(trained: Trained, arguments: str) -> str:
    """What a run has written, and the next command. arguments: those it was started with."""
    lines = [] if trained.done else [f"Stopped at step {trained.step}.  Go on:  avsr train {arguments} --resume"]
    if trained.model is None:
        return "\n".join([*lines, "Nothing was validated yet, so there is no model to use; see train.valid_every."])
    scores = ", ".join(f"{name} {score:.1f}" for name, score in trained.scores.items())
    return "\n".join([*lines, f"The model is {trained.model} (validation WER %: {scores}).",
                      f"Use it:  avsr transcribe clip.mp4 --model {trained.model}"])
