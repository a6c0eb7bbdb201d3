"""Clips, and the recordings they come from: what other packages use of this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from av.container import InputContainer

from avsr.errors import AvsrError, BadMedia
from avsr.media.audio import rechunk, resample_audio
from avsr.media.colour import NO_COLOUR, GreyPicture, chroma_size, joined, no_colour, split
from avsr.media.contents import OPTIONS, Chooser, Contents, TrackInfo, pick_tracks
from avsr.media.decoder import NOUNS, Opener, StreamDecoder, header_start, truncations
from avsr.media.level import QUIET_DB, SILENT_DB, gain_of, level_unless_loud
from avsr.media.timestamps import PacketCoverage
from avsr.media.video import Picture, VideoFrames, resample_video
from avsr.rates import SAMPLE_RATE, frames_to_samples, frames_to_seconds, samples_to_frames

SPARE_SAMPLES = 16                    # 1 ms of rounding in time stamps makes no further frame


@dataclass(frozen=True)
class Clip:
    """A stretch of one recording.

    video: (T, H, W, 3) uint8 RGB, or (T, H, W) uint8 grey, C-contiguous, VIDEO_FPS a second; None when there is no picture.
    chroma: (T, 2, H/2, W/2) uint8, the colour of grey pictures, see colour.joined; None with RGB pictures, or none.
    shown: (T,) bool, False where the source shows nothing (before its first frame, after its last) and the frame is
        black; None with video.
    audio: (S,) float32 mono, SAMPLE_RATE; sample frames_to_samples(t) belongs to frame t; None when there is no sound.
        S is frames_to_samples(T), or any number in the last clip of a recording without picture.
    start_frame: number of the first frame, counted from the start of the recording.
    """

    video: np.ndarray | None = None
    shown: np.ndarray | None = None
    audio: np.ndarray | None = None
    start_frame: int = 0
    chroma: np.ndarray | None = None

    @property
    def n_frames(self) -> int:
        """Video frames, or as many as cover the sound where there is no picture."""
        if self.video is not None:
            return len(self.video)
        return 0 if self.audio is None else samples_to_frames(len(self.audio))

    @property
    def start_s(self) -> float:
        """Start in seconds from the start of the recording."""
        return frames_to_seconds(self.start_frame)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        if self.video is None and self.audio is not None:
            return len(self.audio) / SAMPLE_RATE
        return frames_to_seconds(self.n_frames)

    def part(self, first: int | None, last: int | None) -> Clip | None:
        """The frames from `first` to before `last`, counted from the start of the recording; None where it has none."""
        low = max(0, (first or 0) - self.start_frame)
        high = self.n_frames if last is None else min(self.n_frames, last - self.start_frame)
        if low >= high:
            return None
        if (low, high) == (0, self.n_frames):
            return self
        cut = {name: None if (own := getattr(self, name)) is None else own[low:high] for name in ("video", "shown", "chroma")}
        audio = None if self.audio is None else self.audio[frames_to_samples(low):frames_to_samples(high)]
        return Clip(**cut, audio=audio, start_frame=self.start_frame + low)


Source = str | Path | bytes | BinaryIO | np.ndarray | Clip


class Recording:
    """An open recording, read once from start to end. Use `open_recording`; it is a context manager.

    name: its name in messages. duration_s: the container's estimate in seconds, None when it gives none; the length that the
    packets cover once the estimate has turned out to be wrong.
    problems: sentences about what was damaged, skipped or missing; complete once `windows` has ended.
    contents: all tracks of the file; None for an array or a Clip, which has no tracks.
    sound_track, picture_track: the tracks that were taken, also where they are not wanted; None where there is none.
    """

    def __init__(self, name: str, duration_s: float | None = None):
        self.name = name
        self.duration_s = duration_s
        self.problems: list[str] = []
        self.contents: Contents | None = None
        self.sound_track: TrackInfo | None = None
        self.picture_track: TrackInfo | None = None
        self._video: VideoFrames | None = None
        self._audio: Iterator[np.ndarray] | None = None
        self._fresh_audio: Callable[[], Iterable[np.ndarray]] | None = None   # the same, from a fresh reader
        self._decoders: list[StreamDecoder] = []
        self._coverage: PacketCoverage | None = None
        self._start_frame = 0
        self._grey = False
        self._open = ExitStack()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    @property
    def has_video(self) -> bool:
        """Whether Clips have pictures."""
        return self._video is not None

    @property
    def has_audio(self) -> bool:
        """Whether Clips have sound."""
        return self._audio is not None

    @property
    def scale(self) -> float:
        """Pixels of a Clip for each pixel of the recording's own picture; below 1 where that is scaled down."""
        return 1.0 if self._video is None else self._video.scale

    @property
    def full_size(self) -> tuple[int, int]:
        """Width and height of the recording's own picture, upright and with square pixels; 0, 0 where there is none."""
        height, width = (0, 0) if self._video is None else self._video.size
        return round(width / self.scale), round(height / self.scale)

    @cached_property
    def quiet_db(self) -> float | None:
        """The level of a sound below level.QUIET_DB, in dB of full scale; None where it is louder, or there is no sound.

        A sound that is loud enough is read ahead up to where it shows, mostly less than a second; a quiet one to its end.
        """
        level = None if self._fresh_audio is None else level_unless_loud(self._fresh_audio())
        return level if level is not None and level < QUIET_DB else None

    @property
    def is_silent(self) -> bool:
        """Whether there is sound, but nobody can hear anything in it."""
        return self.quiet_db is not None and self.quiet_db < SILENT_DB

    @property
    def gain(self) -> float:
        """The factor that makes a very quiet sound as loud as sound usually is; 1 for any other. See level.amplified."""
        return 1.0 if self.quiet_db is None else gain_of(self.quiet_db)

    def windows(self, n_frames: int = 100, *, grey: bool = False) -> Iterator[Clip]:
        """Consecutive Clips of `n_frames` frames, the last one shorter, that cover the recording. Can be called once.

        No more than two are in memory at a time. grey: pictures are (H, W) grey, with chroma, instead of RGB: half the cost.
        Raises BadMedia when there is nothing at all to give.
        """
        assert n_frames > 0, n_frames
        self._grey = grey
        pictures = self._video.frames(grey) if self._video else iter(())
        sounds = rechunk(self._audio or (), frames_to_samples(n_frames))
        start = self._start_frame
        while True:
            clip = replace(self._window(pictures, next(sounds, None), n_frames), start_frame=start)
            ended = clip.n_frames < n_frames
            start += clip.n_frames
            if self._coverage is not None and self._coverage.accepted_s is not None:
                self.duration_s = max(self._coverage.accepted_s, frames_to_seconds(start))
            if clip.n_frames:
                yield clip
            if ended:
                break
            del clip                                         # no window lives in here while the next is made
        if start == self._start_frame:
            raise BadMedia(f"{self.name}: it is 0 s long.  Check that it was recorded and copied to its end.")
        for decoder in self._decoders:
            self.problems += decoder.problems(self.name)
        self.problems += truncations(self.name, self._decoders, self.duration_s)

    def _window(self, pictures: Iterator, audio: np.ndarray | None, n_frames: int) -> Clip:
        """The next Clip, which is shorter than `n_frames`, or empty, at the end of the recording."""
        sound = np.zeros(0, np.float32) if audio is None else audio
        if self._video is None:
            return Clip(audio=sound)
        size, shown, n = self._video.size, np.zeros(n_frames, bool), 0
        video = np.zeros((n_frames, *size) if self._grey else (n_frames, *size, 3), np.uint8)
        chroma = np.full((n_frames, 2, *chroma_size(*size)), NO_COLOUR, np.uint8) if self._grey else None
        for n, picture in zip(range(1, n_frames + 1), pictures, strict=False):
            if picture is not None and chroma is not None:
                video[n - 1], chroma[n - 1] = picture
            elif picture is not None:
                video[n - 1] = picture
            shown[n - 1] = picture is not None
        n = max(n, samples_to_frames(max(0, len(sound) - SPARE_SAMPLES)))
        chroma = None if chroma is None else chroma[:n]
        if self._audio is None:
            return Clip(video[:n], shown[:n], chroma=chroma)
        if len(sound) != frames_to_samples(n):
            sound = np.pad(sound[: frames_to_samples(n)], (0, max(0, frames_to_samples(n) - len(sound))))
        return Clip(video[:n], shown[:n], sound, chroma=chroma)


