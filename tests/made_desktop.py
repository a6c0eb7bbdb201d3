"""A desktop without a screen: Xvfb, a window with a field to write in, and xdotool for the keys that a person presses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

NEEDED = ("Xvfb", "xdotool")
# A window whose field has the focus. Each change of the text, each Return and each Tab is written to a file.
WINDOW = """
import sys, tkinter
from pathlib import Path
window, log = tkinter.Tk(), Path(sys.argv[1])
text = tkinter.StringVar()
field = tkinter.Entry(window, textvariable=text, width=80)
field.pack()
note = lambda *_: (log.with_suffix(".new").write_text(text.get(), encoding="utf-8"), log.with_suffix(".new").replace(log))
text.trace_add("write", note)
for key in ("<Return>", "<Tab>", "<Control-Key>"):
    field.bind(key, lambda event: event.keysym.startswith("Control") or text.set(text.get() + f"<{event.keysym}>"))
window.update()
field.focus_force()
window.after(100, note)
window.mainloop()
"""


class Desktop:
    """missing(): why there is none here. text: what stands in the field. press, release: a key, by X's name of it."""

    def __init__(self, folder: Path):
        self._log = folder / "field.txt"
        self._processes: list[subprocess.Popen] = []
        receiver, sender = os.pipe()
        self._processes.append(subprocess.Popen(["Xvfb", "-displayfd", str(sender), "-screen", "0", "800x300x24", "-nolisten",
                                                 "tcp"], pass_fds=[sender], stderr=subprocess.DEVNULL))
        os.close(sender)
        with os.fdopen(receiver) as pipe:
            self.display = f":{pipe.readline().strip()}"
        self.environment = {**os.environ, "DISPLAY": self.display}
        for name in ("WAYLAND_DISPLAY", "XDG_SESSION_TYPE"):
            self.environment.pop(name, None)
        self._processes.append(subprocess.Popen([sys.executable, "-c", WINDOW, str(self._log)], env=self.environment))
        wait_until(self._log.exists, 20)

    @staticmethod
    def missing() -> str | None:
        lacks = [name for name in NEEDED if shutil.which(name) is None]
        if lacks:
            return f"{' and '.join(lacks)} not on this machine"
        try:
            import tkinter  # noqa: F401
        except ImportError:
            return "this Python has no tkinter"
        return None

    @property
    def text(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def press(self, key: str) -> None:
        subprocess.run(["xdotool", "keydown", key], env=self.environment, check=True)

    def release(self, key: str) -> None:
        subprocess.run(["xdotool", "keyup", key], env=self.environment, check=True)

    def close(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait(10)


def wait_until(true, seconds: float) -> None:
    """Wait until `true()`; fails after so many seconds."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"nothing in {seconds} s"
        time.sleep(0.05)
