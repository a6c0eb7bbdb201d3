"""`avsr prepare`: a corpus, or raw recordings that a recogniser labels, to mouths and sound for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avsr.cli.console import CONTEXT, Number, ProgressBar, print_status, report_errors
from avsr.errors import AvsrError

if TYPE_CHECKING:
    from avsr.prepare import PrepareSettings

MOUTH_CROP_NAMES = ("avsr", "auto-avsr", "none")
LABEL_OPTIONS = ("second_model", "language", "min_confidence", "min_word_confidence", "max_disagreement", "min_in_step",
                 "min_seconds", "max_seconds", "device")


@click.command("prepare", context_settings=CONTEXT, short_help="Crop the mouths of a corpus for training.")
@click.argument("corpus")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--workers", type=click.IntRange(1, 1024), default=None, help="Processes.  [default: one on each core]")
@click.option("--cluster", default=None, metavar="ADDRESS",
              help="Do the work on a Ray cluster: ray for one on this machine, ray:HOST:PORT on a machine of a cluster, "
                   "ray://HOST:PORT from elsewhere.  [default: processes of this machine]")
@click.option("--max-missing", type=Number(0, 1), default=0.25,
              help="Largest share of frames without a face; beyond it an utterance is dropped.")
@click.option("--max-dropped", type=Number(0, 1), default=0.05,
              help="Share of utterances that may be dropped before the command fails; with --label, of recordings.")
@click.option("--valid-share", type=Number(0, 1, max_open=True), default=0.05,
              help="Share of each speaker's training utterances that become split valid, if the corpus has no such split; with "
                   "--label, of the recordings.")
@click.option("--modality", type=click.Choice(["av", "a", "v"]), default="av",
              help="Keep mouths and sound (av), sound alone (a), or mouths alone (v).")
@click.option("--mouth-crop", "--crop", type=click.Choice(MOUTH_CROP_NAMES), default="avsr",
              help="How mouths are cut out: as for this program's models, as for lip readers published with auto_avsr, or not "
                   "at all (none), because each video is a mouth already.")
@click.option("--recipe", "old_mouth_crop", type=click.Choice(MOUTH_CROP_NAMES), default=None, hidden=True)
@click.option("--split-list", default=None, metavar="FILE",
              help="A table that gives each utterance's split; for GRID also `seen` or `unseen`.  [default: the corpus's own]")
@click.option("--label", "label_model", default=None, metavar="MODEL",
              help="For raw recordings without texts: cut them at pauses and let this recogniser write the texts, from the "
                   "sound. Only what it is sure of is kept; see the options below.")
@click.option("--second-model", default=None, metavar="MODEL",
              help="With --label: the recogniser of the second pass.  [default: the same one, on the sound in faint noise]")
@click.option("--language", default=None,
              help="With --label: the language's code or English name.  [default: detected in each recording]")
@click.option("--min-confidence", type=Number(0, 1), default=0.8,
              help="With --label: the least mean confidence of a segment's words.")
@click.option("--min-word-confidence", type=Number(0, 1), default=0.5,
              help="With --label: the least confidence of any word.")
@click.option("--max-disagreement", type=Number(0, 1), default=0.0,
              help="With --label: the largest word error rate between the two passes.")
@click.option("--min-in-step", type=Number(-100, 100), default=1.0,
              help="With --label: the least score (log-odds) that the mouth makes the sound.")
@click.option("--min-seconds", type=Number(0, 30), default=0.8, help="With --label: the shortest segment.")
@click.option("--max-seconds", type=Number(0, 30, min_open=True), default=30.0, help="With --label: the longest segment.")
@click.option("--device", default="auto", help="With --label: auto, cpu or cuda.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no summary; errors are still shown.")
@click.pass_context
def prepare_command(context: click.Context, corpus: str, source: Path, output: Path, mouth_crop: str,
                    old_mouth_crop: str | None, split_list: str | None, label_model: str | None, quiet: bool,
                    **options: Any) -> None:
    """Crop the mouths of a corpus, and write the manifest and the cache from which models are trained.

    CORPUS is a layout (folder, grid, lombard, lrs2, lrs3, tcd-timit), SOURCE its folder. The same command, given again,
    continues where it was stopped. With --label, SOURCE is a folder of raw recordings.
    """
    with report_errors("What is prepared is kept.  Give the same command again; it goes on where it was stopped."):
        from avsr.corpora import CORPORA
        from avsr.lips import MOUTH_CROPS
        from avsr.prepare import PrepareSettings, prepare

        if old_mouth_crop is not None:
            print_status("warning: the option --recipe is now called --mouth-crop; the old name still works.")
        if corpus not in CORPORA:
            raise AvsrError(f"{corpus}: not a corpus this program knows.  Use one of {', '.join(CORPORA)}.")
        of_labels = {name: options.pop(name) for name in LABEL_OPTIONS}
        settings = PrepareSettings(**options, mouth_crop=MOUTH_CROPS[old_mouth_crop or mouth_crop])
        if label_model is not None:
            if corpus != "folder" or split_list is not None:
                raise AvsrError(f"--label {label_model}: it is for a folder of recordings without texts.  Write avsr prepare "
                                f"folder {source} {output} --label {label_model}, without --split-list.")
            _label(source, output, settings, label_model, of_labels, quiet)
            return
        typed = click.core.ParameterSource.COMMANDLINE
        if given := [name for name in LABEL_OPTIONS if context.get_parameter_source(name) is typed]:
            raise AvsrError(f"--{given[0].replace('_', '-')}: it has a meaning only with --label MODEL.  Leave it out, or name "
                            "the recogniser that is to write the texts.")
        found = CORPORA[corpus](source, split_list=split_list)
        with ProgressBar(quiet, lines=True) as bars:
            prepared = prepare(found.utterances, output, settings=settings, dropped=found.dropped, progress=bars,
                               dashboard=bars.note)
        if not quiet:
            print_status(prepared.summary(), lines=True)
        prepared.check()


def _label(source: Path, output: Path, prepare: PrepareSettings, model: str, options: dict[str, Any], quiet: bool) -> None:
    """Label and prepare a folder of recordings. options: those of LABEL_OPTIONS by name."""
    from avsr.label import LabelLimits, LabelSettings, find_recordings, label

    second, device = options.pop("second_model"), options.pop("device")
    settings = LabelSettings(model, second, device, LabelLimits(**options, max_missing=prepare.max_missing))
    recordings, dropped = find_recordings(source)
    with ProgressBar(quiet, lines=True) as bars:
        corpus = label(recordings, output, settings=settings, prepare=prepare, dropped=dropped, progress=bars,
                       dashboard=bars.note)
    if not quiet:
        print_status(corpus.summary(), lines=True)
    corpus.check()
