"""Manifests: what was said where, as JSON Lines with one `Utterance` per line.

    corpora/ -> Corpus(utterances, dropped) -> manifest.jsonl -> prepare/ (adds cache entries) -> dataset.py
Text stays text: there are no token ids and no corpus names. rows.py reads and writes lines and assigns splits; checks.py finds
what may be wrong with an utterance although its line is well formed.
"""

from avsr.manifest.checks import (
    Limits,
    Problem,
    check,
    check_all,
    check_speakers,
    content_hash,
    step_curve,
    write_dropped,
    write_problems,
)
from avsr.manifest.rows import (
    CacheEntry,
    Corpus,
    Dropped,
    TimedWord,
    Utterance,
    draw_valid,
    is_within_folder,
    manifest_path,
    read,
    shuffled,
    split,
    write,
)

__all__ = ["CacheEntry", "Corpus", "Dropped", "Limits", "Problem", "TimedWord", "Utterance", "check", "check_all",
           "check_speakers", "content_hash", "draw_valid", "is_within_folder", "manifest_path", "read",
           "shuffled", "split", "step_curve", "write", "write_dropped", "write_problems"]
