"""How long `avsr report` takes on so many rows: made-up rows in, seconds of the whole command out, start-up included.

    uv run experiments/speed/report.py                      # 100,000 rows
    uv run experiments/speed/report.py --rows 10000 --runs 3
The rows are those of the tests (tests/made_rows.py): two systems, two noises at six levels, bad pictures, 40 speakers.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import made_rows

CALIBRATION = "import time; t = time.process_time(); sum(i * i for i in range(10**7)); print(time.process_time() - t)"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one = made_rows.Made(n_utterances=1, n_speakers=1)
        per_utterance = sum(1 for _ in made_rows.rows(one))
        made = made_rows.Made(n_utterances=round(arguments.rows / per_utterance), n_speakers=40)
        run = made_rows.write(Path(folder) / "run", made)
        rows = (run / "results.jsonl").read_bytes().count(b"\n")
        for _ in range(arguments.runs):
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-m", "avsr", "report", run, "--quiet"], check=True)
            wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"{rows} rows: {wall:.1f} s, {cpu:.1f} s of processor, {after.ru_maxrss / 1e3:.0f} MB at most")
        loop = subprocess.run([sys.executable, "-c", CALIBRATION], capture_output=True, text=True, check=True).stdout
        print(f"ten million squares take {float(loop):.2f} s of processor here")


if __name__ == "__main__":
    main()
