"""The command line: parse, call, print, exit status. Text goes to standard output, all else to standard error."""

import click

from avsr import __version__
from avsr.cli.align import align_command
from avsr.cli.benchmark import benchmark_command
from avsr.cli.console import CONTEXT, Commands
from avsr.cli.correct import correct_command
from avsr.cli.enrol import enrol_command
from avsr.cli.explain import explain_command
from avsr.cli.export import export_command
from avsr.cli.faces import faces_command
from avsr.cli.fetch import fetch_command
from avsr.cli.importing import import_command
from avsr.cli.live import live_command
from avsr.cli.lm import lm_command
from avsr.cli.plan import plan_command
from avsr.cli.prepare import prepare_command
from avsr.cli.pretrain import pretrain_command
from avsr.cli.report import report_command
from avsr.cli.serve import serve_command
from avsr.cli.train import train_command
from avsr.cli.transcribe import transcribe_command
from avsr.cli.tune import tune_command


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="avsr")
def main() -> None:
    """Speech recognition that reads lips: any talking video to text and subtitles."""


for command in (transcribe_command, live_command, align_command, faces_command, fetch_command, prepare_command,
                pretrain_command, train_command, lm_command, correct_command, benchmark_command, report_command,
                explain_command, import_command, export_command, enrol_command, tune_command, plan_command, serve_command):
    main.add_command(command)
