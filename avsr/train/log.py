"""The training log: a line per step for people, figures by step for TensorBoard and as JSON Lines.

    StepReport -> runs/NAME/log.jsonl, runs/NAME/tensorboard/
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from avsr.output import whole_file


@dataclass(frozen=True)
class StepReport:
    """The figures of a step."""

    step: int
    steps: int
    modality: str
    total: float
    parts: dict[str, float]
    pace: dict[str, float]

    @property
    def text(self) -> str:
        """A line for people."""
        parts = "  ".join(f"{name} {value:.3f}" for name, value in self.parts.items())
        return (f"step {self.step}/{self.steps}  {self.modality:<2}  loss {self.total:.3f}  {parts}  lr {self.pace['lr']:.1e}  "
                f"norm {self.pace['norm']:.1f}  {self.pace['clips_s']:.1f} clips/s  waiting {self.pace['wait']:.0%}")

    @property
    def values(self) -> dict[str, float]:
        """Figures by name; the parts of the loss also by modality."""
        return {"loss": self.total, **{f"{name}_{self.modality}": value for name, value in self.parts.items()}, **self.pace}


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
