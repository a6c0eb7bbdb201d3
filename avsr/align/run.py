"""A recording of any length and its text -> the times of the words and their phones.

    path | bytes | arrays -> transcribe -> what is heard, with times  ┐
    text -> GivenWords ------------------------------------------------┴-> match -> Sections -> StreamReader -> Method -> Words
The recording is read twice: to hear it, and to align each section. Only the sound of one section is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from avsr import media, selection, transcript
from avsr.align.given import GivenWord, given_words
from avsr.align.matching import Matching, Misfit, Section, match
from avsr.align.methods import HMM, METHODS, DoesNotFit, Method, open_method
from avsr.checkpoint import Checkpoint
from avsr.errors import LONGEST_QUOTE, AvsrError, counted
from avsr.names import DEFAULT_MODEL, INPUT_MODALITIES
from avsr.rates import VIDEO_FPS
from avsr.recogniser import MIN_SAMPLES, Recogniser
from avsr.runtime import Progress, no_progress, pick_device
from avsr.schema import Between, from_keywords
from avsr.segment import SpeechSegment
from avsr.stream import StreamReader, StreamSettings, Window
from avsr.transcribe.run import load_models, transcribe
from avsr.transcript import Segment, Transcript, Word

SECTION_S = 20.0                                            # s, of a section for models that take 30 s
SENTENCE_S = 6.0                                            # s, for models that learnt from single sentences, and for phones
# The limit of errors in letters, for that in words, as misheard words sound alike. Heard by tiny.en, 3 of 40 of GRID's valid
# clips have 83 % of their words wrong, one of them 64 % of its letters; with the text of another clip it is 79 % (median).
LETTERS_TO_WORDS = 0.8
FAR_OFF_S = 0.8                                             # s from where a word was heard: phones were 2.2 s off once in 14
SHOWN_WORDS = 4                                             # of a misfit in a message
MOST_SHOWN = 5                                              # misfits in messages


@dataclass(frozen=True)
class AlignSettings:
    """How to align.

    max_unlike: largest share of the words of the text that may not be heard before the text is refused, unless its letters are
    like what is heard. phones: find the phones of each word as well, of English by sound. audio_track: of several, counted from
    1; None for one with speech. text_name: the name of the text in messages.
    """

    max_unlike: Annotated[float, Between(0, 1)] = 0.75
    phones: bool = False
    audio_track: int | None = None
    text_name: str = "the text"

    def __post_init__(self):
        if not 0 <= self.max_unlike <= 1:
            raise AvsrError(f"max_unlike {self.max_unlike}: must be a share from 0 to 1.  The usual one is 0.75.")


def align(source: media.Source | media.Clip, *, text: str, model: str | Path | Checkpoint = DEFAULT_MODEL, by: str = "auto",
          modality: str = "auto", language: str | None = None, device: str = "auto", progress: Progress = no_progress,
          **settings) -> Transcript:
    """See avsr.align.align."""
    options = from_keywords(AlignSettings, settings, "align")
    if by not in ("auto", *METHODS):
        raise AvsrError(f"by {by}: not known.  Use one of auto, {', '.join(METHODS)}.")
    if modality not in (choices := ("auto", *INPUT_MODALITIES)):
        raise AvsrError(f"modality {modality}: not known.  Use one of {', '.join(choices)}.")
    given_words(text, "en", options.text_name)              # an empty text is refused before anything is heard
    with media.reopenable(source, progress) as source:
        if modality == "auto":
            with media.open_recording(source) as recording:
                modality = "a" if recording.has_audio and not recording.is_silent else "auto"
        checkpoint = load_models(model, None, modality, pick_device(device), progress)
        heard = transcribe(source, model=checkpoint, modality=modality, language=language, device=device, progress=progress,
                           audio_track=options.audio_track, beam_size=1)
        words = given_words(text, heard.language, options.text_name)
        method = open_method(by, Recogniser(checkpoint), heard.modality, heard.language)
        longest = SECTION_S if checkpoint.pad_seconds is not None and not isinstance(method, HMM) else SENTENCE_S
        found = match(words, heard.words, heard.duration, longest_s=longest)
        name = media.source_name(source) if isinstance(source, str | Path) else "the recording"
        if found.unlike > options.max_unlike and found.letter_errors > options.max_unlike * LETTERS_TO_WORDS:
            if not heard.words:
                raise AvsrError(f"{name}: no word of it was recognised ({heard.modality_reason}), so it is not known where "
                                f"{options.text_name} lies in it.  Use --max-unlike 1 to align it all the same.")
            raise AvsrError(_refusal(name, found, words, options))
        aligner = _Aligner(checkpoint, method, words, heard, options, progress)
        if by == "auto" and isinstance(method, HMM) and not (checkpoint.model.joint_ctc or checkpoint.model.ctc_only):
            aligner.second = open_method("attention", Recogniser(checkpoint), heard.modality, heard.language)
        timed = aligner.all(source, found)
    problems = (*heard.problems, *_problems(name, found, words), *aligner.problems)
    return Transcript(text.strip(), tuple(_segments(words, timed)), heard.language, checkpoint.name, heard.modality,
                      heard.modality_reason, heard.duration, problems)


class _Aligner:
    """Aligns the sections of a text one after another. problems: sentences about those that could not be aligned. second: the
    method for sections where the first is far from what was heard; None to believe the first."""

    def __init__(self, checkpoint: Checkpoint, method: Method, words: Sequence[GivenWord], heard: Transcript,
                 options: AlignSettings, progress: Progress):
        self.checkpoint, self.method, self.words, self.heard = checkpoint, method, words, heard
        self.options, self.progress = options, progress
        self.problems: list[str] = []
        self.second: Method | None = None
        can = options.phones and "a" in heard.modality and heard.language == "en"
        self.phones = None if not can else method if isinstance(method, HMM) else HMM()

    def all(self, source: media.Source | media.Clip, found: Matching) -> list[Word]:
        """Every given word, with interpolated times where it could not be aligned."""
        timed: list[Word | None] = [None] * len(self.words)
        for section, window in self._windows(source, found.sections):
            words = self._section(section, window, self.method)
            if self.second is not None and self._is_far_off(section, words, found):
                words = self._section(section, window, self.second)
            for number, word in zip(range(section.first, section.last), words, strict=True):
                if section.kept_first <= number < section.kept_last:
                    timed[number] = word
        return interpolated(self.words, in_order(timed), found.misfits, self.heard.duration)

    def _windows(self, source: media.Source | media.Clip, sections: Sequence[Section]) -> Iterator[tuple[Section, Window]]:
        """The sections with their sound and mouths, in order, read from the recording from start to end."""
        with_video = "v" in self.heard.modality
        mouth_crop = self.checkpoint.mouth_crop if with_video else None
        with selection.open_recording(source, want_video=with_video, want_audio="a" in self.heard.modality,
                                      audio_track=self.options.audio_track, video_track=None, language=self.heard.language,
                                      landmarks=None if mouth_crop is None else mouth_crop.face_landmarks) as recording:
            reader = StreamReader(recording, mouth_crop, StreamSettings(vad=False))
            waiting = [(section, _frames(section)) for section in sections]
            stage = f"aligning {Path(recording.name).name}"
            for _ in reader.clips():
                while waiting and (waiting[0][1].end_frame <= reader.settled):
                    section, span = waiting.pop(0)
                    yield section, reader.window(span)
                reader.forget(min((span.start_frame for _, span in waiting), default=reader.settled))
                self.progress(stage, reader.duration_s, recording.duration_s, "s")
            for section, span in waiting:
                last = max(span.start_frame + 1, min(span.end_frame, reader.n_frames))
                yield section, reader.window(SpeechSegment(span.start_frame, last))

    def _is_far_off(self, section: Section, words: Sequence[Word | None], found: Matching) -> bool:
        """Whether any word of a section is far from where it was heard."""
        return any(number in found.heard_at and abs((word.start + word.end) / 2 - found.heard_at[number]) > FAR_OFF_S
                   for number, word in enumerate(words, start=section.first) if word is not None)

    def _section(self, section: Section, window: Window, method: Method) -> list[Word | None]:
        """The words of one section, with times from the start of the recording and phones if asked for."""
        texts = [word.text for word in self.words[section.first:section.last]]
        start, problem, found = window.segment.start_s, None, []
        sound = window.audio
        if window.mouths is None if self.heard.modality == "v" else sound is None or len(sound) < MIN_SAMPLES:
            problem = "there is nothing to align it with"
        elif window.segment.duration_s > method.longest_s:
            problem = f"too little of it was recognised there to cut it into parts of {method.longest_s:.0f} s"
        else:
            try:
                with torch.inference_mode():
                    found = method.align(window, texts)
            except DoesNotFit as error:
                problem = f"it is too long for the sound ({error})"
        if problem is not None:
            self.problems.append(f"from {start:.1f} s to {start + window.segment.duration_s:.1f} s the text "
                                 f"{_shown(self.words, section.first, section.last)} could not be aligned: {problem}; the "
                                 "times of its words are interpolated.")
            return [None] * len(texts)
        return [None if word is None else _moved(self._with_phones(word, window), start) for word in found]

    def _with_phones(self, word: Word, window: Window) -> Word:
        if self.phones is None:
            return replace(word, phones=())
        return word if word.phones else replace(word, phones=self.phones.phones(window, word))


def _frames(section: Section) -> SpeechSegment:
    """The video frames that cover a section."""
    first = max(0, int(section.start_s * VIDEO_FPS))
    return SpeechSegment(first, max(first + 1, int(np.ceil(section.end_s * VIDEO_FPS - 1e-6))))


def _moved(word: Word, by_s: float) -> Word:
    """A word with its phones, later by so many seconds, to a millisecond."""
    phones = tuple(replace(one, start=round(one.start + by_s, 3), end=round(one.end + by_s, 3)) for one in word.phones)
    return replace(word, start=round(word.start + by_s, 3), end=round(word.end + by_s, 3), phones=phones)


def in_order(words: Sequence[Word | None]) -> list[Word | None]:
    """Words none of which begins before the one before it ends: at the border of two sections each has its own opinion."""
    out: list[Word | None] = []
    at = 0.0
    for word in words:
        if word is not None and word.start < at:
            word = replace(word, start=at, end=max(at, word.end),
                           phones=tuple(replace(one, start=max(at, one.start), end=max(at, one.end)) for one in word.phones))
        out.append(word)
        at = at if word is None else word.end
    return out


def interpolated(given: Sequence[GivenWord], words: Sequence[Word | None], misfits: Sequence[Misfit],
                 duration_s: float) -> list[Word]:
    """All words; those without times share the time between their neighbours, or that of their misfit, by their letters."""
    out = list(words)
    number = 0
    while number < len(out):
        if out[number] is not None:
            number += 1
            continue
        last = next((k for k in range(number, len(out)) if out[k] is not None), len(out))
        before = out[number - 1].end if number else 0.0     # pyright: ignore[reportOptionalMemberAccess]
        after = out[last].start if last < len(out) else duration_s  # pyright: ignore[reportOptionalMemberAccess]
        inside = [one for one in misfits if number <= one.first and one.last <= last and one.last > one.first]
        if inside:
            before, after = max(before, min(one.start_s for one in inside)), min(after, max(one.end_s for one in inside))
        lengths = [len(given[k].text) for k in range(number, last)]
        edges = before + max(0.0, after - before) * np.cumsum([0, *lengths]) / sum(lengths)
        for k in range(number, last):
            start, end = float(edges[k - number]), float(edges[k - number + 1])
            out[k] = Word(given[k].text, round(start, 3), round(end, 3), interpolated=True)
        number = last
    return [word for word in out if word is not None]


def _segments(given: Sequence[GivenWord], words: Sequence[Word]) -> Iterator[Segment]:
    """Segments of the size of a subtitle; a paragraph begins a new one."""
    first = 0
    while first < len(words):
        last = next((k for k in range(first, len(given)) if given[k].paragraph != given[first].paragraph), len(given))
        for group in transcript.segment(words[first:last]):
            confidences = [word.confidence for word in group if word.confidence is not None]
            yield Segment("".join(word.text for word in group).strip(), group[0].start, group[-1].end, tuple(group),
                          confidence=float(np.mean(confidences)) if confidences else None)
        first = last


def _shown(words: Sequence[GivenWord], first: int, last: int) -> str:
    """Some words of the text, as a message shows them."""
    shown = "".join(word.text for word in words[first:min(last, first + SHOWN_WORDS)]).strip()
    return f"{_quoted(shown)}{' ...' if last - first > SHOWN_WORDS else ''}"


def _quoted(text: str) -> str:
    """A text in quotes, in its own letters, cut off if it is long."""
    return f'"{text}"' if len(text) <= LONGEST_QUOTE else f'"{text[:LONGEST_QUOTE]}..."'


def _refusal(name: str, found: Matching, words: Sequence[GivenWord], options: AlignSettings) -> str:
    """The message for a text most of which is not what is said: where it parts, in time and in words."""
    where = ""
    if found.misfits:
        first = max(found.misfits, key=lambda one: one.last - one.first)
        where = (f" from {first.start_s:.1f} s on, where the text has {_shown(words, first.first, first.last)} and "
                 f"{_heard(first)} is heard")
    return (f"{name}: {options.text_name} does not fit the sound{where}: {found.n_pieces - found.n_found} of its "
            f"{counted(found.n_pieces, 'word')} were not heard (limit {options.max_unlike:.0%}).  Give the text of this very "
            "recording, or --max-unlike 1 to align it all the same.")


def _heard(misfit: Misfit) -> str:
    words = misfit.heard.split()
    return f"{_quoted(' '.join(words[:SHOWN_WORDS]))}{' ...' if len(words) > SHOWN_WORDS else ''}" if words else "nothing"


def _problems(name: str, found: Matching, words: Sequence[GivenWord]) -> Iterator[str]:
    """A sentence for each place where text and sound part."""
    for one in found.misfits[:MOST_SHOWN]:
        span = f"from {one.start_s:.1f} s to {one.end_s:.1f} s"
        if one.first == one.last:
            yield f"{name}: {span} {_heard(one)} is heard, which is not in the text."
        elif one.heard:
            yield (f"{name}: {span} the text does not fit the sound: it has {_shown(words, one.first, one.last)}, and "
                   f"{_heard(one)} is heard; the times of these {counted(one.last - one.first, 'word')} are interpolated.")
        else:
            yield (f"{name}: at {one.start_s:.1f} s {_shown(words, one.first, one.last)} is in the text and not heard; the "
                   f"times of {counted(one.last - one.first, 'word')} are interpolated.")
    if (more := len(found.misfits) - MOST_SHOWN) > 0:
        yield f"{name}: {more} more such places, up to {found.misfits[-1].end_s:.1f} s."
