"""LR-ASD: the published network by our own code, its inputs, and its way into a folder of ours."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from click.testing import CliRunner
from made_server import publisher
from safetensors.torch import load_file

from avsr import checkpoint
from avsr.checkpoint.importing import import_checkpoint
from avsr.cli import main
from avsr.download import Remote, http
from avsr.errors import AvsrError, BadCheckpoint
from avsr.faces import FaceTrack
from avsr.fetch import sources
from avsr.importers import lr_asd as importer
from avsr.lips import MOUTH_CROPS, MouthCropper, MouthCropSettings
from avsr.media import Clip
from avsr.rates import FEATURES_PER_FRAME, SAMPLES_PER_FRAME
from avsr.speakers import ActiveSpeakerDetector, PairedCropper, lr_asd, open_detector


def random_network() -> lr_asd.LrAsd:
    torch.manual_seed(0)
    return lr_asd.LrAsd().eval()


def published(network: lr_asd.LrAsd) -> dict[str, torch.Tensor]:
    """The network's weights under the names of the published file."""
    outside = {own: theirs for theirs, own in importer._OUTSIDE.items()}
    layers = {0: "{}_1", 1: "{}_norm_1", 3: "{}_2", 4: "{}_norm_2", 6: "t_1", 7: "t_norm_1", 9: "t_2", 10: "t_norm_2"}
    out = {}
    for name, tensor in network.state_dict().items():
        stem, _, kind = name.rpartition(".")
        if stem in outside:
            out[f"{outside[stem]}.{kind}"] = tensor
        else:
            encoder, block, layer = stem.split(".")
            layer = layers[int(layer)].format("s" if encoder == "visual" else "m")
            out[f"model.{encoder}Encoder.block{int(block) + 1}.{layer}.{kind}"] = tensor
    return out


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("lr_asd") / "mine.model"
    torch.save(published(random_network()), path)
    return path


@pytest.fixture
def talk():
    """Faces (T, 112, 112) uint8 and their sound (S,) float32, by chance."""
    chance = np.random.default_rng(0)
    faces = chance.integers(0, 256, (14, lr_asd.FACE_SIZE, lr_asd.FACE_SIZE), np.uint8)
    return faces, chance.normal(0, 0.1, len(faces) * SAMPLES_PER_FRAME).astype(np.float32)


@pytest.mark.slow
def test_it_answers_as_its_authors_code(tmp_path):
    folder = oracles.need_oracles() / "lr_asd"
    imported = import_checkpoint(folder / importer.FILE, tmp_path / "model")
    assert imported.published
    network, io = lr_asd.load(tmp_path / "model").network, load_file(folder / "io.safetensors")
    for name in ("random", "clip"):
        with torch.inference_mode():
            sound, faces = network.encode_sound(io[f"{name}.mfcc"]), network.encode_faces(io[f"{name}.faces"].float())
            joined = network.join(sound, faces)
            found = {"audio_embedding": sound, "video_embedding": faces, "backend": joined[0], "logits": network.out(joined)[0],
                     "video_logits": network.visual_out(faces)[0]}
        for point, mine in found.items():
            torch.testing.assert_close(mine, io[f"{name}.{point}"], atol=1e-4, rtol=0, msg=f"{name}.{point}")
    audio = io["clip.sound"].numpy().reshape(-1) / np.float32(2**15)
    np.testing.assert_allclose(lr_asd.mfcc(audio, len(io["clip.faces"][0])), io["clip.mfcc"][0], atol=1e-4)


def test_coefficients_are_four_to_a_frame_whatever_the_length_of_the_sound():
    audio = np.random.default_rng(0).normal(0, 0.1, 5 * SAMPLES_PER_FRAME).astype(np.float32)
    whole = lr_asd.mfcc(audio, 5)
    assert whole.shape == (5 * FEATURES_PER_FRAME, lr_asd.N_COEFFICIENTS)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(lr_asd.mfcc(audio, 3)[:11], whole[:11])
    longer = lr_asd.mfcc(audio, 8)
    np.testing.assert_array_equal(longer[:18], whole[:18])
    assert (longer[21:, 0] == np.log(np.finfo(float).eps).astype(np.float32)).all(), "silence follows"


