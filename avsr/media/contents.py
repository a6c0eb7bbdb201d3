"""What a file holds: its sound tracks and pictures, which of them belong together, and a look at each before one is taken.

    container -> Contents (TrackInfo of each sound track and picture) -> pick -> the one sound track and the one picture
FFmpeg's own preference decides here. Who can tell speech from music, or a face from a screen, hands `pick` a Chooser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import av
import numpy as np
from av.stream import Disposition

from avsr.errors import BadMedia
from avsr.media.gaps import Gaps
from avsr.media.picture import show
from avsr.media.sound import lay_out, runs
from avsr.media.streams import NOUNS, Opener, Track
from avsr.rates import VIDEO_FPS

NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails          # cover art, and pictures of chapters
# Tracks made for few: a director's commentary, a voice that describes the picture, sound without the voices.
SPECIAL = (Disposition.comment | Disposition.visual_impaired | Disposition.descriptions | Disposition.karaoke
           | Disposition.lyrics | Disposition.clean_effects | Disposition.non_diegetic)
LONGEST_TITLE = 40                    # letters of a title that a message shows
OPTIONS = {"audio": "--audio-track", "video": "--video-track"}
KINDS = {"audio": "sound track", "video": "picture"}


@dataclass(frozen=True)
class TrackInfo:
    """A sound track or a picture of a file, as its container describes it.

    kind: `audio` or `video`. number: from 1 on, counted among its kind as players count; cover art is left out. index: the
    container's. codec: FFmpeg's name. language: the tag as it is stored, None where there is none or `und`. title: None
    where there is none. programme: equal for all tracks of one programme; only broadcast streams have several.
    readable: whether there is a decoder for it. special: a commentary, a description or the like, by its flags or title.
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

    def __str__(self) -> str:
        """`2 (aac, eng, "Commentary")`."""
        title = None if self.title is None else f'"{self.title}"'
        return f"{self.number} ({', '.join(filter(None, (self.codec, self.language, title)))})"


class Contents:
    """The sound tracks and the pictures of a file, each kind with the one that FFmpeg prefers first.

    name: how messages call the file.
    """

    def __init__(self, opener: Opener, container: av.container.InputContainer):
        self.name, self._opener = opener.name, opener
        real = {kind: [stream for stream in container.streams if stream.type == kind and not stream.disposition & NO_VIDEO]
                for kind in NOUNS}
        listed = {kind: [_describe(container, stream, number) for number, stream in enumerate(streams, start=1)]
                  for kind, streams in real.items()}
        screen = container.streams.best("video")
        voice = container.streams.best("audio", screen)
        self.pictures = tuple(sorted(listed["video"], key=lambda one: (not one.readable, not _is(one, screen), one.index)))
        programme = self.pictures[0].programme if self.pictures else None
        self.sounds = tuple(sorted(listed["audio"], key=lambda one: (
            not one.readable, programme not in (None, one.programme), not _is(one, voice), one.special, one.index)))

    def of_kind(self, kind: str) -> tuple[TrackInfo, ...]:
        """`audio` or `video` -> sounds or pictures."""
        return self.sounds if kind == "audio" else self.pictures

    def numbered(self, kind: str, number: int) -> TrackInfo:
        """The track with that number. Raises BadMedia, naming those there are."""
        tracks = sorted(self.of_kind(kind), key=lambda one: one.number)
        if not 1 <= number <= len(tracks):
            remedy = (f"Leave {OPTIONS[kind]} out." if not tracks else
                      f"Use {OPTIONS[kind]} with one of: {', '.join(map(str, tracks))}.")
            raise BadMedia(f"{self.name}: there is no {KINDS[kind]} {number} in it; it has {len(tracks)}.  {remedy}")
        return tracks[number - 1]

    def listen(self, track: TrackInfo) -> Iterator[np.ndarray]:
        """The sound of a track from its start on: (n,) float32 mono, SAMPLE_RATE, about a second at a time."""
        yield from self._decoded(track, lambda opened: lay_out(runs(opened)))

    def look(self, track: TrackInfo, max_side: int = 1280) -> Iterator[np.ndarray | None]:
        """One picture of each second, (H, W, 3) uint8 RGB; None where none is shown."""
        yield from self._decoded(track, lambda opened: islice(show(opened, max_side).frames, 0, None, VIDEO_FPS))

    def _decoded(self, track: TrackInfo, decode: Callable[[Track], Iterator]) -> Iterator:
        with self._opener.open() as container:
            opened = Track(container, container.streams[track.index])
            if opened.first is not None:
                opened.set_zero(opened.start_s, Gaps(self._opener.open))
                yield from decode(opened)


Chooser = Callable[[Contents, Sequence[TrackInfo]], tuple[TrackInfo, str]]
"""Is given two or more tracks of one kind, the one that FFmpeg prefers first; returns the one to take, and a sentence on it."""


def pick(contents: Contents, *, audio_track: int | None, video_track: int | None, want_video: bool, want_audio: bool,
         choose: Chooser | None) -> tuple[TrackInfo | None, TrackInfo | None, list[str]]:
    """The sound track and the picture to take, None where there is none, and what the user should know of the choice.

    A number decides by itself. Else `choose` is asked where there are several of what is wanted. Sound and picture are of
    one programme unless both were named. Raises BadMedia for a number that does not exist.
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
        picture = one_of(contents.pictures, want_video)
    if sound is None:
        sound = one_of(_together(contents.sounds, picture), want_audio)
    if picture is None:
        picture = one_of(_together(contents.pictures, sound), want_video)
    for kind, taken, wanted in (("audio", sound, want_audio), ("video", picture, want_video)):
        others = contents.of_kind(kind)
        if taken is None and wanted and others:
            notes.append(f"{contents.name}: no {KINDS[kind]} is of the programme that was taken, so there is none.  Use "
                         f"{OPTIONS[kind]} to take one of: {', '.join(map(str, others))}.")
    return sound, picture, notes


def _together(tracks: Sequence[TrackInfo], other: TrackInfo | None) -> list[TrackInfo]:
    """Those of the programme that `other` is of."""
    return [one for one in tracks if other is None or one.programme == other.programme]


def _is(track: TrackInfo, stream: av.stream.Stream | None) -> bool:
    return stream is not None and track.index == stream.index


def _describe(container: av.container.InputContainer, stream: av.stream.Stream, number: int) -> TrackInfo:
    codec = stream.codec_context.name if stream.codec_context else "unknown codec"
    language, title = (_shown(stream.metadata.get(key)) for key in ("language", "title"))
    # PyAV has no list of programmes, but best(kind, stream) is the best of the stream's own programme, or where that has none
    # the best of all: two streams of one programme have the same two, and streams of two programmes have not.
    best = [container.streams.best(kind, stream) for kind in ("video", "audio")]
    programme = tuple(-1 if one is None else one.index for one in best)
    special = bool(stream.disposition & SPECIAL) or "comment" in (title or "").lower()
    return TrackInfo(stream.type, number, stream.index, codec, None if language == "und" else language, title, programme,
                     stream.codec_context is not None, special)


def _shown(text: str | None) -> str | None:
    """A tag as a message may show it: one short line, None for an empty one."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text or "").strip()
    return f"{printable[:LONGEST_TITLE]}…" if len(printable) > LONGEST_TITLE else printable or None
