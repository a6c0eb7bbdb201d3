"""Cameras and microphones: real ones where there are any, and one in the network that this machine serves itself."""

import ctypes.util
import os
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from made_camera import MjpegCamera
from places import ROOT

from avsr.errors import AvsrError
from avsr.live import camera as cameras
from avsr.live import microphone as microphones
from avsr.live.camera import Camera
from avsr.live.microphone import MUTED_S, SoundConverter, SoundPiece
from avsr.live.sources import DeviceSource, SoundClock
from avsr.rates import SAMPLE_RATE, VIDEO_FPS

RED, BLUE = (np.full((48, 64, 3), colour, np.uint8) for colour in ((250, 0, 0), (0, 0, 250)))


def wait_for(found, seconds: float):
    """What `found()` gives once it is anything; fails after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (what := found()) is not None:
            return what
        time.sleep(0.02)
    raise AssertionError(f"nothing in {seconds} s")


@contextmanager
def without_root():
    """Root may open everything; within this nobody else is asked."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_pictures_of_a_camera_in_the_network_have_colours_and_rising_times():
    with MjpegCamera([RED, BLUE], 25) as served, closing(Camera(served.address)) as camera:
        camera.start()
        time.sleep(1)
        taken = camera.take()
        assert 15 <= len(taken) <= 35
        times = [one.time_s for one in taken]
        assert times == sorted(times)
        assert time.monotonic() - 0.2 < times[-1] <= time.monotonic()
        colours = [one.picture[24, 32].argmax() for one in taken]
        assert (colours[:2], set(colours)) in (([0, 2], {0, 2}), ([2, 0], {0, 2}))      # red and blue in turn, as RGB
        assert camera.problem() is None


@pytest.mark.slow
def test_a_camera_of_7_pictures_a_second_is_told_once():
    with MjpegCamera([RED], 7) as served, closing(Camera(served.address)) as camera:
        camera.start()
        sentence = wait_for(camera.problem, 6)
        assert sentence == (f"camera {served.address}: it gives 7 pictures a second, and lips need about 20; the sound goes "
                            "on.  More light often helps, or another camera with --camera.")
        assert camera.fps == pytest.approx(7, abs=0.5)
        time.sleep(0.3)
        assert camera.problem() is None


@pytest.mark.slow
def test_a_camera_that_stops_is_told_and_tried_again():
    with MjpegCamera([RED], 25) as served, closing(Camera(served.address)) as camera:
        camera.start()
        wait_for(lambda: camera.take() or None, 2)
        served.stopped.set()
        assert "no picture came for 2 s; the sound goes on" in wait_for(camera.problem, 5)
        assert camera.problem() is None
        served.stopped.clear()
        assert wait_for(camera.problem, 5).endswith("it gives pictures again.")


def test_pictures_that_nobody_takes_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(cameras, "QUEUE_BYTES", 5 * RED.nbytes)
    with MjpegCamera([RED], 60) as served, closing(Camera(served.address)) as camera:
        camera.start()
        wait_for(lambda: camera.n_lost or None, 3)
        assert len(camera.take()) <= 5


def test_a_camera_without_a_microphone_makes_clips():
    with MjpegCamera([RED], 25) as served, closing(DeviceSource(None, Camera(served.address))) as source:
        source.start()
        clip = wait_for(source.take, 3)
        assert clip.audio is None
        assert clip.video.shape[1:] == RED.shape
        frames = clip.n_frames + sum(one.n_frames for one in source.rest())
        assert 0 < frames / VIDEO_FPS <= source.now_s() + 0.1
        source.start()                                       # push-to-talk begins anew with each key press
        assert wait_for(source.take, 3).start_frame == 0


@pytest.mark.parametrize(("which", "message"), [
    ("/dev/video77", "camera /dev/video77: this machine has no /dev/video77.  Connect a camera, choose one with --camera "
                     "(`avsr live --list-devices` lists them), or use --video none to go by the sound alone."),
    (str(ROOT / "README.md"), "this is a file.  Use --video for it."),
    ("/dev/null", "it cannot be opened, or gives no picture.  Close other programs that use it, choose another with --camera, "
                  "or use --video none."),
    ("http://user:secret@127.0.0.1:9/x", "camera http://127.0.0.1:9/x: it cannot be opened, or gives no picture.  Check the "
                                         "address, and that the camera is switched on."),
])
def test_what_is_no_camera_is_told_in_one_sentence(which, message, capfd):
    with pytest.raises(AvsrError) as error:
        Camera(which)
    assert message in str(error.value)
    assert capfd.readouterr() == ("", "")                    # OpenCV and FFmpeg say nothing of their own


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no device files for cameras")
def test_a_number_without_a_camera_names_the_device():
    with pytest.raises(AvsrError, match=r"camera 77: this machine has no /dev/video77\.  Connect a camera"):
        Camera("77")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="the system has no such permissions")
def test_a_camera_that_the_user_may_not_open_is_told_with_the_remedy():
    with tempfile.TemporaryDirectory() as folder:            # pytest's own folders are closed to other users
        device = Path(folder) / "video0"
        os.mkfifo(device, 0)
        Path(folder).chmod(0o755)
        with without_root(), pytest.raises(AvsrError, match=r"this user may not open .*video0.  Join the group that may"):
            Camera(str(device))


def test_the_cameras_of_this_machine_are_listed():
    assert all(line.partition(":")[0].isdigit() for line in cameras.list_cameras())


