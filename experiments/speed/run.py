"""Whole commands in turn, A B A B: wall time, processor time and peak memory of each, medians, and the ratio of walls.

    uv run experiments/speed/run.py /tmp/ten.mkv --runs 3                          # sound only beside faster-whisper int8
    uv run experiments/speed/run.py /tmp/ten.mkv --runs 1 --modality av --alone    # with lips: real-time factor
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from avsr import media

HERE = Path(__file__).resolve().parent


def run(command: list[str]) -> dict:
    """One run: seconds of wall and processor, peak resident memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return {"wall_s": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--modality", default="a")
    parser.add_argument("--compute-type", default="int8")
    parser.add_argument("--alone", action="store_true", help="without faster-whisper")
    arguments = parser.parse_args()
    commands = {f"avsr {arguments.modality}": [sys.executable, "-m", "avsr", "transcribe", str(arguments.file), "--quiet",
                                               "--modality", arguments.modality]}
    if not arguments.alone:
        commands[f"faster-whisper {arguments.compute_type}"] = [
            sys.executable, str(HERE / "faster_whisper_cli.py"), str(arguments.file), arguments.compute_type]
    with media.open_recording(arguments.file) as recording:
        seconds = recording.duration_s
    results: dict[str, list[dict]] = {name: [] for name in commands}
    for _ in range(arguments.runs):
        for name, command in commands.items():
            results[name].append(run(command))
            print(name, {key: round(value, 1) for key, value in results[name][-1].items()}, flush=True)
    medians = {name: {key: round(median(row[key] for row in rows), 1) for key in rows[0]} for name, rows in results.items()}
    summary = {"file": arguments.file.name, "seconds": round(seconds, 1), "cores": len(os.sched_getaffinity(0)),
               "runs": arguments.runs, **medians}
    first, *others = results.values()
    summary["real_time_factor"] = round(median(row["wall_s"] for row in first) / seconds, 3)
    if others:
        ratios = [ours["wall_s"] / theirs["wall_s"] for ours, theirs in zip(first, others[0], strict=True)]
        summary["wall_ratio"] = round(median(ratios), 2)
    print(json.dumps(summary))
    with (HERE / "results.jsonl").open("a") as file:
        file.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
