"""Validation: WER per modality on a fixed set, half of it clean, half in noise at one level; never the test set.

    network + rows -> WER in percent by modality
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from avsr.batch import collate
from avsr.checkpoint import Checkpoint
from avsr.dataset import ExampleSpec, Examples, ManifestRow
from avsr.decode import DecodeOptions, decode
from avsr.errors import BadManifest
from avsr.metrics import NOTHING, word_errors
from avsr.rates import FEATURE_RATE, VIDEO_FPS
from avsr.runtime import Progress, no_progress
from avsr.text import normalise

SNR_DB = 0.0                                                # of every second utterance
AT_ONCE = 16                                                # utterances
SENSES = {"a": "sound", "v": "lips", "av": "sound and lips"}
GREEDY = DecodeOptions(beam_size=1, temperatures=(0.0,), compression_ratio_threshold=None, logprob_threshold=None,
                       no_speech_threshold=None)


class Validation:
    """The same sounds, noise and mouths each time it is asked."""

    def __init__(self, rows: Sequence[ManifestRow], examples: Examples, modalities: Sequence[str]):
        """Rows are asked for the modalities they have. Raises BadManifest where none has one of them, or no text a word."""
        self.examples = examples
        self.rows = {modality: [(number, row) for number, row in enumerate(rows)
                                if set(modality) <= set(row.utterance.cache.modality)] for modality in modalities}
        for modality, some in self.rows.items():
            if not any(normalise(row.utterance.text) for _, row in some):
                raise BadManifest(f"validation: {len(some)} of {len(rows)} utterances can be used for modality {modality}, and "
                                  "none of them has a word.  Add some to split 'valid', or set data.p_audio_visual and data.p_audio "
                                  "such that it is not trained.")

    @torch.inference_mode()
    def __call__(self, checkpoint: Checkpoint, device: torch.device, progress: Progress = no_progress) -> dict[str, float]:
        """WER in percent by modality, of greedy search."""
        model, was_training = checkpoint.model, checkpoint.model.training
        model.eval()
        scores = {}
        for modality, rows in self.rows.items():
            said = []
            for first in range(0, len(rows), AT_ONCE):
                progress(f"validating by {SENSES[modality]}", first, len(rows), "utterances")
                said += self._transcribe(checkpoint, rows[first:first + AT_ONCE], modality, device)
            errors = sum((word_errors(normalise(text["reference"]), normalise(text["hypothesis"])) for text in said), NOTHING)
            scores[modality] = round(errors.percent, 3)
        model.train(was_training)
        return scores

    def _transcribe(self, checkpoint: Checkpoint, rows: Sequence[tuple[int, ManifestRow]], modality: str,
                    device: torch.device) -> list[dict]:
        made = []
        for number, row in rows:
            draw = ExampleSpec(modality, snr_db=SNR_DB if number % 2 else None, varied=False)
            made.append(self.examples.make(row, draw, np.random.default_rng(zlib.crc32(row.utterance.id.encode()))))
        tokenizer = checkpoint.tokenizer
        prompt = tokenizer.prompt(None)
        pad = None if checkpoint.pad_seconds is None else checkpoint.pad_seconds * FEATURE_RATE
        batch = collate(made, prompt, tokenizer.end, pad).to(device)
        mouths = None if batch.mouths is None else batch.mouths.float() / 255
        memory = checkpoint.model.encode(batch.mel, mouths, mel_lengths=batch.mel_lengths, seen=batch.seen)
        memory = replace(memory, seconds=batch.lengths / VIDEO_FPS)
        texts = decode(checkpoint.model, tokenizer, memory, [prompt] * len(rows), suppress=checkpoint.suppress,
                       suppress_begin=checkpoint.suppress_begin, options=GREEDY)
        return [{"reference": row.utterance.text, "hypothesis": tokenizer.decode(text.tokens)}
                for (_, row), text in zip(rows, texts, strict=True)]
