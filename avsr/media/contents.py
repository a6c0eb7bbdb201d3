"""The tracks of a file: which there are, which of them belong together, and samples of each before one is taken.

    container -> Contents (TrackInfo of each sound track and picture) -> pick_tracks -> one sound track and one picture
FFmpeg's own preference decides, unless a Chooser is given that can tell speech from music, or a face from a screen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from avsr.errors import BadMedia
from avsr.media.audio import resample_audio
from avsr.media.decoder import NOUNS, Opener, StreamDecoder
from avsr.media.timestamps import PacketCoverage
from avsr.media.video import resample_video
from avsr.rates import VIDEO_FPS

NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails          # cover art, and pictures of chapters
# Tracks made for few: a director's commentary, a voice that describes the picture, sound without the voices.
SPECIAL = (Disposition.comment | Disposition.visual_impaired | Disposition.descriptions | Disposition.karaoke
           | Disposition.lyrics | Disposition.clean_effects | Disposition.non_diegetic)
LONGEST_TITLE = 40                    # letters of a title that a message shows
OPTIONS = {"audio": "--audio-track", "video": "--video-track"}
TRACK_NOUNS = {"audio": "sound track", "video": "picture"}


@dataclass(frozen=True)
class TrackInfo:
    """A sound track or a picture of a file, as its container describes it.

    kind: `audio` or `video`. number: from 1 on, counted among its kind as players count; cover art is left out. index: the
    container's. codec: FFmpeg's name. language: the tag as it is stored, None where there is none or `und`. title: None
    where there is none. programme: equal for all tracks of one programme; only broadcast streams have several.
    readable: whether there is a decoder for it. special: a commentary, a description or the like, by its flags or title.
    fps: pictures a second on average, as the container has it; None for sound, and where it does not say.
    """

    kind: str
    number: int
    index: int
    codec: str
    language: str | None
    title: str | None
    programme: tuple[int, int]
    readable: bool
    special: bool
    fps: float | None = None

    def __str__(self) -> str:
        """`2 (aac, eng, "Commentary")`."""
        title = None if self.title is None else f'"{self.title}"'
        return f"{self.number} ({', '.join(filter(None, (self.codec, self.language, title)))})"


class Contents:
    """The sound tracks and the pictures of a file, each kind with the one that FFmpeg prefers first.

    name: the name of the file in messages.
    """

    def __init__(self, opener: Opener, container: InputContainer):
        self.name, self._opener = opener.name, opener
        real = {kind: [stream for stream in container.streams if stream.type == kind and not stream.disposition & NO_VIDEO]
                for kind in NOUNS}
        listed = {kind: [_describe(container, stream, number) for number, stream in enumerate(streams, start=1)]
                  for kind, streams in real.items()}
        screen = container.streams.best("video")
        voice = container.streams.best("audio", screen)
        self.video_tracks = tuple(sorted(listed["video"], key=lambda one: (not one.readable, not _is(one, screen), one.index)))
        programme = self.video_tracks[0].programme if self.video_tracks else None
        self.audio_tracks = tuple(sorted(listed["audio"], key=lambda one: (
            not one.readable, programme not in (None, one.programme), not _is(one, voice), one.special, one.index)))

    def of_kind(self, kind: str) -> tuple[TrackInfo, ...]:
        """`audio` or `video` -> sounds or pictures."""
        return self.audio_tracks if kind == "audio" else self.video_tracks

    def numbered(self, kind: str, number: int) -> TrackInfo:
        """The track with that number. Raises BadMedia, naming those there are."""
        tracks = sorted(self.of_kind(kind), key=lambda one: one.number)
        if not 1 <= number <= len(tracks):
            remedy = (f"Leave {OPTIONS[kind]} out." if not tracks else
                      f"Use {OPTIONS[kind]} with one of: {', '.join(map(str, tracks))}.")
            raise BadMedia(f"{self.name}: there is no {TRACK_NOUNS[kind]} {number} in it; it has {len(tracks)}.  {remedy}")
        return tracks[number - 1]

    def decode_audio(self, track: TrackInfo) -> Generator[np.ndarray]:
        """The sound of a track from its start on: (n,) float32 mono, SAMPLE_RATE, about a second at a time."""
        yield from self._decoded(track, resample_audio)

    def decode_video(self, track: TrackInfo, max_side: int = 1280) -> Generator[np.ndarray | None]:
        """One picture of each second, (H, W, 3) uint8 RGB; None where none is shown."""
        yield from self._decoded(
            track, lambda decoder: islice(resample_video(decoder, max_side).frames(False), 0, None, VIDEO_FPS))

    def _decoded(self, track: TrackInfo, resample: Callable[[StreamDecoder], Iterator]) -> Iterator:
        with self._opener.open() as container:
            decoder = StreamDecoder(container, container.streams[track.index])
            if decoder.first is not None:
                decoder.set_zero(decoder.start_s, PacketCoverage(self._opener.open))
                yield from resample(decoder)


Chooser = Callable[[Contents, Sequence[TrackInfo]], tuple[TrackInfo, str]]
"""A function that is given two or more tracks of one kind, FFmpeg's preference first, and returns one and a sentence on it."""


