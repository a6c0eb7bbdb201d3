"""A plan in words, as a table for the terminal or as a dict for JSON.

    TrainingPlans, PreparePlan -> lines;  -> dict
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from avsr.errors import counted
from avsr.plan.devices import GB
from avsr.plan.preparing import PreparePlan, workers_for
from avsr.plan.run import passes_over, steps_for
from avsr.plan.training import LOADED_PER_S, TrainingPlan

LIMITS = {"memory": "memory: it does not fit", "data": "data: the devices wait for batches",
          "communication": "communication: messages do not hide behind computing",
          "waiting": "waiting: processes wait for the one whose batch takes longest",
          "launches": "launches: operations are too small for the device", "compute": "compute: the devices are busy"}
PARTS = {"audio": "audio encoder", "video": "video encoder", "decoder": "decoder", "fusion_layers": "fusion",
         "ctc": "CTC heads", "labels": "frame labels", "reliability": "reliability"}


@dataclass(frozen=True)
class Corpus:
    """What is trained on. hours: of speech; None where that is not said. passes: over it; None: the config's steps."""

    hours: float | None
    passes: float | None


def training_lines(plans: Sequence[TrainingPlan], corpus: Corpus) -> list[str]:
    """The plans side by side, a column for each kind of device."""
    first = plans[0]
    clips = {name: count.shape for name, (count, _) in first.counts.items()}
    shape = max(clips.values(), key=lambda one: one.n_clips)
    parts = ", ".join(f"{PARTS.get(name, name)} {n / 1e6:.1f} M" for name, n in first.weights.parts.items())
    lines = [f"{first.config.name}: {first.weights.all / 1e6:.1f} M weights, "
             f"{first.weights.trained / 1e6:.1f} M of them learn",
             f"  {parts}",
             f"batch of a process: {shape.n_clips} clips of {shape.seconds / shape.n_clips:.1f} s; batches by "
             + ", ".join(f"{name} {share:.0%}" for name, (_, share) in first.counts.items()), ""]
    rows = [["", *(_title(plan) for plan in plans)], *_memory_rows(plans), [], *_step_rows(plans), [],
            *_total_rows(plans, corpus)]
    widths = [max(len(row[column]) for row in rows if row) for column in range(len(plans) + 1)]
    return lines + [_line(row, widths) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)]
    return "  ".join([row[0].ljust(widths[0]), *cells]).rstrip() if row else ""


def _title(plan: TrainingPlan) -> str:
    cluster = plan.cluster
    machines = cluster.ring.n_machines
    return f"{cluster.n} x {cluster.device.name}" + (f" ({machines} machines)" if machines > 1 else "")


def _memory_rows(plans: Sequence[TrainingPlan]) -> list[list[str]]:
    names = {"weights": "weights", "gradients": "gradients", "optimiser": "optimiser (AdamW)",
             "activations": "activations at the peak", "communication": "copies for messages", "runtime": "libraries"}
    rows = [["memory of a device, GB", *("" for _ in plans)]]
    rows += [[f"  {said}", *(f"{getattr(plan.memory, name) / GB:.2f}" for plan in plans)] for name, said in names.items()]
    rows.append(["  in all", *(f"{plan.memory.total / GB:.1f} of {(plan.memory.available or 0) / GB:.0f}" for plan in plans)])
    rows.append(["  fits", *("yes" if plan.memory.fits else "NO" for plan in plans)])
    return rows


def _step_rows(plans: Sequence[TrainingPlan]) -> list[list[str]]:
    names = {"compute": "forward and backward", "waiting": "waiting for the slowest", "communication": "messages not hidden",
             "optimiser": "optimiser", "loading": "waiting for data"}
    rows = [["time of a step, ms", *("" for _ in plans)]]
    rows += [[f"  {said}", *(f"{1000 * getattr(plan.step, name):.1f}" for plan in plans)] for name, said in names.items()]
    rows.append(["  in all", *(f"{1000 * plan.step.total:.1f}" for plan in plans)])
    rows.append(["  clips a second", *(f"{plan.clips_per_s:,.0f}" for plan in plans)])
    rows.append(["  use of the peak (MFU)", *(f"{plan.utilisation:.1%}" for plan in plans)])
    rows.append(["  reading, MB/s", *(f"{plan.read_bytes_per_s / 1e6:,.0f}" for plan in plans)])
    rows.append(["limit", *(plan.limit for plan in plans)])
    return rows


