"""The WebSocket /v1/live, with a real server, model and client: what it answers, refuses, and lets go of."""

import base64
import io
import json
import struct
import threading
import time
from contextlib import suppress

import av
import cv2
import numpy as np
import pytest
from places import ROOT

pytest.importorskip("fastapi")
websockets = pytest.importorskip("websockets")
from made_web import served  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from avsr import checkpoint  # noqa: E402
from avsr.live.container import PicturePiece, SoundPiece  # noqa: E402
from avsr.rates import SAMPLE_RATE  # noqa: E402
from avsr.serve.pcm import PcmMessages  # noqa: E402
from avsr.serve.settings import ServeSettings  # noqa: E402
from avsr.serve.watch import InputWatch  # noqa: E402

CHROMIUM = (ROOT / "tests" / "recordings" / "chromium.webm").read_bytes()


@pytest.fixture(scope="module")
def model():
    return checkpoint.load("default")


@pytest.fixture(scope="module")
def server(model):
    with served(model) as running:
        yield running.host


def opened(server, **start):
    """A socket after its first message."""
    socket = connect(f"ws://{server}/v1/live", max_size=None).__enter__()
    socket.send(json.dumps({"type": "start", **start}))
    return socket


def messages(socket):
    """All messages until the server closes the socket, politely or because it refuses more."""
    found = []
    with suppress(websockets.exceptions.ConnectionClosed):
        while True:
            found.append(json.loads(socket.recv(timeout=60)))
    assert socket.close_code in (1000, 1008, 1013)
    return found


def only_error(socket):
    """The one message that a refused client gets."""
    (message,) = messages(socket)
    assert message["type"] == "error"
    assert set(message["error"]) == {"message", "type", "param", "code"}
    return message["error"]


def sound(samples):
    return b"\1" + (samples * 32767).astype("<i2").tobytes()


def picture(frame, time_s):
    return b"\2" + struct.pack("<d", time_s) + cv2.imencode(".jpg", frame)[1].tobytes()


def live_threads():
    return [one for one in threading.enumerate() if one.name.startswith("live ")]


