"""Processor time of whole short commands, start-up included: medians of some runs, the commands taking turns.

    uv run experiments/speed/start.py                       # 5 runs of each
    uv run experiments/speed/start.py --from-source         # Python compiles every module anew

What a command takes beyond `import torch` is what is ours: the machine's speed and its other work hardly change the difference
between commands of one call, and much between two calls.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
CLIP = HERE.parents[1] / "data/demo/hello.mp4"
AVSR = [sys.executable, "-m", "avsr"]
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "avsr --help": [*AVSR, "--help"],
    "avsr transcribe --modality a": [*AVSR, "transcribe", str(CLIP), "--modality", "a"],
    "avsr transcribe": [*AVSR, "transcribe", str(CLIP)],
    "avsr transcribe --modality av": [*AVSR, "transcribe", str(CLIP), "--modality", "av"],
    "faster-whisper int8": [sys.executable, str(HERE / "faster_whisper_cli.py"), str(CLIP), "int8"],
}


def run(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """One run: seconds of processor (user and system, of all threads) and of wall clock, peak resident memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": time.perf_counter() - start, "peak_mb": usage.ru_maxrss / 1024}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--from-source", action="store_true", help="neither read nor write compiled modules (.pyc)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": "1" * arguments.from_source}
        for command in COMMANDS.values():                   # not counted: reads the files, writes compiled modules
            run(command, environment)
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in COMMANDS}
        for _ in range(arguments.runs):
            for name, command in COMMANDS.items():
                rows[name].append(run(command, environment))
                print(name, {key: round(value, 2) for key, value in rows[name][-1].items()}, flush=True)
    medians = {name: {key: median(row[key] for row in each) for key in each[0]} for name, each in rows.items()}
    base = medians["import torch"]["cpu_s"]
    summary = {"what": "start", "from_source": arguments.from_source, "cores": len(os.sched_getaffinity(0)),
               "runs": arguments.runs, **{name: {"beyond_torch_cpu_s": round(each["cpu_s"] - base, 2),
                                                 **{key: round(value, 2) for key, value in each.items()}}
                                          for name, each in medians.items()}}
    print(json.dumps(summary))
    with (HERE / "results.jsonl").open("a") as file:
        file.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
