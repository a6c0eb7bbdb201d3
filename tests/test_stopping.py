"""Ctrl-C and SIGTERM: a command ends soon, whatever its threads are at, with one sentence and the status shells expect."""

import os
import signal
import subprocess
import sys
import time

import pytest
from places import ROOT

WAITS = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from avsr.cli.console import report_errors
print("begun", flush=True)
with report_errors("Give the same command again."):
    {inside}
print("after", flush=True)
"""
# What the main thread is at when the signal comes.
INSIDE = {
    "waits for a lock": "threading.Event().wait(60)",
    "leaves a pool whose thread is at work": "with ThreadPoolExecutor(1) as pool: pool.submit(time.sleep, 60).result()",
    "catches everything": "\n    try: time.sleep(60)\n    except BaseException: time.sleep(60)",
}


def stopped(command, number, *, after, again=None, **options):
    """Status, seconds from the signal to the end, and standard error, of a command that is sent a signal once it has written a
    line that begins with `after`; `again`: seconds until it is sent once more."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, **options,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) as process:
        while not process.stdout.readline().startswith(after):
            assert process.poll() is None, process.stderr.read()
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(number)
        if again is not None:
            time.sleep(again)
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - began, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("inside", list(INSIDE))
def test_whatever_the_main_thread_is_at_the_command_ends_soon(inside, number):
    status, seconds, errors = stopped([sys.executable, "-c", WAITS.format(inside=INSIDE[inside])], number, after="begun")
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    assert (status, errors) == (128 + number, f"stopped by {name}: Give the same command again.\n")
    assert seconds < 30                                     # of 60; about 1.5 where the machine is idle


def test_a_second_signal_ends_it_at_once():
    status, _, errors = stopped([sys.executable, "-c", WAITS.format(inside=INSIDE["catches everything"])], signal.SIGINT,
                                after="begun", again=0.2)
    assert (status, errors) == (130, "stopped by Ctrl-C: Give the same command again.\n")


def test_a_signal_that_is_ignored_stays_ignored():
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + WAITS.format(inside="time.sleep(1.5)")
    status, _, errors = stopped([sys.executable, "-c", code], signal.SIGINT, after="begun")
    assert (status, errors) == (0, "")


def test_inside_nothing_is_left_behind():
    code = """
import os, signal, threading
from avsr.cli.stopping import stoppable
before = signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))
for _ in range(20):
    with stoppable(print):
        pass
while threading.active_count() > 1: pass
assert before == (signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd")))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)


@pytest.mark.slow
def test_a_long_recording_is_stopped_between_two_texts(tmp_path, hello):
    import numpy as np
    import soundfile

    for name in ("one", "two"):
        soundfile.write(tmp_path / f"{name}.wav", np.tile(hello, 40), 16_000)
    status, _, errors = stopped(
        [sys.executable, "-m", "avsr", "transcribe", tmp_path / "one.wav", tmp_path / "two.wav", "-o", tmp_path / "out",
         "--model", "grid", "--modality", "a", "--beam-size", "1", "--batch-size", "1"], signal.SIGTERM, after="",
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert status == 143
    last = errors.splitlines()[-1]
    assert last == (f"stopped by SIGTERM: 0 of 2 files are done, and {tmp_path}/one.wav is not.  Give the same command again "
                    "with the files from that one on.")
    assert "Traceback" not in errors
    assert os.listdir(tmp_path / "out") == []