def test_a_score_is_the_mean_over_pieces_of_all_lengths(talk):
    faces, audio = talk
    network = random_network()
    whole = lr_asd.LrAsdDetector(network, pieces=(1,)).scores(faces, audio)
    assert whole.dtype == np.float32
    assert whole.std() > 0
    np.testing.assert_allclose(lr_asd.LrAsdDetector(network).scores(faces, audio), whole, atol=1e-6)
    twice = lr_asd.LrAsdDetector(network, pieces=(1,)).scores(np.concatenate([faces, faces]), np.concatenate([audio, audio]))
    assert not np.allclose(twice[14:], whole), "the second piece begins after a whole second"
    missing = np.arange(len(faces)) < 3
    scores = lr_asd.LrAsdDetector(network, pieces=(1,)).scores(faces, audio, missing)
    assert np.isneginf(scores[:3]).all()
    np.testing.assert_array_equal(scores[3:], whole[3:])


def test_lags_count_the_frames_of_the_lips_after_the_sound(talk):
    faces, audio = talk
    detector = lr_asd.LrAsdDetector(random_network(), pieces=(1,))
    curve = detector.lag_scores(faces, audio, 2)
    assert curve.shape == (5,)
    later = detector._scores(detector.encode(faces)[:, 2:], torch.from_numpy(lr_asd.mfcc(audio, 14))[: 12 * FEATURES_PER_FRAME])
    assert curve[4] == pytest.approx(float(later.mean()), abs=1e-6)
    assert np.isneginf(detector.lag_scores(faces, audio, 1, np.ones(len(faces), bool))).all()


def test_a_file_becomes_a_folder_that_says_what_it_is(file, tmp_path):
    result = CliRunner().invoke(main, ["import", str(file), "-o", str(tmp_path / "out")])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'out'}\n")
    for said in ("0.84 M parameters", "not the published file's", "VoxCeleb2 and LRS3", f"--speaker-model {tmp_path / 'out'}"):
        assert said in result.stderr
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (about["network"], about["mouth_crop"]["size"], about["training"]["file"]) == ("lr_asd", 112, "mine.model")
    loaded = lr_asd.load(tmp_path / "out").network.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in random_network().state_dict().items())
    with pytest.raises(BadCheckpoint, match="tells who speaks"):
        checkpoint.load(tmp_path / "out")


