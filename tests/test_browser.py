"""The page in a real browser, on a real server with the default model: what a person does, and what goes wrong."""

import json
import re
import time

import pytest
from places import ROOT

pytest.importorskip("fastapi")
from browsing import Browser, film
from made_web import served

from avsr import checkpoint, media
from avsr.serve.settings import ServeSettings

pytestmark = pytest.mark.slow
DEMO = ROOT / "data" / "demo" / "hello.mp4"
STYLE = (ROOT / "avsr" / "serve" / "page" / "style.css").read_text()


@pytest.fixture(scope="module")
def model():
    return checkpoint.load("default")


@pytest.fixture(scope="module")
def server(model):
    with served(model) as running:
        yield running.host


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    browser = Browser(folder, devices=film(media.read(DEMO), folder))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def read(browser, server):
    """The page after the demo was uploaded and read."""
    browser.open(server)
    browser.upload(DEMO)
    browser.wait("!document.getElementById('downloads').hidden")
    return browser


def test_an_uploaded_file_is_read_and_its_mouth_is_shown(read):
    assert "made by a computer" in read.text
    assert read.status == "hello.mp4 is read."
    assert read.problems == []
    read.wait("document.getElementById('mouth-video').videoWidth === 96")
    assert re.fullmatch(r"believed \d+ %", read.find("believed").text)
    assert read.js("document.getElementById('belief').value") <= 1
    labels = read.js("[...document.querySelectorAll('.word')].map(one => one.getAttribute('aria-label'))")
    assert all(re.fullmatch(r"\S+, \d+ %", one) for one in labels)
    degrees = set(read.js("[...document.querySelectorAll('.word')].map(one => one.className)"))
    assert degrees <= {"word sure", "word unsure", "word doubtful"}


def test_nothing_comes_from_elsewhere_and_nothing_is_complained_of(read, server):
    addresses = read.js("performance.getEntriesByType('resource').map(one => one.name)")
    assert addresses
    assert all(one.startswith((f"http://{server}/", "blob:", "data:")) for one in addresses)
    assert read.complaints() == []
    assert "leaves neither this machine nor its memory" in read.find("privacy").text


def test_a_click_on_a_word_plays_it_and_no_more(read):
    read.js("window.played = []")
    read.js("document.getElementById('player').addEventListener('timeupdate', event => played.push(event.target.currentTime))")
    word = read.driver.find_elements("css selector", ".word")[5]
    word.click()
    shown = re.fullmatch(rf"{re.escape(word.text)} · ([\d.]+) to ([\d.]+) s · \d+ % sure", read.find("detail").text)
    start, end = map(float, shown.groups())
    read.wait("played.length > 1 && document.getElementById('player').paused", 10)
    played = read.js("played")
    assert start - 0.2 < min(played) < max(played) < end + 0.4


