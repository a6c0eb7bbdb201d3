"""The classical recogniser in the benchmark: "hmm:FOLDER" is measured by sound, by lips and by both, as our models are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsr.benchmark.baselines import file_sha256
from avsr.benchmark.systems import Recognition, Request, Result
from avsr.cache import read_mouth_crop
from avsr.errors import AvsrError
from avsr.hmm.model import WEIGHTS
from avsr.hmm.recogniser import WordRecogniser

HMM_PREFIX = "hmm:"


@dataclass
class HmmSystem:
    """A recogniser of experiments/history/hmm as a System. Use `open_hmm` to make one."""

    recogniser: WordRecogniser
    name: str
    facts: dict[str, Any]
    about: dict[str, Any]
    modalities: tuple[str, ...]
    n_parallel_batches: int = 1
    device: str = "cpu"

    def recognise(self, audio: Sequence[np.ndarray], references: Sequence[str], requests: Sequence[Request]) -> list[Result]:
        """See System."""
        out = []
        for request in requests:
            start = time.perf_counter()
            texts = [self.recogniser.recognise(*pair, request.modality) for pair in zip(audio, request.mouths, strict=True)]
            out.append(Result([Recognition(text) for text in texts], time.perf_counter() - start))
        return out


def open_hmm(spec: str, modalities: Sequence[str], base: Path) -> HmmSystem:
    """The recogniser in the folder that "hmm:FOLDER" names. base: the folder of the manifest, whose mouths must be cropped as
    those that taught it. Raises AvsrError, BadCheckpoint, BadManifest."""
    folder = Path(spec.removeprefix(HMM_PREFIX))
    if not spec.removeprefix(HMM_PREFIX):
        raise AvsrError(f"{spec}: no folder after the colon.  Give hmm:FOLDER, as experiments/history/hmm/train.py wrote it.")
    recogniser = WordRecogniser.open(folder)
    if any("v" in one for one in modalities):
        read_mouth_crop(base, recogniser.mouth_crop)
    facts = {"sha256": file_sha256(folder / WEIGHTS), "search": "viterbi, grammar"}
    about = {"model": str(folder), "parameters": recogniser.model.n_parameters(), "device": "cpu", "threads": 1}
    name = f"hmm:{folder.resolve().name}"
    return HmmSystem(recogniser, name, facts, about, tuple(one for one in ("a", "v", "av") if one in modalities))
