"""Fifty clients at once, each with a recording of its own, through OpenAI's client: does each get its own text, and how fast?

    uv run python experiments/serve/load.py CLIP CLIP ...          # clips are joined to recordings of about 8 s
Compares with `avsr transcribe` on the same files in one call, and counts seconds to the first text of a stream.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai

from avsr import media
from avsr.text import normalise


def joined(clips: list[Path], path: Path) -> None:
    """Write some clips one after another as one recording, in colour as OpenCV writes it, with their sound."""
    parts = [media.read(one) for one in clips]
    media.write(np.concatenate([one.video for one in parts]), path, audio=np.concatenate([one.audio for one in parts]))


def cpu_s(who: int) -> float:
    """Processor time of this process, or of its ended children."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number in range(options.clients):
            first = 3 * number % (len(options.clips) - 2)
            paths.append(Path(folder) / f"{number:02d}.mp4")
            joined(options.clips[first:first + 3], paths[-1])
        print(f"load of the machine {os.getloadavg()[0]:.1f}")
        began, before = time.monotonic(), cpu_s(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "avsr", "transcribe", "-q", "-f", "txt", "-o", folder, *map(str, paths)],
                              stdout=subprocess.DEVNULL, check=True)
        assert done.returncode == 0
        print(f"command line: {time.monotonic() - began:.1f} s, {cpu_s(resource.RUSAGE_CHILDREN) - before:.1f} s of CPU")
        texts = [" ".join(path.with_suffix(".txt").read_text().split()) for path in paths]
        serve(paths, texts)


def serve(paths: list[Path], texts: list[str]) -> None:
    """Ask a server for all of them at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "avsr", "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "ok":
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", timeout=600)
        client.audio.transcriptions.create(file=paths[0], model="default")
        began, before = time.monotonic(), process_cpu_s(process.pid)
        with ThreadPoolExecutor(len(paths)) as pool:
            found = list(pool.map(lambda path: client.audio.transcriptions.create(file=path, model="default").text, paths))
        print(f"{len(paths)} clients: {time.monotonic() - began:.1f} s, {process_cpu_s(process.pid) - before:.1f} s of CPU")
        same = sum(one == text for one, text in zip(found, texts, strict=True))
        words = sum(normalise(one) == normalise(text) for one, text in zip(found, texts, strict=True))
        print(f"texts as of the command line: {same} of {len(paths)} to the letter, {words} of {len(paths)} in their words")
        began = time.monotonic()
        next(iter(client.audio.transcriptions.create(file=paths[1], model="default", stream=True)))
        print(f"first text of one upload: {time.monotonic() - began:.2f} s")
        process.terminate()


def process_cpu_s(pid: int) -> float:
    """Processor time of a process that runs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
