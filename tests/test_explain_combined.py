"""The page about the sound by one model and the lips by another: its numbers are those by which the text was chosen."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avsr.checkpoint import Checkpoint, load
from avsr.errors import BadMedia
from avsr.explain import explain
from avsr.explain.combined import frame_entropy
from avsr.media import Clip
from avsr.models.avsr import AVSR
from avsr.text import normalise

HELLO = Path(__file__).resolve().parents[1] / "data" / "demo" / "hello.mp4"
SENTENCE = "bin blue at f four please"


@pytest.fixture(scope="module")
def grid() -> Checkpoint:
    return load("grid")


def numbers(page: Path) -> dict:
    return json.loads((page.parent / "explain.json").read_text())


def test_the_entropy_of_what_is_certain_is_0_and_of_what_is_open_the_logarithm_of_the_choices():
    sure, open_ = np.array([0.0, -100.0, -100.0]), np.full(3, -math.log(3))
    assert frame_entropy(np.stack([sure, open_])) == pytest.approx([0.0, math.log(3)])


@pytest.mark.slow
def test_the_chosen_text_is_the_best_of_the_candidates_by_the_scores_on_the_page(tiny_en, grid, real_data, tmp_path):
    clip = real_data / "grid" / "s1" / "bbaf4p.mkv"
    page = explain(clip, model=tiny_en, lips=grid, output=tmp_path, reference=SENTENCE, end=2.4,
                   command="avsr explain 'a & b'")
    found, text = numbers(page), page.read_text()
    assert set(found["outputs"]) == {"a", "v", "av"}
    assert found["outputs"]["v"]["errors"] == 0             # it knows this speaker
    evidence, texts = found["evidence"], found["candidates"]
    assert evidence["share"] == pytest.approx(evidence["weight"] / (1 + evidence["weight"]), abs=1e-4)
    totals = [one["total"] for one in texts if one["total"] is not None]
    assert totals == sorted(totals, reverse=True)
    for one in texts:
        if one["total"] is not None:
            assert one["total"] == pytest.approx(one["sound"] + evidence["weight"] * one["lips"], abs=1e-3)
    assert [one["chosen"] for one in texts] == [True] + [False] * (len(texts) - 1)
    assert texts[0]["text"] == normalise(found["outputs"]["av"]["text"])
    assert [one["said"] for one in texts] == [one["text"] == SENTENCE for one in texts]
    assert " ".join(one["text"] for one in found["words"]) == found["outputs"]["av"]["text"]
    for word in found["words"]:
        assert word["start"] == word[word["timed_by"]]["start"]
        assert word["confidence"] == max(word["sound"]["confidence"], word["lips"]["confidence"])
    assert np.mean(found["ctc"]["entropy"]) == pytest.approx(evidence["entropy"], abs=1e-4)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 50
    assert {"written", "evidence", "candidates", "words", "audio", "video", "lips-caption", "made"} <= set(ids)
    assert "http" not in re.sub(r'"data:[^"]*"', "", text)
    assert "a &amp; b" in text


@pytest.mark.slow
def test_lips_that_say_nothing_are_said_not_to_count(tiny_en, grid, tmp_path):
    torch.manual_seed(0)
    blind = replace(grid, name="random", model=AVSR(grid.model.dims).eval().requires_grad_(False))
    page = explain(HELLO, model=tiny_en, lips=blind, output=tmp_path, start=0.4, end=1.0)
    found = numbers(page)
    assert (found["evidence"], found["candidates"], found["video"]) == (None, [], True)
    assert found["outputs"]["av"] == found["outputs"]["a"]
    assert all(word["timed_by"] == "sound" and word["lips"] is None for word in found["words"])
    assert "The lips did not count: random is so unsure of these lips that their reliability is 0." in page.read_text()


def test_sound_is_needed(tiny_en, grid, tmp_path):
    picture = np.zeros((10, 48, 48, 3), np.uint8)
    with pytest.raises(BadMedia, match="no sound in it"):
        explain(Clip(picture, np.ones(10, bool)), model=tiny_en, lips=grid, output=tmp_path)
