"""What a run says of itself: a line per step for people, figures by step for TensorBoard and as JSON Lines.

    Line -> runs/NAME/log.jsonl, runs/NAME/tensorboard/
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from avsr.output import whole_file


@dataclass(frozen=True)
class Line:
    """What there is to say about a step."""

    step: int
    steps: int
    modality: str
    total: float
    parts: dict[str, float]
    pace: dict[str, float]

    @property
    def text(self) -> str:
        """For people."""
        parts = "  ".join(f"{name} {value:.3f}" for name, value in self.parts.items())
        return (f"step {self.step}/{self.steps}  {self.modality:<2}  loss {self.total:.3f}  {parts}  lr {self.pace['lr']:.1e}  "
                f"norm {self.pace['norm']:.1f}  {self.pace['clips_s']:.1f} clips/s  waiting {self.pace['wait']:.0%}")

    @property
    def values(self) -> dict[str, float]:
        """Figures by name; parts of the loss by modality."""
        return {"loss": self.total, **{f"{name}_{self.modality}": value for name, value in self.parts.items()}, **self.pace}


class TrainingLog:
    """Figures by step, of one process only. A run taken up at `step` forgets what was noted after it: it comes again."""

    def __init__(self, folder: Path, rank: int, step: int):
        self.writer = self.file = None
        if rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            path = folder / "log.jsonl"
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            with whole_file(path, alone=True) as fresh:
                fresh.write_text("".join(line for line in lines if _upto(line, step)))
            self.hook = threading.excepthook
            threading.excepthook = self._hear_of_thread
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
            self.file = path.open("a")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Values by name. Raises OSError, as of a full disk."""
        if self.writer is not None and values:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
            self.file.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in values.items()}}) + "\n")
            self.file.flush()

    def close(self) -> None:
        """Everything on disk, as far as there is room: what cannot be written was told when it was noted."""
        if self.writer is not None:
            with suppress(OSError):
                self.writer.close()
            with suppress(OSError):
                self.file.close()
            threading.excepthook = self.hook

    def _hear_of_thread(self, failure: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread ends where the disk is full, and raises that again in `write`: no traceback is needed of it."""
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")):
            self.hook(failure)


def _upto(line: str, step: int) -> bool:
    """Whether a line is whole and of a step up to `step`."""
    with suppress(ValueError, TypeError, KeyError):
        return json.loads(line)["step"] <= step
    return False
