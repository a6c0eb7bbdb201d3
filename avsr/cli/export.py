"""`avsr export`: a model as graphs that run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, ProgressBar, print_result, print_status, report_errors
from avsr.errors import BadCheckpoint

if TYPE_CHECKING:
    from avsr.export import Exported


@click.command("export", context_settings=CONTEXT, short_help="Export a model to ONNX: it starts faster and needs no torch.")
@click.argument("model")
@click.option("--output-dir", "-o", type=click.Path(file_okay=False, path_type=Path), default=None, metavar="DIR",
              help="Where the export is written.  [default: in the cache, where transcribe, live, serve and align find it by "
                   "MODEL's name and use it on a processor]")
@click.option("--format", "kind", type=click.Choice(["onnx"]), default="onnx", help="The format of the graphs.",
              show_default=True)
@click.option("--int8", is_flag=True, help="Store most weights in 8 bits: a third smaller, and faster on a processor.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar and no summary; errors are still shown.")
def export_command(model: str, output_dir: Path | None, kind: str, int8: bool, quiet: bool) -> None:
    """Write MODEL, which is named as for avsr transcribe, as graphs that ONNX Runtime runs on a processor.

    Commands that use the export do not load torch: they start faster. The export takes about three minutes, once. Needs the
    extra export: pip install 'avsr[export]'.
    """
    with report_errors("Nothing was written."), ProgressBar(quiet) as bars:
        bars("loading the model", 0, None, None)
        from avsr.checkpoint import folder_of, load, may_use_video
        from avsr.checkpoint.exported import identity, kept_export
        from avsr.export import export

        if output_dir is None and Path(model).exists() and "/" in model:
            raise BadCheckpoint(f"{model}: exports are kept by a model's name, and this is a path.  Name a folder for the "
                                "export with --output-dir.")
        checkpoint = load(model, lips=may_use_video(model), progress=bars)
        exported = export(checkpoint, output_dir or kept_export(model), int8=int8, source=identity(folder_of(model)),
                          progress=bars)
    if not quiet:
        print_status(_summary(exported, model, kept=output_dir is None), lines=True)
    print_result(str(exported.folder))


def _summary(exported: Exported, model: str, *, kept: bool) -> str:
    """What was written, and the next command."""
    lines = [f"{len(exported.graphs)} graphs, {exported.n_bytes / 1e6:.0f} MB: {', '.join(exported.graphs)}."]
    if kept:
        lines.append(f"On a processor transcribe, live, serve and align now use it for --model {model}.")
    else:
        lines.append(f"Use it:  avsr transcribe clip.mp4 --model {exported.folder}")
    return "\n".join(lines)
