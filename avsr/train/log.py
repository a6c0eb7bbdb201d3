"""The training log: a line per step for people, figures by step for TensorBoard and as JSON Lines.

    StepReport -> runs/NAME/log.jsonl, runs/NAME/tensorboard/
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from avsr.losses import Losses
from avsr.output import whole_file
from avsr.train.parallel import Alone

MODALITIES = ("a", "v", "av")
PARTS = ("frames_audio", "frames_video", "ctc_audio", "ctc_video", "ctc_fused", "reliability", "attention")


class StepFigures:
    """The losses of a step: the mean over its batches, and of each part by modality the mean over the batches that have it."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str], list[float]] = {}      # by part and modality: the sum, and how many batches

    def add(self, losses: Losses, modality: str) -> None:
        """Count a batch."""
        for name, value in {"loss": losses.total, **losses.parts}.items():
            entry = self.sums.setdefault((name, modality), [0.0, 0.0])
            entry[0] += value.item()
            entry[1] += 1

    def of_all(self, parallel: Alone) -> StepFigures:
        """The figures of the batches of all processes."""
        keys = [(name, modality) for name in ("loss", *PARTS) for modality in MODALITIES]
        flat = parallel.sum([value for key in keys for value in self.sums.get(key, (0.0, 0.0))])
        out = StepFigures()
        out.sums = {key: [total, count] for key, total, count in zip(keys, flat[::2], flat[1::2], strict=True) if count}
        return out

    @property
    def total(self) -> float:
        """The loss that the step minimises."""
        entries = [entry for (name, _), entry in self.sums.items() if name == "loss"]
        return sum(total for total, _ in entries) / sum(count for _, count in entries)

    @property
    def parts(self) -> dict[tuple[str, str], float]:
        """The parts by name and modality."""
        return {key: total / count for key, (total, count) in self.sums.items() if key[0] != "loss"}


@dataclass(frozen=True)
class StepReport:
    """The figures of a step. total and parts: see StepFigures; pace: by name, of all processes together.

    clips_s: clips a second. wait: share of the time in which a process waits for its batch. flops: of the model, a second. mfu:
    model FLOPs utilisation, their share of what the GPUs can do at most, where that is known. memory: gigabytes of the process
    that has most, see speed.memory_used.
    """

    step: int
    steps: int
    total: float
    parts: dict[tuple[str, str], float]
    pace: dict[str, float]

    @property
    def text(self) -> str:
        """A line for people."""
        modalities = "+".join(one for one in MODALITIES if any(modality == one for _, modality in self.parts))
        several = "+" in modalities
        parts = "  ".join(f"{name}{f'_{modality}' if several else ''} {value:.3f}"
                          for (name, modality), value in self.parts.items())
        pace = self.pace
        return (f"step {self.step}/{self.steps}  {modalities:<2}  loss {self.total:.3f}  {parts}  lr {pace['lr']:.1e}  "
                f"norm {pace['norm']:.1f}  {pace['clips_s']:.1f} clips/s  waiting {pace['wait']:.0%}  {self._use}")

    @property
    def _use(self) -> str:
        use = f"MFU {self.pace['mfu']:.1%}" if "mfu" in self.pace else f"{self.pace['flops'] / 1e9:.3g} GFLOP/s"
        return f"{use}  {self.pace['memory']:.2f} GB" if "memory" in self.pace else use

    @property
    def values(self) -> dict[str, float]:
        """Figures by name; the parts of the loss also by modality."""
        parts = {f"{name}_{modality}": value for (name, modality), value in self.parts.items()}
        return {"loss": self.total, **parts, **self.pace}


class TrainingLog:
    """Figures by step, written by the first process alone. Lines after `step` are removed: a resumed run writes them again."""

    def __init__(self, folder: Path, rank: int, step: int):
        self.writer = self.file = None
        if rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            path = folder / "log.jsonl"
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            with whole_file(path, alone=True) as fresh:
                fresh.write_text("".join(line for line in lines if _is_before(line, step)))
            self.hook = threading.excepthook
            threading.excepthook = self._on_thread_error
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
            self.file = path.open("a")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write values by name. Raises OSError, as where the disk is full."""
        if self.writer is not None and self.file is not None and values:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
            self.file.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in values.items()}}) + "\n")
            self.file.flush()

    def close(self) -> None:
        """Close the files; an error that matters was raised by `write`."""
        if self.writer is not None and self.file is not None:
            with suppress(OSError):
                self.writer.close()
            with suppress(OSError):
                self.file.close()
            threading.excepthook = self.hook

    def _on_thread_error(self, failure: threading.ExceptHookArgs) -> None:
        """Hide the traceback of TensorBoard's thread on a full disk, because `write` raises that error again."""
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")):
            self.hook(failure)


def _is_before(line: str, step: int) -> bool:
    """Whether a line is complete and of a step up to `step`."""
    with suppress(ValueError, TypeError, KeyError):
        return json.loads(line)["step"] <= step
    return False
