"""Any recording of people talking to text with word times.

    path | bytes | arrays -> Recording -> StreamReader -> Windows -> Recogniser: encode, decode, align -> Segments -> Transcript
A recording is read in windows, so an hour needs no more memory than a minute. A thread reads ahead while the network works.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import chain, groupby, islice, repeat
from pathlib import Path

import numpy as np
import torch

from avsr import cropped, decode, media, selection, transcript
from avsr.checkpoint import Checkpoint, load, may_use_video
from avsr.combine import CombinedCheckpoint, combine, open_recogniser
from avsr.correct import Corrector, corrected, open_corrector
from avsr.errors import AvsrError, BadMedia
from avsr.lips import MouthCropSettings
from avsr.lm import LanguageModel
from avsr.media.level import is_silent
from avsr.modality import VideoUse, check_modality, decide, sound_problems
from avsr.models.decoder import Memory
from avsr.names import DEFAULT_MODEL, INPUT_MODALITIES
from avsr.rates import FEATURE_RATE
from avsr.recogniser import MIN_SAMPLES, Recogniser, in_distribution
from avsr.runtime import Progress, n_cores, n_parallel_batches, no_progress, pick_device, pick_dtype, prefetch, release_memory
from avsr.schema import from_keywords
from avsr.segment import VadOptions
from avsr.stream import StreamReader, StreamSettings, Window, why_unreadable
from avsr.text import LANGUAGE_NAMES, language_code
from avsr.transcribe.prompts import Prompts, check_model, check_settings
from avsr.transcribe.speakers import SpeakerNames, by_speaker, pieces
from avsr.transcribe.windows import WrittenWindow, joined, recognise, sentences
from avsr.transcript import Segment, Transcript

MIN_RELIABILITY = 0.5                                       # of the video, to extend a segment to where no speech was heard


@dataclass(frozen=True)
class TranscribeSettings:
    """How to transcribe; what `avsr transcribe --help` lists under the same names.

    beam_size: texts kept in the search, 1 is greedy; None for what the model wants, which is 5 for most. ctc_weight: for
    models that have one, see decode.DecodeOptions. lm: the path of a language model, or an opened one, that counts with
    lm_weight in the search; rescore: likewise, on the n-best lists that the search finds. hotwords: a list, words with
    commas, or a file with one a line, see decode.Hotwords. batch_size: segments of up to 30 s that go through the network
    at once. temperature: the first of the temperatures tried, see decode.DecodeOptions. max_missing: share of a segment's
    frames that may lack a face before it is recognised by audio alone. vad: find speech first; without, all is taken as
    speech, cut into segments of up to 30 s. save_lips: a folder in which to write the mouth crops as a small video; or its
    .mp4 file. speakers: tell who of those in sight says each word, see transcript.Segment. speaker_model: by which network,
    see speakers.open_detector; None for the program's own. audio_track, video_track: which of several tracks to take,
    counted from 1; None for one with speech, and one with a face, see selection. mouth_crop: "none" takes each picture as
    the mouth, see cropped.py; None cuts it out as the model wants. task: "translate" writes English, whatever is spoken; for
    multilingual Whispers. initial_prompt: a text that could come before the recording, for its names and style; the first
    window is told it, with carry_initial_prompt every one. condition_on_previous_text: each window is told the text before
    it, and waits for it. See prompts.Prompts.
    """

    beam_size: int | None = None
    ctc_weight: float | None = None
    lm: str | Path | LanguageModel | None = None
    lm_weight: float | None = None
    rescore: str | Path | LanguageModel | None = None
    rescore_weight: float | None = None
    hotwords: str | Path | Sequence[str] | decode.Hotwords | None = None
    hotword_weight: float | None = None
    batch_size: int = 8
    temperature: float = 0.0
    max_missing: float = 0.25
    vad: bool = True
    save_lips: str | Path | None = None
    speakers: bool = False
    speaker_model: str | Path | None = None
    audio_track: int | None = None
    video_track: int | None = None
    mouth_crop: str | None = None
    correct: str | Path | Corrector | None = None           # the folder of a corrector, or an opened one, see correct
    task: str = "transcribe"
    initial_prompt: str | None = None
    condition_on_previous_text: bool = False
    carry_initial_prompt: bool = False

    def __post_init__(self):
        check_settings(self)
        for name in ("beam_size", "batch_size", "audio_track", "video_track"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise AvsrError(f"{name} {getattr(self, name)}: must be at least 1.  Leave it out for the usual one.")
        if self.ctc_weight is not None and not 0 <= self.ctc_weight < 1:
            raise AvsrError(f"ctc_weight {self.ctc_weight}: must be from 0 to below 1.  Leave it out for the usual one.")
        decode.check_weights(self)
        if not 0 <= self.max_missing <= 1:
            raise AvsrError(f"max_missing {self.max_missing}: must be a share from 0 to 1.  The usual one is 0.25.")
        if self.mouth_crop not in (None, "none"):
            raise AvsrError(f"mouth_crop {self.mouth_crop!r}: only none can be asked for, where each picture is a mouth.  "
                            "Leave it out to have the mouth cut out as the model wants.")


def transcribe(source: media.Source | media.Clip, *, model: str | Path | Checkpoint = DEFAULT_MODEL,
               lips: str | Path | Checkpoint | None = None, modality: str = "auto", language: str | None = None,
               device: str = "auto", on_segment: Callable[[Segment], None] | None = None,
               progress: Progress = no_progress, **settings) -> Transcript:
    """See avsr.transcribe.transcribe."""
    options = from_keywords(TranscribeSettings, settings, "transcribe")
    if modality not in (choices := ("auto", *INPUT_MODALITIES)):
        raise AvsrError(f"modality {modality}: not known.  Use one of {', '.join(choices)}.")
    target = pick_device(device)
    checkpoint = load_models(model, lips, modality, target, progress)
    language = _language_of(checkpoint, language)
    check_modality(checkpoint, modality)
    _check_search(checkpoint, options)
    check_model(checkpoint, modality, options)
    options = replace(options, **decode.open_external(options, checkpoint.tokenizer, progress))
    corrector = None if options.correct is None else open_corrector(options.correct)
    mouth_crop = checkpoint.mouth_crop if options.mouth_crop is None else cropped.as_they_are(checkpoint.mouth_crop)
    want_video = options.speakers or modality in ("v", "av") or (modality == "auto" and checkpoint.video_trained)
    track_language = language or (checkpoint.languages[0] if len(checkpoint.languages) == 1 else None)
    with media.reopenable(source, progress) as source, selection.open_recording(
            source, want_video=want_video, want_audio=modality != "v", audio_track=options.audio_track,
            video_track=options.video_track, language=track_language,
            landmarks=mouth_crop.face_landmarks) as recording:
        if options.speakers and not recording.has_video:
            raise BadMedia(f"{recording.name}: there is no picture in it, and --speakers tells from the picture who speaks.  "
                           "Leave out --speakers.")
        used, reason = decide(modality, checkpoint, recording)
        only_in_distribution = used == "v" and modality == "auto" and checkpoint.model.reliability is not None
        video_use = VideoUse(checkpoint, recording, used, max_missing=options.max_missing,
                             only_in_distribution=only_in_distribution)
        # With --modality v the sound is not read. With auto it may still tell where somebody speaks.
        vad = options.vad and (used != "v" or (modality == "auto" and recording.has_audio and not recording.is_silent))
        to_tell_speakers = MouthCropSettings() if options.speakers else None
        settings = StreamSettings(
            vad=vad, speech=speech_options(checkpoint), extension=vad and used == "av" and checkpoint.video_trained,
            speakers=options.speakers, speaker_model=options.speaker_model,
            save_lips=None if options.save_lips is None else Path(options.save_lips))
        reader = StreamReader(recording, mouth_crop if "v" in used else to_tell_speakers, settings, progress=progress)
        recogniser = corrected(open_recogniser(checkpoint, used), corrector, used)
        transcriber = _Transcriber(recogniser, used, language, options, video_use)
        segments: list[Segment] = []
        for segment in transcriber.transcribe(prefetch(reader, 2 * options.batch_size)):
            segments.append(segment)
            if on_segment is not None:
                on_segment(segment)
        problems = sound_problems(recording, used, level_db=reader.loudness.db, n_segments=video_use.n_segments)
        if "v" in used and mouth_crop.differences(checkpoint.mouth_crop):
            problems.append(cropped.of_unknown_kind(recording.name, checkpoint.name))
        used, reason, video_problems = video_use.outcome(reason)
        if used == "av" and isinstance(checkpoint, CombinedCheckpoint) and transcriber.language not in (
                known := checkpoint.lips.languages):
            used, reason = "a", f"{checkpoint.lips.name} reads lips in another language ({', '.join(known)})"
        speaker_problems = transcriber.speaker_names.problems(recording.name) if options.speakers else []
        return Transcript("".join(f" {segment.text}" for segment in segments).strip(), tuple(segments),
                          transcriber.language or "en", checkpoint.name, used, reason, reader.duration_s,
                          (*recording.problems, *problems, *video_problems, *speaker_problems,
                           *transcriber.prompts.problems(recording.name)), options.task)


def load_models(model: str | Path | Checkpoint, lips: str | Path | Checkpoint | None, modality: str, device: torch.device,
                progress: Progress = no_progress) -> Checkpoint:
    """The checkpoint for `transcribe`: of one model, or where `lips` names a second one that reads them, of both together."""
    if lips is None:
        return model if isinstance(model, Checkpoint) else load_model(model, modality, device, progress)
    sound = model if isinstance(model, Checkpoint) else load_model(model, "a", device, progress)
    other = lips if isinstance(lips, Checkpoint) else load(lips, device=device, dtype=pick_dtype(device), progress=progress)
    both = combine(sound, other)
    return both.lips if modality == "v" else both


def load_model(model: str | Path, modality: str, device: torch.device, progress: Progress = no_progress) -> Checkpoint:
    """The checkpoint for `transcribe`, without its video encoder if no video will be used."""
    with_video = modality in ("v", "av") or (modality == "auto" and may_use_video(model))
    return load(model, lips=with_video, device=device, dtype=pick_dtype(device), progress=progress)


def speech_options(checkpoint: Checkpoint) -> VadOptions:
    """How speech is cut into segments for a model: at each pause, unless it takes 30 s at a time, as Whisper does.

    Short segments would make that one slow, and what it leaves out of a long one is recognised again. 24 of GRID's valid clips
    one after another, model `grid`, WER by sound and lips: 86.8 % with pauses of up to 2 s within a segment, as it learnt from
    single sentences; 4.2 % if cut at each pause; 1.4 % for single clips.
    """
    usual = VadOptions()
    return usual if checkpoint.pad_seconds is not None else replace(usual, max_gap=usual.min_silence)


def _language_of(checkpoint: Checkpoint, language: str | None) -> str | None:
    """The code of the language that was asked for. Raises AvsrError for one that the model does not write."""
    if language is None or language_code(language) in checkpoint.languages:
        return None if language is None else language_code(language)
    known = {word: code for code in checkpoint.languages for word in (code, LANGUAGE_NAMES.get(code, code))}
    if not language.strip():
        raise AvsrError(f"{checkpoint.name}: the language asked for is empty; the model writes {len(checkpoint.languages)}.  "
                        f"Leave --language out, or use one, such as {checkpoint.languages[0]}.")
    nearest = known[get_close_matches(language.lower(), known, 1, 0)[0]]
    more = "" if len(checkpoint.languages) > 1 else ", or a multilingual model such as --model base"
    raise AvsrError(f"{checkpoint.name}: does not write language {language!r}; it knows {len(checkpoint.languages)}.  "
                    f"Use {nearest} ({LANGUAGE_NAMES.get(nearest, nearest)}){more}.")


def _check_search(checkpoint: Checkpoint, options: TranscribeSettings) -> None:
    """Raises AvsrError for a setting that would have no effect."""
    joint_ctc = checkpoint.model.joint_ctc
    if joint_ctc and options.temperature:
        raise AvsrError(f"{checkpoint.name}: its texts are searched, not drawn by chance, so it has no temperature.  Leave out "
                        "--temperature.")
    if not joint_ctc and options.ctc_weight is not None:
        raise AvsrError(f"{checkpoint.name}: its CTC, if any, spells letters, which cannot be weighed against its tokens.  "
                        "Leave out --ctc-weight, or use an imported model.")


class _Transcriber:
    """Windows of one recording to segments of its transcript.

    language: None until it is detected, which is done from the first batch.
    """

    def __init__(self, recogniser: Recogniser, modality: str, language: str | None, options: TranscribeSettings,
                 video_use: VideoUse):
        self.recogniser, self.modality, self.options, self.video_use = recogniser, modality, options, video_use
        self.speaker_names, self.prompts = SpeakerNames(), Prompts(recogniser, options)
        self.language = language or (None if recogniser.tokenizer.languages else "en")
        fallback_temperatures = tuple(t for t in decode.DecodeOptions().temperatures if t > options.temperature)
        self.search = recogniser.search_options(
            beam_size=options.beam_size, ctc_weight=options.ctc_weight, **decode.helps_of(options),
            temperatures=(options.temperature, *fallback_temperatures))

    def transcribe(self, windows: Iterable[Window]) -> Iterator[Segment]:
        """The segments of all windows in order, `batch_size` windows in the network at once.

        On the CPU they are shared out to threads, each of which keeps to its own cores: the tensors of a decoding step are
        too small for several cores to share one (2.3 times slower with two, on a machine with something else to do).
        """
        usable, n_workers = self._usable(windows), n_parallel_batches(self.recogniser.device)
        n_each = n_later = -(-self.options.batch_size // n_workers)
        if "v" in self.modality and n_workers > 1:          # reading faces takes time: begin as soon as there are a few windows
            n_each = -(-n_each // 2)
        first = list(islice(usable, n_each))
        if first and self.language is None:
            with torch.inference_mode():
                self.language = self.recogniser.detect_language(self._encode(first))
        if len(first) < n_each:                             # that was all: share it out
            n_workers = min(n_workers, max(1, len(first)))
            n_each = n_later = -(-max(1, len(first)) // n_workers)
        sizes = chain([n_each] * n_workers, repeat(n_later))    # in twos a search takes 1.4 times as long as in fours
        if self.prompts.in_order:
            n_workers, sizes = 1, repeat(1)
        elif self.prompts.only_first:
            sizes = chain([1], sizes)
        threads_before, n_threads = torch.get_num_threads(), max(1, n_cores() // n_workers)
        with ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(n_threads,)) as pool:
            running: deque[Future[list[WrittenWindow]]] = deque()
            try:
                batches = self._batches(chain(first, usable), sizes, n_workers, pool, running)
                yield from chain.from_iterable(map(self._segments, joined(batches)))
            finally:
                for future in running:
                    future.cancel()
                torch.set_num_threads(threads_before)       # the workers' setting reached MKL as a whole

    def _batches(self, windows: Iterator[Window], sizes: Iterator[int], n_workers: int, pool: ThreadPoolExecutor,
                 running: deque[Future[list[WrittenWindow]]]) -> Iterator[WrittenWindow]:
        """The windows with their words, in order; `running` holds the batches that are not done."""
        is_first = True
        while batch := list(islice(windows, next(sizes))):
            running.append(pool.submit(self._transcribe_batch, batch, is_first))
            is_first = False
            while len(running) > n_workers or (running and running[0].done()):
                yield from running.popleft().result()
                release_memory()                            # not after the last batch: the whole of most recordings is one
        while running:
            yield from running.popleft().result()

    def _usable(self, windows: Iterable[Window]) -> Iterator[Window]:
        """The windows, cut where the speaker changes, that hold something to recognise, without mouths that cannot be read."""
        whole = chain.from_iterable(map(self._extended_or_not, windows))
        for window in chain.from_iterable(map(pieces, whole)):
            self.speaker_names.count(window)
            window = window if "v" in self.modality else replace(window, mouths=None)
            window = self.video_use.without_turned_away(window)
            unreadable = why_unreadable(window.mouths, self.options.max_missing, apart=window.apart)
            self.video_use.count(window, unreadable)
            window = window if unreadable is None else replace(window, mouths=None)
            if self._is_usable(window):
                yield window

    @torch.inference_mode()
    def _extended_or_not(self, window: Window) -> tuple[Window, ...]:
        """The window; but if its segment was extended, and its mouths cannot be read or are not reliable, the windows without
        that extension."""
        if window.unextended is None:
            return (window,)
        if why_unreadable(window.mouths, self.options.max_missing, apart=window.apart) is not None:
            return window.unextended
        reliability = self._encode([window]).reliability if self.recogniser.estimates_reliability else None
        return window.unextended if reliability is not None and reliability.item() < MIN_RELIABILITY else (window,)

    def _is_usable(self, window: Window) -> bool:
        if self.video_use.needs_video and window.mouths is None:
            return False
        if self.modality == "v":
            return True
        # Whisper writes "you" where there is nothing to hear.
        return (window.audio is not None and len(window.audio) >= MIN_SAMPLES
                and (self.video_use.needs_video or not is_silent(window.audio)))

    @torch.inference_mode()
    def _transcribe_batch(self, batch: Sequence[Window], is_first: bool) -> list[WrittenWindow]:
        """Some usable windows with their words, in order. Several threads may call this. is_first: of the recording."""
        recogniser = self.prompts.recogniser(batch[0], is_first=is_first)
        memory = self._encode(batch)
        reliability = [None] * len(batch) if memory.reliability is None else memory.reliability.tolist()
        takes_30_s = self.recogniser.checkpoint.pad_seconds is not None
        parts = [sentences(window, one, takes_30_s=takes_30_s) for window, one in zip(batch, reliability, strict=True)]
        if len(parts) < sum(map(len, parts)):
            batch = [part for window in parts for part in window if self._is_usable(part)]
            if not batch:
                return []
            memory = self._encode(batch)
        if self.video_use.only_in_distribution and not (known := in_distribution(memory)).all():
            self.video_use.n_out_of_distribution += int((~known).sum())
            if not known.any():
                return []
            batch = [window for window, one in zip(batch, known.tolist(), strict=True) if one]
            memory = memory.select(known.nonzero()[:, 0])
        self.video_use.count_reliability([window.mouths is not None for window in batch], memory)
        assert self.language is not None, "it was asked for, or is detected before the first batch"
        written = recognise(recogniser, batch, memory, self.search, self.language, encode=self._encode)
        self.prompts.add(written)
        return written

    def _encode(self, batch: Sequence[Window]) -> Memory:
        audio = None
        if "a" in self.modality:
            audio = [window.audio for window in batch if window.audio is not None]
            assert len(audio) == len(batch), "only windows with audio are usable"
        return self.recogniser.encode(audio, [window.mouths for window in batch], self.modality,
                                      seconds=[window.segment.duration_s for window in batch])

    def _segments(self, window: WrittenWindow) -> Iterator[Segment]:
        """The segments of a window in order, cut where the speaker changes."""
        for text, of_text in groupby(window.words, key=lambda one: one.text):
            for persons, run in by_speaker(list(of_text), window.turns):
                left = iter(run)
                for group in transcript.segment([one.word for one in run]):
                    tokens = tuple(token for one in islice(left, len(group)) for token in one.tokens)
                    if "".join(word.text for word in group).strip():
                        yield self.speaker_names.name(_segment(group, tokens, text, run[0].start_s, self.recogniser),
                                                      persons)


def _segment(words: Sequence[transcript.Word], tokens: tuple[int, ...], text: decode.Hypothesis, start_s: float,
             recogniser: Recogniser) -> Segment:
    """A segment of some words of a text that was recognised from `start_s` on."""
    confidences = [word.confidence for word in words if word.confidence is not None]
    return Segment(
        "".join(word.text for word in words).strip(), words[0].start, words[-1].end, tuple(words), text.avg_logprob,
        decode.compression_ratio(recogniser.tokenizer.decode(text.tokens)), text.no_speech_prob, text.temperature, tokens,
        float(np.mean(confidences)), round(start_s * FEATURE_RATE), lips=text.lips, corrected_from=text.corrected_from)
