"""Windows of one recording to segments of its transcript: what is usable of them, batches of them in the network, cutting.

    Windows -> Transcriber: usable -> write, in batches -> WrittenWindows -> segments
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import wraps
from itertools import chain, groupby, islice, repeat
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from avsr import decode, transcript
from avsr.arrays import to_numpy
from avsr.media.level import is_silent
from avsr.memory import Memory
from avsr.modality import VideoUse
from avsr.rates import FEATURE_RATE
from avsr.recogniser import MIN_SAMPLES, Recogniser, in_distribution
from avsr.runtime import Processor, n_cores, n_parallel_batches, release_memory, set_torch_threads, torch_threads
from avsr.stream import Window, why_unreadable
from avsr.transcribe.batches import SharedBatches
from avsr.transcribe.prompts import Prompts
from avsr.transcribe.speakers import SpeakerNames, by_speaker, pieces
from avsr.transcribe.windows import WrittenWindow, joined, recognise, sentences
from avsr.transcript import Segment

if TYPE_CHECKING:
    from avsr.transcribe.run import TranscribeSettings

Result = TypeVar("Result")
# Windows at once. Of an export the search takes as long for each window in twos as in fours (10 minutes: 93 s of processor time
# both), and 0.53 GB of memory in all, not 0.69.
BATCH, BATCH_OF_EXPORT = 8, 4
MIN_RELIABILITY = 0.5                                       # of the video, to extend a segment to where no speech was heard


def no_gradients(method: Callable[..., Result]) -> Callable[..., Result]:
    """A method of Transcriber that keeps no gradients."""
    @wraps(method)
    def run(self: Transcriber, *args: Any, **kwargs: Any) -> Result:
        with self.recogniser.no_gradients():
            return method(self, *args, **kwargs)

    return run


class Transcriber:
    """Windows of one recording to segments of its transcript.

    language: None until it is detected, which is done from the first batch.
    """

    def __init__(self, recogniser: Recogniser, modality: str, language: str | None, options: TranscribeSettings,
                 video_use: VideoUse, shared: SharedBatches | None = None):
        """shared: by whom windows of several recordings go through the network together; None for a pool of its own."""
        self.shared = shared
        self.recogniser, self.modality, self.options, self.video_use = recogniser, modality, options, video_use
        self.batch_size = options.batch_size or (BATCH_OF_EXPORT if isinstance(recogniser.device, Processor) else BATCH)
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
        if self.shared is not None:
            yield from self._transcribe_shared(self.shared, self.usable(windows))
            return
        usable, n_workers = self.usable(windows), n_parallel_batches(self.recogniser.device)
        n_each = n_later = -(-self.batch_size // n_workers)
        if "v" in self.modality and n_workers > 1:          # reading faces takes time: begin as soon as there are a few windows
            n_each = -(-n_each // 2)
        first = list(islice(usable, n_each))
        if first and self.language is None:
            self.find_language(first)
        if len(first) < n_each:                             # that was all: share it out
            n_workers = min(n_workers, max(1, len(first)))
            n_each = n_later = -(-max(1, len(first)) // n_workers)
        sizes = chain([n_each] * n_workers, repeat(n_later))    # in twos a search takes 1.4 times as long as in fours
        if self.prompts.in_order:
            n_workers, sizes = 1, repeat(1)
        elif self.prompts.only_first:
            sizes = chain([1], sizes)
        threads_before, n_threads = torch_threads(), max(1, n_cores() // n_workers)
        with ThreadPoolExecutor(n_workers, initializer=set_torch_threads, initargs=(n_threads,)) as pool:
            running: deque[Future[list[WrittenWindow]]] = deque()
            try:
                batches = self._batches(chain(first, usable), sizes, n_workers, pool, running)
                yield from chain.from_iterable(map(self.segments, joined(batches)))
            finally:
                for future in running:
                    future.cancel()
                set_torch_threads(threads_before)           # the workers' setting reached MKL as a whole

    def _transcribe_shared(self, shared: SharedBatches, usable: Iterator[Window]) -> Iterator[Segment]:
        """As `transcribe`, each window by itself into batches that other recordings share."""
        first = list(islice(usable, 1))
        if first and self.language is None:
            self.find_language(first)
        n_running = 0 if self.prompts.in_order else self.batch_size
        running: deque[Future[list[WrittenWindow]]] = deque()
        try:
            batches = self._batches(chain(first, usable), repeat(1), n_running, shared, running)
            yield from chain.from_iterable(map(self.segments, joined(batches)))
        finally:
            for future in running:
                future.cancel()

    @no_gradients
    def find_language(self, windows: Sequence[Window]) -> None:
        """Set the language to the one that is most likely spoken in some usable windows."""
        self.language = self.recogniser.detect_language(self._encode(windows))

    def _batches(self, windows: Iterator[Window], sizes: Iterator[int], n_workers: int,
                 pool: ThreadPoolExecutor | SharedBatches,
                 running: deque[Future[list[WrittenWindow]]]) -> Iterator[WrittenWindow]:
        """The windows with their words, in order; `running` holds the batches that are not done."""
        is_first = True
        while batch := list(islice(windows, next(sizes))):
            running.append(pool.write(self, batch, is_first) if isinstance(pool, SharedBatches) else
                           pool.submit(self.write, batch, is_first))
            is_first = False
            while len(running) > n_workers or (running and running[0].done()):
                yield from running.popleft().result()
                release_memory()                            # not after the last batch: the whole of most recordings is one
        while running:
            yield from running.popleft().result()

    def usable(self, windows: Iterable[Window], n_unknown: int = 0) -> Iterator[Window]:
        """The windows, cut where the speaker changes, that hold something to recognise, without mouths that cannot be read.
        n_unknown: see stream.why_unreadable."""
        whole = chain.from_iterable(map(self._extended_or_not, windows))
        for window in chain.from_iterable(map(pieces, whole)):
            self.speaker_names.count(window)
            window = window if "v" in self.modality else replace(window, mouths=None)
            window = self.video_use.without_turned_away(window)
            unreadable = why_unreadable(window.mouths, self.options.max_missing, apart=window.apart, n_unknown=n_unknown)
            self.video_use.count(window, unreadable)
            window = window if unreadable is None else replace(window, mouths=None)
            if self._is_usable(window):
                yield window

    @no_gradients
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

    @no_gradients
    def write(self, batch: Sequence[Window], is_first: bool) -> list[WrittenWindow]:
        """Some usable windows with their words, in order. Several threads may call this. is_first: of the recording."""
        recogniser = self.prompts.recogniser(batch[0], is_first=is_first)
        written = [window for _, window in self._write([self] * len(batch), batch, recogniser)]
        self.prompts.add(written)
        return written

    def writes_like(self, other: Transcriber) -> bool:
        """Whether windows of both may be in one batch: the same model, modality, language and search, and no prompts."""
        return (self.recogniser.checkpoint is other.recogniser.checkpoint and self.search == other.search
                and (self.modality, self.language) == (other.modality, other.language)
                and self.video_use.only_in_distribution == other.video_use.only_in_distribution
                and self.prompts.are_alike(other.prompts))

    @no_gradients
    def write_together(self, owners: Sequence[Transcriber], windows: Sequence[Window]) -> list[tuple[int, WrittenWindow]]:
        """Usable windows of several recordings with their words, in order, and which of `windows` each comes from: one may be
        cut, or left out. owners: the transcriber of each, which must write like this one."""
        return self._write(owners, windows, self.recogniser)

    def _write(self, owners: Sequence[Transcriber], windows: Sequence[Window],
               recogniser: Recogniser) -> list[tuple[int, WrittenWindow]]:
        batch, memory = self._cut_and_encode(owners, windows)
        if batch and self.video_use.only_in_distribution:
            batch, memory = self._in_distribution(owners, batch, memory)
        if not batch:
            return []
        mine = [owners[number] for number, _ in batch]
        for owner in dict.fromkeys(mine):
            rows = [row for row, one in enumerate(mine) if one is owner]
            own = memory if len(rows) == len(mine) else memory.select(rows)
            owner.video_use.count_reliability([batch[row][1].mouths is not None for row in rows], own)
        assert self.language is not None, "it was asked for, or is detected before the first batch"
        reliability = _reliability(memory)
        written = recognise(recogniser, [window for _, window in batch], memory, self.search, self.language,
                            encode=self._encode)
        return [(number, replace(text, reliability=None if window.mouths is None else one))
                for (number, window), text, one in zip(batch, written, reliability, strict=True)]

    def _cut_and_encode(self, owners: Sequence[Transcriber],
                        windows: Sequence[Window]) -> tuple[list[tuple[int, Window]], Memory]:
        """Windows, cut where a model that writes single sentences needs it, with their numbers; and their memory."""
        memory = self._encode(windows)
        takes_30_s = self.recogniser.checkpoint.pad_seconds is not None
        parts = [sentences(window, one, takes_30_s=takes_30_s)
                 for window, one in zip(windows, _reliability(memory), strict=True)]
        if len(parts) == sum(map(len, parts)):
            return list(enumerate(windows)), memory
        cut = [(number, part) for number, of_one in enumerate(parts) for part in of_one if owners[number]._is_usable(part)]
        return cut, self._encode([part for _, part in cut]) if cut else memory

    def _in_distribution(self, owners: Sequence[Transcriber], batch: list[tuple[int, Window]],
                         memory: Memory) -> tuple[list[tuple[int, Window]], Memory]:
        """What of a batch shows mouths like those of the training data; the others are counted."""
        known = to_numpy(in_distribution(memory))
        if known.all():
            return batch, memory
        for (number, _), one in zip(batch, known.tolist(), strict=True):
            owners[number].video_use.n_out_of_distribution += not one
        rows = np.flatnonzero(known).tolist()
        return [batch[row] for row in rows], memory.select(rows)

    def _encode(self, batch: Sequence[Window]) -> Memory:
        audio = None
        if "a" in self.modality:
            audio = [window.audio for window in batch if window.audio is not None]
            assert len(audio) == len(batch), "only windows with audio are usable"
        return self.recogniser.encode(audio, [window.mouths for window in batch], self.modality,
                                      seconds=[window.segment.duration_s for window in batch])

    def segments(self, window: WrittenWindow) -> Iterator[Segment]:
        """The segments of a window in order, cut where the speaker changes."""
        for text, of_text in groupby(window.words, key=lambda one: one.text):
            for persons, run in by_speaker(list(of_text), window.turns):
                left = iter(run)
                for group in transcript.segment([one.word for one in run]):
                    tokens = tuple(token for one in islice(left, len(group)) for token in one.tokens)
                    if "".join(word.text for word in group).strip():
                        segment = segment_of(group, tokens, text, run[0].start_s, self.recogniser)
                        yield self.speaker_names.name(replace(segment, lips_reliability=window.reliability), persons)


def _reliability(memory: Memory) -> list[float] | list[None]:
    """Of the lips of each utterance; None where the model does not estimate it."""
    return [None] * memory.n_utterances if memory.reliability is None else memory.reliability.tolist()


def segment_of(words: Sequence[transcript.Word], tokens: tuple[int, ...], text: decode.Hypothesis, start_s: float,
               recogniser: Recogniser) -> Segment:
    """A segment of some words of a text that was recognised from `start_s` on."""
    confidences = [word.confidence for word in words if word.confidence is not None]
    return Segment(
        "".join(word.text for word in words).strip(), words[0].start, words[-1].end, tuple(words), text.avg_logprob,
        decode.compression_ratio(recogniser.tokenizer.decode(text.tokens)), text.no_speech_prob, text.temperature, tokens,
        float(np.mean(confidences)), round(start_s * FEATURE_RATE), lips=text.lips, corrected_from=text.corrected_from)
