"""The active-speaker network: whose mouth makes the sound, how late the lips are, and that pieces give what the whole gives."""

import json
import shutil

import numpy as np
import pytest
import torch
from places import ROOT, SHARED
from tracking import crop, track_faces

from avsr import media
from avsr.errors import BadCheckpoint
from avsr.features import mel_power
from avsr.lips import centre
from avsr.rates import SAMPLES_PER_FRAME
from avsr.speakers import ActiveSpeakerDetector, detector, network

GRID = SHARED / "data/grid"


@pytest.fixture(scope="module")
def clips():
    """Two test clips of s1: mouths (75, 96, 96) and sound of each."""
    if not GRID.is_dir():
        pytest.skip("needs the GRID clips in ../shared/data")
    found = []
    for path in sorted((GRID / "s1").glob("*.mpg"))[:2]:
        with media.open_recording(path) as recording:
            (clip,) = recording.windows(100, grey=True)     # as the program reads it
        [track] = track_faces([clip])
        mouths = crop(clip, track)
        found.append((mouths.images, clip.audio))
    return found


def made(n_frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mouths, sound and missing frames that nobody made: enough to compare one way of scoring with another."""
    rng = np.random.default_rng(seed)
    audio = rng.normal(0, 0.1, n_frames * SAMPLES_PER_FRAME).astype(np.float32)
    return rng.integers(0, 256, (n_frames, 96, 96), np.uint8), audio, rng.random(n_frames) < 0.1


@pytest.mark.slow
def test_a_mouth_scores_higher_with_its_own_sound(clips):
    (first, own), (_, other) = clips
    scores = {name: ActiveSpeakerDetector().scores(first, sound) for name, sound in (("own", own), ("other", other))}
    said = slice(25, 45)                                    # within both sentences
    assert (scores["own"][said] > 0).mean() > 0.9
    assert scores["own"][said].mean() > scores["other"][said].mean() + 4
    assert (ActiveSpeakerDetector().scores(first, np.zeros_like(own)) < 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("lag", [-12, -5, 0, 7])
def test_the_peak_of_the_lag_scores_is_by_how_much_the_lips_are_late(clips, lag):
    images, audio = clips[0]
    moved = np.roll(audio, -lag * SAMPLES_PER_FRAME)        # earlier sound: the lips come after it
    curve = ActiveSpeakerDetector().lag_scores(images, moved, 15)
    assert curve.shape == (31,)
    assert abs(int(curve.argmax()) - 15 - lag) <= 1


def test_pieces_give_what_the_whole_gives(monkeypatch):
    images, audio, missing = made(260)
    whole = ActiveSpeakerDetector().scores(images, audio, missing)
    lags = ActiveSpeakerDetector().lag_scores(images, audio, 5, missing)
    monkeypatch.setattr(detector, "PIECE", 40)
    np.testing.assert_allclose(ActiveSpeakerDetector().scores(images, audio, missing), whole, atol=1e-4)
    np.testing.assert_allclose(ActiveSpeakerDetector().lag_scores(images, audio, 5, missing), lags, atol=1e-4)


def test_the_graphs_give_what_the_network_gives_in_torch(monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "active_speaker"))
    from export import Encode, Score, read_network

    images, audio, missing = made(90)
    mouths, seen = network.halved(centre(images)), ~missing
    # As loud and as soft as speech: the spread of an even sound is a small difference of large numbers.
    power = mel_power(audio * np.square(np.sin(np.arange(len(audio), dtype=np.float32) / 1500)), 80)
    ours, in_torch = network.ActiveSpeakerNetwork(detector.SHIPPED), read_network(detector.SHIPPED)
    video, sound = ours.encode(centre(images), seen, power)
    with torch.inference_mode():
        encoded = Encode(in_torch)(*map(torch.from_numpy, (mouths, seen, power)))
        scores = Score(in_torch)(*encoded)
    np.testing.assert_allclose(video, encoded[0], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(sound, encoded[1], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(ours.score(video, sound), scores, atol=1e-4)


def test_frames_without_a_mouth_score_minus_infinity_whatever_their_pictures_show():
    images, audio, missing = made(60)
    scores = ActiveSpeakerDetector().scores(images, audio, missing)
    assert scores.dtype == np.float32
    assert (np.isneginf(scores) == missing).all()
    images[missing] = 255
    np.testing.assert_array_equal(ActiveSpeakerDetector().scores(images, audio, missing), scores)


@pytest.mark.parametrize(("n_frames", "n_samples"), [(0, 0), (1, 0), (1, 640), (3, 100), (30, 5)])
def test_short_and_missing_sound(n_frames, n_samples):
    images, audio, _ = made(n_frames)
    scores = ActiveSpeakerDetector().scores(images, audio[:n_samples])
    assert scores.shape == (n_frames,)
    assert np.isfinite(scores).all()
    curve = ActiveSpeakerDetector().lag_scores(images, audio[:n_samples], 4)
    assert curve.shape == (9,)
    assert np.isneginf(curve[0]) == (n_frames <= 4)


def test_a_damaged_network_is_refused_by_name(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"network\.json: cannot be read"):
        ActiveSpeakerDetector(tmp_path / "none").scores(*made(5)[:2])
    folder = tmp_path / "other"
    shutil.copytree(detector.SHIPPED, folder)
    about = json.loads((folder / "network.json").read_text())
    about["dims"]["width"] += 1
    (folder / "network.json").write_text(json.dumps(about))
    with pytest.raises(BadCheckpoint, match=r"encode\.onnx: its weights do not fit the dims in network\.json"):
        ActiveSpeakerDetector(folder).scores(*made(5)[:2])
    folder = tmp_path / "third"
    shutil.copytree(detector.SHIPPED, folder)
    about["mouth_crop"]["smooth"] += 1
    (folder / "network.json").write_text(json.dumps(about))
    with pytest.raises(BadCheckpoint, match="its mouths are cropped otherwise"):
        ActiveSpeakerDetector(folder).scores(*made(5)[:2])


@pytest.mark.parametrize("file", ["encode.onnx", "score.onnx"])
def test_a_graph_that_is_missing_or_cut_off_is_refused_by_name(tmp_path, file):
    folder = tmp_path / "cut"
    shutil.copytree(detector.SHIPPED, folder)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadCheckpoint, match=rf"{file}: cannot be read as a network \(.*\)\.  Install avsr again\."):
        ActiveSpeakerDetector(folder).scores(*made(5)[:2])
    folder = folder.rename(tmp_path / "without")
    (folder / file).unlink()
    with pytest.raises(BadCheckpoint, match=rf"{file}: cannot be read as a network"):
        ActiveSpeakerDetector(folder).scores(*made(5)[:2])
