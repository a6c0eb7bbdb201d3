"""Prepare from and into a local S3 server that fails now and then, and compare bytes and memory with those of a folder.

    clips -> s3://raw -> avsr prepare (folder), avsr prepare (s3://corpus, by a proxy that fails) -> sha256, memory over time
    a shard of 256 MiB -> remote.upload -> the memory of the process that sends it

    uv run python experiments/scale/storage.py data/raw/grid out/storage --clips 60 --errors 20
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kills import n_lines, processor_times, some_clips
from made_storage import FailingProxy, environment, make_bucket, s3_server

from avsr import remote
from avsr.corpora import CORPORA

UPLOAD = "import sys; from pathlib import Path; from avsr import remote; remote.upload(Path(sys.argv[1]), sys.argv[2])"


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--errors", type=int, default=20)
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    corpus = some_clips(options.grid, options.output / "in", options.clips)
    with s3_server() as port:
        for bucket in ("raw", "corpus"):
            make_bucket(port, bucket)
        proxy = FailingProxy(port)
        os.environ.update(environment(proxy.address))
        table = media_on_storage(corpus, options.output / "clips.tsv")
        prepared(table, str(options.output / "folder"), options.output / "folder")
        before = proxy.n_requests
        proxy.failing = set(random.Random(18).sample(range(before, before + 3 * options.clips), options.errors))
        prepared(table, "s3://corpus/prepared", None)
        print(f"{proxy.n_requests - before} requests, of which failed: {len(proxy.failed)} ({proxy.failed})")
        compare(options.output / "folder", "s3://corpus/prepared")
        large_shard(options.output / "shard.tar")


def media_on_storage(corpus: Path, table: Path) -> Path:
    """Send the clips to the storage, and write a table that names them there."""
    lines = ["id\tmedia\ttext\tspeaker\tsplit"]
    for row in CORPORA["grid"](corpus).utterances:
        address = f"s3://raw/{row.id}{Path(row.media).suffix}"
        remote.upload(Path(row.media), address)
        lines.append(f"{row.id}\t{address}\t{row.text}\t{row.speaker}\t{row.split}")
    table.write_text("\n".join(lines) + "\n")
    return table


def prepared(table: Path, output: str, folder: Path | None) -> None:
    """Prepare, and print the seconds and the memory of all processes at a quarter, half, three quarters and the end."""
    words = [sys.executable, "-m", "avsr", "prepare", "folder", str(table), output, "--workers", "2", "--max-dropped", "1"]
    began, samples, spent = time.monotonic(), [], {}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        spent |= processor_times(process.pid)
        samples.append(sum(map(resident, processor_times(process.pid))))
        time.sleep(0.2)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    quarters = [max(samples[:1 + len(samples) * i // 4][-20:]) / 1e6 for i in (1, 2, 3, 4)]
    print(f"{output}: {time.monotonic() - began:.1f} s wall, {sum(spent.values()):.1f} s CPU; memory of all its processes "
          f"{', '.join(f'{one:.0f}' for one in quarters)} MB at a quarter, half, three quarters, the end", flush=True)
    assert folder is None or n_lines(folder) > 1


def resident(pid: int) -> int:
    """Bytes of memory of a process that no other process shares with it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def compare(folder: Path, address: str) -> None:
    """Print the sha256 of each file here and there."""
    print("| file | folder | storage | |\n|---|---|---|---|")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith((".", "journal")):
            here, there = (hashlib.sha256(data).hexdigest()[:16]
                           for data in (path.read_bytes(), remote.read_bytes(f"{address}/{name}")))
            print(f"| {name} | {here} | {there} | {'equal' if here == there else 'DIFFERENT'} |", flush=True)


def large_shard(path: Path) -> None:
    """Send a file of 256 MiB, and print the memory of the process before and at its peak."""
    with path.open("wb") as file:
        for _ in range(256):
            file.write(os.urandom(2**20))
    small = path.with_name("small.tar")
    small.write_bytes(os.urandom(2**20))
    peaks = []
    for one in (small, path):
        process = subprocess.Popen([sys.executable, "-c", UPLOAD, str(one), f"s3://corpus/{one.name}"])
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.02)
        assert process.returncode == 0
        peaks.append(peak / 1e6)
    print(f"sending 1 MiB took {peaks[0]:.0f} MB of memory at most, a shard of 256 MiB {peaks[1]:.0f} MB")


if __name__ == "__main__":
    main()
