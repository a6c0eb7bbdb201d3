"""`avsr live`: files as if live, options, the polite end, and push-to-talk from a key to a window."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest
from made_desktop import Desktop, wait_until
from places import ROOT

HELLO = ROOT / "data" / "demo" / "hello.mp4"


@pytest.mark.slow
def test_a_file_as_if_live_gives_its_words_and_the_files_that_are_asked_for(forked, tmp_path):
    done = forked.run(["live", "--video", HELLO, "--modality", "a", "-f", "srt,json", "-o", "out"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "made by a computer" in done.stdout
    assert "\x1b" not in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["hello.json", "hello.srt"]


@pytest.mark.parametrize(("words", "message"), [
    (["--video", "a.mp4", "--microphone", "x"], "--video a.mp4 plays a file, so --microphone x has no meaning."),
    (["--video", "none", "--modality", "v"], "Neither sound nor picture is left."),
    (["--modality", "v", "--microphone", "x"], "--microphone x has no meaning without sound."),
    (["--modality", "a", "--camera", "0"], "--camera 0 has no meaning without a picture."),
    (["--type", "--format", "srt"], "--type types the text and writes no files."),
    (["--video", "none.mp4", "--modality", "a"], "none.mp4"),
    (["--audio", "none", "--camera", "/dev/video77", "--modality", "v"], "this machine has no /dev/video77."),
    (["--model", "tiny.en", "--modality", "v"], "this model has no trained video encoder"),
])
def test_what_cannot_be_done_is_told_in_one_sentence(forked, tmp_path, words, message):
    done = forked.run(["live", *words], tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_ctrl_c_ends_politely_with_the_last_words(tmp_path):
    with subprocess.Popen([sys.executable, "-m", "avsr", "live", "--video", str(HELLO), "--modality", "a"], cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert "Ctrl-C ends it" in running.stderr.readline()
            assert running.stdout.read(5) == "Hello"         # a word comes as soon as it is committed, not with its line
            running.send_signal(signal.SIGINT)
            out, problems = running.communicate(timeout=30)
        finally:
            running.kill()                                   # or a failure would wait for ever
    assert running.returncode == 0, problems
    assert out.endswith("\n")


@pytest.mark.slow
def test_what_is_said_while_a_key_is_held_is_typed_in_the_window(tmp_path):
    if (reason := Desktop.missing()) is not None:
        pytest.skip(reason)
    pytest.importorskip("Xlib", reason="pynput is not installed")
    with closing(Desktop(tmp_path)) as desktop, subprocess.Popen(
            [sys.executable, "-m", "avsr", "live", "--type", "--video", str(HELLO), "--modality", "a"], cwd=ROOT,
            env=desktop.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr.readline().startswith("Hold ctrl_r while you speak or mouth")
            desktop.press("Control_R")
            time.sleep(4)
            assert desktop.text == ""                        # nothing is typed before the key is released
            desktop.release("Control_R")
            wait_until(lambda: "computer" in desktop.text, 30)
            running.send_signal(signal.SIGINT)
            assert running.wait(30) == 0
            assert "<" not in desktop.text
        finally:
            running.kill()                                   # or a failure would wait for ever
