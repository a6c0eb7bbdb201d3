"""The server: OpenAI's client gets all its formats, errors are sentences, and a request takes no more than it may."""

import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace

import numpy as np
import pytest
from places import ROOT

import avsr
from avsr import checkpoint, media
from avsr.errors import AvsrError
from avsr.transcribe.batches import SharedBatches
from avsr.transcript import format_transcript

httpx, openai = pytest.importorskip("httpx"), pytest.importorskip("openai")
for package in ("fastapi", "multipart", "uvicorn", "websockets"):
    pytest.importorskip(package)

from made_web import served  # noqa: E402

from avsr.serve.settings import ServeSettings, key_from_environment  # noqa: E402

HELLO = ROOT / "data" / "demo" / "hello.mp4"
SAID = "Hello, this video was made by a computer. You can read the words on my lips."


@pytest.fixture(scope="module")
def model():
    return checkpoint.load("default")


@pytest.fixture(scope="module")
def server(model):
    with served(model, ServeSettings(max_megabytes=1.0, max_minutes=0.2, slow_s=2.0)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="module")
def transcript(model):
    return avsr.transcribe(HELLO, model=model)


HELLO_FILE = ("a.mp4", HELLO.read_bytes())


def ask(server, path="/v1/audio/transcriptions", *, file=HELLO_FILE, headers=None, **fields):
    return httpx.post(server.address + path, data=fields, files={"file": file} if file else None, headers=headers, timeout=60)


def error_of(answer):
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text
    assert error["message"].endswith((".", "?")), error["message"]
    return error


# --- OpenAI's own client ---

@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_texts_and_subtitles_are_those_of_transcribe(client, transcript, form):
    answer = client.audio.transcriptions.create(file=HELLO, model="whisper-1", response_format=form)
    assert answer == (f"{SAID}\n" if form == "text" else format_transcript(transcript, form))


@pytest.mark.slow
def test_json_has_the_text_and_verbose_json_real_times_and_confidences(client, transcript):
    plain = client.audio.transcriptions.create(file=HELLO, model="default")
    assert (plain.text, plain.usage.seconds) == (SAID, 6.0)
    full = client.audio.transcriptions.create(file=HELLO, model="gpt-4o-transcribe", response_format="verbose_json",
                                              timestamp_granularities=["word", "segment"], extra_body={"mouths": "true"})
    assert (full.language, round(full.duration, 1)) == ("english", 6.1)
    assert [(one.word, one.start, one.end) for one in full.words] == [
        (one.text.strip(), round(one.start, 3), round(one.end, 3)) for one in transcript.words]
    assert [one.confidence for one in full.words] == pytest.approx([one.confidence for one in transcript.words], abs=1e-3)
    assert full.segments[0].lips_reliability == 0.0, "nobody knows this face"
    assert len(full.mouths) > 10_000
    with pytest.raises(openai.BadRequestError, match="only response_format verbose_json"):
        client.audio.transcriptions.create(file=HELLO, model="default", timestamp_granularities=["word"])


@pytest.mark.slow
def test_speakers_come_from_the_picture_and_need_one(client, tmp_path):
    told = client.audio.transcriptions.create(file=HELLO, model="gpt-4o-transcribe-diarize", response_format="diarized_json")
    assert [one.speaker for one in told.segments] == ["SPEAKER_00"] * 2
    media.write(None, tmp_path / "a.m4a", audio=media.read(HELLO, want_video=False).audio)
    with pytest.raises(openai.BadRequestError, match="there is no picture in it"):
        client.audio.transcriptions.create(file=tmp_path / "a.m4a", model="default", response_format="diarized_json")


@pytest.mark.slow
def test_a_stream_gives_each_segment_as_it_is_found(client):
    events = list(client.audio.transcriptions.create(file=HELLO, model="default", stream=True, response_format="verbose_json"))
    assert [one.type for one in events] == ["transcript.text.delta", "transcript.text.segment"] * 2 + ["transcript.text.done"]
    assert "".join(one.delta for one in events if one.type.endswith("delta")) == events[-1].text == SAID
    assert len(events[1].words) == 8
    with pytest.raises(openai.APIError, match="cannot be read as a recording"):
        list(client.audio.transcriptions.create(file=("a.mp4", b"no recording"), model="default", stream=True))


