"""A recording in noise: the ratio is exact, the pictures stay as they are, lips help where the sound does not; subtitles."""

import base64
import io

import httpx
import numpy as np
import pytest
import soundfile
from places import ROOT

pytest.importorskip("fastapi")
from made_web import served

from avsr import checkpoint, media, transcribe
from avsr.errors import AvsrError, BadMedia
from avsr.media.write import with_sound
from avsr.noise import active_level, rms_level
from avsr.rates import SAMPLE_RATE
from avsr.serve.noisy import beginning, open_babble, read_in_noise
from avsr.serve.pages import transcript_of

DEMO = (ROOT / "data" / "demo" / "hello.mp4").read_bytes()


def unread(source, modality):
    raise AvsrError("recording: this way is not read in this test.  Read it elsewhere.")


@pytest.mark.parametrize("noise", ["white", "babble"])
@pytest.mark.parametrize("snr_db", [10.0, 0.0, -7.5])
def test_the_ratio_is_exact(hello, noise, snr_db):
    reading = read_in_noise(DEMO, noise=noise, snr_db=snr_db, read=unread)
    assert reading.snr_db == pytest.approx(snr_db, abs=1e-3)
    # It is scaled down where it would be clipped: the factor is that of the voice in it.
    scale = float(reading.audio @ hello / (hello @ hello)) if noise == "white" and snr_db > 5 else None
    if scale is not None:
        added = reading.audio - scale * hello
        assert active_level(scale * hello) - rms_level(added) == pytest.approx(snr_db, abs=0.2)
    assert np.abs(reading.audio).max() <= 1
    assert reading.refused == dict.fromkeys(("a", "v", "av"), "This way is not read in this test.")
    again = read_in_noise(DEMO, noise=noise, snr_db=snr_db, read=unread)
    assert np.array_equal(reading.audio, again.audio)


def test_another_sound_leaves_the_pictures_as_they_are(real_data):
    for source in (DEMO, (real_data / "grid" / "s1" / "bbaz6p.mkv").read_bytes()):
        whole = media.read(source)
        louder = 3 * whole.audio
        made = media.read(with_sound(source, louder))
        assert np.array_equal(made.audio, louder)
        assert np.array_equal(made.video, whole.video)
        assert media.read(with_sound(source, louder, silent=True)).audio is None
        short = media.read(with_sound(source, louder[:SAMPLE_RATE]))
        assert 25 <= short.n_frames <= 30


@pytest.mark.slow
def test_lips_help_where_the_sound_does_not(real_data):
    model = checkpoint.load("default")
    reading = read_in_noise((real_data / "grid" / "s1" / "bbaz6p.mkv").read_bytes(), noise="white", snr_db=-5.0,
                            read=lambda source, modality: transcribe(source, model=model, modality=modality))
    texts = {way: one["text"] for way, one in reading.row()["texts"].items()}
    assert texts["v"] == texts["av"] == "bin blue at z six please"
    assert texts["a"] != texts["v"]
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(reading.row()["sound"])))
    assert (rate, len(sound)) == (SAMPLE_RATE, len(reading.audio))


@pytest.mark.parametrize(("noise", "snr_db", "reason"), [("rain", 0.0, "not known"), ("white", float("nan"), "must be from"),
                                                         ("white", -99.0, "must be from")])
def test_another_noise_or_level_is_refused(noise, snr_db, reason):
    with pytest.raises(AvsrError, match=reason):
        read_in_noise(DEMO, noise=noise, snr_db=snr_db, read=unread)


def test_a_recording_without_sound_is_refused(tmp_path):
    media.write(np.zeros((5, 32, 32, 3), np.uint8), tmp_path / "still.mp4")
    with pytest.raises(BadMedia, match="no sound"):
        beginning((tmp_path / "still.mp4").read_bytes())


def test_babble_of_strangers_is_taken_from_a_folder(tmp_path, hello):
    media.write(None, tmp_path / "a.wav", audio=hello[:SAMPLE_RATE])
    source = open_babble(tmp_path)
    assert rms_level(source.draw(8000, np.random.default_rng(0))) > -60
    with pytest.raises(AvsrError, match="matches 0 files"):
        open_babble(tmp_path / "nothing")


WORDS = [{"word": " a", "start": 0.5, "end": 0.7}, {"word": " <", "start": 0.7, "end": 1.0},
         {"word": " b", "start": 1.0, "end": 1.5}]
ROW = {"text": "a < b", "language": "english", "duration": 2.0, "segments": [
    {"text": "a < b", "start": 0.5, "end": 1.5, "speaker": "SPEAKER_00", "words": WORDS}]}


def test_the_page_gets_its_files_and_subtitles_and_sentences(tiny_en):
    with served(tiny_en) as running, httpx.Client(base_url=running.address) as client:
        page = client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "'unsafe-inline'" not in page.headers["content-security-policy"]
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "style=" not in page.text
        assert client.get("/page/file/words.js").headers["content-type"].startswith("text/javascript")
        for name in ("..%2fapp.py", "nothing.js", "%2e%2e/%2e%2e/app.py"):
            assert client.get(f"/page/file/{name}").status_code == 404
        about = client.get("/page/about").json()
        assert (about["id"], about["needs_key"], about["reads_lips"]) == ("tiny.en", False, False)
        vtt = client.post("/page/subtitles/vtt", json=ROW)
        assert vtt.text == "WEBVTT\n\n00:00.500 --> 00:01.500\n<v SPEAKER_00>a &lt; b\n\n"
        srt = client.post("/page/subtitles/srt", json=ROW)
        assert srt.text == "1\n00:00:00,500 --> 00:00:01,500\n[SPEAKER_00]: a < b\n\n"
        for wrong in ({}, [], 7, {**ROW, "segments": [{}]}, {**ROW, "duration": -1}, {**ROW, "segments": "abc"}):
            assert client.post("/page/subtitles/srt", json=wrong).json()["error"]["code"] == "invalid_value"
        assert client.post("/page/subtitles/doc", json=ROW).status_code == 404
        assert client.post("/page/noisy", data={"snr_db": "0"}).json()["error"]["code"] == "missing_file"
        refused = client.post("/page/noisy", files={"file": DEMO}, data={"snr_db": "loud"}).json()
        assert "must be from" in refused["error"]["message"]
        form = {"snr_db": "15", "noise": "white", "modalities": "a,v"}
        read = client.post("/page/noisy", files={"file": DEMO}, data=form, timeout=60).json()
        assert "computer" in read["texts"]["a"]["text"]
        assert "no trained video encoder" in read["texts"]["v"]["problem"]


def test_a_transcript_from_json_keeps_words_and_speakers():
    transcript = transcript_of(ROW)
    assert transcript.language == "en"
    assert [word.text for word in transcript.segments[0].words] == [" a", " <", " b"]
    assert transcript.segments[0].speakers == ("SPEAKER_00",)
