"""Push-to-talk by the package pynput: whether a key is held, and text typed at the cursor of whatever program has the focus.

    a key that is held -> Keyboard.held; text -> typable -> Keyboard.type -> the program with the focus
"""

from __future__ import annotations

import os
import sys
import threading
import time
import unicodedata
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from avsr.errors import AvsrError

# Keys that write nothing. Those that do something of their own in most programs, such as Enter or an arrow, are left out.
KEYS = ("ctrl_r", "ctrl_l", "shift_r", "shift_l", "alt_r", "alt_l", "cmd_r", "cmd_l", "menu", "pause", "scroll_lock", "insert",
        *(f"f{number}" for number in range(1, 21)))
MODIFIERS = ("alt", "alt_l", "alt_r", "alt_gr", "cmd", "cmd_l", "cmd_r", "ctrl", "ctrl_l", "ctrl_r", "shift", "shift_l",
             "shift_r")
# X tells a held key as many times pressed and released, each time at the same instant. It also keeps the end of the last word.
RELEASE_S = 0.15
PATIENCE_S = 10.0                     # text waits so long for the user to let go of all modifier keys
NEVER_TYPED = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")      # Unicode's categories: controls, formats, surrogates, no letters
JOINERS = "\u200c\u200d"              # formats that Persian, Hindi and others spell with


def typable(text: str) -> str:
    """The text without anything that is no letter, mark or space: every line break, tab and control is gone, so that no key
    other than those of letters is ever pressed. White space becomes single spaces."""
    kept = (" " if one.isspace() else one for one in unicodedata.normalize("NFC", text)
            if one.isspace() or one in JOINERS or unicodedata.category(one) not in NEVER_TYPED)
    return " ".join("".join(kept).split())


def check_typing(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> None:
    """Raises AvsrError where the system lets no program watch a key and type: on Wayland, and without a display."""
    if not platform.startswith("linux"):
        return
    if environment.get("XDG_SESSION_TYPE") == "wayland" or environment.get("WAYLAND_DISPLAY"):
        raise AvsrError("--type: Wayland lets no program see which key is held, nor type into another program.  Log in to a "
                        "session on X11 (\"Xorg\" on the login screen), or leave out --type and copy the text.")
    if not environment.get("DISPLAY"):
        raise AvsrError("--type: there is no display (the variable DISPLAY is not set), so there is no cursor to type at.  Use "
                        "it in a desktop session, or leave out --type.")


class Keyboard:
    """Watches one key, and types. Use it in `with`.

    key: one of KEYS. Raises AvsrError where the system does not allow it, the display does not answer, or pynput is missing.
    """

    def __init__(self, key: str):
        check_typing()
        self._pynput = _import_pynput()
        self.key = getattr(self._pynput.Key, key, None)
        if key not in KEYS or self.key is None:
            raise AvsrError(f"--key {key}: this system has no such key that writes nothing.  Use one of {', '.join(KEYS)}.")
        self._modifiers = {one for name in MODIFIERS if (one := getattr(self._pynput.Key, name, None)) is not None}
        self._down: set[Any] = set()
        self._released_s, self._lock = 0.0, threading.Lock()
        self._controller = self._pynput.Controller()
        self._listener = self._pynput.Listener(on_press=self._press, on_release=self._release)

    def __enter__(self) -> Keyboard:
        self._listener.start()
        self._listener.wait()
        if not getattr(self._listener, "IS_TRUSTED", True):   # only macOS has that
            self._listener.stop()
            raise AvsrError("--type: macOS does not let this program watch keys and type.  Allow the terminal under Privacy & "
                            "Security, both Accessibility and Input Monitoring, and begin anew.")
        return self

    def __exit__(self, *_) -> None:
        self._listener.stop()                                # on X11 its thread ends at the next key, so nobody waits for it
        display = vars(self._controller).pop("_display", None)       # pynput closes it late, when X may be gone
        if display is not None:
            display.close()

    def _press(self, key: Any, injected: bool = False) -> None:
        with self._lock:
            if key == self.key or key in self._modifiers:
                self._down.add(key)

    def _release(self, key: Any, injected: bool = False) -> None:
        with self._lock:
            if key in self._down:
                self._down.discard(key)
            if key == self.key:
                self._released_s = time.monotonic()

    @property
    def held(self) -> bool:
        """Whether the key is held, or was until RELEASE_S ago. Raises AvsrError where keys cannot be watched any more."""
        if not self._listener.running:
            raise AvsrError("--type: the display is gone, so no key can be watched.  Begin anew in a desktop session.")
        with self._lock:
            return self.key in self._down or time.monotonic() - self._released_s < RELEASE_S

    def type(self, text: str) -> list[str]:
        """Type a text, of which only what `typable` leaves, and a space. Returns sentences about what could not be typed.

        It waits while a modifier key is held, because letters would become commands: Ctrl and q closes programs.
        """
        missing = []
        letters = f"{typable(text)} ".lstrip()
        for i, letter in enumerate(letters):
            if not self._wait_for_release():
                return [f"--type: {len(letters) - i} letters were not typed, because a modifier key was held for "
                        f"{PATIENCE_S:.0f} s.  Let go of it."]
            if self._has_key(letter):
                self._controller.type(letter)
            else:
                missing.append(letter)
        return [] if not missing else [f"--type: the keyboard layout has no {' '.join(dict.fromkeys(missing))}, so "
                                       f"{len(missing)} letters were left out.  Choose another layout, or copy the text."]

    def _has_key(self, letter: str) -> bool:
        """Whether the keyboard's layout has the letter. On X11 pynput would lend it a spare key, of which programs learn too
        late: "Größe" became "Grööe" on a US layout, and a wrong letter is worse than a missing one."""
        layout = getattr(self._controller, "keyboard_mapping", None)
        return layout is None or self._controller._key_to_keysym(self._pynput.KeyCode.from_char(letter)) in layout

    def _wait_for_release(self) -> bool:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            with self._lock:
                if not self._down:
                    return True
            time.sleep(0.01)
        return False


def _import_pynput() -> ModuleType:
    """pynput's keyboard. It connects to the display when it is imported."""
    try:
        from pynput import keyboard
    except ModuleNotFoundError as error:
        raise AvsrError("--type: the package pynput is missing.  Install it with pip install 'avsr[live]'.") from error
    except ImportError as error:
        raise AvsrError(f"--type: the display {os.environ.get('DISPLAY', '')} does not answer.  Use it in a desktop session, "
                        "or leave out --type.") from error
    return keyboard
