"""Manifests: what was said where, as JSON Lines, one `Utterance` a line.

    corpora/ -> Utterances -> manifest.jsonl -> prepare.py (adds cache entries) -> dataset.py
Text stays text: no token ids, no corpus names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path

from avsr.errors import BadManifest, BadOutput


@dataclass(frozen=True)
class TimedWord:
    """A word and when it was said, in seconds from the start of the utterance."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class CacheEntry:
    """Where an utterance's mouths and sound lie: bytes `offset` to `offset + size` of a shard (a tar file).

    shard: path relative to the manifest. n_frames: video frames; n_samples: sound samples.
    """

    shard: str
    offset: int
    size: int
    n_frames: int
    n_samples: int


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest.

    id: unique in the manifest. media: path of the recording, relative to the manifest (or absolute, or a URL).
    start, end: the part of the recording in seconds, None for its whole. text: as it is to be written.
    words: times of words where they are known. labels: whatever else is known of it (sex, accent, ...), for
    reports by group. cache: None until prepared.
    """

    id: str
    media: str
    text: str
    speaker: str | None = None
    split: str = "train"
    language: str = "en"
    start: float | None = None
    end: float | None = None
    words: tuple[TimedWord, ...] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    cache: CacheEntry | None = None