def test_models_are_listed_and_found_by_the_names_that_clients_send(client):
    (only,) = client.models.list().data
    assert (only.id, only.status, only.modalities) == ("default", "ok", ["a", "v", "av"])
    assert client.models.retrieve("whisper-1").id == "whisper-1"
    with pytest.raises(openai.NotFoundError, match="'nobody' is not served here"):
        client.models.retrieve("nobody")


# --- what is refused ---

@pytest.mark.parametrize(("fields", "status", "param", "says"), [
    ({"model": "large"}, 404, "model", "is not served here"),
    ({"temperature": "nan"}, 400, "temperature", "must be a number from 0 to 1"),
    ({"response_format": "xml"}, 400, "response_format", "Use one of json, text"),
    ({"modality": "q"}, 400, "modality", "Use one of auto, a, v, av"),
    ({"lips": "grid"}, 400, "lips", "started without a second model"),
    ({"stream": "perhaps"}, 400, "stream", "must be true or false"),
    ({"language": "xx"}, 400, None, "does not write language"),
    ({"include[]": "logprobs"}, 400, "include[]", "log-probabilities"),
    ({"known_speaker_names[]": "Ann"}, 400, "known_speaker_names[]", "told from the picture"),
    ({"prompt": "<|endoftext|>"}, 400, None, "special tokens"),
])
def test_wrong_fields_are_named(server, fields, status, param, says):
    answer = ask(server, **fields)
    error = error_of(answer)
    assert (answer.status_code, error["param"]) == (status, param)
    assert says in error["message"]


@pytest.mark.parametrize(("file", "says"), [(None, "field file is missing"), (("a.mp4", b""), "is empty"),
                                            (("../../<b>.mp4", b"\0" * 5000), "cannot be read as a recording")])
def test_what_is_no_recording_is_one_sentence_without_the_name_of_the_client(server, file, says):
    answer = ask(server, file=file)
    assert answer.status_code == 400
    assert says in error_of(answer)["message"]
    assert "<b>" not in answer.text


def test_a_translation_needs_a_model_that_translates(server):
    answer = ask(server, "/v1/audio/translations")
    assert answer.status_code == 400
    assert "does not translate" in error_of(answer)["message"]


def test_paths_and_methods_that_do_not_exist(server):
    for request, status in (("GET /v1/nothing", 404), ("GET /v1/audio/transcriptions", 405), ("PUT /health", 405)):
        method, path = request.split()
        answer = httpx.request(method, server.address + path)
        assert answer.status_code == status
        error_of(answer)


def test_too_large_and_too_long_are_refused(server, tmp_path):
    answer = ask(server, file=("a.mp4", b"\0" * 1_100_000))
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")
    media.write(None, tmp_path / "long.m4a", audio=np.tile(media.read(HELLO, want_video=False).audio, 3))
    answer = ask(server, file=("long.m4a", (tmp_path / "long.m4a").read_bytes()), modality="a")
    assert (answer.status_code, error_of(answer)["code"]) == (413, "recording_too_long")
    server.wait_until_idle()


def test_a_page_of_another_site_and_a_foreign_name_are_refused(server):
    answer = ask(server, headers={"Origin": "https://evil.example"})
    assert (answer.status_code, error_of(answer)["code"]) == (403, "origin_not_allowed")
    answer = httpx.get(f"{server.address}/v1/models", headers={"Host": "evil.example"})
    assert (answer.status_code, error_of(answer)["code"]) == (421, "wrong_host")
    assert httpx.get(f"{server.address}/v1/models", headers={"Origin": server.address}).status_code == 200


