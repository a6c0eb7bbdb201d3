"""`Recogniser`: the one way to use a model. Transcription, validation, benchmarks and explanations all go through it.

    audio (S,) float32 + mouths (T, 96, 96) uint8 of B utterances -> encode -> Memory -> decode -> Hypothesis
                                                                             Memory -> align  -> Words with times
                                                                             Memory -> score  -> log-probabilities of texts
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from avsr import decode, timing
from avsr.arrays import Array, like, log_softmax, repeat, to_numpy
from avsr.checkpoint import Checkpoint
from avsr.decode import HELPS, DecodeOptions, Hypothesis
from avsr.errors import BadCheckpoint, listed
from avsr.features import features
from avsr.lips import centre
from avsr.memory import Memory
from avsr.rates import FEATURE_RATE, MOUTH_INPUT, SAMPLE_RATE, VIDEO_FPS, frames_to_seconds
from avsr.schema import InvalidValue, validate_table
from avsr.text.tokenizers import WordTokens
from avsr.transcript import Word

if TYPE_CHECKING:
    import torch

    from avsr.batch import Batch  # only training needs what it imports
    from avsr.models.protocol import SearchCache

MIN_SAMPLES = SAMPLE_RATE // 10                             # less than 0.1 s of sound holds no speech
# The largest Memory.ood_distance at which a recording without sound is transcribed although nobody asked for lip reading. The
# largest of 55 validation clips is 1.02. Test clips did not decide it: of 75 clips of the best known speaker one is above
# (1.19); the smallest of 9 GRID clips of three people whom the model never saw is 1.38, of 12 other recordings 2.62.
MAX_OOD_DISTANCE = 1.1


class MouthCrops(Protocol):
    """The mouth of an utterance, a lips.Mouths or a cache.Cached."""

    @property
    def images(self) -> np.ndarray:
        """(T, 96, 96) uint8 grey."""
        ...

    @property
    def missing(self) -> np.ndarray:
        """(T,) bool, whether no face was found in a frame."""
        ...


@dataclass(frozen=True)
class EncodedAudio:
    """What the lower audio blocks, which no video reaches, make of B utterances; made once for several videos or modalities.

    states: (B, S, D) as `model.encode_audio` returns them. lengths: (B,) feature columns that count, None where all of them do.
    seconds: how long each utterance is.
    """

    states: Array
    lengths: Array | None
    seconds: tuple[float, ...]

    def expand(self, n: int) -> EncodedAudio:
        """The only utterance, n times: one sound for n videos."""
        return EncodedAudio(repeat(self.states, n), None if self.lengths is None else repeat(self.lengths, n),
                            self.seconds * n)


Audio = Sequence[np.ndarray] | EncodedAudio
Video = Sequence[MouthCrops | None]


def batch_audio(audio: Sequence[np.ndarray], n_mels: int, pad_seconds: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Sounds (S,) each -> log-mel (B, columns, n_mels) float32, or for n_mels 0 waveforms (B, samples, 1), and lengths (B,),
    None where all are `pad_seconds` long.

    Short sounds are padded with features of 0 (a power of 1e-4 in every band), as faster-whisper does, not
    with digital silence, as openai/whisper does: that made tiny.en stop early, and gave 30.2 instead of 27.7 % WER on
    GRID's validation clips.
    """
    mels = [features(_without_trailing_zeros(one), n_mels) for one in audio]
    n_columns = max(map(len, mels)) if pad_seconds is None else pad_seconds * FEATURE_RATE
    batch = np.zeros((len(mels), n_columns, mels[0].shape[1]), np.float32)
    for row, mel in zip(batch, mels, strict=True):
        row[:len(mel)] = mel[:n_columns]
    return batch, np.array([len(mel) for mel in mels]) if pad_seconds is None else None


def _without_trailing_zeros(audio: np.ndarray) -> np.ndarray:
    """The zeros that fill the last video frame would make the sound of a video another than the same sound alone: 3 of 32
    words of a song changed."""
    n_samples = np.flatnonzero(audio)[-1] + 1 if audio.any() else 0
    return audio[:n_samples] if n_samples >= MIN_SAMPLES else audio


