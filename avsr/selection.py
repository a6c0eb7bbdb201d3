"""Which of several sound tracks and pictures of a recording are taken: the one with speech, the one with a face.

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

MUCH_MORE = 3.0               # times the preferred track's speech, or faces: from here on another track is taken in its place
LEAST_SPEECH_S = 0.3          # seconds of speech from which on a track counts as one in which somebody speaks
LISTEN_S = 30                 # seconds heard of each track before the next one is heard
SPEECH_ENOUGH_S = 3.0         # seconds of speech of the preferred track after which the others need not be heard
LISTEN_ROUNDS = (4, 20)       # after so many a track with enough speech is taken, and at most: 2 and 10 minutes
SILENCE = 1e-4                # largest sample of a track that is silent: -80 dB full scale, the dither of 14 bits
NOT_SILENT_S = 1e-3           # counts as so much speech, so that where nobody speaks a silent track is not taken
FACES_ENOUGH = 3              # faces in as many pictures, one each second, after which the other pictures need not be seen
LOOK_ROUNDS = (10, 30)        # seconds, as LISTEN_ROUNDS
MOST_TRACKS = 16              # of one kind that are examined
NAMED = 6                     # tracks of one kind that a message names

# ISO 639-2 of the languages Whisper writes: containers say `ger` or `deu` where Whisper says `de`.
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
    """As media.open_recording, but of several sound tracks one with speech is taken, and of several pictures one with a face.

    The first minutes of each are examined, until the answer is clear; where several have speech, or faces, the one that the
    container prefers is taken. What was taken is told in the recording's `problems`.
    audio_track, video_track: which to take, counted from 1; then nothing is examined. language: two letters; tracks that are
    tagged with it come first, those tagged with another one last. landmarks: which face finder, as mouth-crop settings name it;
    None where faces do not count.
    """
    return media.open_recording(source, want_video=want_video, want_audio=want_audio, audio_track=audio_track,
                                video_track=video_track, choose=partial(choose, language=language, landmarks=landmarks))


def choose(contents: Contents, tracks: Sequence[TrackInfo], *, language: str | None,
           landmarks: str | None) -> tuple[TrackInfo, str]:
    """Of two or more tracks of one kind, the preferred first: the one to take, and a sentence that says so. A media.Chooser."""
    if tracks[0].kind == "audio":
        tracks = sorted(tracks, key=lambda one: (one.special, _strangeness(one.language, language)))
        usual = [one for one in tracks if not one.special] or tracks
        found, least = _speech(contents, usual), LEAST_SPEECH_S
        if max(found) < least and len(usual) < len(tracks):  # a commentary is better than nothing
            found = _speech(contents, tracks)
    else:
        found, least = [0.0] if landmarks is None else _faces(contents, tracks, landmarks), 1
    best = max(range(len(found)), key=found.__getitem__)
    if not (found[best] > MUCH_MORE * found[0] and (found[best] >= least or not found[0])):
        best = 0
    return tracks[best], _note(contents, tracks, best)


def _speech(contents: Contents, tracks: Sequence[TrackInfo]) -> list[float]:
    """Seconds of speech found in each sound track."""
    return _examine([partial(_speech_s, contents, one) for one in tracks[:MOST_TRACKS]], SPEECH_ENOUGH_S, LISTEN_ROUNDS)


def _faces(contents: Contents, tracks: Sequence[TrackInfo], landmarks: str) -> list[float]:
    """In how many pictures of each a face was found, one picture being looked at for each second."""
    return _examine([partial(_faces_seen, contents, one, landmarks) for one in tracks[:MOST_TRACKS]], FACES_ENOUGH, LOOK_ROUNDS)


def _strangeness(tag: str | None, language: str | None) -> int:
    """0 for a tag of the language, 1 for none, 2 for another; all the same where no language is asked for."""
    if tag is None or language is None:
        return 1
    code = re.split("[-_]", tag.lower())[0]
    return 0 if ISO_639_2.get(code, code) == language else 2


def _examine(measures: Sequence[Callable[[], Generator[float]]], enough: float, rounds: tuple[int, int]) -> list[float]:
    """What each of the measures found, the preferred first; the others are not started where that one finds enough at once.

    measures: iterators of what is found in each further round, which end where the track ends. rounds: after so many, it is
    enough if any of them has found enough, and at most.
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
    """Seconds of speech in each LISTEN_S of a sound track; NOT_SILENT_S more where there is any sound."""
    probability, threshold = SpeechProbability(), VadOptions().threshold
    with closing(contents.decode_audio(track)) as sound:
        for audio in rechunk(sound, LISTEN_S * SAMPLE_RATE):
            n_steps = int((probability.update(audio) >= threshold).sum())
            yield n_steps * STEP / SAMPLE_RATE + (NOT_SILENT_S if np.abs(audio).max() > SILENCE else 0.0)


def _faces_seen(contents: Contents, track: TrackInfo, landmarks: str) -> Generator[float]:
    """For one picture of each second, 1 if a face is found in it."""
    finder = FaceFinder(landmarks, 1)
    try:
        with closing(contents.decode_video(track)) as pictures:
            for second, picture in enumerate(pictures):
                yield float(picture is not None and bool(finder.faces(picture, second * VIDEO_FPS)))
    finally:
        finder.close()


def _note(contents: Contents, tracks: Sequence[TrackInfo], taken: int) -> str:
    """Which track was taken, why if it is not the preferred one, and how to take another."""
    one = tracks[taken]
    what, other, lacks = ("sound tracks", "picture", "has little or no speech") if one.kind == "audio" else (
        "pictures", "sound", "shows a face seldom or never")
    others = [str(track) for track in tracks if track is not one]
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return (f"{contents.name}: it has {len(tracks)} {what}; number {one} was taken"
            f"{'' if taken == 0 else f', because number {tracks[0].number} {lacks}'}{_of_programme(contents, one, other)}.  "
            f"Use {OPTIONS[one.kind]} to take another: {', '.join(others[:NAMED])}{more}.")


def _of_programme(contents: Contents, taken: TrackInfo, other: str) -> str:
    """That the other kind, `picture` or `sound`, goes with it, where a file has several programmes."""
    theirs = contents.video_tracks if taken.kind == "audio" else contents.audio_tracks
    several = len({one.programme for one in (*contents.audio_tracks, *contents.video_tracks)}) > 1
    together = several and any(one.programme == taken.programme for one in theirs)
    return f", and the {other} of the same programme with it" if together else ""
