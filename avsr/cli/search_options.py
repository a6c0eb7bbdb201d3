"""The options that several commands share: language models and hotwords for the search, and correction after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from avsr.cli.console import Number

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., None]")


def search_options(command: Command) -> Command:
    """Add --lm, --rescore, --hotwords and their weights, and --correct."""
    for option in reversed((
            click.option("--lm", type=click.Path(), default=None, metavar="PATH",
                         help="A language model that joins the search: an ARPA file of words, plain or gzipped, or a model of "
                              "`avsr lm train`."),
            click.option("--lm-weight", type=Number(0, 100), default=None, help="Weight of --lm.  [default: 0.3]"),
            click.option("--rescore", type=click.Path(), default=None, metavar="PATH",
                         help="A language model, as for --lm, that chooses among the texts that the search has found."),
            click.option("--rescore-weight", type=Number(0, 100), default=None, help="Weight of --rescore.  [default: 0.3]"),
            click.option("--hotwords", default=None, metavar="LIST",
                         help="Names and terms to expect: words with commas between, or a file with one a line."),
            click.option("--hotword-weight", type=Number(0, 100), default=None,
                         help="How much more likely hotwords are, in nats a letter.  [default: 1.0]"),
            click.option("--correct", type=click.Path(), default=None, metavar="MODEL",
                         help="The folder of a model by `avsr correct train`, which reads what the search finds, and corrects "
                              "the text where it is sure."))):
        command = option(command)
    return command
