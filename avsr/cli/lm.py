"""`avsr lm`: language models that help a recogniser: train one, and measure how well it predicts a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, ProgressBar, print_result, print_status, report_errors
from avsr.cli.train import training_options
from avsr.errors import AvsrError

if TYPE_CHECKING:
    from avsr.lm import LanguageModel, TextScore
    from avsr.metrics import Estimate
    from avsr.runtime import Progress
    from avsr.train.language_model import TrainedLM

N_AT_ONCE = 256                                             # sentences between two reports of the progress


@click.group("lm", context_settings=CONTEXT, short_help="Train and measure language models.")
def lm_command() -> None:
    """Language models: n-grams of words, LSTM and GPT of a recogniser's own tokens. Use one with avsr transcribe --lm."""


@lm_command.command("train", short_help="Train a language model as a config file says.")
@training_options
def train_command(config: str, overrides: tuple[str, ...], output_dir: str | None, resume: bool, minutes: float | None,
                  device: str, quiet: bool) -> None:
    """Train a language model as the file CONFIG says, a TOML such as those in experiments/history/lm/.

    From text files with a sentence a line, manifests, or tables: n-grams by modified Kneser-Ney smoothing (an ARPA file), or an
    LSTM or GPT over the tokens of a recogniser (a folder).
    """
    with report_errors("Give the same command again, with --resume if it is an LSTM or GPT that has saved a state."):
        from avsr.lm.config import read_lm_config

        settings = read_lm_config(config, overrides)
        folder = Path(output_dir or Path("runs") / settings.name)
        if resume and settings.kind == "ngram":
            raise AvsrError("--resume: n-grams are estimated in one go, so there is nothing to resume.  Leave it out.")
        from avsr.train.language_model import train_language_model
        from avsr.train.loop import TrainOptions

        with ProgressBar(quiet, lines=True) as bars:
            trained = train_language_model(settings, folder, TrainOptions(resume, minutes, device, bars.print_line, bars))
        again = [config, *(f"--set {override}" for override in overrides)] + (["-o", output_dir] if output_dir else [])
        print_status(_how_to_go_on(trained, " ".join(again)), lines=True)


def _how_to_go_on(trained: TrainedLM, arguments: str) -> str:
    """What was written, and the next command."""
    lines = [] if trained.done else [f"Stopped at step {trained.step}.  Go on:  avsr lm train {arguments} --resume"]
    said = "" if trained.perplexity is None else f" (validation: perplexity {trained.perplexity:.2f} per word)"
    return "\n".join([*lines, f"The language model is {trained.model}{said}.",
                      f"Use it:  avsr transcribe clip.mp4 --lm {trained.model}"])


@lm_command.command("score", short_help="Measure how well language models predict a text.")
@click.argument("file", type=click.Path())
@click.option("--model", "models", multiple=True, required=True, metavar="PATH",
              help="An ARPA file, or a folder that avsr lm train wrote; several are compared on the same sentences.")
@click.option("--split", default="all", help="Of a manifest or table: train, valid, held_out (all but train), or all.",
              type=click.Choice(("all", "train", "valid", "held_out")))
@click.option("--quiet", "-q", is_flag=True, help="No progress bar; errors are still shown.")
def score_command(file: str, models: tuple[str, ...], split: str, quiet: bool) -> None:
    """Print the perplexity of language models on the sentences of FILE, per word and per letter: a text file with a sentence a
    line, a manifest, or a table.

    The words and letters are those of the text without capitals and punctuation, so that models of words and of parts of
    words can be compared. A word that n-grams do not have costs what <unk> costs and, spelt with 28 equally likely symbols, its
    letters and its end; `known words` leaves such words out. In brackets: 95 % intervals by bootstrap over sentences.
    """
    with report_errors():
        from avsr.lm import open_language_model
        from avsr.lm.texts import read_sentences
        from avsr.metrics import perplexity, perplexity_ratio
        from avsr.text import normalise

        texts = [text for text in read_sentences(file, split) if normalise(text)]
        if not texts:
            raise AvsrError(f"{file}: it holds no sentence with a word.  Name a text with a sentence a line.")
        found: dict[str, list[TextScore]] = {}
        with ProgressBar(quiet) as bars:
            for name in dict.fromkeys(models):
                found[name] = _scores(open_language_model(name, bars), texts, bars)
        for number, (name, scores) in enumerate(found.items()):
            figures = perplexity(scores)
            if not number:
                print_result(f"{file}: {figures.n_sentences} sentences, {figures.n_words} words, {figures.n_letters} letters")
            print_result(f"{name}: perplexity {_shown(figures.per_word)} per word, {_shown(figures.per_letter)} per letter")
            if figures.n_unknown:
                print_result(f"  {figures.n_unknown} words are unknown to it; known words: {_shown(figures.known)}; unknown "
                             f"words not spelt: {_shown(figures.unspelt)}")
            if number:
                first = next(iter(found))
                print_result(f"  per word {_shown(perplexity_ratio(scores, found[first]))} times that of {first}")


def _scores(model: LanguageModel, texts: list[str], progress: Progress) -> list[TextScore]:
    out: list[TextScore] = []
    while len(out) < len(texts):
        progress(f"scoring with {model.name}", len(out), len(texts), "rows")
        out += model.score_texts(texts[len(out):len(out) + N_AT_ONCE])
    return out


def _shown(estimate: Estimate) -> str:
    """A figure with its interval."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