def _total_rows(plans: Sequence[TrainingPlan], corpus: Corpus) -> list[list[str]]:
    rows = []
    if corpus.hours is not None:
        rows.append([f"one pass over {corpus.hours:g} h, hours",
                     *(f"{corpus.hours * 3600 / plan.speech_s * plan.step.total / 3600:.2f}" for plan in plans)])
    steps = [steps_for(plan, corpus.hours or 0, corpus.passes) for plan in plans]
    rows.append(["steps", *(f"{n:,}" for n in steps)])
    if corpus.hours is not None:
        rows.append(["  passes over the corpus",
                     *(f"{passes_over(plan, corpus.hours, n):.1f}" for plan, n in zip(plans, steps, strict=True))])
    rows.append(["  one validation, s", *(f"{plan.validation_s:.0f}" for plan in plans)])
    rows.append(["training, hours", *(f"{plan.hours(n):.2f}" for plan, n in zip(plans, steps, strict=True))])
    enough = [replace(plan, config=replace(plan.config, data=replace(plan.config.data, workers=plan.loaders_needed)))
              for plan in plans]
    if any(plan.step.loading for plan in plans):
        rows.append(["  with data in time", *(f"{plan.hours(n):.2f}" for plan, n in zip(enough, steps, strict=True))])
    rows.append(["  of all devices", *(f"{plan.hours(n) * plan.cluster.n:,.1f}" for plan, n in zip(plans, steps, strict=True))])
    return rows


def assumption_lines(plans: Sequence[TrainingPlan], clip_seconds: float) -> list[str]:
    """What the plans assume, so that a reader can judge them."""
    out = [f"Utterances are taken to be {clip_seconds:g} s long (--clip-seconds)."]
    for plan in plans:
        device, network = plan.cluster.device, plan.cluster.network
        calibrated = f", calibrated by {device.calibration:.2f}" if device.calibration != 1 else ", not measured here"
        link = f"; {network * 8 / 1e9:g} Gbit/s between machines (--network)" if plan.cluster.ring.n_machines > 1 else ""
        out.append(f"{device.name}: {device.flops / 1e12:g} TFLOP/s ({device.source}), of which products get "
                   f"{device.flops_share:.0%}; {device.launch_s * 1e6:.0f} us for an operation at least{calibrated}{link}.")
    workers = plans[0].config.data.workers
    speech = LOADED_PER_S[plans[0].cluster.device.is_gpu]
    who = f"{workers} for each device" if workers else "the process of the device itself"
    out.append(f"Processes that load: {who} (data.workers), {speech:g} s of speech a second each.")
    return out


def prepare_lines(plan: PreparePlan, days: float | None) -> list[str]:
    """What preparing takes, in words."""
    lines = [f"avsr prepare, {plan.hours:g} hours of video on {counted(plan.workers, 'worker')} (a core each): "
             f"{_duration(plan.wall_hours)}, {plan.core_hours:,.0f} core-hours, {plan.speed:,.0f} hours of video an hour, "
             f"{plan.written_bytes / GB:,.0f} GB of mouths and sound."]
    if plan.limit == "writing":
        lines.append("More workers would change nothing: the one process that writes the shards is busy.")
    if days is not None:
        workers = workers_for(plan.hours, days, plan.rate)
        lines.append(f"In {days:g} days: " + ("no number of workers is enough, as one process writes the shards.  Split the "
                                              "corpus." if workers is None else f"{counted(workers, 'worker')}."))
    return lines


def _duration(hours: float) -> str:
    return f"{60 * hours:.0f} minutes" if hours < 1 else f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def training_dict(plan: TrainingPlan, corpus: Corpus, advice: Sequence[str]) -> dict[str, Any]:
    """A plan for programs: bytes, seconds, hours."""
    steps = steps_for(plan, corpus.hours or 0, corpus.passes)
    device = plan.cluster.device
    return {
        "gpu": device.name, "gpus": plan.cluster.n, "machines": plan.cluster.ring.n_machines, "source": device.source,
        "calibration": device.calibration, "weights": plan.weights.all, "trained": plan.weights.trained,
        "memory": {**asdict(plan.memory), "total": plan.memory.total, "fits": plan.memory.fits},
        "step_s": {**asdict(plan.step), "total": plan.step.total}, "batch_s": plan.batch_s,
        "flops": {name: count.flops for name, (count, _) in plan.counts.items()},
        "operations": {name: count.forward.n + count.backward.n for name, (count, _) in plan.counts.items()},
        "speech_s": plan.speech_s, "clips_per_s": plan.clips_per_s, "mfu": plan.utilisation,
        "read_bytes_per_s": plan.read_bytes_per_s, "loaders_needed": plan.loaders_needed, "limit": plan.limit,
        "validation_s": plan.validation_s, "steps": steps, "hours": plan.hours(steps),
        "passes": None if corpus.hours is None else passes_over(plan, corpus.hours, steps), "advice": list(advice)}


def prepare_dict(plan: PreparePlan, days: float | None) -> dict[str, Any]:
    """A plan of preparing for programs."""
    return {"hours_of_video": plan.hours, "workers": plan.workers, "hours_of_video_per_core_hour": plan.rate,
            "hours": plan.wall_hours, "core_hours": plan.core_hours, "written_bytes": plan.written_bytes, "limit": plan.limit,
            "workers_for_days": None if days is None else workers_for(plan.hours, days, plan.rate)}
