"""Mouths that do not speak, from the file to the text: photographs with a voice, and talkers beside them."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avsr import media, prepare, transcribe
from avsr.checkpoint import Checkpoint, load
from avsr.errors import BadMedia
from avsr.explain import video_problems
from avsr.explain.input import ExplainSettings, open_input
from avsr.lips import MouthCropSettings
from avsr.manifest import Utterance
from avsr.prepare import PrepareSettings
from avsr.rates import frames_to_samples
from avsr.recogniser import Recogniser
from avsr.runtime import no_progress
from avsr.stream import StreamReader, StreamSettings, why_unreadable

pytestmark = pytest.mark.slow                            # faces are looked for in all of them

HELLO = Path(__file__).resolve().parents[1] / "data" / "demo" / "hello.mp4"


@pytest.fixture(scope="module")
def grid() -> Checkpoint:
    """The smallest model that hears and reads lips."""
    return load("grid")


@pytest.fixture(scope="module")
def photographed(tmp_path_factory):
    """Two seconds of the demo: its sound with a photograph of the talker, and the talker beside a larger photograph."""
    import cv2

    clip = media.read(HELLO)
    n, side = 50, 224
    talker = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA) for one in clip.video[:n]])
    grain = np.random.default_rng(0).integers(-4, 5, talker.shape)
    still = np.repeat(talker[:1], n, axis=0)
    half, edges = (side // 2, side // 2), (side // 4, side // 4, 0, 0)
    smaller = [cv2.copyMakeBorder(cv2.resize(one, half), *edges, cv2.BORDER_REPLICATE) for one in talker]
    folder, audio = tmp_path_factory.mktemp("photographs"), clip.audio[:frames_to_samples(n)]
    for name, video in (("still", still + grain), ("beside", np.concatenate([still + grain, np.array(smaller)], axis=2))):
        media.write(np.clip(video, 0, 255).astype(np.uint8), folder / f"{name}.mp4", audio=audio)
    return folder


def test_a_mouth_that_never_moves_writes_nothing(grid, photographed):
    heard = transcribe(photographed / "still.mp4", model=grid, beam_size=1)
    assert heard.modality == "a"
    assert heard.text
    assert "the mouth does not move" in heard.problems[0]
    read = transcribe(photographed / "still.mp4", model=grid, modality="v")
    assert read.text == ""
    assert "nothing was written for them.  Use --modality a for its sound alone, or --max-missing 1" in read.problems[0]


def test_who_moves_is_looked_at_and_not_who_is_larger(photographed):
    with media.open_recording(photographed / "beside.mp4") as recording:
        (one,) = StreamReader(recording, MouthCropSettings(), StreamSettings(vad=False))
    assert why_unreadable(one.mouths, 0.25) is None
    with media.open_recording(photographed / "still.mp4") as recording:
        (still,) = StreamReader(recording, MouthCropSettings(), StreamSettings(vad=False))
    assert one.mouths.size.mean() < 0.7 * still.mouths.size.mean()
    assert why_unreadable(still.mouths, 0.25) == "still"


def test_a_photograph_is_a_problem_of_what_is_prepared(photographed, tmp_path):
    rows = [Utterance(name, str(photographed / f"{name}.mp4"), "hello", split="train") for name in ("still", "beside")]
    made = prepare.prepare(rows, tmp_path / "p", settings=PrepareSettings(workers=1, valid_share=0))
    with (tmp_path / "p" / "problems.tsv").open(newline="") as file:
        found = [(one["id"], one["field"], one["reason"]) for one in csv.DictReader(file, delimiter="\t")]
    assert [one[:2] for one in found] == [("still", "mouth"), ("beside", "audio")]      # the second has the sound of the first
    assert found[0][2].startswith("the mouth does not move in ")
    assert len(made.utterances) == 2                     # it is kept: its sound may be right


def test_explain_goes_the_same_way(photographed):
    found = open_input(photographed / "still.mp4", MouthCropSettings(), ExplainSettings(), no_progress)
    assert found.mouths is None
    assert found.no_video == "the mouth in it does not move"
    clip = media.read(photographed / "still.mp4")
    with pytest.raises(BadMedia, match="there is no sound in it, and the mouth in it does not move"):
        open_input(media.Clip(clip.video, clip.shown), MouthCropSettings(), ExplainSettings(), no_progress)


def test_explain_warns_of_a_strangers_lips_where_transcribe_writes_nothing(grid):
    whole = media.read(HELLO)
    mute = media.Clip(whole.video[:15], whole.shown[:15])
    found, model = open_input(mute, MouthCropSettings(), ExplainSettings(), no_progress), load("default")
    told = transcribe(mute, model=model)
    assert told.text == ""
    assert "the lips are not like those in this model's training data" in told.problems[0]
    memory = Recogniser(model).encode(None, [found.mouths], "v")
    (problem,) = video_problems(model, found.name, memory)
    assert "its lips are not like those in this model's training data" in problem
    assert video_problems(model, found.name, replace(memory, ood_distance=torch.tensor([1.0]))) == ()
    (problem,) = video_problems(grid, found.name, Recogniser(grid).encode(None, [found.mouths], "v"))
    assert "cannot tell whether it knows the lips" in problem