@pytest.mark.parametrize(("change", "said"), [
    (lambda weights: weights.pop("model.fusion.bn.weight"), "it lacks fusion.norm.weight"),
    (lambda weights: weights.update(extra=torch.zeros(1)), "1 of its weights have no place in our network: extra"),
    (lambda weights: weights.update({"lossAV.FC.bias": torch.zeros(3)}), r"out.bias \(3,\) for \(2,\)"),
    (lambda weights: weights["lossAV.FC.bias"].fill_(float("nan")), "out.bias holds values that are infinite or no numbers"),
])
def test_a_file_that_is_not_whole_is_refused(tmp_path, change, said):
    weights = {name: tensor.clone() for name, tensor in published(random_network()).items()}
    change(weights)
    torch.save(weights, tmp_path / "odd.model")
    with pytest.raises(BadCheckpoint, match=said):
        import_checkpoint(tmp_path / "odd.model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_has_no_meaning_for_it_is_refused(file, tmp_path):
    with pytest.raises(AvsrError, match="writes no text"):
        import_checkpoint(file, tmp_path / "out", half=True)


def test_damaged_weights_are_said(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    with pytest.raises(BadCheckpoint, match=r"these are not LR-ASD's weights \(it lacks"):
        lr_asd.load(tmp_path)


# Fetched from its authors, and chosen by name


@pytest.fixture
def authors(file, tmp_path, monkeypatch):
    """A server in place of the authors' repository, whose file holds random weights; and an empty cache."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(http, "PAUSES_SECONDS", (0, 0))
    monkeypatch.setenv("AVSR_CACHE", str(tmp_path / "cache"))
    content, name = file.read_bytes(), importer.FILE
    with publisher({name: content}) as server:
        remote = Remote(name, f"{server.address}/files/{name}", len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")
        source = replace(sources.SOURCES["lr-asd"], files={name: remote})
        monkeypatch.setitem(sources.SOURCES, "lr-asd", source)
        yield server


def test_the_source_is_the_file_that_the_importer_knows():
    (remote,) = sources.SOURCES["lr-asd"].files.values()
    assert (remote.name, remote.checksum) == (importer.FILE, f"sha256:{importer.SHA256}")
    assert "/1b6dcd2d/" in remote.url


def test_it_is_fetched_into_the_cache_and_chosen_by_name(authors, tmp_path):
    with pytest.raises(BadCheckpoint, match=r"lr-asd: not fetched yet\.  Run avsr fetch lr-asd --accept-licence"):
        open_detector("lr-asd")
    refused = CliRunner().invoke(main, ["fetch", "lr-asd"])
    assert (refused.exit_code, authors.log) == (1, [])
    assert "whose terms may bind what is made with it" in refused.stderr
    assert "run again with --accept-licence" in refused.stderr
    folder = tmp_path / "cache" / "lr-asd"
    for wanted in (1, 1):
        result = CliRunner().invoke(main, ["fetch", "lr-asd", "--accept-licence"])
        assert (result.exit_code, result.stdout) == (0, f"{folder}\n"), result.stderr
        assert "avsr transcribe talk.mp4 --speakers --speaker-model lr-asd" in result.stderr
        assert len(authors.requests_for_files()) == wanted, "nothing is fetched twice"
    detector = open_detector("lr-asd")
    assert detector.mouth_crop.size == lr_asd.FACE_SIZE
    assert torch.equal(detector.network.out.bias, random_network().out.bias)


def test_it_is_fetched_into_a_folder_and_chosen_by_it(authors, tmp_path):
    result = CliRunner().invoke(main, ["fetch", "lr-asd", str(tmp_path / "mine"), "--accept-licence", "--quiet"])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'mine'}\n"), result.stderr
    assert isinstance(open_detector(tmp_path / "mine"), lr_asd.LrAsdDetector)


def test_another_file_than_the_published_one_is_not_kept(authors, tmp_path):
    authors.files[importer.FILE] = authors.files[importer.FILE][:-1] + b"x"
    result = CliRunner().invoke(main, ["fetch", "lr-asd", "--accept-licence"])
    assert result.exit_code == 1
    assert "the server sends another file" in result.stderr
    assert not (tmp_path / "cache" / "lr-asd" / importer.FILE).exists()


def test_a_folder_of_anything_else_is_refused(tmp_path):
    assert isinstance(open_detector(), ActiveSpeakerDetector)
    with pytest.raises(BadCheckpoint, match=r"no folder of a network that tells who speaks\.  Name one"):
        open_detector(tmp_path)


def test_lips_and_faces_are_cut_out_of_the_same_tracks():
    video = np.random.default_rng(0).integers(0, 256, (40, 90, 120, 3), np.uint8)
    clip = Clip(video, np.ones(40, bool))
    points = np.random.default_rng(1).uniform(20, 80, (478, 2)) + np.linspace(0, 9, 40)[:, None, None]
    box = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    track = FaceTrack(0, 0, points.astype(np.float32), box, np.ones(40, np.float32), np.zeros(40, bool))
    mouths = MouthCropSettings()
    (one,), (other,) = MouthCropper(mouths).update(clip, [track]), MouthCropper(lr_asd.FACE_CROP).update(clip, [track])
    (both,) = PairedCropper(mouths, lr_asd.FACE_CROP).update(clip, [track])
    np.testing.assert_array_equal(both.images, one.images)
    np.testing.assert_array_equal(both.compared, other.images)
    with pytest.raises(AvsrError, match=r"Leave out --speaker-model"):
        PairedCropper(MOUTH_CROPS["auto-avsr"], lr_asd.FACE_CROP)