def sine(rate: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (48000, 2), (44100, 1), (8000, 1)])
def test_the_sound_of_any_microphone_becomes_16_khz_mono(rate, channels):
    convert = SoundConverter(rate)
    sound = np.repeat(sine(rate)[:, None], channels, axis=1)
    step = rate // 25
    made = np.concatenate([convert(sound[i: i + step]) for i in range(0, len(sound), step)])
    assert made.dtype == np.float32
    assert SAMPLE_RATE - 400 <= len(made) <= SAMPLE_RATE
    lag = int(np.argmax(np.correlate(made[4000:6000], sine(SAMPLE_RATE)[4000:5900], "valid")))
    assert np.abs(made[4000 + lag: 5000 + lag] - sine(SAMPLE_RATE)[4000: 5000]).max() < 0.05


def test_samples_that_are_no_numbers_become_silence():
    block = np.array([[np.nan], [np.inf], [0.25]], np.float32)
    assert SoundConverter(SAMPLE_RATE)(block).tolist() == [0, 0, 0.25]


@pytest.mark.parametrize(("loudness", "level"), [(0.0, "its samples are all zero"),
                                                 (1e-5, "-100 dB of full scale at its loudest")])
def test_silence_of_5_seconds_is_told_once_until_sound_comes(loudness, level):
    quiet = microphones._Quiet()
    hush, sound = np.full(SAMPLE_RATE, loudness, np.float32), sine(SAMPLE_RATE)
    for _ in range(int(MUTED_S) - 1):
        quiet.add(hush)
    assert quiet.told() is None
    quiet.add(hush)
    assert microphones.muted_sentence("it", quiet.told()).startswith(f"microphone it: no sound came for 5 s ({level}).  Turn")
    assert quiet.told() is None
    quiet.add(sound)
    for _ in range(int(MUTED_S)):
        quiet.add(hush)
    assert quiet.told() is not None


def pieces(begin_s: float, n: int, *, rate: float = SAMPLE_RATE, delay: float = 0.0) -> list[SoundPiece]:
    """Pieces of 40 ms of a sound card with a clock of its own rate, on the system's clock."""
    return [SoundPiece(np.full(640, 0.1, np.float32), begin_s + i * 640 / rate + delay) for i in range(n)]


def test_a_sound_cards_clock_that_is_too_slow_moves_the_pictures_with_it():
    clock, rate = SoundClock(100.0), SAMPLE_RATE * (1 - 1e-3)
    for piece in pieces(100.0, 25 * 60, rate=rate):
        list(clock.samples([piece], piece.time_s))
    heard_s = 60.0
    taken = 100.0 + heard_s * SAMPLE_RATE / rate             # a picture at the end of what was heard
    assert taken - clock.zero_s == pytest.approx(heard_s, abs=0.015)       # without it 0.06 s, 1.8 s in half an hour


def test_sound_that_was_lost_becomes_silence_so_that_the_times_stay():
    clock, all_pieces = SoundClock(100.0), pieces(100.0, 200)
    made = np.concatenate([one for piece in all_pieces[:50] + all_pieces[125:] for one in clock.samples([piece], piece.time_s)])
    assert len(made) == 200 * 640
    assert (made == 0).sum() == 75 * 640
    assert clock.zero_s == pytest.approx(100.0)


def test_a_microphone_that_is_unplugged_is_told_and_the_clock_goes_on():
    clock = SoundClock(100.0)
    made = [one for piece in pieces(100.0, 25) for one in clock.samples([piece], piece.time_s)]
    assert clock.problem("USB") is None
    for now in np.arange(101.0, 111.0, 0.1):
        made += list(clock.samples([], now))
    assert clock.problem("USB").startswith("microphone USB: no sound comes from it any more.  Check its cable")
    assert clock.problem("USB") is None
    assert 8 < len(np.concatenate(made)) / SAMPLE_RATE < 11


@pytest.fixture
def sounddevice():
    """The package, with PortAudio. Skips where either is missing."""
    try:
        return microphones.import_sounddevice()
    except AvsrError as error:
        pytest.skip(str(error))


def test_a_microphone_that_does_not_exist_is_told(sounddevice):
    with pytest.raises(AvsrError, match="microphone"):
        microphones.Microphone("no such thing 4711")


@pytest.mark.slow
def test_a_machine_without_a_microphone_is_told_in_one_sentence(sounddevice, forked, tmp_path):
    if any(one["max_input_channels"] for one in sounddevice.query_devices()):
        pytest.skip("this machine has a microphone")
    done = forked.run(["live"], tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("error: microphone: this machine has none, or none that it may use.  Connect one, or use --audio "
                           "none.\n")


def test_a_package_that_is_missing_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AvsrError, match=r"^microphone: the package sounddevice is missing\.  Install it with pip install "
                                        r"'avsr\[live\]'\.$"):
        microphones.Microphone()


def test_a_portaudio_that_is_missing_is_told_with_the_commands_that_install_it(monkeypatch):
    pytest.importorskip("_cffi_backend", reason="sounddevice itself is not installed")
    if not sys.platform.startswith("linux"):
        pytest.skip("elsewhere the package brings it")
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)      # as on a system without the library
    with pytest.raises(AvsrError, match=r"^microphone: the library PortAudio is missing\.  Install it: apt install"):
        microphones.Microphone()
