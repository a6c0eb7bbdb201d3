"""Kill what prepares a corpus again and again, and compare its bytes with those of a run that nobody disturbed.

    clips -> avsr prepare (undisturbed), avsr prepare --cluster ray (killed) -> sha256 of manifest, tables and shards of both

    uv run python experiments/scale/kills.py data/raw/grid out/kills --clips 60 --kills 20
    uv run python experiments/scale/kills.py data/raw/grid out/kills --clips 60 --kills 0 --engine pool --engine ray
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SETTLED = 10                          # utterances at the start and at the end that are no measure of the work
COMPARED = ("*.tar", "manifest.jsonl", "*.tsv", "cache.json", "contact_sheets/*.png")


def main() -> None:
    """Prepare, kill, compare, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--mean-s", type=float, default=2.0, help="Mean seconds after the next utterances.")
    parser.add_argument("--engine", action="append", choices=["pool", "ray"], default=None)
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    corpus = some_clips(options.grid, options.output / "in", options.clips)
    engines = options.engine or ["pool"]
    folders = [options.output / f"{engine}-{number}" for number, engine in enumerate(engines, start=1)]
    for engine, folder in zip(engines, folders, strict=True):
        timed(corpus, folder, engine)
    if options.kills:
        rng, left, number = random.Random(options.seed), options.kills, 0
        while left:                                          # a run that ends before it was killed often enough is followed by
            number += 1                                      # another one
            folder = options.output / f"killed-{number}"
            left -= disturbed(corpus, folder, left, options.mean_s, rng)
            compare(folders[0], folder)
    for folder in folders[1:]:
        compare(folders[0], folder)


def some_clips(grid: Path, folder: Path, n: int) -> Path:
    """A corpus of links to `n` clips, as many of each speaker as there are."""
    by_speaker = [sorted(one for one in speaker.iterdir() if one.suffix in (".mpg", ".mkv"))
                  for speaker in sorted(grid.glob("s[0-9]*"))]
    chosen = [clips[i] for i in range(n) for clips in by_speaker if i < len(clips)][:n]
    for clip in chosen:
        (folder / clip.parent.name).mkdir(parents=True, exist_ok=True)
        for path in clip.parent.glob(f"{clip.stem}.*"):
            (folder / clip.parent.name / path.name).symlink_to(path.resolve())
        for path in clip.parent.glob(f"align/{clip.stem}.align"):
            (folder / clip.parent.name / "align").mkdir(exist_ok=True)
            (folder / clip.parent.name / "align" / path.name).symlink_to(path.resolve())
    return folder


def start(corpus: Path, folder: Path, engine: str) -> subprocess.Popen[str]:
    """Begin to prepare, in a process group of its own."""
    words = [sys.executable, "-m", "avsr", "prepare", "grid", str(corpus), str(folder), "--workers", "2", "--max-dropped", "1"]
    words += ["--cluster", "ray"] * (engine == "ray")
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)


def timed(corpus: Path, folder: Path, engine: str) -> None:
    """Prepare without disturbance, and print wall and processor time of all its processes: until SETTLED utterances are done,
    which is the start of all workers, until all but as many are, and of the end."""
    began, marks, spent = time.monotonic(), [], {}
    process = start(corpus, folder, engine)
    goals = [SETTLED, len(list(corpus.glob("s*/*.m*"))) - SETTLED]
    while process.poll() is None:
        spent |= processor_times(process.pid)
        while goals and n_lines(folder) > goals[0]:
            marks.append((time.monotonic() - began, sum(spent.values())))
            goals.pop(0)
        time.sleep(0.1)
    assert process.returncode == 0, process.communicate()[1]
    marks.append((time.monotonic() - began, sum(spent.values())))
    starts = [(0.0, 0.0), *marks]
    parts = [f"{after[0] - before[0]:.1f} s wall, {after[1] - before[1]:.1f} s CPU"
             for before, after in zip(starts, marks, strict=False)]
    print(f"{folder.name}: start {parts[0]}; work {parts[1]}; end {parts[2]}", flush=True)


def processor_times(root: int) -> dict[int, float]:
    """Seconds of processor time of a process and all below it, by process. Ray's workers are in sessions of their own."""
    rows = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        rows[int(path.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    below = {root}
    for _ in range(5):
        below |= {pid for pid, (parent, _) in rows.items() if parent in below}
    return {pid: rows[pid][1] for pid in below if pid in rows}


def disturbed(corpus: Path, folder: Path, n_kills: int, mean_s: float, rng: random.Random) -> int:
    """Prepare by Ray and kill, at random moments, a worker or the driver, which is then started again. Returns the kills."""
    killed = {"worker": 0, "driver": 0}
    process = start(corpus, folder, "ray")
    while sum(killed.values()) < n_kills:
        target = "driver" if rng.random() < 0.35 else "worker"
        goal = n_lines(folder) + rng.randint(0, 4)
        while process.poll() is None and (n_lines(folder) < goal or not workers_of(process.pid)):
            time.sleep(0.05)
        time.sleep(rng.expovariate(1 / mean_s))
        victims = workers_of(process.pid) if target == "worker" else [process.pid]
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[1]
            break
        if not victims:
            continue
        os.kill(rng.choice(victims), signal.SIGKILL)
        killed[target] += 1
        print(f"kill {sum(killed.values())}: {target}, {n_lines(folder) - 1} utterances in the journal", flush=True)
        if target == "driver":
            process.wait()
            process = start(corpus, folder, "ray")
    print(f"killed: {killed}", flush=True)
    assert process.wait() == 0, process.communicate()[1]
    return sum(killed.values())


def workers_of(driver: int) -> list[int]:
    """The processes of Ray below a driver that do a job."""
    found, parents = [], {driver}
    table = [line.split(None, 2) for line in subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True,
                                                            text=True, check=True).stdout.splitlines()]
    for _ in range(3):                                       # driver, raylet, worker
        parents |= {int(pid) for pid, parent, _ in table if int(parent) in parents}
    for pid, _, words in table:
        if int(pid) in parents and words.startswith("ray::") and not words.startswith(("ray::IDLE", "ray::D", "ray::R")):
            found.append(int(pid))
    return found


def n_lines(folder: Path) -> int:
    """The lines of the journal."""
    path = folder / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def compare(one: Path, other: Path) -> None:
    """Print the sha256 of each file of two folders, and whether they are equal."""
    names = sorted({path.relative_to(folder).as_posix() for folder in (one, other) for pattern in COMPARED
                    for path in folder.glob(pattern)})
    print(f"| file | {one.name} | {other.name} | |\n|---|---|---|---|")
    for name in names:
        sums = [hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).exists() else "missing"
                for folder in (one, other)]
        print(f"| {name} | {sums[0][:16]} | {sums[1][:16]} | {'equal' if sums[0] == sums[1] else 'DIFFERENT'} |", flush=True)


if __name__ == "__main__":
    main()
