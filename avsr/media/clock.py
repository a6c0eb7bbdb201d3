"""Times that can be believed, from the times that frames claim: missing ones are filled in, leaps are taken out."""

from __future__ import annotations

import math

from avsr.media.gaps import GAP, Gaps
from avsr.rates import VIDEO_FPS

LEAP_BACK = 1.0                       # seconds by which a frame may go back


class Clock:
    """The clock of one track; `kind` is its stream's, video or audio.

    A frame up to LEAP_BACK seconds back or GAP ahead of where it is due is believed, one further ahead if `gaps` does. Any
    other is a leap. If the frame after it is on time, its time stamp alone is wrong, and it follows the last; otherwise what
    nothing bears out is cut from this clock, or the recording simply goes on from here.

    due: when the next frame should start, seconds; the caller sets it after each frame.
    shift: seconds added to what frames claim at present.  leaps: how many were met.  leapt_s: how far they went in all.
    """

    def __init__(self, due: float, gaps: Gaps, kind: str):
        self.due, self.gaps, self.kind = due, gaps, kind
        self.shift = self.leapt_s = 0.0
        self.leaps = 0

    def place(self, time: float | None, following: float | None = None) -> float:
        """Time of a frame that claims `time`, seconds; None where it claims none. following: what the one after it claims."""
        if time is None or not math.isfinite(time):
            return self.due
        if following is not None and self._is_near(following, self.shift) and not self._is_near(time, self.shift):
            self.leaps += 1
            self.leapt_s += abs(self._ahead(time, self.shift))
            return self.due
        shift = self._nearest(time, [shift for shift in (self.shift, 0.0) if self._believes(time, shift)])
        if shift is None:
            shift = self._leap(time)
        self.shift = shift
        return time + shift

    def start_anew(self, time: float) -> None:
        """Let a frame that claims `time` be the one that is due."""
        self._count(self.due - time)

    def borne(self, time: float, length: float) -> float:
        """How much of `length` seconds a frame placed at `time` may last: up to GAP, or what is borne out."""
        if length <= GAP:
            return max(0.0, length)
        claimed = time - self.shift
        return max(1 / VIDEO_FPS, length - self.gaps.unborne(claimed, claimed + length))

    def _nearest(self, time: float, shifts: list[float]) -> float | None:
        return min(shifts, key=lambda shift: abs(time + shift - self.due), default=None)

    def _ahead(self, time: float, shift: float) -> float:
        return time + shift - self.due

    def _is_near(self, time: float, shift: float) -> bool:
        return -LEAP_BACK < self._ahead(time, shift) <= GAP

    def _believes(self, time: float, shift: float) -> bool:
        if self._ahead(time, shift) <= GAP:
            return self._is_near(time, shift)
        return self.gaps.holds(time, self.kind) and self.gaps.unborne(self.due - shift, time) <= GAP

    def _leap(self, time: float) -> float:
        """The shift by which the recording goes on: that of the other track, or what nothing bears out, or none at all."""
        near = [shift for shift in self.gaps.shifts if self._is_near(time, shift)]
        shift = self._nearest(time, near)
        if shift is None and self._ahead(time, self.shift) > 0 and self.gaps.holds(time, self.kind):
            shift = self.shift - self.gaps.unborne(self.due - self.shift, time)
        if shift is None or self._ahead(time, shift) <= -LEAP_BACK:
            shift = self.due - time
        self._count(shift)
        return shift

    def _count(self, shift: float) -> None:
        self.leaps += 1
        self.leapt_s += abs(shift - self.shift)
        self.shift = shift
        if shift not in self.gaps.shifts:
            self.gaps.shifts.append(shift)
