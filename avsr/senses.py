"""What a model makes of an utterance by neither sense, by sound, by sight and by both: the four cases that tell them apart.

    sounds (S,) float32 + mouths (T, 96, 96) uint8 of B utterances -> Memory by modality -> texts, log-probabilities
The same preparation of sound and mouths serves `transcribe`, `benchmark` and `explain`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from avsr.checkpoint import Checkpoint
from avsr.decode import DecodeOptions, Hypothesis, decode, given_log_probs
from avsr.errors import BadCheckpoint
from avsr.features import features
from avsr.models.decoder import Memory
from avsr.models.weights import listed
from avsr.rates import FEATURE_RATE, MOUTH_INPUT, SAMPLE_RATE, frames_to_seconds
from avsr.results import MODALITIES
from avsr.schema import Misfit, fit_table

LEAST_SAMPLES = SAMPLE_RATE // 10                           # less sound than 0.1 s is no speech
# Largest Memory.ood_distance at which text is written from lips alone though nobody asked for it. Of 55 validation clips the
# largest is 1.02. Reported, not chosen by: of 75 test clips of the best known speaker one is above (1.19); of 9 GRID clips of
# three people whom the model never saw the smallest is 1.38, of 12 other recordings 2.62.
MAX_OOD_DISTANCE = 1.1


class Mouth(Protocol):
    """What is seen of an utterance: images (T, 96, 96) uint8 grey, missing (T,) bool. lips.Mouths and cache.Cached are."""

    images: np.ndarray
    missing: np.ndarray


def hear(audio: Sequence[np.ndarray], n_mels: int, pad_seconds: int | None) -> tuple[Tensor, Tensor | None]:
    """Sounds (S,) each -> log-mel (B, columns, n_mels) float32, or for n_mels 0 waveforms (B, samples, 1), and lengths (B,),
    None where all are `pad_seconds` long.

    Short sounds are filled up with features of 0 (a power of 1e-4 in every band), as faster-whisper does, not
    with digital silence, as openai/whisper does: that made tiny.en stop early, and gave 30.2 instead of 27.7 % WER on
    GRID's validation clips.
    """
    audio = [_ended(one) for one in audio]
    mels = [features(one, n_mels) for one in audio]
    if pad_seconds is not None:
        n_columns = pad_seconds * FEATURE_RATE
        filled = [torch.nn.functional.pad(mel[:n_columns], (0, 0, 0, max(0, n_columns - len(mel)))) for mel in mels]
        return torch.stack(filled), None
    lengths = torch.tensor([len(mel) for mel in mels])
    return torch.nn.utils.rnn.pad_sequence(mels, batch_first=True), lengths


def _ended(audio: np.ndarray) -> np.ndarray:
    """Without the zeros at its end: those that fill the last video frame would make a sound with pictures another than the
    same sound without (3 of 32 words of a song)."""
    n_samples = np.flatnonzero(audio)[-1] + 1 if audio.any() else 0
    return audio[:n_samples] if n_samples >= LEAST_SAMPLES else audio


def see(mouths: Sequence[Mouth | None]) -> tuple[Tensor, Tensor]:
    """Mouths of B pieces -> (B, T, 88, 88) float32 in [0, 1], the centre of each crop, and seen (B, T) bool."""
    n_frames = max(len(one.images) for one in mouths if one is not None)
    seen = torch.zeros(len(mouths), n_frames, dtype=torch.bool)
    images = torch.zeros(len(mouths), n_frames, MOUTH_INPUT, MOUTH_INPUT)
    for i, one in enumerate(mouths):
        if one is not None:
            edge = (one.images.shape[1] - MOUTH_INPUT) // 2
            centre = one.images[:, edge:edge + MOUTH_INPUT, edge:edge + MOUTH_INPUT]
            images[i, :len(centre)] = torch.from_numpy(centre.astype(np.float32) / 255)
            seen[i, :len(centre)] = torch.from_numpy(~one.missing)
    return images, seen


class Senses:
    """B utterances before a model's eyes and ears. The ears' lower blocks, which no sight reaches, run once for all.

    sounds: (S,) float32 each, None where nobody will listen.  mouths: likewise; a None among them is no face.
    """

    def __init__(self, checkpoint: Checkpoint, sounds: Sequence[np.ndarray] | None, mouths: Sequence[Mouth | None] | None):
        self.checkpoint, self.sounds, self.mouths = checkpoint, sounds, mouths
        self.first = next(checkpoint.model.parameters())    # of this device and dtype
        self._heard: tuple[Tensor, Tensor | None] | None = None
        self._seen: tuple[Tensor, Tensor] | None = None

    def facing(self, mouths: Sequence[Mouth | None]) -> Senses:
        """The same sounds under other mouths; what was heard is kept."""
        other = Senses(self.checkpoint, self.sounds, mouths)
        other._heard = self._heard
        return other

    def listen(self) -> tuple[Tensor, Tensor | None]:
        """What the ears make of the sounds, as AVSR.encode takes it: heard (B, S, D), lengths (B,) or None."""
        if self._heard is None:
            model = self.checkpoint.model
            mel, lengths = hear(self.sounds, model.dims.n_mels, self.checkpoint.pad_seconds)
            lengths = None if lengths is None else lengths.to(self.first.device)
            self._heard = model.encode_audio(mel.to(self.first), lengths), lengths
        return self._heard

    def look(self) -> tuple[Tensor, Tensor] | None:
        """Mouths (B, T, 88, 88) and where they are seen (B, T); None where none of them has a face."""
        if self._seen is None and self.mouths is not None and any(one is not None for one in self.mouths):
            images, seen = see(self.mouths)
            self._seen = images.to(self.first), seen.to(self.first.device)
        return self._seen

    def memory(self, modality: str) -> Memory:
        """What the model makes of them by a modality. `v` where none of them has a face is what `none` is: nothing."""
        return replace(self._memory(modality), seconds=torch.tensor(self._seconds(), device=self.first.device))

    def _seconds(self) -> list[float]:
        """How long each utterance is; 0 where neither its sound nor its mouth is there."""
        if self.sounds is not None:
            return [len(one) / SAMPLE_RATE for one in self.sounds]
        return [0.0 if one is None else frames_to_seconds(len(one.images)) for one in self.mouths]

    def _memory(self, modality: str) -> Memory:
        model = self.checkpoint.model
        sight = self.look() if "v" in modality else None
        if "a" in modality:
            heard, lengths = self.listen()
            mouths, seen = sight or (None, None)
            return model.encode(None, mouths, mel_lengths=lengths, seen=seen, audio_states=heard)
        if sight is not None:
            return model.encode(None, sight[0], seen=sight[1])
        n_utterances = len(self.mouths if self.sounds is None else self.sounds)
        nothing = torch.zeros(n_utterances, 1, dtype=torch.bool, device=self.first.device)
        return Memory(self.first.new_zeros(n_utterances, 1, model.dims.width), None, nothing)


def memories(checkpoint: Checkpoint, modalities: Iterable[str], sounds: Sequence[np.ndarray] | None,
             mouths: Sequence[Mouth | None] | None) -> dict[str, Memory]:
    """What the model makes of B utterances, by modality; see Senses."""
    senses = Senses(checkpoint, sounds, mouths)
    assert set(modalities) <= set(MODALITIES), modalities
    return {modality: senses.memory(modality) for modality in modalities}


def known_lips(memory: Memory) -> Tensor:
    """(B,) bool: whose lips are so like those the model learnt from that text is written from them alone."""
    return memory.ood_distance <= MAX_OOD_DISTANCE


def how_to_search(checkpoint: Checkpoint, **asked: object) -> DecodeOptions:
    """What is asked for, by names of DecodeOptions' fields; where that is None, or nothing, what the model wants, or else the
    usual. Raises BadCheckpoint where the model wants what is not known."""
    remedy = "Install a newer avsr, or import the model again."
    if strange := sorted(checkpoint.search.keys() - {field.name for field in fields(DecodeOptions) if field.name != "lm"}):
        raise BadCheckpoint(f"{checkpoint.name}: its search settings {listed(strange)} are not known here.  {remedy}")
    try:
        wanted = fit_table(DecodeOptions, checkpoint.search, "search.")
    except Misfit as error:
        raise BadCheckpoint(f"{checkpoint.name}: {error}.  {remedy}") from error
    return DecodeOptions(**{**wanted, **{name: value for name, value in asked.items() if value is not None}})


def recognise(checkpoint: Checkpoint, memory: Memory, options: DecodeOptions, language: str = "en") -> list[Hypothesis]:
    """The text of each utterance, as `transcribe` finds it."""
    prompts = [checkpoint.tokenizer.prompt(language)] * memory.n_utterances
    return decode(checkpoint.model, checkpoint.tokenizer, memory, prompts, suppress=checkpoint.suppress,
                  suppress_begin=checkpoint.suppress_begin, options=options)


def spelt(checkpoint: Checkpoint, hypothesis: Hypothesis) -> str:
    """A hypothesis as text."""
    return checkpoint.tokenizer.decode(hypothesis.tokens).strip()


def token_log_probs(checkpoint: Checkpoint, memory: Memory, texts: Sequence[Sequence[int]],
                    language: str = "en") -> list[Tensor]:
    """Log-probability of each token of given texts and of their end, every token before it given; see given_log_probs."""
    prompt = checkpoint.tokenizer.prompt(language)
    return given_log_probs(checkpoint.model, memory, [prompt] * len(texts), texts, checkpoint.tokenizer.end)
