"""Push-to-talk: a key that is really held on a display of its own, and text that really arrives in a window."""

import sys
import threading
import time
import unicodedata
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_desktop import Desktop, wait_until

from avsr.errors import AvsrError
from avsr.live import keyboard as keyboards
from avsr.live.keyboard import Keyboard, check_typing, typable


@pytest.fixture(scope="module")
def desktop(tmp_path_factory):
    """A display with a window that has the focus. Skips where it cannot be made here."""
    if (reason := Desktop.missing()) is not None:
        pytest.skip(reason)
    pytest.importorskip("Xlib", reason="pynput is not installed")
    with closing(Desktop(tmp_path_factory.mktemp("desktop"))) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", made.display)
        for name in ("WAYLAND_DISPLAY", "XDG_SESSION_TYPE"):
            patch.delenv(name, raising=False)
        for name in [one for one in sys.modules if one.partition(".")[0] == "pynput"]:
            patch.delitem(sys.modules, name)                 # it connects to the display when it is imported
        yield made
        made.press("Shift_L")                                # pynput's listeners end at the next key
        made.release("Shift_L")
        time.sleep(0.5)


@given(st.text())
def test_only_letters_marks_and_single_spaces_are_ever_typed(text):
    typed = typable(text)
    assert not [one for one in typed if unicodedata.category(one)[0] == "C" and one not in "\u200c\u200d"]
    assert not set("\n\r\t\x1b\x08\x7f") & set(typed)
    assert "  " not in typed
    assert typed == typed.strip() == typable(typed)


@pytest.mark.parametrize(("text", "typed"), [
    ("rm -rf /\n", "rm -rf /"), ("one\ttwo\r\nthree", "one two three"), ("\x1b[2Jq\x03\x08", "[2Jq"),
    ("a\u202eb\u2028c", "ab c"),
    ("e\u0301", "é"), ("می\u200cخواهم", "می\u200cخواهم"), ("", ""),
])
def test_line_breaks_and_controls_never_become_keys(text, typed):
    assert typable(text) == typed


@pytest.mark.parametrize(("environment", "platform", "message"), [
    ({}, "linux", "--type: there is no display (the variable DISPLAY is not set), so there is no cursor to type at.  Use it in "
                  "a desktop session, or leave out --type."),
    ({"XDG_SESSION_TYPE": "wayland", "DISPLAY": ":0"}, "linux", "--type: Wayland lets no program see which key is held, nor "
     'type into another program.  Log in to a session on X11 ("Xorg" on the login screen), or leave out --type and copy the '
     "text."),
    ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", "--type: Wayland lets no program see"),
    ({"DISPLAY": ":0"}, "linux", None), ({}, "darwin", None), ({}, "win32", None),
])
def test_where_nobody_may_type_it_is_told_in_one_sentence(environment, platform, message):
    if message is None:
        check_typing(environment, platform)
        return
    with pytest.raises(AvsrError) as error:
        check_typing(environment, platform)
    assert str(error.value).startswith(message)


def test_a_display_that_does_not_answer_is_told(monkeypatch):
    pytest.importorskip("Xlib", reason="pynput is not installed")
    for name in ("WAYLAND_DISPLAY", "XDG_SESSION_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":4711")
    for name in [one for one in sys.modules if one.partition(".")[0] == "pynput"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(AvsrError, match=r"^--type: the display :4711 does not answer\.  Use it in a desktop session"):
        Keyboard("ctrl_r")


def test_a_missing_package_is_told(monkeypatch, desktop):
    monkeypatch.setitem(sys.modules, "pynput", None)
    with pytest.raises(AvsrError, match=r"^--type: the package pynput is missing\.  Install it with pip install"):
        Keyboard("ctrl_r")


@pytest.mark.parametrize("key", ["enter", "a", "", "_value_"])
def test_a_key_that_does_something_is_refused(desktop, key):
    with pytest.raises(AvsrError, match=rf"^--key {key}: this system has no such key that writes nothing\."):
        Keyboard(key)


@pytest.mark.parametrize(("key", "name"), [("ctrl_r", "Control_R"), ("f9", "F9")])
def test_a_key_counts_as_held_from_press_to_release(desktop, key, name):
    with Keyboard(key) as keyboard:
        assert not keyboard.held
        desktop.press(name)
        wait_until(lambda: keyboard.held, 2)
        until = time.monotonic() + 1.0                       # X repeats F9: released and pressed again, many times a second
        while time.monotonic() < until:
            assert keyboard.held
            time.sleep(0.005)
        desktop.release(name)
        wait_until(lambda: not keyboard.held, 2)


def test_text_arrives_in_the_window_and_no_key_but_letters(desktop):
    with Keyboard("ctrl_r") as keyboard:
        before = desktop.text
        assert keyboard.type("Hello, World! size 5 %\n\tend\r\x1b") == []
        wait_until(lambda: desktop.text == f"{before}Hello, World! size 5 % end ", 5)


def test_letters_that_the_layout_lacks_are_left_out_and_told(desktop):
    with Keyboard("ctrl_r") as keyboard:
        before = desktop.text
        assert keyboard.type("a好b好 世") == ["--type: the keyboard layout has no 好 世, so 3 letters were left out.  Choose "
                                          "another layout, or copy the text."]
        time.sleep(0.5)
        assert desktop.text == f"{before}ab  "


def test_text_waits_while_a_modifier_is_held(desktop, monkeypatch):
    with Keyboard("f9") as keyboard:
        before = desktop.text
        desktop.press("Control_L")
        wait_until(lambda: keyboard._down, 2)
        typing = threading.Thread(target=keyboard.type, args=("quit",))
        typing.start()
        time.sleep(0.3)
        assert desktop.text == before
        desktop.release("Control_L")
        typing.join(5)
        wait_until(lambda: desktop.text == f"{before}quit ", 5)
        monkeypatch.setattr(keyboards, "PATIENCE_S", 0.1)
        desktop.press("Control_L")
        wait_until(lambda: keyboard._down, 2)
        assert keyboard.type("quit") == ["--type: 5 letters were not typed, because a modifier key was held for 0 s.  Let go "
                                         "of it."]
        desktop.release("Control_L")
