"""How fast is `avsr prepare`, and how fast does its cache read? One run, all figures, a row in results.jsonl.

    uv run experiments/speed/prepare.py ../shared/data/grid --clips 60

The same clips with 1 and with 2 workers, in turn, start-up included and without it (from the first clip done to the last);
processor time and peak resident memory of the workers, of the main process; clips a second that one core reads from the cache.
Beside that, the time of the steps of one clip in one process: decoding, landmarks, cropping, packing.
"""

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

from avsr import cache, faces, lips, manifest, media
from avsr.corpora import CORPORA
from avsr.manifest import Utterance
from avsr.prepare import PrepareSettings, prepare
from avsr.rates import frames_to_seconds
from avsr.speakers import choose_speaker

HERE = Path(__file__).resolve().parent


class Memory(threading.Thread):
    """Largest VmHWM in MB of our child processes while it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak_mb, self.on = 0.0, True

    def run(self) -> None:
        """Look twice a second: VmHWM only rises."""
        while self.on:
            for task in Path("/proc/self/task").iterdir():
                for child in (task / "children").read_text().split():
                    self.peak_mb = max(self.peak_mb, high_water_mb(child))
            time.sleep(0.5)


def high_water_mb(process: str) -> float:
    """VmHWM of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def run(utterances: list[Utterance], folder: Path, workers: int) -> dict:
    """Prepare once: seconds with and without start-up, per second of video, memory."""
    memory, times = Memory(), []
    memory.start()
    start, used = time.perf_counter(), children_s()
    prepared = prepare(utterances, folder, settings=PrepareSettings(workers=workers),
                       progress=lambda stage, done, total, unit: times.append((time.perf_counter(), done)))
    wall = time.perf_counter() - start
    memory.on = False
    seconds = sum(frames_to_seconds(row.cache.n_frames) for row in prepared.utterances)
    first, last = times[workers], times[-1]                   # each worker's first clip pays for its start
    clips_per_s = (last[1] - first[1]) / (last[0] - first[0])
    return {"wall_s": round(wall, 1), "times_real": round(seconds / wall, 2), "clips_per_s": round(clips_per_s, 2),
            "times_real_running": round(clips_per_s * seconds / len(prepared.utterances), 2),
            "worker_cpu_s_per_clip": round((children_s() - used) / len(utterances), 2),
            "worker_peak_mb": round(memory.peak_mb), "kB_per_clip": round(mean_size(prepared.utterances) / 1e3)}


def children_s() -> float:
    """Processor seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def mean_size(utterances: list[Utterance]) -> float:
    """Bytes of an utterance in the cache."""
    return sum(row.cache.size for row in utterances) / len(utterances)


def read_speed(folder: Path, rows: list[Utterance]) -> float:
    """Clips a second of one core, in processor time, the best of three rounds."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        for row in rows:
            cache.read_entry(folder, row.cache, name=row.id)
        best = min(best, time.process_time() - start)
    return len(rows) / best


def steps(utterances: list[Utterance]) -> dict[str, float]:
    """Median milliseconds of processor time of each step, for one clip of three seconds."""
    taken: dict[str, list[float]] = {"decode": [], "landmarks": [], "crop": [], "pack": []}
    for row in utterances:
        times = [time.process_time()]
        clip = media.read(row.media)
        times.append(time.process_time())
        with faces.FaceTracker() as tracker:
            tracks = tracker.update(clip) + tracker.finish()
        times.append(time.process_time())
        mouths = choose_speaker(lips.MouthCropper().update(clip, tracks), 0, clip.n_frames)
        times.append(time.process_time())
        cache.pack(row.id, cache.Cached(mouths.images, mouths.missing, clip.audio))
        times.append(time.process_time())
        for name, before, after in zip(taken, times, times[1:], strict=False):
            taken[name].append(1000 * (after - before))
    return {f"{name}_ms": round(median(values), 1) for name, values in taken.items()}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    everything = CORPORA["grid"](arguments.corpus).utterances
    chosen = everything[::max(1, len(everything) // arguments.clips)][:arguments.clips]
    summary: dict = {"prepare": "grid", "clips": len(chosen), "cores": len(os.sched_getaffinity(0)),
                     "load_before": round(os.getloadavg()[0], 1)}
    results: dict[int, list[dict]] = {workers: [] for workers in arguments.workers}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(arguments.rounds):
            for workers in arguments.workers:
                folder = Path(scratch) / f"{number}-{workers}"
                results[workers].append(run(chosen, folder, workers))
                print(workers, results[workers][-1], flush=True)
        summary |= {f"workers {n}": {key: median(row[key] for row in rows) for key in rows[0]} for n, rows in results.items()}
        rows = manifest.read(folder / "manifest.jsonl")
        summary["read_clips_per_core_s"] = round(read_speed(folder, rows))
    summary |= steps(chosen[:12])
    first, *others = (summary[f"workers {n}"]["clips_per_s"] for n in arguments.workers)
    summary["speed_up"] = [round(other / first, 2) for other in others]
    summary["main_peak_mb"] = round(high_water_mb("self"))
    print(json.dumps(summary))
    with (HERE / "results.jsonl").open("a") as file:
        file.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