def open_recording(source: Source, *, max_side: int = 1280, want_video: bool = True, want_audio: bool = True,
                   audio_track: int | None = None, video_track: int | None = None,
                   choose: Chooser | None = None) -> Recording:
    """Open a file (by path, as bytes, or as a binary file, which is read from its start), a waveform or a Clip.

    Pictures are scaled down until no side is longer than `max_side` pixels. What is not wanted is never decoded.
    audio_track, video_track: which of several, counted from 1. Without, `choose` is asked where there are several, and
    without that FFmpeg decides: see contents.pick_tracks, and selection.open_recording for a choice by what is said and shown.
    Raises BadMedia when there is no such file or track, or nothing in it can be decoded.
    """
    if isinstance(source, np.ndarray):
        source = Clip(audio=_checked_waveform(source))
    if isinstance(source, Clip):
        _refuse_numbers(audio_track, video_track)
        return _open_clip(source, want_video, want_audio)
    opener = Opener(source)
    recording = Recording(opener.name)
    recording._open.callback(opener.close)
    try:
        container = recording._open.enter_context(opener.open())
        recording.contents = contents = Contents(opener, container)
        recording.sound_track, recording.picture_track, recording.problems = pick_tracks(
            contents, audio_track=audio_track, video_track=video_track, want_video=want_video,
            want_audio=want_audio, choose=choose)
        _open_streams(recording, opener, contents, container, {"video": want_video, "audio": want_audio}, max_side)
    except BaseException:
        recording.close()
        raise
    return recording


