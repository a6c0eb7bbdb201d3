"""A real browser for tests: Debian's Chromium without a screen, with a film for a camera and a sound for a microphone."""

import shutil
import time
from fractions import Fraction

import av
import pytest

from avsr import media
from avsr.rates import VIDEO_FPS

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required", "--window-size=1280,900"]


def film(clip, folder):
    """The pictures and the sound of a clip, as Chromium's false camera and microphone take them: MJPEG and WAV."""
    path = folder / "camera.mjpeg"
    with av.open(path, "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=VIDEO_FPS)
        stream.height, stream.width = clip.video.shape[1:3]
        stream.pix_fmt, stream.options = "yuvj420p", {"qscale": "3"}
        for i, picture in enumerate(clip.video):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, VIDEO_FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    media.write(None, folder / "microphone.wav", audio=clip.audio)
    return path, folder / "microphone.wav"


class Browser:
    """A page in Chromium. `js` runs a script and gives its value."""

    def __init__(self, folder, *flags, devices=None, allow=True):
        webdriver = pytest.importorskip("selenium.webdriver")
        programs = shutil.which("chromium"), shutil.which("chromedriver")
        if None in programs:
            pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = programs[0]
        kinds = ("video", "audio") if devices else ()
        given = [f"--use-file-for-fake-{kind}-capture={path}" for kind, path in zip(kinds, devices or (), strict=True)]
        for flag in [*FLAGS, *given, *flags, "--use-fake-ui-for-media-stream" if allow else "--deny-permission-prompts",
                     f"--user-data-dir={folder / 'profile'}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
        self.driver = webdriver.Chrome(options=options, service=Service(programs[1]))
        self.downloads = folder / "downloads"

    def open(self, server, scheme="light"):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": scheme}]})
        self.driver.get(f"http://{server}/")
        self.wait("document.getElementById('about').textContent !== ''")

    def js(self, script, *args):
        return self.driver.execute_script(f"return {script}", *args)

    def wait(self, condition, seconds=60):
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < deadline, f"{condition}: not in {seconds} s; {self.status!r} {self.problems!r}"
            time.sleep(0.05)

    def find(self, name):
        return self.driver.find_element("id", name)

    def upload(self, path):
        self.find("file").send_keys(str(path))

    @property
    def status(self):
        return self.js("document.getElementById('status').textContent")

    @property
    def problems(self):
        return self.js("[...document.getElementById('problems').children].map(one => one.textContent)")

    @property
    def text(self):
        return self.js("[...document.querySelectorAll('.word')].map(one => one.textContent).join(' ')")

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def shown(self, *names):
        return all(self.js("!document.getElementById(arguments[0]).closest('[hidden]')", name) for name in names)

    def complaints(self):
        """What the browser's log holds of mistakes: of scripts, and of what the policy forbids."""
        return [one["message"] for one in self.driver.get_log("browser") if one["level"] == "SEVERE"]

    def close(self):
        self.driver.quit()