def batch_video(mouths: Video) -> tuple[np.ndarray, np.ndarray]:
    """Mouths of B utterances -> (B, T, 88, 88) float32 in [0, 1], the centre of each crop, and seen (B, T) bool."""
    n_frames = max(len(one.images) for one in mouths if one is not None)
    seen = np.zeros((len(mouths), n_frames), bool)
    images = np.zeros((len(mouths), n_frames, MOUTH_INPUT, MOUTH_INPUT), np.float32)
    for i, one in enumerate(mouths):
        if one is not None:
            images[i, :len(one.images)] = centre(one.images).astype(np.float32) / 255
            seen[i, :len(one.images)] = ~one.missing
    return images, seen


class Recogniser:
    """A model in use, by torch on the device and in the precision of its weights, or by ONNX Runtime. Gradients are the
    caller's to switch off."""

    def __init__(self, checkpoint: Checkpoint, *, task: str = "transcribe", previous: Sequence[int] = ()):
        """task, previous: what the model is told before it writes, see Tokenizer.prompt."""
        self.checkpoint, self.model, self.tokenizer = checkpoint, checkpoint.model, checkpoint.tokenizer
        self.task, self.previous = task, tuple(previous)

    @property
    def device(self) -> torch.device:
        """Where the model runs; a runtime.Processor for an export."""
        return self.model.device

    @property
    def estimates_reliability(self) -> bool:
        """Whether its memories say how reliable the video is."""
        return self.model.reliability is not None

    def encode(self, audio: Audio | None, video: Video | None, modality: str, *,
               seconds: Sequence[float] | None = None) -> Memory:
        """The memory of B utterances by a modality, `none`, `a`, `v` or `av`, which says what of the input is used.

        audio: (S,) float32 each, or what `encode_audio` made of them. video: mouths, None where an utterance has no face.
        By `none`, and by `v` where no utterance has a face, the memory is empty: one position that is masked.
        seconds: how long each utterance is, where that is not the length of its audio, or else of its video.
        """
        memory = self._encode(audio, video, modality)
        durations = _durations(audio, video) if seconds is None else list(seconds)
        return replace(memory, seconds=like(memory.states, np.array(durations, np.float32)))

    def _encode(self, audio: Audio | None, video: Video | None, modality: str) -> Memory:
        mouths = seen = None
        if "v" in modality and video is not None and any(one is not None for one in video):
            mouths, seen = self.batch_video(video)
        if "a" in modality:
            assert audio is not None, modality
            audio = self.encode_audio(audio)
            return self.model.encode(None, mouths, mel_lengths=audio.lengths, seen=seen, audio_states=audio.states)
        if mouths is not None:
            return self.model.encode(None, mouths, seen=seen)
        n_utterances = len(_durations(audio, video))
        nothing = np.zeros((n_utterances, 1, self.model.dims.width), np.float32)
        return Memory(self.model.array(nothing), None, self.model.array(np.zeros((n_utterances, 1), bool)))

    def encode_audio(self, audio: Audio) -> EncodedAudio:
        """The part of `encode` that no video reaches, for callers who encode the same audio several times."""
        if isinstance(audio, EncodedAudio):
            return audio
        mel, lengths = batch_audio(audio, self.model.dims.n_mels, self.checkpoint.pad_seconds)
        lengths = None if lengths is None else self.model.array(lengths)
        states = self.model.encode_audio(self.model.array(mel), lengths)
        return EncodedAudio(states, lengths, tuple(_durations(audio, None)))

    def batch_video(self, video: Video) -> tuple[Array, Array]:
        """As the function of that name, on the model's device and in its precision."""
        images, seen = batch_video(video)
        return self.model.array(images), self.model.array(seen)

    def no_gradients(self) -> AbstractContextManager:
        """A context in which no gradients are kept, for those who use the model and do not train it."""
        return self.model.no_gradients()

    def encode_batch(self, batch: Batch) -> Memory:
        """The memory of a batch of training or validation examples, by torch."""
        batch = batch.to(self.device)
        mouths = None if batch.mouths is None else batch.mouths.float() / 255
        memory = self.model.encode(batch.mel, mouths, mel_lengths=batch.mel_lengths, seen=batch.seen)
        return replace(memory, seconds=batch.lengths / VIDEO_FPS)

    def decode(self, memory: Memory, options: DecodeOptions | None = None, language: str = "en") -> list[Hypothesis]:
        """The text of each utterance. options: those of `search_options` if None. language: see Checkpoint.languages."""
        return decode.decode(self.model, self.tokenizer, memory, self._prompts(memory.n_utterances, language),
                             suppress=self.checkpoint.suppress, suppress_begin=self.checkpoint.suppress_begin,
                             options=self.search_options() if options is None else options)

    def nbest(self, memory: Memory, options: DecodeOptions | None = None, language: str = "en", *,
              cache: SearchCache | None = None) -> list[list[Hypothesis]]:
        """The texts that one search finds for each utterance, the best first; see decode.nbest. options, language: as in
        `decode`."""
        return decode.nbest(self.model, self.tokenizer, memory, self._prompts(memory.n_utterances, language),
                            suppress=self.checkpoint.suppress, suppress_begin=self.checkpoint.suppress_begin,
                            options=self.search_options() if options is None else options, cache=cache)

    def search_options(self, **asked: object) -> DecodeOptions:
        """DecodeOptions with the fields that are asked for; where one is None or absent, what the model wants, or else the
        default. Raises BadCheckpoint where the model wants something unknown."""
        remedy, name, wanted = "Install a newer avsr, or import the model again.", self.checkpoint.name, self.checkpoint.search
        if unknown := sorted(wanted.keys() - {field.name for field in fields(DecodeOptions) if field.name not in HELPS}):
            raise BadCheckpoint(f"{name}: its search settings {listed(unknown)} are not known here.  {remedy}")
        try:
            wanted = validate_table(DecodeOptions, wanted, "search.")
        except InvalidValue as error:
            raise BadCheckpoint(f"{name}: {error}.  {remedy}") from error
        return DecodeOptions(**{**wanted, **{name: value for name, value in asked.items() if value is not None}})

    def align(self, memory: Memory, texts: Sequence[Sequence[int]], seconds: Sequence[float],
              language: str = "en") -> list[list[Word]]:
        """The words of texts, given as tokens, with their times; see timing.align. seconds: how long each utterance is."""
        return timing.align(self.model, self.tokenizer, memory, self._prompts(len(texts), language), texts, seconds,
                            language=self.written_language(language), heads=self.checkpoint.alignment_heads)

    def words(self, tokens: Sequence[int], language: str = "en") -> list[WordTokens]:
        """The words of a text, one for each that `align` gives a time."""
        return self.tokenizer.words(list(tokens), self.written_language(language))

    def written_language(self, language: str) -> str:
        """The language of the text, where `language` is spoken: a translation is English."""
        return "en" if self.task == "translate" else language

    def score(self, memory: Memory, texts: Sequence[Sequence[int]], language: str = "en") -> list[Array]:
        """The log-probability of each token of given texts and of their end; see decode.token_log_probs."""
        return decode.token_log_probs(self.model, self.tokenizer, memory, self._prompts(len(texts), language), texts)

    def detect_language(self, memory: Memory) -> str:
        """The language most of these utterances seem to be in: Whisper's first token after the start, summed over them."""
        start = like(memory.states, np.full((memory.n_utterances, 1), self.tokenizer.start))
        scores = to_numpy(log_softmax(self.model.step(start, self.model.start(memory)))).sum(axis=0)
        return max(self.tokenizer.languages, key=lambda name: scores[self.tokenizer.languages[name]])

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Tokens as text."""
        return self.tokenizer.decode(tokens).strip()

    def _prompts(self, n: int, language: str) -> list[list[int]]:
        return [self.tokenizer.prompt(language, task=self.task, previous=self.previous)] * n


def _durations(audio: Audio | None, video: Video | None) -> list[float]:
    """Seconds of each utterance; 0 where it has neither audio nor video."""
    if isinstance(audio, EncodedAudio):
        return list(audio.seconds)
    if audio is not None:
        return [len(one) / SAMPLE_RATE for one in audio]
    assert video is not None, "neither audio nor video"
    return [0.0 if one is None else frames_to_seconds(len(one.images)) for one in video]


def in_distribution(memory: Memory) -> Array:
    """(B,) bool: whose mouths are so like those of the training data that text is written from them alone."""
    assert memory.ood_distance is not None, "this model has no out-of-distribution detector"
    return memory.ood_distance <= MAX_OOD_DISTANCE
