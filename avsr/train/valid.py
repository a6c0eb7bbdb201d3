"""Validation: WER per modality on a fixed set, half of it clean, half in noise at one level; never the test set.

    network + rows -> WER in percent by modality
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch

from avsr.batch import collate
from avsr.checkpoint import Checkpoint
from avsr.dataset import Examples, ExampleSpec, ManifestRow
from avsr.decode import DecodeOptions
from avsr.errors import BadManifest
from avsr.metrics import NOTHING, word_errors
from avsr.names import MODALITY_NAMES
from avsr.recogniser import Recogniser
from avsr.runtime import Progress, no_progress
from avsr.text import normalise

SNR_DB = 0.0                                                # of every second utterance
AT_ONCE = 16                                                # utterances
GREEDY = DecodeOptions(beam_size=1, temperatures=(0.0,), compression_ratio_threshold=None, logprob_threshold=None,
                       no_speech_threshold=None)


class Validation:
    """Computes the WER on the same sounds, noise and mouths each time."""

    def __init__(self, rows: Sequence[ManifestRow], examples: Examples, modalities: Sequence[str]):
        """A row counts for the modalities it has. Raises BadManifest for a modality for which no row has a text with a word."""
        self.examples = examples
        self.rows = {modality: [(number, row) for number, row in enumerate(rows)
                                if set(modality) <= set(row.cache.modality)] for modality in modalities}
        for modality, some in self.rows.items():
            if not any(normalise(row.utterance.text) for _, row in some):
                raise BadManifest(f"validation: {len(some)} of {len(rows)} utterances can be used for modality {modality}, and "
                                  "none of them has a word.  Add some to split 'valid', or set data.p_audio_visual and "
                                  "data.p_audio such that it is not trained.")

    @torch.inference_mode()
    def __call__(self, checkpoint: Checkpoint, progress: Progress = no_progress) -> dict[str, float]:
        """WER in percent by modality, with greedy search."""
        model, was_training, recogniser = checkpoint.model, checkpoint.model.training, Recogniser(checkpoint)
        model.eval()
        scores = {}
        for modality, rows in self.rows.items():
            errors = NOTHING
            for first in range(0, len(rows), AT_ONCE):
                progress(f"validating by {MODALITY_NAMES[modality].long}", first, len(rows), "utterances")
                some = rows[first:first + AT_ONCE]
                for (_, row), text in zip(some, self._transcribe(recogniser, some, modality), strict=True):
                    errors += word_errors(normalise(row.utterance.text), normalise(text))
            assert errors.percent is not None, "checked when the rows were chosen"
            scores[modality] = round(errors.percent, 3)
        model.train(was_training)
        return scores

    def _transcribe(self, recogniser: Recogniser, rows: Sequence[tuple[int, ManifestRow]], modality: str) -> list[str]:
        made = []
        for number, row in rows:
            spec = ExampleSpec(modality, snr_db=SNR_DB if number % 2 else None, varied=False)
            made.append(self.examples.make(row, spec, np.random.default_rng(zlib.crc32(row.utterance.id.encode()))))
        tokenizer = recogniser.tokenizer
        batch = collate(made, tokenizer.prompt(None), tokenizer.end, recogniser.checkpoint.pad_columns)
        return [recogniser.detokenize(found.tokens) for found in recogniser.decode(recogniser.encode_batch(batch), GREEDY)]
