"""`LiveRecogniser`: Clips in, as they come; words out, as soon as they will not change.

    Clip -> StreamReader (faces, mouths, sound), LiveSegments (where somebody speaks)
    open segment -> Transcriber, one attempt -> words -> Agreement -> committed and pending words
    segment that ended -> Transcriber, with its guards -> Agreement: the rest is committed -> Segments of the transcript
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from avsr import decode, media, transcript
from avsr.checkpoint import Checkpoint
from avsr.combine import open_recogniser
from avsr.errors import AvsrError, NoFace
from avsr.lips import MouthCropSettings
from avsr.live.agreement import Agreement
from avsr.live.segments import LiveSegments
from avsr.modality import VideoUse, check_modality, decide
from avsr.rates import VIDEO_FPS, frames_to_seconds
from avsr.segment import SpeechSegment
from avsr.speakers import CONTEXT
from avsr.stream import StreamReader, StreamSettings
from avsr.transcribe.run import TranscribeSettings, check_search, language_of
from avsr.transcribe.speakers import SpeakerNames, by_speaker
from avsr.transcribe.transcriber import Transcriber, segment_of
from avsr.transcribe.windows import WrittenWindow, WrittenWord, halves
from avsr.transcript import Segment, Transcript, Word

# Seconds that a Whisper hears at once, and the longest piece for which that is enough. It was trained with 30 s, of which most
# would be padding here. On 40 of GRID's valid clips `default` has by sound 30.8 % WER with 30 s, 30.4 with 15 and 32.1 with 10;
# by both 2.5, 1.7 and 1.7. The encoder takes 0.23, 0.11 and 0.06 s of two cores.
PADS_S = ((10, 7.0), (15, 14.0))
LONGEST_S = 12.0                      # a longer piece loses its first half
# A pause of up to CONTEXT_GAP_S before a segment stays in sight, and by sound and lips, while the lips do not count, the speech
# before it, as in VadOptions.max_gap. On 25 of GRID's valid clips one after another: 2.0 % WER, median delay 0.85 s without
# computing; where segments begin 0.3 s before speech 4.0 % and 1.1 s. By sound alone speech as context makes Whisper leave out
# words (45 in place of 41 % WER).
CONTEXT_GAP_S = 2.0


@dataclass(frozen=True)
class LiveSettings:
    """How to recognise live.

    step_s: seconds of new recording after which the text is looked at again. stable_s: a word is committed once all looks for
    so many seconds agree on it. edge_s: a word that ends within so many seconds of the edge of the sound, or of the mouths
    where the lips count, is not committed yet; mouths are known 0.3 s after they are seen, 0.5 s at most while a face is
    followed. pause_s: a segment ends after so many seconds of silence. beam_size: of the search at the end of a segment.
    max_missing, speakers, speaker_model: as in TranscribeSettings.
    """

    step_s: float = 0.3
    stable_s: float = 0.4
    edge_s: float = 0.2
    pause_s: float = 0.3
    beam_size: int = 1
    max_missing: float = 0.25
    speakers: bool = False
    speaker_model: str | None = None

    def __post_init__(self):
        if not 0.1 <= self.step_s <= 10:
            raise AvsrError(f"step {self.step_s}: must be from 0.1 to 10 seconds.  Leave it out for the usual one.")


@dataclass(frozen=True)
class LiveUpdate:
    """What is known now.

    committed: the words that were committed by this update; they never change. pending: the words after all committed ones, as
    far as they are heard; each update gives them anew. end_s: seconds of the recording taken in. mouth: (96, 96) uint8 grey,
    the mouth that is watched, as it was at mouth_s seconds; None where none is seen. believed: how far the lips count, 0 to 1;
    None where they are not used, or the model does not say.
    """

    committed: tuple[Word, ...]
    pending: tuple[Word, ...]
    end_s: float
    mouth: np.ndarray | None = None
    mouth_s: float | None = None
    believed: float | None = None


@dataclass(frozen=True)
class _Writers:
    """Transcribers for pieces of up to `longest_s` seconds: one that searches fully, and one that is quick."""

    longest_s: float
    full: Transcriber
    quick: Transcriber


class LiveRecording(media.Recording):
    """A recording that is being made: what it will hold is known, its level is not."""

    def __init__(self, name: str, *, has_audio: bool, has_video: bool):
        super().__init__(name)
        self._will_have = has_audio, has_video

    @property
    def has_audio(self) -> bool:
        """See Recording."""
        return self._will_have[0]

    @property
    def has_video(self) -> bool:
        """See Recording."""
        return self._will_have[1]


class LiveRecogniser:
    """Recognises one recording while it is being made, in memory that does not grow with it, but for the text.

        with LiveRecogniser(checkpoint.load("default")) as live:
            for clip in clips:                              # as they come
                live.add(clip)
                if live.due:
                    show(live.update())
            show(live.finish())

    Methods must be called by one thread at a time. problems: sentences about the recording, as in Transcript.
    """

    def __init__(self, checkpoint: Checkpoint, *, modality: str = "auto", language: str | None = None,
                 has_audio: bool = True, has_video: bool = True, name: str = "live",
                 settings: LiveSettings = LiveSettings()):
        """modality: a, v, av, or auto. has_audio, has_video: what the Clips will hold. name: of the recording, in messages.
        Raises AvsrError for what the model cannot do, BadMedia where nothing comes that it could use."""
        self.checkpoint, self.settings = checkpoint, settings
        options = TranscribeSettings(beam_size=settings.beam_size, max_missing=settings.max_missing,
                                     speakers=settings.speakers, speaker_model=settings.speaker_model)
        self.language = language_of(checkpoint, language)
        check_modality(checkpoint, modality)
        check_search(checkpoint, options)
        self.recording = LiveRecording(name, has_audio=has_audio and modality != "v", has_video=has_video)
        if settings.speakers and not has_video:
            raise AvsrError(f"{name}: no picture comes, and speakers are told from the picture.  Leave out --speakers.")
        self.modality, self.reason = decide(modality, checkpoint, self.recording)
        self.reader = self._open_reader()
        self.segments = LiveSegments(self.reader, by_sound=self.recording.has_audio,
                                     pause_s=settings.pause_s)
        self._writers = self._open_writers(options)
        self._names, self.language = self._writers[0].full.speaker_names, self._writers[0].full.language
        self._agreement = Agreement(self.settings.stable_s)
        self._start, self._ended = 0, 0                      # first frame that is looked at; end of the last segment
        self._looked, self._believed = 0, None               # frames seen at the last look; of the lips
        self._done: list[Segment] = []
        self._closed: list[SpeechSegment] = []               # segments that ended and were not looked at

    def _open_reader(self) -> StreamReader:
        mouth_crop = self.checkpoint.mouth_crop if "v" in self.modality else (
            MouthCropSettings() if self.settings.speakers else None)
        return StreamReader(self.recording, mouth_crop, StreamSettings(
            vad=False, speakers=self.settings.speakers, speaker_model=self.settings.speaker_model, live=True))

    def _open_writers(self, options: TranscribeSettings) -> list[_Writers]:
        """Transcribers for pieces of up to some length, the shortest first."""
        uses = [VideoUse(self.checkpoint, self.recording, self.modality, max_missing=options.max_missing,
                         only_in_distribution=False) for _ in range(2)]
        speaker_names, made = SpeakerNames(), []
        whole = self.checkpoint.pad_seconds
        for pad_s, longest_s in PADS_S if whole is not None else ((None, PADS_S[-1][1]),):
            recogniser = open_recogniser(replace(self.checkpoint, pad_seconds=pad_s), self.modality)
            full, quick = (Transcriber(recogniser, self.modality, self.language, options, use) for use in uses)
            quick.search = replace(quick.search, beam_size=1, temperatures=(0.0,))
            quick.speaker_names = full.speaker_names = speaker_names
            made.append(_Writers(longest_s, full, quick))
        return made

    def __enter__(self) -> LiveRecogniser:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the face finder. Called by `with` as well."""
        self.reader.close()

    def add(self, clip: media.Clip) -> None:
        """The next piece of the recording, of any number of frames: its faces are followed, its speech is detected."""
        clip = self.reader.add(clip)
        self._closed += self.segments.update(clip)

    @property
    def due(self) -> bool:
        """Whether enough is new that `update` should be called."""
        return bool(self._closed) or self.reader.n_frames - self._looked >= self.settings.step_s * VIDEO_FPS

    def update(self) -> LiveUpdate:
        """Recognise what has come. It takes about 0.3 s of two cores, however long the recording is."""
        self._looked = self.reader.n_frames
        committed = [word for segment in self._take_closed() for word in self._finish(segment)]
        open_now = self.segments.current
        if open_now is not None:
            committed += self._look(open_now)
            committed += self._cut_if_long(open_now)
        elif self.reader.n_frames - self._ended > CONTEXT_GAP_S * VIDEO_FPS:
            self._begin_anew(self.segments.settled)
        self.reader.forget(self._start - (CONTEXT if self.settings.speakers else 0))
        return self._updated(committed)

    def finish(self) -> LiveUpdate:
        """The recording has ended: all that is left is committed."""
        self.reader.end()
        self._closed += self.segments.finish(self.reader.n_frames)
        return self._updated([word for segment in self._take_closed() for word in self._finish(segment)])

    def transcript(self) -> Transcript:
        """What was said in the segments that ended, and what is committed of the open one."""
        segments = [*self._done, *self._segments(self._agreement.committed, None)]
        used, reason, problems = self.modality, self.reason, []
        if self._writers[0].full.video_use.n_segments:
            try:
                used, reason, problems = self._writers[0].full.video_use.outcome(reason)
            except NoFace as error:                          # too late to refuse the recording
                problems = [str(error)]
        return Transcript("".join(f" {one.text}" for one in segments).strip(), tuple(segments), self.language or "en",
                          self.checkpoint.name, used, reason, self.reader.duration_s,
                          (*self.recording.problems, *problems))

    def _take_closed(self) -> list[SpeechSegment]:
        closed, self._closed = self._closed, []
        return closed

    def _look(self, segment: SpeechSegment) -> list[Word]:
        """A quick look at the open segment: the words that it commits."""
        self._continue(segment)
        words = self._write(SpeechSegment(self._start, segment.end_frame), quick=True)
        now_s = frames_to_seconds(segment.end_frame)
        known = segment.end_frame - (self._n_unknown(segment) if self._writers[0].quick.video_use.last_reliability else 0)
        edge_s = min(now_s - self.settings.edge_s, frames_to_seconds(known))
        return [one.word for one in self._agreement.update(words, now_s, edge_s)]

    def _finish(self, segment: SpeechSegment) -> list[Word]:
        """The full search in a segment that has ended: all its words are committed."""
        self._continue(segment)
        words = self._write(SpeechSegment(self._start, segment.end_frame)) if segment.end_frame > self._start else []
        new = self._agreement.finish(words)
        self._ended = segment.end_frame
        if self._believed or self.modality != "av":          # lips read each sentence by itself
            self._begin_anew(segment.end_frame)
        return [one.word for one in new]

    def _continue(self, segment: SpeechSegment) -> None:
        """Keep the pause before a segment, and what is before that, in sight, unless the pause is long."""
        if segment.start_frame - self._ended > CONTEXT_GAP_S * VIDEO_FPS:
            self._begin_anew(segment.start_frame)

    def _begin_anew(self, frame: int) -> None:
        """Look at nothing before a frame any more."""
        self._done += self._segments(self._agreement.leave(), None)
        if frame > self._start:
            self._agreement, self._start = Agreement(self.settings.stable_s), frame

    def _cut_if_long(self, segment: SpeechSegment) -> list[Word]:
        """Leave the first half of a long piece behind, so that the next looks take no longer. What is still pending in it,
        because looks did not agree for half of LONGEST_S, is committed, and given."""
        longest = round(LONGEST_S * VIDEO_FPS)
        if segment.end_frame - self._start < longest:
            return []
        middle = segment.end_frame - longest // 2
        new = self._agreement.commit_before(frames_to_seconds(middle))
        written = self._agreement.leave(frames_to_seconds(middle))
        self._done += self._segments(written, None)
        self._start = max(self._start, int(written[-1].word.end * VIDEO_FPS) if written else middle)
        return [one.word for one in new]

    def _write(self, segment: SpeechSegment, *, quick: bool = False) -> list[WrittenWord]:
        """The words of a segment, with the names of who says them."""
        whole = self.reader.window(segment)
        longest = self._writers[-1].longest_s
        parts = halves(whole) if segment.duration_s > longest else []
        writers = next((one for one in self._writers if segment.duration_s <= one.longest_s), self._writers[-1])
        writer = writers.quick if quick else writers.full
        writer.search = replace(writer.search, draft=self._agreement.tokens)
        usable = list(writer.usable(parts or [whole], self._n_unknown(segment)))
        if not usable:
            return []
        if self.language is None:
            writer.find_language(usable)
            self._set_language(writer.language)
        words = [one for window in writer.write(usable, False) for one in self._named(window)]
        self._believed = writer.video_use.last_reliability
        return words

    def _set_language(self, language: str | None) -> None:
        self.language = language
        for one in self._writers:
            one.full.language = one.quick.language = language

    def _n_unknown(self, segment: SpeechSegment) -> int:
        """How many of the last frames of a segment have mouths that are not known yet."""
        return max(0, segment.end_frame - (self.reader.n_frames - self.reader.n_unknown))

    def _named(self, window: WrittenWindow) -> list[WrittenWord]:
        if window.turns is None:
            return list(window.words)
        out = []
        for persons, run in by_speaker(window.words, window.turns):
            names = None if persons is None else self._names.names(persons)
            out += [replace(one, word=replace(one.word, speakers=names)) for one in run]
        return out

    def _segments(self, words: Sequence[WrittenWord], text: decode.Hypothesis | None) -> list[Segment]:
        """Committed words as segments of a transcript. text: of the search at the end, for their scores."""
        out = []
        for speakers, run in groupby(words, key=lambda one: one.word.speakers):
            left = list(run)
            for group in transcript.segment([one.word for one in left]):
                here, left = left[: len(group)], left[len(group):]
                tokens = tuple(token for one in here for token in one.tokens)
                if "".join(word.text for word in group).strip():
                    one = segment_of(group, tokens, text or here[-1].text, here[0].start_s, self._writers[-1].full.recogniser)
                    out.append(replace(one, speakers=speakers))
        return out

    def _updated(self, committed: Sequence[Word]) -> LiveUpdate:
        mouth, mouth_s = self._latest_mouth()
        return LiveUpdate(tuple(committed), tuple(one.word for one in self._agreement.pending), self.reader.duration_s, mouth,
                          mouth_s, self._believed)

    def _latest_mouth(self) -> tuple[np.ndarray | None, float | None]:
        """The newest mouth of the person who is watched, and when it was seen."""
        end = self.reader.n_frames
        mouths = self.reader.mouths(SpeechSegment(max(0, end - 2 * VIDEO_FPS), end)) if end and "v" in self.modality else None
        if mouths is None:
            return None, None
        last = int(np.flatnonzero(~mouths.missing)[-1])
        return mouths.images[last], frames_to_seconds(mouths.start_frame + last)