def test_the_keyboard_alone_reaches_and_plays_words(read):
    from selenium.webdriver.common.keys import Keys

    read.js("document.activeElement.blur()")
    read.js("scrollTo(0, 0)")
    seen = []
    for _ in range(25):
        read.press(Keys.TAB)
        seen.append(read.js("document.activeElement.id || document.activeElement.className"))
        if str(seen[-1]).startswith("word"):
            break
    assert {"file", "go-live", "player"} <= set(seen)
    assert seen[-1].startswith("word")
    read.press(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    texts = read.js("[...document.querySelectorAll('.word')].map(one => one.textContent)")
    assert read.js("document.activeElement.textContent") == texts[2]
    read.press(Keys.END)
    assert read.js("document.activeElement.textContent") == texts[-1]
    read.press(Keys.HOME, Keys.ENTER)
    assert read.js("!document.getElementById('player').paused")
    read.press(Keys.TAB)
    assert read.js("document.activeElement.dataset.format") == "srt"


def test_the_text_is_downloaded_in_three_formats(read):
    for button in read.driver.find_elements("css selector", "#downloads button"):
        button.click()
    paths = [read.downloads / f"hello.{suffix}" for suffix in ("srt", "vtt", "json")]
    deadline = time.monotonic() + 10
    while not all(path.exists() for path in paths) and time.monotonic() < deadline:
        time.sleep(0.1)
    srt, vtt, as_json = (path.read_text() for path in paths)
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n\S", srt)
    assert vtt.startswith("WEBVTT\n\n00:0")
    content = json.loads(as_json)
    assert content["text"] in " ".join(srt.split("\n")) or "computer" in content["text"]
    assert content["segments"][0]["words"][0]["confidence"] <= 1


def test_the_noise_slider_reads_by_sound_lips_and_both(read):
    from selenium.webdriver.common.keys import Keys

    read.driver.find_element("css selector", "#noise-form input[value=white]").click()
    slider = read.find("level")
    slider.send_keys(Keys.HOME)
    assert slider.get_attribute("aria-valuetext") == "SNR +20 dB, hardly any noise"
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert read.find("level-says").text.startswith("SNR +18 dB")
    read.driver.find_element("css selector", "#noise-form button").click()
    read.wait("!document.getElementById('noisy').hidden")
    assert read.find("noise-status").text == "Read with white noise at an SNR of +18 dB."
    assert "computer" in read.find("by-a").text
    assert "computer" in read.find("by-av").text
    assert read.find("by-v").text                            # the lips of a drawn face, which the model may not know
    read.wait("document.getElementById('noisy-sound').duration > 5")


def test_it_fits_a_phone_and_the_dark(read, server):
    read.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})
    try:
        assert read.js("document.documentElement.scrollWidth") <= 360
        small = read.js("[...document.querySelectorAll('button, .button')].filter(one => one.offsetParent && "
                        "one.getBoundingClientRect().height < 44).map(one => one.textContent)")
        assert small == []
    finally:
        read.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def colours(block):
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def contrast(one, other):
    """Of two colours, by WCAG 2."""
    def luminance(colour):
        parts = [int(colour[i: i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_all_text_can_be_told_from_its_ground():
    light, dark = (colours(block) for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL))
    for scheme in (light, dark):
        inks = ["ink", "faint", "unsure", "doubtful", "accent", *(f"speaker{i}" for i in range(6))]
        pairs = [(ink, ground) for ink in inks for ground in ("paper", "raised")]
        pairs += [("on-accent", "accent"), ("alarm-ink", "alarm"), ("ink", "here"), ("unsure", "here"), ("doubtful", "here")]
        for ink, ground in pairs:
            assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ink, ground)


def test_what_is_no_recording_and_a_name_of_markup_are_told_in_a_sentence(browser, server, tmp_path):
    browser.open(server)
    path = tmp_path / "<img src=x onerror=document.title=1>.mp4"
    path.write_text("This is a letter, and no recording.")
    browser.upload(path)
    browser.wait("document.getElementById('problems').children.length")
    assert "cannot be read as a recording" in browser.problems[0]
    assert browser.js("document.querySelector('#status img, #problems img') === null && document.title !== '1'")
    browser.complaints()                                     # it tells of the file that cannot be played


def test_live_text_comes_while_one_speaks_and_stays_playable(browser, server):
    browser.open(server)
    browser.find("go-live").click()
    browser.wait("document.querySelectorAll('.word').length > 2", 30)
    assert re.match(r"0:\d\d, the text is \d+\.\d s behind", browser.status)
    browser.wait("document.getElementById('mouth-picture').naturalWidth === 96", 30)
    before = browser.text
    browser.find("stop").click()
    browser.wait("!document.getElementById('downloads').hidden", 30)
    assert browser.text.startswith(before)                   # committed words never change
    assert "computer" in browser.text or "video" in browser.text
    assert browser.js("document.getElementById('player').srcObject === null")
    browser.wait("document.getElementById('player').duration < 100")
    browser.driver.find_element("css selector", ".word").click()
    browser.wait("!document.getElementById('player').paused && document.getElementById('player').currentTime > 0", 10)
    assert browser.shown("noise", "downloads", "mouth")
    assert browser.complaints() == []


def test_a_server_that_has_gone_is_told_in_a_sentence(browser, model):
    with served(model) as running:
        browser.open(running.host)
        browser.find("go-live").click()
        browser.wait("document.getElementById('status').textContent.startsWith('Listening') || "
                     "document.getElementById('status').textContent.includes('behind')", 30)
    browser.wait("document.getElementById('problems').children.length", 20)
    assert "connection to the server is gone" in browser.problems[0]
    browser.upload(DEMO)
    browser.wait("document.getElementById('problems').textContent.includes('does not answer')")
    browser.complaints()


def test_a_key_is_asked_for_on_the_page(browser, model):
    with served(model, ServeSettings(api_key="secret")) as running:
        browser.open(running.host)
        assert browser.shown("key-field")
        browser.upload(DEMO)
        browser.wait("document.getElementById('problems').children.length")
        assert "API key is missing or wrong" in browser.problems[0]
        browser.driver.find_element("name", "key").send_keys("secret")
        browser.find("go-live").click()
        browser.wait("document.getElementById('status').textContent.startsWith('Listening') || "
                     "document.getElementById('status').textContent.includes('behind')", 30)
        browser.complaints()


def test_a_model_that_cannot_read_lips_says_so(browser, tiny_en):
    with served(tiny_en) as running:
        browser.open(running.host)
        assert browser.find("cannot").text == "The model tiny.en does not read lips."
        assert browser.js("document.querySelector('[value=v]').disabled")


@pytest.mark.parametrize(("flags", "allow", "sentence"), [
    ((), False, "The browser may not use the camera or the microphone.  Allow it"),
    (("--use-fake-device-for-media-stream=device-count=0",), True, "No camera is connected, so only sound is used."),
    (("--use-fake-device-for-media-stream=fps=7",), True, "The camera gives 7 pictures a second"),
])
def test_no_permission_no_camera_and_a_slow_one_are_told_in_a_sentence(server, tmp_path, flags, allow, sentence):
    browser = Browser(tmp_path, *flags, allow=allow)
    try:
        browser.open(server)
        browser.find("go-live").click()
        browser.wait("document.getElementById('problems').children.length", 20)
        assert browser.problems[0].startswith(sentence)
    finally:
        browser.close()
