"""Measure preparing by 1 to 8 workers and training by 1 and 2 processes, for comparison with what `avsr plan` says.

    uv run python experiments/scale/points.py data/raw/grid out/points --clips 48
Wall and processor time of all processes are printed for preparing, and for training the median step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kills import n_lines, processor_times, some_clips

HERE = Path(__file__).resolve().parent
STEPS, CLIPS = 16, 4                                        # of a run; of a batch of 300 frames, as all clips have 75


def main() -> None:
    """Prepare, train, and print a line for each point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--pool", type=int, nargs="*", default=[1, 2], help="Workers of the embedded pool.")
    parser.add_argument("--ray", type=int, nargs="*", default=[1, 2, 4, 8], help="Workers of Ray on this machine.")
    parser.add_argument("--train", type=int, nargs="*", default=[1, 2], help="Processes that train.")
    options = parser.parse_args()
    corpus = options.output / "in"
    if not corpus.exists():
        some_clips(options.grid, corpus, options.clips)
    for engine, numbers in (("pool", options.pool), ("ray", options.ray)):
        for n in numbers:
            prepare(corpus, options.output / f"{engine}-{n}", engine, n)
    for n in options.train:
        train(options.output, n)


def prepare(corpus: Path, folder: Path, engine: str, n: int) -> None:
    """A point of preparing."""
    words = ["prepare", "grid", corpus, folder, "--workers", n, "--max-dropped", 1, "--quiet"]
    words += ["--cluster", "ray"] * (engine == "ray")
    marks = watched(["-m", "avsr", *words], lambda: n_lines(folder))
    first, end = next(mark for mark in marks if mark[0] > 1), marks[-1]
    print(f"prepare {engine} {n}: {end[0] - 1} utterances; {end[1]:.1f} s wall, {end[2]:.1f} s CPU; until the first utterance "
          f"{first[1]:.1f} s wall, {first[2]:.1f} s CPU; load {os.getloadavg()[0]:.1f}", flush=True)


def train(output: Path, n: int) -> None:
    """A point of training: steps after the second, from the run's own log and from the processes' processor time."""
    folder, manifest = output / f"train-{n}", output.resolve() / "pool-1" / "manifest.jsonl"
    shutil.rmtree(folder, ignore_errors=True)
    words = ["-m", "avsr", "train", HERE / "config.toml", "-o", folder, "--device", "cpu", "--quiet",
             "--set", f"train.steps={STEPS}", "--set", f"data.train=[\"{manifest}\"]", "--set", f"data.valid=[\"{manifest}\"]",
             "--set", "data.max_valid=2"]
    if n > 1:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", n, *words]
    log = folder / "log.jsonl"
    marks = watched(words, lambda: log.read_text().count("clips_s") if log.exists() else 0)
    second, last = (next(mark for mark in marks if mark[0] >= number) for number in (2, STEPS))
    steps = last[0] - second[0]
    rows = [row for row in map(json.loads, log.read_text().splitlines()) if "clips_s" in row][2:]
    wall = statistics.median(CLIPS * n / row["clips_s"] for row in rows)
    making = statistics.median(CLIPS * n / row["clips_s"] * row["wait"] for row in rows)
    print(f"train {n}: {1000 * wall:.0f} ms wall a step, {1000 * making:.0f} of them spent on making batches; "
          f"{1000 * (last[2] - second[2]) / steps / n:.0f} ms CPU of each process; {max(row['memory'] for row in rows):.2f} GB; "
          f"load {os.getloadavg()[0]:.1f}", flush=True)


def watched(words: list, progress: Callable[[], int]) -> list[tuple[int, float, float]]:
    """Run Python with these words; by each change of `progress()`, and at the end: it, wall and processor time of all
    processes, in seconds since the start."""
    began, spent, marks = time.monotonic(), {}, [(0, 0.0, 0.0)]
    process = subprocess.Popen([sys.executable, *map(str, words)], stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while process.poll() is None:
            spent |= processor_times(process.pid)
            done = progress()
            if done != marks[-1][0]:
                marks.append((done, time.monotonic() - began, sum(spent.values())))
            time.sleep(0.1)
    finally:
        process.kill()
    assert process.returncode == 0, process.communicate()[1]
    return [*marks, (progress(), time.monotonic() - began, sum(spent.values()))]


if __name__ == "__main__":
    main()
