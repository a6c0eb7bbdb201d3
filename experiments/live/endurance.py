"""Does live recognition keep up for half an hour? Clips are played one after another as if live, and again from the first.

    uv run python experiments/live/endurance.py data/grid/valid.jsonl --minutes 30
Each minute of the recording: by how many seconds recognition is behind at most, the memory of the process, and the delays.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")         # as the command line has it; set before torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np

from avsr import media
from avsr.benchmark.live import delays_of
from avsr.live import LiveRecogniser, LiveUpdate
from avsr.live.playback import PIECE_FRAMES, EmittedWord, play
from avsr.manifest import Utterance, manifest_path, read
from avsr.rates import VIDEO_FPS, frames_to_seconds
from avsr.runtime import pick_device
from avsr.transcribe.run import load_models

Starts = list[tuple[float, Utterance]]


def played(utterances: list[tuple[Utterance, Path]], minutes: float, starts: Starts) -> Iterator[media.Clip]:
    """Utterances again and again as one recording; `starts` gets when each begins, in seconds."""
    start = 0
    for utterance, path in cycle(utterances):
        if start >= minutes * 60 * VIDEO_FPS:
            return
        starts.append((frames_to_seconds(start), utterance))
        with media.open_recording(path) as recording:
            for clip in recording.windows(PIECE_FRAMES, grey=True):
                yield replace(clip, start_frame=start)
                start += clip.n_frames


def memory_mb() -> float:
    """Memory of this process (Linux), MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--speaker", default="s1")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--model", default="default")
    parser.add_argument("--lips")
    parser.add_argument("--modality", default="av")
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    path = manifest_path(options.manifest)
    wanted = options.speaker, options.split
    rows = [(one, path.parent / one.media) for one in read(path) if (one.speaker, one.split) == wanted]
    checkpoint = load_models(options.model, options.lips, options.modality, pick_device("cpu"))
    minute, starts, behind = 0, [], []

    def on_update(update: LiveUpdate, clock: float) -> None:
        nonlocal minute
        behind.append(clock - update.end_s)
        if update.end_s >= 60 * (minute + 1):
            minute = int(update.end_s // 60)
            print(f"minute {minute:3d}  behind at most {max(behind):.2f} s  memory {memory_mb():,.0f} MB", flush=True)
            behind.clear()

    with LiveRecogniser(checkpoint, modality=options.modality) as live:
        done = play(played(rows, options.minutes, starts), live, on_update=on_update)
    print(f"computed {done.busy_s:.0f} of {done.duration_s:.0f} s")
    report(done.words, starts)


def report(words: list[EmittedWord], starts: Starts) -> None:
    """Print the delays of the first and the second half, computation-unaware and -aware."""
    half = len(starts) // 2
    for name, part in (("first half", starts[:half]), ("second half", starts[half:])):
        near = {start_s: [word for word in words if start_s <= word.word.end < start_s + 9] for start_s, _ in part}
        delays = np.array([delay for start_s, one in part for delay in delays_of(one, start_s, near[start_s])])
        unaware, aware = np.percentile(delays, [50, 95], axis=0).T
        print(f"{name}: median {unaware[0]:.2f} s, 95 % {unaware[1]:.2f} s; with computing {aware[0]:.2f} s, {aware[1]:.2f} s; "
              f"{len(delays)} words")


if __name__ == "__main__":
    main()
