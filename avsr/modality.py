"""By which modality a recording is transcribed, and what the user should know of its sound and its video.

    modality asked for, Checkpoint, Recording -> `a`, `v` or `av`, and why
    level of the sound, number of speech segments -> problems
    mouths and reliability of each segment -> VideoUse -> the modality that was used, and problems
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from avsr import media
from avsr.errors import AvsrError, BadMedia, NoFace, counted
from avsr.media.level import FLOOR_DB, decibels
from avsr.memory import Memory
from avsr.names import MODALITY_NAMES
from avsr.stream import Window

if TYPE_CHECKING:                                           # so that a model without torch does not need it here
    from avsr.checkpoint import Checkpoint


def check_modality(checkpoint: Checkpoint, modality: str) -> None:
    """Raises AvsrError for a modality that the model cannot use."""
    if modality == "v" and not checkpoint.video_trained:
        raise AvsrError(f"{checkpoint.name}: this model has no trained video encoder, so it cannot use video alone.  "
                        "Use --modality a or auto, or a model that reads lips.")
    able = checkpoint.modalities if checkpoint.video_trained else checkpoint.model.modalities
    if modality not in ("auto", *able):
        raise AvsrError(f"{checkpoint.name}: this model uses {MODALITY_NAMES[able[0]].long}, not "
                        f"{MODALITY_NAMES[modality].long}.  Use --modality {able[0]} or auto, or another model.")


def decide(modality: str, checkpoint: Checkpoint, recording: media.Recording) -> tuple[str, str]:
    """The modality to use, `a`, `v` or `av`, and why, in a sentence. Raises BadMedia where none is possible.

    A silent sound counts as none, so the video decides; without video, `a` is used and finds no words.
    """
    sound, picture = recording.has_audio and not recording.is_silent, recording.has_video
    if checkpoint.modalities in (("v",), ("av",)):          # an imported network, which has one modality
        (only,) = checkpoint.modalities
        lacks = "picture" if not picture else "sound" if "a" in only and not recording.has_audio else None
        if lacks is not None:
            raise BadMedia(f"{recording.name}: there is no {lacks} in it, and this model uses {MODALITY_NAMES[only].long}.  "
                           "Use another model for it, such as --model default.")
        return only, f"this model uses {MODALITY_NAMES[only].long}"
    readable = picture and checkpoint.video_trained and checkpoint.model.reliability is not None
    if recording.is_silent and (modality == "a" or not readable):
        return "a", "there is only silence in the recording's sound"
    if not sound and not (picture and checkpoint.video_trained):
        why = ("and this model has no trained video encoder" if picture else
               "and no picture was asked for" if modality == "a" else "and no picture either")
        raise BadMedia(f"{recording.name}: there is no sound in it, {why}.  Use a model that reads lips with --modality v, "
                       "or a recording with sound.")
    if modality == "v":
        return "v", "video alone was asked for"
    if modality == "a":
        return "a", "sound alone was asked for"
    if not sound and checkpoint.model.reliability is None:
        raise BadMedia(f"{recording.name}: there is no sound in it, and this model cannot tell whether it knows the lips in "
                       "it.  Use --modality v to have them read anyway.")
    if not sound:
        return "v", "there is only silence in the recording's sound" if recording.is_silent else "the recording has no sound"
    if not checkpoint.video_trained and modality == "auto":
        return "a", "this model has no trained video encoder"
    if not picture:
        return "a", "the recording has no picture"
    return "av", "both were asked for" if modality == "av" else "the recording has both and the model reads lips"


def sound_problems(recording: media.Recording, used: str, *, level_db: float, n_segments: int) -> list[str]:
    """What the user should know of a recording's sound: that it is silent, that it was amplified, that nobody speaks in it.

    used: the modality that was used. level_db: of the sound, as level.Loudness has it. n_segments: of speech that were found.
    """
    name, level = recording.name, f"{level_db:.0f} dB of full scale at its loudest"
    if recording.is_silent:
        level = "its samples are all zero" if level_db <= FLOOR_DB else level
        done = "so it was taken as a recording without sound" if used == "v" else "so nothing was written"
        lips = ", or use --modality v to have the lips in it read" if recording.has_video and used != "v" else ""
        return [f"{name}: there is only silence in its sound ({level}), {done}.  Check which microphone or track was recorded"
                f"{lips}."]
    problems = []
    if recording.gain > 1:
        problems.append(f"{name}: its sound is very quiet ({level}), so it was amplified by "
                        f"{decibels(recording.gain**2):.0f} dB.")
    if n_segments == 0:
        heard = "even so" if recording.gain > 1 else f"though its sound is not too quiet ({level})"
        problems.append(f"{name}: nobody speaks in it, as far as can be heard, {heard}.  Use --no-vad to take it all as "
                        "speech.")
    return problems


class VideoUse:
    """Counts how much of a recording's video could be used, and says at the end what came of it.

    modality: by which the recording is transcribed. max_missing: share of a segment's frames that may lack a face.
    only_in_distribution: whether segments are left out whose mouths are not like those of the training data.
    needs_video: whether segments without readable mouths are left out.
    """

    def __init__(self, checkpoint: Checkpoint, recording: media.Recording, modality: str, *, max_missing: float,
                 only_in_distribution: bool):
        self.name, self.modality, self.max_missing = recording.name, modality, max_missing
        self.only_in_distribution, self.uses_sound = only_in_distribution, "a" in checkpoint.modalities
        self.needs_video = modality == "v" or (modality == "av" and not self.uses_sound)
        # With --modality v the sound is not read, but there may be some. A silent one is of no use.
        self.has_sound_track = ((recording.has_audio and not recording.is_silent)
                                or (not recording.has_audio and recording.sound_track is not None))
        self.n_segments = self.n_frames = self.n_missing = 0            # video frames; those without a face
        self.n_turned_away = 0                                          # frames whose face is masked
        self.n_faceless = self.n_still = 0                              # segments whose mouths cannot be read
        self.n_apart = 0                                                # segments whose lips and sound are out of step
        self.n_off_screen = 0                                           # segments in which nobody in sight speaks
        self.n_rated = self.n_unreliable = self.n_out_of_distribution = 0       # segments whose mouths went into the network
        self.last_reliability: float | None = None                      # of the last segment with mouths

    def without_turned_away(self, window: Window) -> Window:
        """The window with the mouths of faces that are turned away masked, as those that are missing are."""
        mouths = window.mouths
        if mouths is None or not mouths.turned_away.any():
            return window
        self.n_turned_away += int(mouths.turned_away.sum())
        seen = None if window.seen is None else window.seen & ~mouths.turned_away
        return replace(window, mouths=replace(mouths, missing=mouths.missing | mouths.turned_away), seen=seen)

    def count(self, window: Window, unreadable: str | None) -> None:
        """A window before it is recognised. unreadable: see stream.why_unreadable."""
        n_frames = window.segment.end_frame - window.segment.start_frame
        self.n_segments += 1
        self.n_frames += n_frames
        missing = np.ones(n_frames, bool) if window.mouths is None else window.mouths.missing
        if window.seen is not None:
            missing = ~window.seen
        off_screen = unreadable == "missing" and missing.mean() <= self.max_missing
        self.n_missing += int(missing.sum())
        self.n_off_screen += off_screen
        self.n_faceless += unreadable == "missing" and not off_screen
        self.n_still += unreadable == "still"
        self.n_apart += unreadable == "apart"

    def count_reliability(self, has_mouths: Sequence[bool], memory: Memory) -> None:
        """The segments of a batch that have mouths, and those of them whose mouths count for nothing."""
        reliability = memory.in_distribution if memory.reliability is None else memory.reliability
        if reliability is not None:
            values = [value for value, there in zip(reliability.tolist(), has_mouths, strict=True) if there]
            self.n_rated += len(values)
            self.n_unreliable += values.count(0.0)
            self.last_reliability = values[-1] if values else None

    def outcome(self, reason: str) -> tuple[str, str, list[str]]:
        """The modality that was really used, why, and what the user should know. `reason`: why it was to be used.

        Raises NoFace where there is nothing but video, and no segment shows a face."""
        face = "face that is not turned away" if self.n_turned_away else "face"
        problems, without_face = [], f"no {face} in {self.n_missing} of {self.n_frames} frames"
        if self.n_turned_away and not self.n_faceless:
            problems.append(f"{self.name}: the face is turned away in {self.n_turned_away} of {self.n_frames} frames, in which "
                            "the lips were not read.")
        if self.n_faceless and "v" in self.modality:
            share = f"{without_face} (limit {self.max_missing:.0%})"
            if self.n_faceless == self.n_segments and self.needs_video:
                raise NoFace(f"{self.name}: {share}.  {self._instead_of_video()}--max-missing "
                             f"{min(1, self.n_missing / self.n_frames + 0.01):.2f} to keep it.")
            kind = "left out" if self.needs_video else "recognised by sound alone"
            problems.append(f"{self.name}: {share}: {self.n_faceless} of {counted(self.n_segments, 'segment')} {kind}.")
            if self.n_faceless == self.n_segments:
                return "a", without_face, problems
        if self.n_off_screen and self.needs_video:
            problems.append(f"{self.name}: in {self.n_off_screen} of {counted(self.n_segments, 'segment')} nobody in sight "
                            "speaks: nothing was written for them.  Leave out --speakers to have the lips read anyway.")
        elif self.n_off_screen and self.n_off_screen + self.n_faceless == self.n_segments:
            return "a", "nobody in the picture speaks", problems
        if self.n_apart and self.n_apart + self.n_faceless + self.n_off_screen == self.n_segments and not self.needs_video:
            return "a", "lips and sound are not in step", problems       # the reader has told more
        if self.n_still:
            problems.append(self._still_problem())
            if self.n_still + self.n_faceless + self.n_off_screen == self.n_segments and not self.needs_video:
                return "a", "the mouth in the picture does not move", problems
        if self.n_out_of_distribution:
            problems.append(f"{self.name}: there is nothing to hear in it, and in {self.n_out_of_distribution} of "
                            f"{counted(self.n_segments, 'segment')} the lips are not like those in this model's training "
                            "data, so nothing was written for them.  Use --modality v to have them read anyway.")
        elif self.n_unreliable and self.modality == "v":
            problems.append(f"{self.name}: the mouth in {self.n_unreliable} of {counted(self.n_rated, 'segment')} is not like "
                            "those in this model's training data: what it reads there means little.  Use --modality av if "
                            "there is sound.")
        elif self.n_unreliable and self.n_unreliable == self.n_rated:
            why = ("the video was not reliable: its lips are not like those in the training data, "
                   "unreadable, or do not match the sound")
            return "a", why, problems
        return self.modality, reason, problems

    def _instead_of_video(self) -> str:
        if not self.has_sound_track:
            return "There is no sound to use instead; use "
        return "Use --modality a for sound alone, or " if self.uses_sound else "Use a model that uses sound, or "

    def _still_problem(self) -> str:
        where = (f"{self.name}: in {self.n_still} of {counted(self.n_segments, 'segment')} the mouth does not move, as in a "
                 "photograph, a frozen picture or under a mask")
        if not self.needs_video:
            return f"{where}: they were recognised by sound alone."
        by_sound = self.has_sound_track and self.uses_sound and not self.only_in_distribution
        other = "--modality a for its sound alone, or " if by_sound else ""
        return f"{where}: nothing was written for them.  Use {other}--max-missing 1 to have it read anyway."
