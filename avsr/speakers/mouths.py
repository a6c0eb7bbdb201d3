"""Everybody's mouths in a recording while it is read, in step with its sound.

    Clips -> faces.FaceTracker -> lips.MouthCropper -> Mouths -> moved by the offset of lips and sound
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from avsr import media
from avsr.cropped import PictureCropper, open_cropping
from avsr.faces import FaceTrack
from avsr.lips import MouthCropper, MouthCropSettings, Mouths
from avsr.segment import SpeechSegment
from avsr.speakers.choose import choose_speaker, everybody
from avsr.speakers.detector import ActiveSpeakerDetector
from avsr.speakers.offset import BLOCK, MAX_OFFSET, Offset, OffsetFinder
from avsr.speakers.paired import PairedCropper

Sound = Callable[[SpeechSegment], np.ndarray | None]
LIVE_KEY_INTERVAL = 6                 # frames from one search for faces to the next at most in a recording that is being made


class MouthStream:
    """The mouths that may still be needed of a recording that is read in consecutive Clips.

    on_tracks: called with the parts of face tracks as they become final. sound: gives the sound (S,) float32 of a segment, by
    which the offset is found; None where mouths stay as they are. keep_all: whether `all` has all mouths. compared: the crops
    that tell who speaks, see Mouths.compared. live: faces are searched every LIVE_KEY_INTERVAL frames, so that mouths are
    known soon: mostly 0.5 s after they are seen, where it is up to 2 s otherwise.

    Raises AvsrError where these cannot be had beside the others.
    """

    cropper: MouthCropper | PictureCropper | PairedCropper

    def __init__(self, mouth_crop: MouthCropSettings, recording: media.Recording, *,
                 on_tracks: Callable[[list[FaceTrack]], None] | None, sound: Sound | None, keep_all: bool,
                 compared: MouthCropSettings | None = None, live: bool = False):
        self.recording, self.on_tracks, self.sound, self.keep_all = recording, on_tracks, sound, keep_all
        self.tracker, self.cropper = open_cropping(mouth_crop, recording, LIVE_KEY_INTERVAL if live else None)
        if compared is not None and compared.size != mouth_crop.size:
            self.cropper = PairedCropper(mouth_crop, compared)
        self.lag = self.tracker.lag + mouth_crop.smooth
        self.kept: list[Mouths] = []
        self.all: list[Mouths] = []
        self.offset, self.finder = Offset(), OffsetFinder(ActiveSpeakerDetector())
        self._n_frames, self._ended = 0, False

    def add(self, clip: media.Clip) -> None:
        """The next Clip, whose sound is known."""
        self._keep(self.cropper.update(clip, self._told(self.tracker.update(clip))))
        self._n_frames = clip.start_frame + clip.n_frames
        self._find_offset(self._n_frames - self.lag)

    def finish(self, n_frames: int) -> None:
        """The recording has ended, after `n_frames` frames."""
        self._keep(self.cropper.finish(self._told(self.tracker.finish())))
        self.recording.problems += self.tracker.problems(self.recording.name)
        self._n_frames = n_frames
        self._find_offset(n_frames, over=True)
        self._ended = True

    @property
    def settled(self) -> int:
        """The frame before which mouths are final: found, cropped, and moved to their sound."""
        if self._ended:
            return self._n_frames
        held, settled = self.finder.first, self._n_frames - self.lag - max(0, self.offset.frames)
        return min(settled, held) if self._searching and held is not None else settled

    @property
    def n_unknown(self) -> int:
        """How many of the last frames have mouths that are not final, while somebody is followed; 0 where nobody is."""
        known = max((one.end_frame for one in self.kept), default=0)
        return self._n_frames - known if self._n_frames - known <= self.lag else 0

    def of(self, segment: SpeechSegment, audio: np.ndarray | None = None) -> Mouths | None:
        """The mouths of the person who most likely speaks; None where nobody is seen. audio: see speakers.choose_speaker."""
        return choose_speaker(self.kept, segment.start_frame, segment.end_frame, audio)

    def needed_from(self, before: int) -> int:
        """The first frame that is still needed where no window that begins before frame `before` will be asked for."""
        return min(before, self.finder.next, self.settled) - MAX_OFFSET if self._searching else before

    def forget(self, before: int) -> None:
        """Drop mouths that end before a frame."""
        self.kept = [mouths for mouths in self.kept if mouths.end_frame > before]

    def save(self, path: Path, sound: list[np.ndarray]) -> None:
        """Write the mouths of the whole recording, with its sound, as a small video."""
        audio = np.concatenate(sound) if sound else None
        chosen = choose_speaker(self.all, 0, self._n_frames, audio)
        if chosen is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            media.write(chosen.images, path, audio=audio)

    @property
    def _searching(self) -> bool:
        return self.sound is not None and self.finder.found is None

    def _find_offset(self, upto: int, *, over: bool = False) -> None:
        """Examine whole blocks before frame `upto`, and move the mouths once the offset is known."""
        if self.sound is None or self.finder.found is not None:
            return
        while self.finder.found is None and upto - self.finder.next >= (1 if over else BLOCK):
            block = SpeechSegment(self.finder.next, min(self.finder.next + BLOCK, upto))
            self.finder.add(everybody(self.kept, block.start_frame, block.end_frame).values(), self.sound(block), block)
        found = self.finder.finish() if over else self.finder.found
        if found is not None and (problem := found.problem(self.recording.name)) is not None:
            self.recording.problems.append(problem)
            self.offset = found
            self.kept, self.all = (list(map(self._moved, mouths)) for mouths in (self.kept, self.all))

    def _told(self, tracks: list[FaceTrack]) -> list[FaceTrack]:
        if self.on_tracks is not None:
            self.on_tracks(tracks)
        return tracks

    def _keep(self, mouths: list[Mouths]) -> None:
        mouths = list(map(self._moved, mouths))
        self.kept += mouths
        if self.keep_all:
            self.all += mouths

    def _moved(self, mouths: Mouths) -> Mouths:
        frames = 0 if self.offset.apart else self.offset.frames
        return replace(mouths, start_frame=mouths.start_frame - frames) if frames else mouths
