"""Plans a training on several kinds of devices, and tries what would help where it does not fit or waits.

    Config, PlanSettings -> a TrainingPlan for each kind of device;  advice -> sentences
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from avsr.config import Config
from avsr.errors import AvsrError, counted
from avsr.plan.counting import Network, StepCount, Weights, count_step, count_weights, network_of, shapes, without_contents
from avsr.plan.devices import GB, Device, devices_of
from avsr.plan.training import Cluster, TrainingPlan
from avsr.runtime import Progress, max_processes, n_cores, no_progress

Counts = Mapping[str, tuple[StepCount, float]]
GIGABIT = 1e9 / 8                                           # bytes/s


@dataclass(frozen=True)
class PlanSettings:
    """What is planned for.

    gpus: processes of the training, one for each device. kinds: names of devices, see devices.DEVICES. per_machine: devices in
    one machine; None: as usual for the kind. network_gbit: Gbit/s between machines. clip_seconds: mean length of an utterance.
    n_labels: frame labels; None: as many as the config allows. calibrations: by kind, see Device.calibration.
    """

    gpus: int = 1
    kinds: tuple[str, ...] = ("h100",)
    per_machine: int | None = None
    network_gbit: float = 100.0
    clip_seconds: float = 4.0
    n_labels: int | None = None
    calibrations: Mapping[str, float] = field(default_factory=dict)


def plan_training(config: Config, settings: PlanSettings, *, progress: Progress = no_progress) -> list[TrainingPlan]:
    """Plans by kind of device, in the order of `settings.kinds`. Raises AvsrError, BadConfig, BadCheckpoint."""
    devices = [replace(one, calibration=settings.calibrations.get(one.name, 1.0)) for one in devices_of(settings.kinds)]
    network = network_of(config)
    counted_by: dict[bool, tuple[Weights, Counts]] = {}
    for device in devices:
        if device.is_gpu not in counted_by:
            counted_by[device.is_gpu] = count(config, network, settings, autocast=device.is_gpu, progress=progress)
    return [_plan(config, settings, device, *counted_by[device.is_gpu]) for device in devices]


def count(config: Config, network: Network, settings: PlanSettings, *, autocast: bool,
          progress: Progress = no_progress) -> tuple[Weights, Counts]:
    """The weights, and by modality what a batch takes, with the share of the batches. autocast: as in `count_step`."""
    n_labels = config.data.n_labels + 2 if settings.n_labels is None else settings.n_labels      # silence, and other words
    made = shapes(config, network, settings.clip_seconds)
    module, counts = without_contents(config, network, n_labels if config.loss.frames else 0), {}
    for number, (name, (shape, share)) in enumerate(made.items()):
        progress("counting operations", number, len(made), "steps")
        counts[name] = (count_step(module, network, shape, autocast=autocast, recompute=config.train.recompute), share)
    return count_weights(module), counts


def _plan(config: Config, settings: PlanSettings, device: Device, weights: Weights, counts: Counts) -> TrainingPlan:
    per_machine = settings.per_machine or (settings.gpus if not device.is_gpu else device.per_machine)
    cluster = Cluster(device, settings.gpus, per_machine, settings.network_gbit * GIGABIT, n_cores())
    return TrainingPlan(config, cluster, weights, counts)


def advice(plan: TrainingPlan, settings: PlanSettings) -> list[str]:
    """What to change, a sentence each, the most useful first; empty where nothing stands out."""
    step, train = plan.step, plan.config.train
    out = [] if plan.memory.fits else what_would_fit(plan, settings)
    if plan.limit == "launches":
        out.append(f"Operations are too small for the device: batches larger than data.frames = {plan.config.data.frames} take "
                   "hardly longer, as long as they fit, and train.compile merges operations.")
    if step.loading > 0.05 * step.total:
        out.append(f"Training waits for data: set data.workers = {plan.loaders_needed}.  A machine needs that many free cores "
                   "for each of its devices.")
    if step.communication > 0.1 * step.total:
        out.append(f"Messages take {step.communication / step.total:.0%} of a step: larger batches or train.accumulate = "
                   f"{2 * train.accumulate} send them less often.")
    if step.waiting > 0.1 * step.total:
        out.append(f"Processes wait {step.waiting / step.total:.0%} of a step for the one whose batch takes longest, because "
                   "each draws the modality of its batch by itself.")
    return out


def what_would_fit(plan: TrainingPlan, settings: PlanSettings) -> list[str]:
    """Which of the settings that save memory would make it fit, with the memory that each leaves needed."""
    config, network = plan.config, network_of(plan.config)
    several = plan.cluster.n > 1
    tries: list[tuple[str, Config]] = []
    if several and not config.train.shard:
        tries.append(("train.shard = true", replace(config, train=replace(config.train, shard=True))))
    if not config.train.recompute:
        tries.append(("train.recompute = true", replace(config, train=replace(config.train, recompute=True))))
    if len(tries) == 2:
        tries.append(("both of these", replace(config, train=replace(config.train, shard=True, recompute=True))))
    for part in (2, 4, 8):
        data = replace(config.data, frames=max(1, config.data.frames // part))
        tries.append((f"data.frames = {data.frames}", replace(config, data=data)))
    found, counts = [], {(config.train.recompute, config.data.frames): plan.counts}
    for name, changed in tries:
        key = changed.train.recompute, changed.data.frames
        if key not in counts:
            counts[key] = count(changed, network, settings, autocast=plan.cluster.device.is_gpu)[1]
        memory = replace(plan, config=changed, counts=counts[key]).memory
        if memory.fits:
            found.append(f"It fits with {name}: {memory.total / GB:.1f} GB of {(memory.available or 0) / GB:.0f} GB.")
            if name.startswith("data.frames"):
                break
    return found or [f"It fits with none of train.shard, train.recompute and an eighth of data.frames.  Make model.dims "
                     f"smaller, or use devices with more memory than {(plan.memory.available or 0) / GB:.0f} GB."]


def check_settings(settings: PlanSettings) -> None:
    """Raises AvsrError where the settings do not go together."""
    if "cpu" in settings.kinds and settings.gpus > max_processes():
        raise AvsrError(f"--gpus {settings.gpus} --gpu cpu: a plan for cpu is for this machine, which has "
                        f"{counted(n_cores(), 'core')}.  Ask for at most {max_processes()}, or for another kind.")


def steps_for(plan: TrainingPlan, hours: float, passes: float | None) -> int:
    """Steps of the config, or those of so many passes over a corpus of this length."""
    if passes is None:
        return plan.config.train.steps
    return max(1, round(passes * hours * 3600 / plan.speech_s))


def passes_over(plan: TrainingPlan, hours: float, steps: int) -> float:
    """How often so many steps see each hour of the corpus."""
    return steps * plan.speech_s / 3600 / hours


def kinds_fit(plans: Sequence[TrainingPlan]) -> bool:
    """Whether the training fits on all kinds of devices."""
    return all(plan.memory.fits for plan in plans)
