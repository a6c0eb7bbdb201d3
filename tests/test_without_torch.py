"""Everything below the network works in a process that never imports torch: each starts Python anew, as a user's does."""

import subprocess
import sys

import pytest
from places import ROOT
from test_layers import FILES, ORDER, PACKAGE

DEMO = ROOT / "data" / "demo" / "hello.mp4"
SIGNALS = {*ORDER[ORDER.index("download"): ORDER.index("cache")], "modality"}
READ = """
import sys
import numpy as np
from avsr import media, selection
from avsr.features import features
from avsr.lips import MouthCropSettings
from avsr.noise import mix
from avsr.speakers import ActiveSpeakerDetector
from avsr.stream import StreamReader, StreamSettings

settings = StreamSettings(speakers=True, extension=True)
with selection.open_recording(sys.argv[1]) as recording:
    (window,) = StreamReader(recording, MouthCropSettings(), settings)
assert not window.mouths.missing.any() and len(window.turns) == 1 and window.audio.any()
rng = np.random.default_rng(0)
noisy = mix(window.audio, rng.normal(0, 0.1, len(window.audio)).astype(np.float32), 0.0, rng=rng).audio
assert len(noisy) == len(window.audio)
assert features(window.audio, 80).shape == (4 * len(window.mouths.images), 80)
assert features(window.audio, 0).shape == (len(window.audio), 1)
scores = ActiveSpeakerDetector().scores(window.mouths.images, window.audio, window.mouths.missing)
assert np.isfinite(scores).all() and scores.dtype == np.float32
print(sorted({"torch", "torchvision", "safetensors", "transformers"} & set(sys.modules)))
"""


def printed(code: str, *arguments: object) -> str:
    """What a new Python prints, run in the repository."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.slow
def test_sound_speech_mouths_and_speakers_of_a_clip_are_read():
    assert printed(READ, DEMO) == "[]"


def test_no_file_of_the_signals_imports_it():
    places = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in FILES]
    modules = [".".join(parts).removesuffix(".__init__") for parts in places if parts[1] in SIGNALS]
    modules.remove("avsr.speakers.lr_asd")                  # a published network, which a user asks for by name
    assert len(modules) > 50
    code = f"import importlib, sys\nfor name in {modules!r}:\n importlib.import_module(name)\nprint('torch' in sys.modules)"
    assert printed(code) == "False"
