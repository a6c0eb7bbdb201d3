"""The main job: any recording of people talking to text with word times.

    path | bytes | arrays -> media windows -> pieces of speech, with mouths -> AVSR -> decode -> align -> Transcript
A recording passes through in windows, so an hour needs no more memory than a minute. Listening and looking run ahead
in a thread while the network works.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from avsr import decode, media, selection, transcript
from avsr.checkpoint import DEFAULT_MODEL, Checkpoint, load, may_see
from avsr.errors import AvsrError, NoFace, counted
from avsr.lm import NGrams
from avsr.media.level import is_silent
from avsr.modality import check_modality, decide, sound_problems
from avsr.models.avsr import Memory
from avsr.names import INPUT_MODALITIES
from avsr.rates import FEATURE_RATE
from avsr.recogniser import MIN_SAMPLES, Recogniser, in_distribution
from avsr.runtime import Progress, n_cores, n_parallel_batches, no_progress, pick_device, pick_dtype, release_memory
from avsr.segment import SpeechSegment
from avsr.stream import StreamReader, Window, prefetch, why_unreadable
from avsr.text import LANGUAGE_NAMES, language_code
from avsr.transcript import Segment, Transcript

MIN_RELIABILITY = 0.5                                       # of the lips, to go by them where no speech was heard


@dataclass(frozen=True)
class TranscribeSettings:
    """How to transcribe; what `avsr transcribe --help` lists under the same names.

    beam_size: texts kept in the search, 1 is greedy; None for what the model wants, 5 for most. ctc_weight: of the models that
    have one, see decode.DecodeOptions. lm: an ARPA file of words, or an lm.NGrams, that counts with lm_weight. batch_size:
    pieces of up to 30 s that go through the network at once.
    temperature: the first of the temperatures tried, see decode.DecodeOptions. max_missing: share of a piece's frames
    that may lack a face before the piece goes by sound alone. vad: look for speech first; without, every 30 s are taken
    as they come. save_lips: a folder in which to write the mouths that were looked at, as a small video; or its .mp4 file.
    audio_track, video_track: which of several sound tracks and pictures to take, counted from 1; None for one with speech, and
    one with a face, see selection.
    """

    beam_size: int | None = None
    ctc_weight: float | None = None
    lm: str | Path | NGrams | None = None
    lm_weight: float | None = None
    batch_size: int = 8
    temperature: float = 0.0
    max_missing: float = 0.25
    vad: bool = True
    save_lips: str | Path | None = None
    audio_track: int | None = None
    video_track: int | None = None

    def __post_init__(self):
        for name in ("beam_size", "batch_size", "audio_track", "video_track"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise AvsrError(f"{name} {getattr(self, name)}: must be at least 1.  Leave it out for the usual one.")
        if self.ctc_weight is not None and not 0 <= self.ctc_weight < 1:
            raise AvsrError(f"ctc_weight {self.ctc_weight}: must be from 0 to below 1.  Leave it out for the usual one.")
        if self.lm_weight is not None and self.lm_weight < 0:
            raise AvsrError(f"lm_weight {self.lm_weight}: must be at least 0.  Leave it out for the usual one.")
        if not 0 <= self.max_missing <= 1:
            raise AvsrError(f"max_missing {self.max_missing}: must be a share from 0 to 1.  The usual one is 0.25.")


def transcribe(source: media.Source | media.Clip, *, model: str | Path | Checkpoint = DEFAULT_MODEL, modality: str = "auto",
               language: str | None = None, device: str = "auto", on_segment: Callable[[Segment], None] | None = None,
               progress: Progress = no_progress, **settings) -> Transcript:
    """What is said in a recording.

    source: a file's path, its address (https://..., s3://...), `-` for standard input, its bytes, an open file, a waveform (S,)
    float32 at 16 kHz, or a media.Clip.
    model: see checkpoint.load; give a Checkpoint to load it only once, on the device where it is to run.
    modality: `a` by sound, `v` by sight, `av` by both, `auto` what the recording and the model allow.
    language: its code or English name, as Whisper has them (de, German); None lets a multilingual model find out.
    on_segment: called with each segment as it is found. progress: called as runtime.Progress says, with bytes of
    what is downloaded, and then with seconds of the recording.
    settings: fields of TranscribeSettings.

    Raises BadMedia, NoFace, BadCheckpoint, MissingAsset; what could be put up with is told in `problems`.
    """
    options = make_settings(settings)
    if modality not in (known := ("auto", *INPUT_MODALITIES)):
        raise AvsrError(f"modality {modality}: not known.  Use one of {', '.join(known)}.")
    target = pick_device(device)
    checkpoint = model if isinstance(model, Checkpoint) else load_model(model, modality, target, progress)
    language = _language_of(checkpoint, language)
    check_modality(checkpoint, modality)
    _check_search(checkpoint, options)
    if options.lm is not None and not isinstance(options.lm, NGrams):
        options = replace(options, lm=NGrams.open(options.lm, progress))
    look = modality in ("v", "av") or (modality == "auto" and checkpoint.lips_trained)
    tags = language or (checkpoint.languages[0] if len(checkpoint.languages) == 1 else None)
    with media.reopenable(source, progress) as source, selection.open_recording(
            source, want_video=look, want_audio=modality != "v", audio_track=options.audio_track,
            video_track=options.video_track, language=tags, landmarks=checkpoint.mouth_crop.landmarks) as recording:
        used, reason = decide(modality, checkpoint, recording)
        known_lips_only = used == "v" and modality == "auto" and checkpoint.model.doubts
        job = _Job(checkpoint, used, language, options, recording, known_lips_only=known_lips_only)
        save_lips = None if options.save_lips is None else Path(options.save_lips)
        # Who only reads lips is left to itself: the sound may still say where somebody speaks.
        vad = options.vad and (used != "v" or (modality == "auto" and job.has_sound))
        listener = StreamReader(recording, checkpoint.mouth_crop if "v" in used else None, vad=vad,
                                extension=vad and used == "av" and checkpoint.lips_trained, save_lips=save_lips,
                                progress=progress)
        heard = prefetch(listener, 2 * options.batch_size)
        segments: list[Segment] = []
        for segment in _recognise(job, job.admit(heard), options.batch_size):
            segments.append(segment)
            if on_segment is not None:
                on_segment(segment)
        told = sound_problems(recording, used, level_db=listener.loudness.db, n_pieces=job.n_pieces)
        used, reason, problems = job.verdict(used, reason)
        return Transcript("".join(f" {segment.text}" for segment in segments).strip(), tuple(segments), job.language or "en",
                          checkpoint.name, used, reason, listener.duration_s, (*recording.problems, *told, *problems))


def load_model(model: str | Path, modality: str, device: torch.device, progress: Progress = no_progress) -> Checkpoint:
    """The checkpoint as `transcribe` wants it: its lips are left out where nobody will look."""
    lips = modality in ("v", "av") or (modality == "auto" and may_see(model))
    return load(model, lips=lips, device=device, dtype=pick_dtype(device), progress=progress)


def make_settings(values: dict) -> TranscribeSettings:
    """TranscribeSettings from keyword arguments. Raises AvsrError for a name that does not exist."""
    known = [field.name for field in fields(TranscribeSettings)]
    for name in values:
        if name not in known:
            nearest = (get_close_matches(name, known, 1, 0) or known)[0]
            raise AvsrError(f"transcribe has no setting {name!r}.  Use {nearest}, or any of {', '.join(known)}.")
    return TranscribeSettings(**values)


def _language_of(checkpoint: Checkpoint, language: str | None) -> str | None:
    """The code of a language that was asked for. Raises AvsrError for one that the model does not write."""
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
    joint = checkpoint.model.spells_tokens
    if joint and options.temperature:
        raise AvsrError(f"{checkpoint.name}: its texts are searched, not drawn by chance, so it has no temperature.  Leave out "
                        "--temperature.")
    if not joint and options.ctc_weight is not None:
        raise AvsrError(f"{checkpoint.name}: its CTC, if any, spells letters, which cannot be weighed against its tokens.  "
                        "Leave out --ctc-weight, or use an imported model.")
    if options.lm is None and options.lm_weight is not None:
        raise AvsrError(f"lm_weight {options.lm_weight}: there is no language model for it.  Name one with --lm.")


def _recognise(job: _Job, pieces: Iterator[Window], batch_size: int) -> Iterator[Segment]:
    """The segments of all pieces in order, `batch_size` pieces in the network at once.

    On the CPU they are shared out to threads, each of which keeps to its own cores: the tensors of a decoding step are
    too small for several cores to share one (2.3 times slower with two, on a machine with something else to do).
    """
    n_workers = n_parallel_batches(job.device)
    n_each = -(-batch_size // n_workers)
    if "v" in job.modality and n_workers > 1:               # looking is slow: begin as soon as a little has been seen
        n_each = -(-n_each // 2)
    first = list(islice(pieces, n_each))
    if first and job.language is None:
        job.language = job.detect_language(first)
    if len(first) < n_each:                                 # that was all: share it out
        n_workers = min(n_workers, max(1, len(first)))
        n_each = -(-max(1, len(first)) // n_workers)
    threads_before = torch.get_num_threads()
    with ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(max(1, n_cores() // n_workers),)) as pool:
        running: deque[Future] = deque()
        try:
            everything = chain(first, pieces)
            while batch := list(islice(everything, n_each)):
                running.append(pool.submit(job.run, batch))
                while len(running) > n_workers or (running and running[0].done()):
                    yield from running.popleft().result()
                    release_memory()                        # not after the last batch: the whole of most recordings is one
            while running:
                yield from running.popleft().result()
        finally:
            for future in running:
                future.cancel()
            torch.set_num_threads(threads_before)           # the workers' setting reached MKL as a whole


class _Job:
    """One recording through one model; counts what was seen and what was not.

    known_lips_only: nothing is written of pieces whose lips are not like those the model learnt from.
    """

    def __init__(self, checkpoint: Checkpoint, modality: str, language: str | None, options: TranscribeSettings,
                 recording: media.Recording, *, known_lips_only: bool):
        self.checkpoint, self.modality, self.options, self.name = checkpoint, modality, options, recording.name
        self.has_sound, self.known_lips_only = recording.has_audio and not recording.is_silent, known_lips_only
        # Where sight alone was asked for, the sound is not opened, but there may be some. Silence is none to go by.
        self.has_sound_track = self.has_sound or (not recording.has_audio and recording.sound_track is not None)
        self.language = language or (None if checkpoint.tokenizer.languages else "en")
        self.recogniser = Recogniser(checkpoint)
        self.device = self.recogniser.device
        self.needs_lips = modality == "v" or (modality == "av" and "a" not in checkpoint.modalities)
        self.n_frames = self.n_missing = self.n_pieces = self.n_blind = self.n_looked_at = self.n_strange = 0
        self.n_unknown_lips = self.n_still = 0

    def admit(self, pieces: Iterable[Window]) -> Iterator[Window]:
        """Those of the pieces that hold something for the network."""
        for heard in map(self._seen, chain.from_iterable(map(self._believed, pieces))):
            if self._worth(heard):
                yield heard

    @torch.inference_mode()
    def detect_language(self, batch: Sequence[Window]) -> str:
        """The language most of these pieces seem to be in: Whisper's first token after the start, summed over them."""
        return self.recogniser.detect_language(self._encode(batch))

    @torch.inference_mode()
    def run(self, batch: Sequence[Window]) -> list[Segment]:
        """The segments of some admitted pieces, in order. May be called from several threads."""
        memory = self._encode(batch)
        if self.known_lips_only and not (known := in_distribution(memory)).all():
            self.n_unknown_lips += int((~known).sum())
            if not known.any():
                return []
            batch = [heard for heard, one in zip(batch, known.tolist(), strict=True) if one]
            memory = memory.select(known.nonzero()[:, 0])
        believed = memory.familiar if memory.trust is None else memory.trust
        if believed is not None:
            degrees = [degree for heard, degree in zip(batch, believed.tolist(), strict=True) if heard.mouths is not None]
            self.n_looked_at += len(degrees)
            self.n_strange += degrees.count(0.0)
        asked = self.options
        fallbacks = tuple(t for t in decode.DecodeOptions().temperatures if t > asked.temperature)
        texts = self.recogniser.decode(memory, self.recogniser.search_options(
            beam_size=asked.beam_size, ctc_weight=asked.ctc_weight, lm=asked.lm, lm_weight=asked.lm_weight,
            temperatures=(asked.temperature, *fallbacks)), self.language)
        words = self.recogniser.align(memory, [text.tokens for text in texts], [heard.segment.duration_s for heard in batch],
                                      self.language)
        return [segment for heard, text, timed in zip(batch, texts, words, strict=True)
                for segment in self._segments(heard.segment, text, timed)]

    @torch.inference_mode()
    def _believed(self, heard: Window) -> tuple[Window, ...]:
        """The piece; but if it was widened, and its lips are not seen or not believed, what it was without that."""
        if heard.unextended is None:
            return (heard,)
        if why_unreadable(heard.mouths, self.options.max_missing) is not None:
            return heard.unextended
        if self.checkpoint.model.doubts and self._encode([heard]).trust.item() < MIN_RELIABILITY:
            return heard.unextended
        return (heard,)

    def _seen(self, heard: Window) -> Window:
        """Without its mouths if too few of them show a face, or one that moves; counts."""
        self.n_pieces += 1
        n_frames = heard.segment.end_frame - heard.segment.start_frame
        self.n_frames += n_frames
        self.n_missing += n_frames if heard.mouths is None else int(heard.mouths.missing.sum())
        why = why_unreadable(heard.mouths, self.options.max_missing)
        self.n_blind += why == "missing"
        self.n_still += why == "still"
        return heard if why is None else replace(heard, mouths=None)

    def _worth(self, heard: Window) -> bool:
        if self.needs_lips and heard.mouths is None:
            return False
        if self.modality == "v":
            return True
        # Whisper writes "you" where there is nothing to hear.
        return (heard.audio is not None and len(heard.audio) >= MIN_SAMPLES
                and (self.needs_lips or not is_silent(heard.audio)))

    def _encode(self, batch: Sequence[Window]) -> Memory:
        return self.recogniser.encode([heard.audio for heard in batch] if "a" in self.modality else None,
                                      [heard.mouths for heard in batch], self.modality,
                                      seconds=[heard.segment.duration_s for heard in batch])

    def _segments(self, piece: SpeechSegment, text: decode.Hypothesis, timed: Sequence[transcript.Word]) -> Iterator[Segment]:
        tokenizer = self.checkpoint.tokenizer
        spelt = iter(tokenizer.words(list(text.tokens), self.language))
        for group in transcript.segment([_at(word, piece) for word in timed]):
            tokens = tuple(token for word in islice(spelt, len(group)) for token in word.tokens)
            said = "".join(word.text for word in group).strip()
            if said:
                yield Segment(
                    said, group[0].start, group[-1].end, tuple(group), text.avg_logprob,
                    decode.compression_ratio(tokenizer.decode(text.tokens)), text.no_speech_prob, text.temperature, tokens,
                    float(np.mean([word.confidence for word in group])), round(piece.start_s * FEATURE_RATE))

    def verdict(self, modality: str, reason: str) -> tuple[str, str, list[str]]:
        """The modality really used, why, and what the user should know. Raises NoFace when sight was all there was."""
        problems = []
        if self.n_blind and "v" in modality:
            limit = f"limit {self.options.max_missing:.0%}"
            share = f"no face in {self.n_missing} of {self.n_frames} frames ({limit})"
            if self.n_blind == self.n_pieces and self.needs_lips:
                other = ("Use --modality a to go by sound alone, or " if "a" in self.checkpoint.modalities else
                         "Use a model that hears, or ") if self.has_sound_track else "There is no sound to go by; use "
                raise NoFace(f"{self.name}: {share}.  {other}--max-missing "
                             f"{min(1, self.n_missing / self.n_frames + 0.01):.2f} to keep it.")
            kind = "left out" if self.needs_lips else "taken by sound alone"
            problems.append(f"{self.name}: {share}: {self.n_blind} of {counted(self.n_pieces, 'piece')} {kind}.")
            if self.n_blind == self.n_pieces:
                return "a", f"no face in {self.n_missing} of {self.n_frames} frames", problems
        if self.n_still:
            problems.append(self._told_still())
            if self.n_still + self.n_blind == self.n_pieces and not self.needs_lips:
                return "a", "the mouth in the picture does not move", problems
        if self.n_unknown_lips:
            problems.append(f"{self.name}: there is nothing to hear in it, and in {self.n_unknown_lips} of "
                            f"{counted(self.n_pieces, 'piece')} the lips are not like those this model learnt from, so nothing "
                            "was written of them.  Use --modality v to have them read all the same.")
        elif self.n_strange and modality == "v":
            problems.append(f"{self.name}: the mouth in {self.n_strange} of {counted(self.n_looked_at, 'piece')} is like none "
                            "this model learnt from: what it reads there means little.  Use --modality av if there is sound.")
        elif self.n_strange and self.n_strange == self.n_looked_at:
            return "a", "the lips were not believed: strange to the model, unreadable, or not of this sound", problems
        return modality, reason, problems

    def _told_still(self) -> str:
        """What the user should know of mouths that do not move."""
        where = (f"{self.name}: in {self.n_still} of {counted(self.n_pieces, 'piece')} the mouth does not move, as in a "
                 "photograph, a frozen picture or under a mask")
        if not self.needs_lips:
            return f"{where}: they were taken by sound alone."
        by_sound = self.has_sound_track and "a" in self.checkpoint.modalities and not self.known_lips_only
        other = "--modality a to go by its sound, or " if by_sound else ""
        return f"{where}: nothing was written of them.  Use {other}--max-missing 1 to have it read all the same."


def _at(word: transcript.Word, piece: SpeechSegment) -> transcript.Word:
    """The word on the recording's clock."""
    end = min(word.end, piece.duration_s)
    return replace(word, start=round(piece.start_s + min(word.start, end), 3), end=round(piece.start_s + end, 3))