def test_a_slow_sender_is_given_up_and_frees_its_place(server):
    with socket.create_connection(server.address.removeprefix("http://").split(":")) as slow:
        slow.sendall(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
                     b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")
        slow.settimeout(10)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    with socket.create_connection(server.address.removeprefix("http://").split(":")) as silent:
        silent.settimeout(10)
        assert silent.recv(100) == b"", "a connection that says nothing is closed"
    server.wait_until_idle()


@pytest.mark.slow
def test_who_goes_away_frees_the_place_and_leaves_no_file(server, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with httpx.Client(timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{server.address}/v1/audio/transcriptions", files={"file": HELLO.read_bytes()}, data={"mouths": "true"})
    server.wait_until_idle()
    assert list(tmp_path.iterdir()) == []
    assert ask(server).json()["text"] == SAID


def test_keys_and_hosts():
    with pytest.raises(AvsrError, match="there is no key"):
        ServeSettings(host="0.0.0.0")
    with pytest.raises(AvsrError, match="it is empty"):
        ServeSettings(api_key=" ")
    with pytest.raises(AvsrError, match="not the origin of a page"):
        ServeSettings(allow_origins=("example.org",))
    assert ServeSettings(host="::1", port=1).address == "http://[::1]:1"
    assert key_from_environment("given") == "given"


@pytest.mark.slow
def test_a_key_an_allowed_origin_a_rate_and_a_full_queue(model):
    settings = ServeSettings(api_key="secret", allow_origins=("https://good.example",), requests_a_minute=30, max_waiting=0)
    with served(model, settings) as running:
        assert error_of(httpx.get(f"{running.address}/v1/models"))["code"] == "invalid_api_key"
        key = {"Authorization": "Bearer secret"}
        answer = httpx.get(f"{running.address}/v1/models", headers={**key, "Origin": "https://good.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://good.example")
        with running.jobs._lock:
            running.jobs._n_places += running.jobs.n_workers            # all places are taken
        full = ask(running, headers=key)
        assert (full.status_code, full.headers["retry-after"], error_of(full)["code"]) == (503, "5", "overloaded")
        running.jobs._n_places = 0
        answers = [httpx.get(f"{running.address}/v1/models", headers=key) for _ in range(40)]
        assert {one.status_code for one in answers} == {200, 429}
        assert error_of(answers[-1])["code"] == "rate_limit_exceeded"


# --- the process ---

@pytest.mark.slow
def test_the_command_answers_while_the_model_loads_refuses_a_taken_port_and_ends_politely():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "avsr", "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert any(line.startswith("Open http://") for line in process.stderr)
            state = httpx.get(f"http://127.0.0.1:{port}/health").json()
            assert state["status"] in ("loading", "ok")
            second = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            assert second.returncode == 1
            assert f"port {port}: another program listens there" in second.stderr
            process.terminate()
            said = process.stderr.read()
            assert process.wait(10) == 128 + 15
        finally:
            process.kill()                                  # or a failure would wait for ever
    assert said.startswith("stopped by SIGTERM: The server answers no more")
    assert "Traceback" not in said


# --- batches that requests share ---

@pytest.mark.slow
def test_recordings_that_share_batches_have_the_texts_that_they_have_alone(model):
    sound = media.read(HELLO, want_video=False).audio
    recordings = [sound, sound[:52_000], np.tile(sound, 2)]
    alone = [avsr.transcribe(one, model=model, modality="a") for one in recordings]
    shared, together = SharedBatches(next(model.model.parameters()).device), {}

    def read(number):
        together[number] = avsr.transcribe(recordings[number], model=model, modality="a", shared=shared)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(recordings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared.close()
    for number, one in enumerate(alone):
        assert together[number].text == one.text
        assert [word.start for word in together[number].words] == [word.start for word in one.words]


def test_an_error_in_a_batch_reaches_who_asked(model, monkeypatch):
    shared = SharedBatches(next(model.model.parameters()).device)
    broken = replace(model, alignment_heads=((99, 99),))
    with pytest.raises(IndexError):
        avsr.transcribe(media.read(HELLO, want_video=False).audio, model=broken, modality="a", shared=shared)
    shared.close()


def test_json_of_the_openapi_description_is_valid(server):
    described = httpx.get(f"{server.address}/openapi.json").json()
    assert {"/v1/audio/transcriptions", "/v1/audio/translations", "/v1/models", "/health"} <= set(described["paths"])
