"""`avsr import`: a published checkpoint into a model of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, ProgressBar, print_result, print_status, report_errors
from avsr.names import MODALITY_NAMES

if TYPE_CHECKING:
    from avsr.checkpoint.importing import Imported, ImportedDetector

HALF_COSTS = "half the size; log-probabilities move by up to 0.04, as measured on small networks"


@click.command("import", context_settings=CONTEXT, short_help="Convert a published checkpoint to a model folder.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output-dir", "-o", type=click.Path(file_okay=False, path_type=Path), default=None, metavar="DIR",
              help="Where the model is written.  [default: models/NAME of the file]")
@click.option("--tokenizer", type=click.Path(path_type=Path), default=None, metavar="PATH",
              help="The folder with its SentencePiece files, or one of them.  [default: beside FILE, or spm/unigram there]")
@click.option("--half", is_flag=True, help=f"Store half precision: {HALF_COSTS}.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no summary; errors are still shown.")
def import_command(file: Path, output_dir: Path | None, tokenizer: Path | None, half: bool, quiet: bool) -> None:
    """Make a published lip reader's or recogniser's FILE (.pth, .pt, .ckpt, .safetensors) a model for --model.

    The network's family and sizes are read from the file. data/README.md lists the files that are known, and where they
    come from. LR-ASD, a network that tells who speaks, becomes a model for --speaker-model.
    """
    with report_errors():
        folder = output_dir or Path("models") / file.stem
        with ProgressBar(quiet) as bars:
            bars("loading torch", 0, None, None)
            from avsr.checkpoint.importing import import_checkpoint  # heavy imports wait until here

            imported = import_checkpoint(file, folder, tokenizer=tokenizer, half=half, progress=bars)
        if not quiet:
            print_status(summary(imported, half), lines=True)
    print_result(str(imported.folder))


def summary(imported: Imported | ImportedDetector, half: bool) -> str:
    """What was imported, its terms, and the next command."""
    from avsr.checkpoint.importing import Imported

    return _recogniser(imported, half) if isinstance(imported, Imported) else _detector(imported)


def _detector(imported: ImportedDetector) -> str:
    lines = [f"lr_asd, a network that tells who speaks: {imported.n_parameters / 1e6:.2f} M parameters."]
    if not imported.published:
        lines.append("Its sha256 is not the published file's: a training of your own, or another version.")
    use = f"avsr transcribe talk.mp4 --speakers --speaker-model {imported.folder}"
    return "\n".join([*lines, imported.licence, f"Use it:  {use}"])


def _recogniser(imported: Imported, half: bool) -> str:
    dims, known = imported.dims, imported.known
    layers = " + ".join(f"{n} {name}" for n, name in ((dims.n_video_layers, "video"), (dims.n_audio_layers, "audio")) if n)
    lines = [f"{imported.family.name}, by {MODALITY_NAMES[imported.modality].long}: {layers} and {dims.n_decoder_layers} "
             f"decoder blocks of width {dims.width}, {imported.n_parameters / 1e6:.0f} M parameters, {dims.n_vocab} tokens."]
    if known is None:
        lines.append("Its MD5 is none of the published files': a training of your own, or another version.")
    else:
        wer = "" if known.wer is None else f", {known.wer:g} % WER on LRS3 as its authors report"
        lines.append(f"It is {known.file} of {known.source}{wer}.")
    if half:
        lines.append(f"Stored in half precision: {HALF_COSTS}.")
    lines += [imported.family.licence,
              f"Use it:  avsr transcribe talk.mp4 --model {imported.folder} --modality {imported.modality}"]
    return "\n".join(lines)
