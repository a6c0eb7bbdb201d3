"""Lips that start from ImageNet: at first they see what torchvision's own network sees in each frame."""

import hashlib
from functools import partial

import pytest
import torch
from click.testing import CliRunner
from made_corpus import config, corpus
from torch.nn import functional as F

from avsr import assets
from avsr.cli import main
from avsr.errors import BadCheckpoint, BadConfig, MissingAsset
from avsr.models.video import GREY_MEAN, GREY_STD
from avsr.train.imagenet import ASSET, COLOUR_MEAN, COLOUR_STD, inflated
from avsr.train.initialise import initialise

LIPS = 'model.dims.video_frontend="resnet18"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus(folder)
    return folder


@pytest.fixture(scope="module")
def theirs():
    """Torchvision's network with random weights, and running means and variances as after training."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    with torch.no_grad():
        for name, values in network.named_buffers():
            if name.endswith("running_mean"):
                values.normal_(0, 0.1)
            elif name.endswith("running_var"):
                values.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def saved(theirs, tmp_path):
    """Writes a file of these weights, changed, and gives its path."""
    def write(change=lambda state: state, name="resnet18.pth"):
        path = tmp_path / name
        torch.save(change({key: value.clone() for key, value in theirs.state_dict().items()}), path)
        return path

    return write


def features(network, grey):
    """What torchvision's network makes of grey pictures (N, 88, 88) before its classes, with mean grey beyond their edges."""
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (COLOUR_MEAN, COLOUR_STD))
    padded = F.pad(grey[:, None], (3, 3, 3, 3), value=GREY_MEAN)
    maps = F.conv2d((padded - mean) / std, network.conv1.weight, stride=2)
    maps = network.maxpool(network.relu(network.bn1(maps)))
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        maps = stage(maps)
    return network.avgpool(maps).flatten(1)


def test_at_first_each_frame_is_seen_as_torchvision_sees_it(theirs, saved, folder, tmp_path):
    front = initialise(config(folder, f"model.video_encoder_from={saved()}", LIPS), tmp_path).model.eval().video.frontend
    torch.manual_seed(1)
    mouths = torch.rand(2, 4, 88, 88)
    with torch.no_grad():
        ours = front((mouths - GREY_MEAN) / GREY_STD, torch.ones(2, 4, dtype=torch.bool))
        wanted = features(theirs, mouths.flatten(0, 1)).view(2, 4, 512)
    assert wanted.std() > 0.01
    torch.testing.assert_close(ours, wanted, atol=1e-3, rtol=1e-3)


def test_the_published_file_and_its_normalisation_are_torchvisions():
    weights = pytest.importorskip("torchvision").models.ResNet18_Weights.IMAGENET1K_V1
    asset = assets.ASSETS[ASSET]
    assert asset.url == weights.url
    assert asset.url.endswith(f"/resnet18-{asset.sha256[:8]}.pth")
    assert (tuple(weights.transforms().mean), tuple(weights.transforms().std)) == (COLOUR_MEAN, COLOUR_STD)


def test_motion_is_yet_to_be_learnt():
    kernel, shift = inflated(torch.randn(64, 3, 7, 7), 5)
    assert (kernel.shape, shift.shape) == ((64, 1, 5, 7, 7), (64,))
    assert not kernel[:, :, [0, 1, 3, 4]].any()
    assert kernel[:, :, 2].any()


def test_the_rest_of_the_network_is_new_and_half_precision_is_taken(saved, folder, tmp_path):
    path = saved(lambda state: {key: value.half() if value.is_floating_point() else value for key, value in state.items()})
    taken, plain = (initialise(config(folder, LIPS, *some), tmp_path).model.state_dict()
                    for some in ([f"model.video_encoder_from={path}"], []))
    changed = {name for name in plain if not torch.equal(plain[name], taken[name])}
    assert all(name.startswith("video.frontend.") for name in changed)
    assert changed >= {name for name, tensor in plain.items() if name.startswith("video.frontend.") and tensor.ndim > 1}
    assert all(tensor.dtype == torch.float32 for name, tensor in taken.items() if tensor.is_floating_point())


@pytest.mark.parametrize(("change", "says"), [
    (lambda state: {**state, "layer1.0.conv3.weight": torch.zeros(1)},
     "not a ResNet-18's: it has unknown layer1.0.conv3.weight."),
    (lambda state: {key: value for key, value in state.items() if not key.startswith("layer4.1.bn2")},
     "lacks layer4.1.bn2.bias, layer4.1.bn2.running_mean, layer4.1.bn2.running_var and 1 more"),
    (lambda state: {**state, "conv1.weight": torch.zeros(64, 1, 7, 7)},
     "has wrong shapes: conv1.weight (64, 1, 7, 7) for (64, 3, 7, 7)"),
], ids=["another network", "half of it", "grey"])
def test_what_does_not_fit_is_refused_by_name(saved, folder, tmp_path, change, says):
    with pytest.raises(BadCheckpoint) as caught:
        initialise(config(folder, f"model.video_encoder_from={saved(change)}", LIPS), tmp_path)
    assert says in str(caught.value)
    assert str(caught.value).endswith(".  Name the file of torchvision's resnet18.")


def test_a_file_is_held_to_the_digits_in_its_name(saved, folder, tmp_path):
    path = saved()
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path = path.rename(path.with_name(f"resnet18-{digits}.pth"))
    start = initialise(config(folder, f"model.video_encoder_from={path}", LIPS), tmp_path)
    assert start.model.dims.video_frontend == "resnet18"
    wrong = path.rename(path.with_name("resnet18-0123abcd.pth"))
    with pytest.raises(BadCheckpoint, match=rf"its sha256 begins {digits}, but its name says 0123abcd.  Download it again"):
        initialise(config(folder, f"model.video_encoder_from={wrong}", LIPS), tmp_path)


def test_imagenet_comes_as_an_asset(saved, folder, tmp_path, monkeypatch):
    settings = partial(config, folder, "model.video_encoder_from=imagenet", LIPS)
    monkeypatch.setenv("AVSR_RESNET18", str(saved()))
    with pytest.raises(MissingAsset, match=r"not resnet18-f37072fd.pth: its sha256 begins .* wanted f37072fd47e8"):
        initialise(settings(), tmp_path)
    monkeypatch.setenv("AVSR_RESNET18", str(tmp_path / "none.pth"))
    with pytest.raises(MissingAsset, match=r"none.pth: no such file, though AVSR_RESNET18 names it"):
        initialise(settings(), tmp_path)


@pytest.mark.parametrize("lips", ["compact", "resnet18-silu"])
def test_other_frontends_cannot_be_initialised_from_imagenet(folder, tmp_path, lips):
    with pytest.raises(BadConfig, match=rf"imagenet is a ResNet-18, but the frontend is {lips}\.  Set model\.dims"):
        initialise(config(folder, "model.video_encoder_from=imagenet", f"model.dims.video_frontend={lips}"), tmp_path)


def test_on_the_command_line_a_file_that_is_not_there_is_one_sentence(folder, tmp_path):
    config(folder)
    done = CliRunner().invoke(main, ["train", str(folder / "config.toml"), "--set",
                                    "model.video_encoder_from=none.pth", "--set", LIPS,
                                     "-o", str(tmp_path / "run"), "--device", "cpu"])
    assert done.exit_code == 1
    assert "none.pth: cannot be read (No such file or directory)." in done.stderr.splitlines()[-1]
    assert not isinstance(done.exception, BadCheckpoint)
