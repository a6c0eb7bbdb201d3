"""How long `avsr prepare` takes on a number of workers, and how much it writes.

    hours of video, workers -> hours; or days -> workers
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from avsr.plan.training import READ_BYTES_PER_S

# Measured in experiments/scale on GRID (360 x 288), by processor time. Of the work landmarks are most, whatever the size of the
# picture; 1920 x 1080 also takes longer to decode.
VIDEO_PER_CORE_HOUR = 7.9
SHARED = 0.96                                               # of that for each of several workers (experiments/speed: 1.94 of 2)
WRITING = 0.002                                             # seconds of the one process that writes, for a second of video
START_S = 7.5                                               # processor time of a worker until it has loaded its models


@dataclass(frozen=True)
class PreparePlan:
    """What preparing takes. rate: hours of video that a core prepares in an hour. workers: cores, one for each worker."""

    hours: float
    workers: int
    rate: float = VIDEO_PER_CORE_HOUR

    @property
    def speed(self) -> float:
        """Hours of video in an hour, by all workers. One process writes what all of them make, and cannot be overtaken."""
        return min(self.rate * (1 if self.workers == 1 else SHARED * self.workers), 1 / WRITING)

    @property
    def wall_hours(self) -> float:
        """Hours from the start to the end."""
        return self.hours / self.speed + START_S / 3600

    @property
    def core_hours(self) -> float:
        """Hours of processor time of all workers."""
        return self.hours / self.rate + self.workers * START_S / 3600

    @property
    def written_bytes(self) -> float:
        """Bytes of mouths and sound."""
        return self.hours * 3600 * READ_BYTES_PER_S

    @property
    def limit(self) -> str:
        """`workers`, or `writing` where more of them would change nothing."""
        return "writing" if self.rate * SHARED * self.workers > 1 / WRITING else "workers"


def workers_for(hours: float, days: float, rate: float = VIDEO_PER_CORE_HOUR) -> int | None:
    """The fewest workers that prepare so many hours of video in so many days; None if none can, as one process writes."""
    least = hours / max(1e-9, 24 * days - START_S / 3600)
    if least > 1 / WRITING:
        return None
    return 1 if least <= rate else math.ceil(least / (rate * SHARED))
