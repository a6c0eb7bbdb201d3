"""Manifests: what was said where, as JSON Lines, one `Utterance` a line; read, write, split, validate.

    corpora/ -> Corpus(utterances, dropped) -> manifest.jsonl -> prepare.py (adds cache entries) -> dataset.py
Text stays text: no token ids, no corpus names. rows.py holds what a line is,
checks.py everything that may be wrong with an utterance though its line is well formed.
"""

from avsr.manifest.checks import (
    Limits,
    Problem,
    check,
    check_all,
    check_speakers,
    content_hash,
    read_problems,
    step_curve,
    validate,
    write_dropped,
    write_problems,
)
from avsr.manifest.rows import (
    CacheEntry,
    Corpus,
    Dropped,
    TimedWord,
    Utterance,
    append,
    draw_valid,
    is_within_folder,
    manifest_path,
    read,
    shuffled,
    split,
    write,
)
from avsr.sync import correlations, energy, lag, mouth_opening

__all__ = [
    "CacheEntry",
    "Corpus",
    "Dropped",
    "Limits",
    "Problem",
    "TimedWord",
    "Utterance",
    "append",
    "check",
    "check_all",
    "check_speakers",
    "content_hash",
    "correlations",
    "draw_valid",
    "energy",
    "is_within_folder",
    "lag",
    "manifest_path",
    "mouth_opening",
    "read",
    "read_problems",
    "shuffled",
    "split",
    "step_curve",
    "validate",
    "write",
    "write_dropped",
    "write_problems",
]
