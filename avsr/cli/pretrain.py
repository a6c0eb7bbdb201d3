"""`avsr pretrain`: mouths and sound without text to a model that training starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT
from avsr.cli.train import profile_option, run_training, training_options

if TYPE_CHECKING:
    from avsr.train import Trained


@click.command("pretrain", context_settings=CONTEXT, short_help="Train a model without text, to start training from.")
@training_options
@profile_option
def pretrain_command(**options) -> None:
    """Pre-train a model as the file CONFIG says, such as experiments/history/pretrain.toml, without reading any text.

    The model predicts acoustic clusters of the clean sound from masked sound and masked mouths. Training starts from it with
    model.start, and needs fewer transcripts then.
    """
    run_training("pretrain", _how_to_go_on, **options)


def _how_to_go_on(trained: Trained, arguments: str) -> str:
    """What a run has written, and the next command. arguments: those it was started with."""
    lines = [] if trained.done else [f"Stopped at step {trained.step}.  Go on:  avsr pretrain {arguments} --resume"]
    scores = ", ".join(f"{name} {score:.1f}" for name, score in trained.scores.items())
    return "\n".join([*lines, f"The model is {trained.model} (validation frame error %: {scores}).  It writes no text yet.",
                      f"Train it with texts:  avsr train CONFIG --set model.start={trained.model}"])
