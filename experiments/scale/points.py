"""Measure preparing by 1 to 8 workers and training by 1 and 2 processes, for comparison with what `avsr plan` says.

    uv run python experiments/scale/points.py data/raw/grid out/points --clips 48
Wall and processor time of all processes are printed. Of training the difference between a long and a short run is taken, so
that starting does not count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from kills import n_lines, processor_times, some_clips

HERE = Path(__file__).resolve().parent
SHORT, LONG = 2, 8                                          # steps


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
    wall, processor, writer, first = watched(["-m", "avsr", *words], lambda: n_lines(folder) > 1)
    print(f"prepare {engine} {n}: {n_lines(folder) - 1} utterances; {wall:.1f} s wall, {processor:.1f} s CPU, of which the "
          f"process that writes {writer:.1f} s; until the first utterance {first[0]:.1f} s wall, {first[1]:.1f} s CPU; load "
          f"{os.getloadavg()[0]:.1f}", flush=True)


def train(output: Path, n: int) -> None:
    """A point of training."""
    spent = []
    for steps in (SHORT, LONG):
        words = ["-m", "avsr", "train", HERE / "config.toml", "-o", output / f"train-{n}-{steps}", "--device", "cpu", "--quiet",
                 "--set", f"train.steps={steps}",
                 "--set", f"data.train=[\"{output.resolve() / 'pool-1' / 'manifest.jsonl'}\"]",
                 "--set", f"data.valid=[\"{output.resolve() / 'pool-1' / 'manifest.jsonl'}\"]", "--minutes", 60,
                 "--set", "data.max_valid=2"]
        if n > 1:
            words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", n, *words]
        spent.append(watched(words, lambda: True)[:2])
    steps = LONG - SHORT
    wall, processor = ((spent[1][i] - spent[0][i]) / steps for i in (0, 1))
    print(f"train {n}: {wall:.2f} s wall a step, {processor / n:.2f} s CPU of each process; load {os.getloadavg()[0]:.1f}",
          flush=True)


def watched(words: list, begun) -> tuple[float, float, float, tuple[float, float]]:
    """Run Python with these words; wall and processor time of all its processes and of the first of them, and the former two
    when `begun()` became true."""
    began, first, spent = time.monotonic(), None, {}
    process = subprocess.Popen([sys.executable, *map(str, words)], stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None:
        spent |= processor_times(process.pid)
        if first is None and begun():
            first = time.monotonic() - began, sum(spent.values())
        time.sleep(0.1)
    assert process.returncode == 0, process.communicate()[1]
    return time.monotonic() - began, sum(spent.values()), spent[process.pid], first or (0.0, 0.0)


if __name__ == "__main__":
    main()