def _refuse_numbers(audio_track: int | None, video_track: int | None) -> None:
    """Raises AvsrError for a track that is asked for where there are no tracks."""
    for kind, number in (("audio", audio_track), ("video", video_track)):
        if number is not None:
            raise AvsrError(f"clip: there are no tracks in an array or a Clip, so {OPTIONS[kind]} {number} has no meaning.  "
                            "Leave it out.")


def windows(source: Source, n_frames: int = 100, **options) -> Iterator[Clip]:
    """Clips of `n_frames` frames, the last one shorter. Options and errors are those of `open_recording`."""
    with open_recording(source, **options) as recording:
        yield from recording.windows(n_frames)


def read(source: Source, **options) -> Clip:
    """The whole recording as one Clip: 3 bytes a pixel are held in memory. Options and errors as `open_recording`."""
    with open_recording(source, **options) as recording:
        return join(list(recording.windows()))


def join(clips: Sequence[Clip]) -> Clip:
    """Consecutive Clips of one recording as one Clip."""
    if len(clips) == 1:
        return clips[0]
    joined = {name: np.concatenate([getattr(clip, name) for clip in clips])
              for name in ("video", "shown", "audio", "chroma") if getattr(clips[0], name) is not None}
    return Clip(**joined, start_frame=clips[0].start_frame)


def _checked_waveform(audio: np.ndarray) -> np.ndarray:
    if audio.ndim != 1 or audio.dtype.kind != "f" or not len(audio):
        raise BadMedia(f"waveform: shape {audio.shape} and type {audio.dtype}, but sound must be (S,) float32, mono, "
                       f"{SAMPLE_RATE} a second.  Mix its channels down and resample it first.")
    return np.ascontiguousarray(audio, np.float32)


def _open_clip(clip: Clip, want_video: bool, want_audio: bool) -> Recording:
    recording = Recording("clip", clip.duration_s)
    recording._start_frame = clip.start_frame
    if want_video and clip.video is not None:
        shown = np.ones(len(clip.video), bool) if clip.shown is None else clip.shown
        recording._video = VideoFrames((clip.video.shape[1], clip.video.shape[2]), partial(_frames_of, clip, shown))
    audio = clip.audio
    if want_audio and audio is not None:
        recording._audio, recording._fresh_audio = iter([audio]), lambda: [audio]
    if not (recording.has_video or recording.has_audio):
        raise BadMedia("clip: it holds nothing of what is wanted.  Ask for its sound if it has no picture, or both.")
    return recording


def _frames_of(clip: Clip, shown: np.ndarray, grey: bool) -> Iterator[Picture | None]:
    """The frames of a Clip as VideoFrames gives them."""
    assert clip.video is not None
    for i, (frame, seen) in enumerate(zip(clip.video, shown, strict=True)):
        if not seen:
            yield None
        elif frame.ndim == 3:
            yield split(frame) if grey else frame
        else:
            picture = no_colour(frame) if clip.chroma is None else GreyPicture(frame, clip.chroma[i])
            yield picture if grey else joined(*picture)


def _open_streams(recording: Recording, opener: Opener, contents: Contents, container: InputContainer,
                  want: dict[str, bool], max_side: int) -> None:
    """Give a Recording the picture and the sound that were picked, with one common time zero.

    The header of a stream that is not wanted still counts for time zero, so that times do not depend on what is asked for.
    """
    recording.duration_s = container.duration / 1e6 if container.duration and container.duration > 0 else None
    picked = {"video": recording.picture_track, "audio": recording.sound_track}
    decoders: dict[str, StreamDecoder] = {}
    starts, failed = [], []
    for kind, wanted in want.items():
        track = picked[kind]
        if track is None:
            continue
        stream = container.streams[track.index]
        if not wanted:
            starts += [] if header_start(stream) is None else [header_start(stream)]
            continue
        own = recording._open.enter_context(opener.open())
        decoder = StreamDecoder(own, own.streams[stream.index])
        if decoder.first is None:
            failed.append(f"{recording.name}: {decoder.failure}")
            continue
        decoders[kind] = decoder
        starts.append(decoder.start_s)
    if not decoders:
        wanted = " or ".join(NOUNS[kind] for kind, wanted in want.items() if wanted)
        silent_film = not want["video"] and picked["video"] is not None
        remedy = ("Its lips could be read: --modality v and a model that has learnt to." if silent_film else
                  "Check that it is the right file.")
        raise BadMedia(f"{'. '.join(failed)}.  Convert it with another program, or get it again." if failed else
                       f"{recording.name}: there is no {wanted} in it.  {remedy}")
    recording.problems += [f"{sentence}; the rest was kept." for sentence in failed]
    recording._coverage = PacketCoverage(opener.open)
    for decoder in decoders.values():
        decoder.set_zero(min(starts), recording._coverage)
    recording._decoders = list(decoders.values())
    if "video" in decoders:
        recording._video = resample_video(decoders["video"], max_side)
    if "audio" in decoders:
        recording._audio = resample_audio(decoders["audio"])
        recording._fresh_audio = partial(contents.decode_audio, cast(TrackInfo, picked["audio"]))
