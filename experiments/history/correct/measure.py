"""What correction changes, measured on the lists of a benchmark's noise: the recogniser runs once for both texts.

    uv run python experiments/history/correct/measure.py collect data/grid/story.jsonl OUT.jsonl
    uv run python experiments/history/correct/measure.py score runs/correct/model OUT.jsonl
`collect` writes n-best lists of tiny.en with the lips of grid, in the babble that `avsr benchmark` makes for this manifest.
`score` prints WER with intervals over speakers, for the pair and for each of the two alone, before and after.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from avsr import noise
from avsr.cache import read_entry
from avsr.checkpoint import load
from avsr.combine import combine
from avsr.combine.recogniser import CombinedRecogniser
from avsr.correct import open_corrector
from avsr.correct.data import systems
from avsr.correct.lists import LabelledLists, line_of, read_file, read_lists
from avsr.corrupt import Mouth
from avsr.dataset import read_prepared, recordings_by_speaker, sound_of
from avsr.metrics import wer
from avsr.output import append_lines
from avsr.results import ResultRow
from avsr.text import normalise

SNRS = (None, 0.0, -10.0, 10.0)
AT_ONCE = 4


@torch.inference_mode()
def collect(manifest: Path, out: Path) -> None:
    """The lists of every clip in each noise; goes on where it was stopped."""
    rows = sorted(read_prepared([manifest], "test", 30)[0], key=lambda row: row.utterance.id)
    families = noise.open_families(("babble",), config=None, given={}, own=recordings_by_speaker(rows)[0])
    speech = [noise.TargetSpeech(row.utterance.id, row.utterance.speaker, partial(sound_of, row)) for row in rows]
    babble = noise.NoiseManifest.open(out.with_suffix(".noise.jsonl"), families, speech, level="active")
    recogniser = CombinedRecogniser(combine(load("tiny.en", lips=False), load("grid")))
    search = recogniser.search_options(temperatures=(0.0,))
    tasks = [(snr, row) for snr in SNRS for row in rows]
    tasks = tasks[len(read_file(out)) if out.exists() else 0:]
    for first in range(0, len(tasks), AT_ONCE):
        some = tasks[first:first + AT_ONCE]
        cached = [read_entry(row.base, row.cache) for _, row in some]
        audio = [sound if snr is None else babble.mix(row.utterance.id, "babble", snr, sound).audio
                 for (snr, row), one in zip(some, cached, strict=True) if (sound := one.audio) is not None]
        mouths = [Mouth(one.images, one.missing) for one in cached if one.images is not None and one.missing is not None]
        assert len(audio) == len(mouths) == len(some), "every clip has sound and mouths"
        memory = recogniser.encode(audio, mouths, "av")
        found = read_lists(recogniser, memory, "av", search)
        lines = [line_of(LabelledLists(row.utterance.id, normalise(row.utterance.text),
                                       normalise(recogniser.detokenize(one.own.tokens)), one.lists,
                                       None if snr is None else "babble", snr))
                 for (snr, row), one in zip(some, found, strict=True)]
        append_lines(out, "".join(f"{line}\n" for line in lines))


def score(model: Path, lists: Path) -> None:
    """Print a table."""
    corrector, rows = open_corrector(model), {}
    for one in read_file(lists):
        for system, (found, own) in systems(one).items():
            (correction,) = corrector.correct([found], [own])
            texts = {"own": own, "corrected": correction.text if correction.used else own, "unguarded": correction.text}
            for name, text in texts.items():
                row = ResultRow(system=system, modality="av", id=one.id, speaker=one.id.split("_")[0], reference=one.reference,
                                hypothesis=text, noise=one.noise, snr_db=one.snr_db)
                rows.setdefault((system, one.snr_db, name), []).append(row)
    for (system, snr, name), some in sorted(rows.items(), key=str):
        found = wer(some, rng=np.random.default_rng(0))
        print(f"{system:8} {'clean' if snr is None else f'{snr:g} dB':7} {name:10} {found.percent:5.1f} ({found.low:.1f} to "
              f"{found.high:.1f}), {len(some)} clips")


{"collect": collect, "score": score}[sys.argv[1]](*map(Path, sys.argv[2:]))