@pytest.mark.slow
def test_sound_becomes_words_that_do_not_change(server, hello):
    socket = opened(server, media="pcm", modality="a", picture=False)
    ready = json.loads(socket.recv())
    assert ready == {"type": "ready", "model": "default", "modality": "a", "lips_delay_s": 0.0}
    for start in range(0, len(hello), 1600):                 # all at once: what has come is taken in first, then looked at
        socket.send(sound(hello[start: start + 1600]))
    socket.send('{"type": "end"}')
    *texts, done = messages(socket)
    assert {one["type"] for one in texts} == {"text"}
    assert len(texts) < len(hello) / SAMPLE_RATE / 0.3 / 2
    committed = [word for one in texts for word in one["committed"]]
    assert "made by a computer" in "".join(word["word"] for word in committed)
    assert "".join(word["word"] for word in committed).strip() == done["transcript"]["text"]
    times = [time for word in committed for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert all(0 <= word["confidence"] <= 1 for word in committed)
    assert texts[-1]["pending"] == []
    assert texts[-1]["end"] == pytest.approx(len(hello) / SAMPLE_RATE, abs=0.05)
    assert done["transcript"]["segments"][0]["words"]


@pytest.mark.slow
def test_what_a_browser_records_is_heard_and_seen(server):
    socket = opened(server, media="webm")
    ready = json.loads(socket.recv())
    assert ready["modality"] == "av"
    assert 0.1 < ready["lips_delay_s"] < 3
    for start in range(0, len(CHROMIUM), 1400):
        socket.send(CHROMIUM[start: start + 1400])
    socket.send('{"type": "end"}')
    found = messages(socket)
    assert found[-1]["type"] == "done"
    assert "hello" in found[-1]["transcript"]["text"].lower()
    mouths = [one for one in found if one["type"] == "mouth"]
    jpeg = cv2.imdecode(np.frombuffer(base64.b64decode(mouths[0]["jpeg"]), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert jpeg.shape == (96, 96)
    assert jpeg.std() > 10
    assert mouths[0]["believed"] is None or 0 <= mouths[0]["believed"] <= 1


@pytest.mark.parametrize(("first", "param", "sentence"), [
    ("no json", "type", "must be a JSON text"),
    ('{"type": "end"}', "type", "must be a JSON text"),
    ('{"type": "start", "media": "mp3"}', "media", "one of webm, pcm"),
    ('{"type": "start", "modality": "x"}', "modality", "one of auto"),
    ('{"type": "start", "sample_rate": "16000"}', "sample_rate", "must be like"),
    ('{"type": "start", "sample_rate": 7}', "sample_rate", "from 8000"),
    ('{"type": "start", "sound": false, "picture": false}', "sound", "Neither sound nor picture"),
    ('{"type": "start", "wide": 1}', "wide", "unknown field"),
    ('{"type": "start", "language": "xx"}', None, "does not write language"),
    ('{"type": "start", "speakers": true, "picture": false}', None, "no picture comes"),
    ("[" * 100_000, "type", "must be a JSON text"),
    (b"\1\0\0", "type", "must be a JSON text"),
])
def test_a_wrong_start_is_refused_in_a_sentence(server, first, param, sentence):
    with connect(f"ws://{server}/v1/live") as socket:
        socket.send(first)
        error = only_error(socket)
    assert sentence in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(("media", "sent", "sentence"), [
    ("webm", b"<!doctype html><p>hello" * 50, "a web page"),
    ("webm", b"nothing of the kind" * 100, "cannot be read as a recording"),
    ("pcm", b"\7abc", "must begin with 1 for sound or 2"),
    ("pcm", b"\1abc", "samples have 2 each"),
    ("pcm", b"\2abc", "8 bytes of time"),
    ("pcm", b"\2" + struct.pack("<d", 1e9) + b"x", "Count from the start"),
    ("pcm", '{"type": "more"}', "only media"),
    ("pcm", "[]", "only media"),
])
def test_wrong_media_is_refused_in_a_sentence(server, media, sent, sentence):
    socket = opened(server, media=media, modality="a", picture=sent[:1] == b"\2", speakers=sent[:1] == b"\2")
    assert json.loads(socket.recv())["type"] == "ready"
    socket.send(sent)
    if media == "webm":
        socket.send('{"type": "end"}')
    (error,) = [one["error"] for one in messages(socket) if one["type"] == "error"]
    assert sentence in error["message"]


def test_a_recording_without_what_was_announced_is_refused(server):
    socket = opened(server, media="webm", modality="a", picture=False)
    assert json.loads(socket.recv())["type"] == "ready"
    out = io.BytesIO()
    with av.open(out, "w", format="webm") as container:      # pictures alone
        stream = container.add_stream("libvpx", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    socket.send(out.getvalue())
    socket.send('{"type": "end"}')
    (error,) = [one["error"] for one in messages(socket) if one["type"] == "error"]
    assert "no sound" in error["message"]


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
def test_pages_of_other_sites_may_not_connect(server, headers):
    if "Host" in headers:                                    # a name that was made to point here
        import socket

        with socket.create_connection(server.split(":")) as raw:
            raw.sendall(b"GET /v1/live HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
            assert raw.recv(100).split()[1] == b"403"
        return
    with pytest.raises(websockets.exceptions.InvalidStatus, match="403"), connect(
            f"ws://{server}/v1/live", origin=headers["Origin"]):
        pass


def test_the_servers_own_page_may_connect(server):
    with connect(f"ws://{server}/v1/live", origin=f"http://{server}") as socket:
        socket.send("x")
        assert "JSON" in only_error(socket)["message"]


def test_a_key_is_asked_for(model):
    with served(model, ServeSettings(api_key="secret")) as running:
        server = running.host
        assert only_error(opened(server, media="pcm"))["code"] == "invalid_api_key"
        assert only_error(opened(server, media="pcm", api_key="wrong"))["type"] == "authentication_error"
        socket = opened(server, media="pcm", modality="a", picture=False, api_key="secret")
        assert json.loads(socket.recv())["type"] == "ready"
        socket.close()


def test_only_so_many_at_once_and_who_goes_away_stops_the_work(server):
    start = {"media": "pcm", "modality": "a", "picture": False}
    two = [opened(server, **start) for _ in range(2)]
    assert [json.loads(one.recv())["type"] for one in two] == ["ready", "ready"]
    error = only_error(opened(server, **start))
    assert error["code"] == "overloaded"
    assert "at once" in error["message"]
    for one in two:
        one.send(sound(np.zeros(1600)))
        one.close()
    deadline = time.monotonic() + 10
    while live_threads() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not live_threads()
    said = None
    while said != "ready" and time.monotonic() < deadline:   # the place is given back just after its thread has ended
        again = opened(server, **start)
        said = json.loads(again.recv())["type"]
        again.close()
    assert said == "ready"


def test_a_recording_is_ended_at_the_longest_that_is_allowed(model, hello):
    with served(model, ServeSettings(max_minutes=0.025)) as running:
        socket = opened(running.host, media="pcm", modality="a", picture=False)
        socket.send(sound(hello[: 4 * SAMPLE_RATE]))
        *_, problem, text, done = messages(socket)
    assert problem["message"] == "The recording has reached 2 s, the longest that this server takes, so it was ended."
    assert (text["type"], done["type"]) == ("text", "done")
    assert done["transcript"]["duration"] < 5


def test_a_message_that_is_too_large_ends_it(server):
    socket = opened(server, media="pcm", modality="a", picture=False)
    socket.recv()
    socket.send(bytes(2**21 + 100))
    with pytest.raises(websockets.exceptions.ConnectionClosed, match="1009"):
        socket.recv()


def test_a_muted_microphone_and_a_slow_camera_are_told_once():
    watch = InputWatch(has_audio=True, has_video=True)
    silent = [said for _ in range(80) for said in watch.add(SoundPiece(np.zeros(1600, np.float32)))]
    assert len(silent) == 1
    assert "silence" in silent[0]
    frame = np.zeros((8, 8, 3), np.uint8)
    slow = [said for i in range(70) for said in watch.add(PicturePiece(frame, i / 7))]
    assert slow == ["The camera gives 7 pictures a second, and lips are read from 25.  Give it more light, or close what else "
                    "uses it."]
    usual = InputWatch(has_audio=True, has_video=True)
    assert not [said for i in range(200) for said in usual.add(PicturePiece(frame, i / 15 + 0.01 * (i % 2)))]


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_sound_of_any_rate_and_pictures_come_out_in_order(rate):
    messages = PcmMessages(rate, has_audio=True, has_video=True)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    frame = np.full((48, 64, 3), (200, 40, 90), np.uint8)
    for i in range(25):
        messages.feed(sound(tone[i * rate // 25: (i + 1) * rate // 25]))
        messages.feed(picture(frame[..., ::-1], i / 25))
    messages.feed(b"\2" + struct.pack("<d", 1.0) + b"no picture")
    messages.end()
    pieces = list(messages)
    samples = np.concatenate([one.samples for one in pieces if isinstance(one, SoundPiece)])
    pictures = [one for one in pieces if isinstance(one, PicturePiece)]
    assert len(samples) == pytest.approx(SAMPLE_RATE, abs=700)           # up to 20 ms are still on their way, and the filter's
    assert abs(int(np.abs(np.fft.rfft(samples)).argmax() * SAMPLE_RATE / len(samples)) - 440) < 3
    assert [one.time_s for one in pictures] == [i / 25 for i in range(25)]
    assert np.abs(pictures[3].picture.astype(int) - (200, 40, 90)).max() < 6
    assert messages.problems == ["live: 1 damaged picture left out."]
    assert messages.n_waiting == 0


def test_pictures_go_on_where_the_sound_has_stopped():
    messages = PcmMessages(SAMPLE_RATE, has_audio=True, has_video=True)
    frame = np.zeros((8, 8, 3), np.uint8)
    for i in range(100):
        messages.feed(picture(frame, i / 10))
    messages.end()
    heard = sum(len(one.samples) for one in messages if isinstance(one, SoundPiece)) / SAMPLE_RATE
    assert 8.5 < heard < 10
