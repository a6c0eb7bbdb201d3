"""`avsr plan`: how long a training or `avsr prepare` takes on machines that are not here, and whether it fits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from avsr.cli.console import CONTEXT, Number, ProgressBar, print_result, print_status, report_errors
from avsr.errors import AvsrError

if TYPE_CHECKING:
    from avsr.plan.run import PlanSettings
    from avsr.plan.text import Corpus


@click.command("plan", context_settings=CONTEXT, short_help="Tell what a training would take on other machines.")
@click.argument("config", required=False, type=click.Path(dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of the config.")
@click.option("--gpus", type=click.IntRange(1, 100_000), default=1, help="Processes of the training, one on each device.")
@click.option("--gpu", "kinds", multiple=True, default=("h100",), metavar="KIND",
              help="h100, h200, a100, l4, rtx4090, or cpu for the cores of this machine; may be repeated, to compare.")
@click.option("--gpus-per-machine", "per_machine", type=click.IntRange(1, 1024), default=None,
              help="Devices in a machine.  [default: 8; for cpu all in this one]")
@click.option("--network", "network_gbit", type=Number(0, 1e6, min_open=True), default=100.0,
              help="Gbit/s from one machine to another.")
@click.option("--hours", type=Number(0, 1e8, min_open=True), default=None, help="Hours of speech in the corpus.")
@click.option("--passes", type=Number(0, 1e6, min_open=True), default=None,
              help="Passes over the corpus; needs --hours.  [default: the config's steps]")
@click.option("--clip-seconds", type=Number(0.1, 30), default=4.0, help="Mean length of an utterance.")
@click.option("--workers", type=click.IntRange(1, 100_000), default=None,
              help="Also plan avsr prepare of --hours of video on so many cores.")
@click.option("--days", type=Number(0, 1e4, min_open=True), default=None,
              help="How many workers prepare --hours of video in so many days.")
@click.option("--video-rate", type=Number(0, 1e4, min_open=True), default=None,
              help="Hours of video that a core prepares in an hour, where it was measured.  [default: as measured on GRID]")
@click.option("--measure", "measured", is_flag=True,
              help="Take some steps on this machine, on noise, and calibrate its kind of device with them.")
@click.option("--device", default="auto", help="With --measure: auto, cpu or cuda.")
@click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text",
              help="A table, or numbers for programs.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
def plan_command(config: str | None, overrides: tuple[str, ...], hours: float | None, passes: float | None,
                 workers: int | None, days: float | None, video_rate: float | None, measured: bool, device: str, layout: str,
                 quiet: bool, **options) -> None:
    """Tell what the training of the file CONFIG takes on --gpus devices: memory, time of a step, hours, and what limits it.

    No data, no GPU and no large machine is needed: the operations of a step are counted, and a written model of devices and
    messages makes times of them (experiments/scale compares it with measurements). With --hours and --workers or --days it also
    tells, or without CONFIG it tells only, what avsr prepare takes. The exit status is 1 if the training fits on no device.
    """
    with report_errors():
        if config is None and (hours is None or (workers is None and days is None)):
            raise AvsrError("avsr plan: nothing to plan.  Name a CONFIG to train, or give --hours with --workers or --days to "
                            "prepare a corpus.")
        if passes is not None and hours is None:
            raise AvsrError(f"--passes {passes:g}: over a corpus of unknown length.  Give its --hours too.")
        if (workers is not None or days is not None) and hours is None:
            raise AvsrError("--workers and --days: for a corpus of unknown length.  Give its --hours too.")
        out: dict[str, object] = {}
        lines: list[str] = []
        fits = True
        if config is not None:
            from avsr.plan.run import PlanSettings, check_settings
            from avsr.plan.text import Corpus

            settings = PlanSettings(**options)
            check_settings(settings)
            trainings, lines, fits = _plan_training(config, overrides, settings, Corpus(hours, passes),
                                                    device if measured else None, quiet)
            out["training"] = trainings
        if hours is not None and (workers is not None or days is not None):
            prepared, more = _plan_preparing(hours, workers, days, video_rate)
            out["prepare"] = prepared
            lines += ["", *more] if lines else more
        print_result(json.dumps(out, indent=1) if layout == "json" else "\n".join(lines), lines=True)
        if not fits:
            raise AvsrError(f"{config}: the training fits on none of these devices.  What would fit is said above.")


def _plan_training(config: str, overrides: tuple[str, ...], settings: PlanSettings, corpus: Corpus, device: str | None,
                   quiet: bool) -> tuple[list[dict], list[str], bool]:
    """The plans for programs and for people, and whether any fits. device: where to measure; None: nowhere."""
    from dataclasses import replace

    from avsr.config import read_config
    from avsr.plan import text
    from avsr.plan.run import advice, plan_training

    read = read_config(config, overrides, lambda line: print_status(f"warning: {line}"))
    with ProgressBar(quiet) as bars:
        if device is not None:
            from avsr.plan.measure import measure

            kind, calibration, seconds = measure(read, settings, device=device, progress=bars)
            said = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())
            bars.print_line(f"measured here ({kind}): a pass forward and backward by {said}; {calibration:.2f} times the plan")
            settings = replace(settings, calibrations={kind: calibration})
        plans = plan_training(read, settings, progress=bars)
        said_by = [advice(plan, settings) for plan in plans]
    lines = [*text.training_lines(plans, corpus), ""]
    for plan, sentences in zip(plans, said_by, strict=True):
        name = f"{plan.cluster.device.name}: " if len(plans) > 1 else ""
        lines += [f"{name}limited by {text.LIMITS[plan.limit]}.", *(f"  {one}" for one in sentences)]
    lines += ["", *text.assumption_lines(plans, settings.clip_seconds)]
    return ([text.training_dict(plan, corpus, sentences) for plan, sentences in zip(plans, said_by, strict=True)], lines,
            any(plan.memory.fits for plan in plans))


def _plan_preparing(hours: float, workers: int | None, days: float | None, rate: float | None) -> tuple[dict, list[str]]:
    from avsr.plan.preparing import VIDEO_PER_CORE_HOUR, PreparePlan, workers_for
    from avsr.plan.text import prepare_dict, prepare_lines

    rate = VIDEO_PER_CORE_HOUR if rate is None else rate
    chosen = workers or (workers_for(hours, days, rate) if days is not None else None) or 1
    plan = PreparePlan(hours, chosen, rate)
    return prepare_dict(plan, days), prepare_lines(plan, days)
