"""Selects among several sound tracks and pictures of a recording: the one with speech, and the one with a face.

    source -> media.Contents -> speech in each sound track, faces in each picture -> media.Recording of one of each
A file with one sound track and one picture costs nothing more than with media.open_recording.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial

import numpy as np

from avsr import media
from avsr.faces.search import FaceFinder
from avsr.media import Contents, TrackInfo
from avsr.media.audio import rechunk
from avsr.media.contents import OPTIONS
from avsr.rates import SAMPLE_RATE, VIDEO_FPS
from avsr.segment import STEP, SpeechProbability, VadOptions

MUCH_MORE = 3.0               # another track is taken if it has this many times the preferred track's speech, or faces
MIN_SPEECH_S = 0.3            # seconds of speech in a track that counts as one with speech
ROUND_S = 30                  # seconds of each sound track that are examined in a round
ENOUGH_SPEECH_S = 3.0         # seconds of speech in the preferred track after which the others are not examined
SPEECH_ROUNDS = (4, 20)       # rounds after which any track with enough speech is taken, and at most: 2 and 10 minutes
SILENCE = 1e-4                # largest sample of a track that is silent: -80 dB full scale, the dither of 14 bits
NOT_SILENT_S = 1e-3           # seconds of speech that any sound counts for, so that a silent track is never preferred
ENOUGH_FACES = 3              # frames with a face, of one each second, after which the other pictures are not examined
FACE_ROUNDS = (10, 30)        # seconds, as SPEECH_ROUNDS
MOST_TRACKS = 16              # of one kind that are examined
N_LISTED = 6                  # tracks of one kind that a message lists

# ISO 639-2 codes of Whisper's languages: containers have `ger` or `deu` where Whisper has `de`.
ISO_639_2 = {three: two for two, three in re.findall(r"(\w+):(\w+)", """
en:eng zh:zho zh:chi zh:cmn de:deu de:ger es:spa ru:rus ko:kor fr:fra fr:fre ja:jpn pt:por tr:tur pl:pol ca:cat nl:nld nl:dut
ar:ara sv:swe it:ita id:ind hi:hin fi:fin vi:vie he:heb uk:ukr el:ell el:gre ms:msa ms:may cs:ces cs:cze ro:ron ro:rum da:dan
hu:hun ta:tam no:nor no:nob th:tha ur:urd hr:hrv bg:bul lt:lit la:lat mi:mri mi:mao ml:mal cy:cym cy:wel sk:slk sk:slo te:tel
fa:fas fa:per lv:lav bn:ben sr:srp az:aze sl:slv kn:kan et:est mk:mkd mk:mac br:bre eu:eus eu:baq is:isl is:ice hy:hye hy:arm
ne:nep mn:mon bs:bos kk:kaz sq:sqi sq:alb sw:swa gl:glg mr:mar pa:pan si:sin km:khm sn:sna yo:yor so:som af:afr oc:oci ka:kat
ka:geo be:bel tg:tgk sd:snd gu:guj am:amh yi:yid lo:lao uz:uzb fo:fao ht:hat ps:pus tk:tuk nn:nno mt:mlt sa:san lb:ltz my:mya
my:bur bo:bod bo:tib tl:tgl tl:fil mg:mlg as:asm tt:tat haw:haw ln:lin ha:hau ba:bak jw:jav jw:jv su:sun yue:yue
""")}


def open_recording(source: media.Source, *, want_video: bool = True, want_audio: bool = True,
                   audio_track: int | None = None, video_track: int | None = None, language: str | None = None,
                   landmarks: str | None = None) -> media.Recording:
    """Open a recording as media.open_recording does, but take a sound track with speech and a picture with a face.

    The first minutes of each track are examined until the answer is clear. If several have speech, or faces, the one that the
    container prefers is taken. The recording's `problems` say which was taken.
    audio_track, video_track: the tracks to take, counted from 1; then nothing is examined. language: two letters; tracks
    tagged with it come first, those tagged with another one last. landmarks: which face finder, as mouth-crop settings name
    it; None if faces do not count.
    """
    return media.open_recording(source, want_video=want_video, want_audio=want_audio, audio_track=audio_track,
                                video_track=video_track, choose=partial(choose, language=language, landmarks=landmarks))


def choose(contents: Contents, tracks: Sequence[TrackInfo], *, language: str | None,
           landmarks: str | None) -> tuple[TrackInfo, str]:
    """Choose among two or more tracks of one kind, the preferred first: the track, and a sentence about it. A media.Chooser."""
    if tracks[0].kind == "audio":
        tracks = sorted(tracks, key=lambda one: (one.special, _language_rank(one.language, language)))
        usual = [one for one in tracks if not one.special] or tracks
        found, least = _speech(contents, usual), MIN_SPEECH_S
        if max(found) < least and len(usual) < len(tracks):  # a commentary is better than nothing
            found = _speech(contents, tracks)
    else:
        found, least = [0.0] if landmarks is None else _faces(contents, tracks, landmarks), 1
    best = max(range(len(found)), key=found.__getitem__)
    if not (found[best] > MUCH_MORE * found[0] and (found[best] >= least or not found[0])):
        best = 0
    return tracks[best], _note(contents, tracks, best)


def _speech(contents: Contents, tracks: Sequence[TrackInfo]) -> list[float]:
    """The seconds of speech found in each sound track."""
    return _examine([partial(_speech_s, contents, one) for one in tracks[:MOST_TRACKS]], ENOUGH_SPEECH_S, SPEECH_ROUNDS)


def _faces(contents: Contents, tracks: Sequence[TrackInfo], landmarks: str) -> list[float]:
    """The number of frames with a face found in each picture; one frame of each second is searched."""
    return _examine([partial(_faces_seen, contents, one, landmarks) for one in tracks[:MOST_TRACKS]], ENOUGH_FACES, FACE_ROUNDS)


def _language_rank(tag: str | None, language: str | None) -> int:
    """0 for a tag of the wanted language, 1 for no tag or no wanted language, 2 for another language."""
    if tag is None or language is None:
        return 1
    code = re.split("[-_]", tag.lower())[0]
    return 0 if ISO_639_2.get(code, code) == language else 2


def _examine(measures: Sequence[Callable[[], Generator[float]]], enough: float, rounds: tuple[int, int]) -> list[float]:
    """How much was found in each track, the preferred one first; the others are not read if that one has enough at once.

    measures: for each track, makes a generator of how much is found in each further round, which ends with the track. rounds:
    the number of rounds after which it suffices that any track has enough, and the largest number of rounds.
    """
    running = [measure() for measure in measures]
    found, patience, longest = [0.0] * len(running), *rounds
    try:
        for number in range(longest):
            ended = 0
            for place, rest in enumerate(running):
                step = next(rest, None)
                ended += step is None
                found[place] += step or 0.0
                if place == 0 and found[0] >= enough:
                    return found
            if ended == len(running) or (number + 1 >= patience and max(found) >= enough):
                break
    finally:
        for rest in running:
            rest.close()
    return found


def _speech_s(contents: Contents, track: TrackInfo) -> Generator[float]:
    """The seconds of speech in each ROUND_S of a sound track, plus NOT_SILENT_S if there is any sound."""
    probability, threshold = SpeechProbability(), VadOptions().threshold
    with closing(contents.decode_audio(track)) as sound:
        for audio in rechunk(sound, ROUND_S * SAMPLE_RATE):
            n_steps = int((probability.update(audio) >= threshold).sum())
            yield n_steps * STEP / SAMPLE_RATE + (NOT_SILENT_S if np.abs(audio).max() > SILENCE else 0.0)


def _faces_seen(contents: Contents, track: TrackInfo, landmarks: str) -> Generator[float]:
    """For one frame of each second, 1 if a face is found in it, else 0."""
    finder = FaceFinder(landmarks, 1)
    try:
        with closing(contents.decode_video(track)) as pictures:
            for second, picture in enumerate(pictures):
                yield float(picture is not None and bool(finder.faces(picture, second * VIDEO_FPS)))
    finally:
        finder.close()


def _note(contents: Contents, tracks: Sequence[TrackInfo], taken: int) -> str:
    """A sentence that says which track was taken, why if it is not the preferred one, and how to take another."""
    one = tracks[taken]
    what, other, lacks = ("sound tracks", "picture", "has little or no speech") if one.kind == "audio" else (
        "pictures", "sound", "shows a face seldom or never")
    others = [str(track) for track in tracks if track is not one]
    more = f" and {len(others) - N_LISTED} more" if len(others) > N_LISTED else ""
    return (f"{contents.name}: it has {len(tracks)} {what}; number {one} was taken"
            f"{'' if taken == 0 else f', because number {tracks[0].number} {lacks}'}{_same_programme(contents, one, other)}.  "
            f"Use {OPTIONS[one.kind]} to take another: {', '.join(others[:N_LISTED])}{more}.")


def _same_programme(contents: Contents, taken: TrackInfo, other: str) -> str:
    """A part of a sentence: that the track of the other kind, `picture` or `sound`, comes from the same programme."""
    theirs = contents.video_tracks if taken.kind == "audio" else contents.audio_tracks
    several = len({one.programme for one in (*contents.audio_tracks, *contents.video_tracks)}) > 1
    together = several and any(one.programme == taken.programme for one in theirs)
    return f", and the {other} of the same programme with it" if together else ""