def pick_tracks(contents: Contents, *, audio_track: int | None, video_track: int | None, want_video: bool, want_audio: bool,
                choose: Chooser | None) -> tuple[TrackInfo | None, TrackInfo | None, list[str]]:
    """The sound track and the picture to take, None where there is none, and sentences about the choice for the user.

    A track number decides by itself. Otherwise `choose` decides where there are several tracks of a wanted kind. Sound and
    picture belong to one programme unless both were named. Raises BadMedia for a number that does not exist.
    """
    notes: list[str] = []

    def one_of(tracks: Sequence[TrackInfo], wanted: bool) -> TrackInfo | None:
        if choose is None or not wanted or len(tracks) < 2:
            return next(iter(tracks), None)
        taken, note = choose(contents, tracks)
        notes.append(note)
        return taken

    sound = None if audio_track is None else contents.numbered("audio", audio_track)
    picture = None if video_track is None else contents.numbered("video", video_track)
    if picture is None and sound is None and not want_audio:
        picture = one_of(contents.video_tracks, want_video)
    if sound is None:
        sound = one_of(_of_programme(contents.audio_tracks, picture), want_audio)
    if picture is None:
        picture = one_of(_of_programme(contents.video_tracks, sound), want_video)
    for kind, taken, wanted in (("audio", sound, want_audio), ("video", picture, want_video)):
        others = contents.of_kind(kind)
        if taken is None and wanted and others:
            notes.append(f"{contents.name}: no {TRACK_NOUNS[kind]} is of the programme that was taken, so there is none.  Use "
                         f"{OPTIONS[kind]} to take one of: {', '.join(map(str, others))}.")
    return sound, picture, notes


def _of_programme(tracks: Sequence[TrackInfo], other: TrackInfo | None) -> list[TrackInfo]:
    """The tracks that belong to the same programme as `other`."""
    return [one for one in tracks if other is None or one.programme == other.programme]


def _is(track: TrackInfo, stream: Stream | None) -> bool:
    return stream is not None and track.index == stream.index


def _describe(container: InputContainer, stream: Stream, number: int) -> TrackInfo:
    codec = stream.codec_context.name if stream.codec_context else "unknown codec"
    language, title = (_shown(stream.metadata.get(key)) for key in ("language", "title"))
    # PyAV has no list of programmes, but best(kind, stream) is the best of the stream's own programme, or where that has none
    # the best of all: two streams of one programme have the same two, and streams of two programmes have not.
    best = [container.streams.best(kind, stream) for kind in ("video", "audio")]
    first, second = (-1 if one is None else one.index for one in best)
    special = bool(stream.disposition & SPECIAL) or "comment" in (title or "").lower()
    return TrackInfo(stream.type, number, stream.index, codec, None if language == "und" else language, title, (first, second),
                     stream.codec_context is not None, special, _fps(stream))


def _fps(stream: Stream) -> float | None:
    rate = cast(VideoStream, stream).average_rate if stream.type == "video" else None
    return float(rate) if rate else None


def _shown(text: str | None) -> str | None:
    """A tag as a message may show it: one short line, None for an empty one."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text or "").strip()
    return f"{printable[:LONGEST_TITLE]}…" if len(printable) > LONGEST_TITLE else printable or None
