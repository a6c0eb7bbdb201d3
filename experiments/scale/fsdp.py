"""One process against two that share the network: the same 50 steps, and a run that goes from two processes to one and back.

    uv run experiments/scale/fsdp.py data/grid -o runs/fsdp
One process with train.accumulate = 2 computes the same batches, with the same dropout, as two with train.accumulate = 1.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt

CONFIG = Path(__file__).with_name("training.toml")
STOPS = (20, 35)                                            # steps after which the number of processes changes
STOPPING = """
import sys
from avsr.config import read_config
from avsr.train import TrainOptions, loop

class Stopping(loop.Trainer):
    def _time_is_up(self):
        return self.state.step == int(sys.argv[3])

loop.Trainer = Stopping
loop.train(read_config(sys.argv[1], sys.argv[5:]), sys.argv[2],
           TrainOptions(device="cpu", resume=sys.argv[4] == "resume", say=lambda line: print(line, file=sys.stderr)))
"""


def run(script: Path, folder: Path, n_processes: int, settings: list[str], *, stop: int, resume: bool) -> None:
    """Train with some processes up to a step."""
    group = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)] if n_processes > 1 else []
    words = [sys.executable, *group, str(script), str(CONFIG), str(folder), str(stop), "resume" if resume else "new", *settings]
    if n_processes > 1:
        words.append("train.shard=true")
    print(f"{folder.name}: {n_processes} processes to step {stop}", flush=True)
    with (folder.parent / f"{folder.name}-{n_processes}-{stop}.log").open("w") as log:
        subprocess.run(words, check=True, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})


def rows(folder: Path) -> dict[int, dict[str, float]]:
    """The figures of each step."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if "loss" in line}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True)
    script = asked.output / "stopping.py"
    script.write_text(STOPPING)
    where = json.dumps([str(asked.manifest.resolve())])
    settings = [f"data.train={where}", f"data.valid={where}", *asked.set]
    run(script, asked.output / "one", 1, [*settings, "train.accumulate=2"], stop=50, resume=False)
    run(script, asked.output / "two", 2, settings, stop=50, resume=False)
    for number, (processes, stop) in enumerate(zip((2, 1, 2), (*STOPS, 50), strict=True)):
        run(script, asked.output / "both", processes, settings, stop=stop, resume=number > 0)
    curves = {name: rows(asked.output / name) for name in ("one", "two", "both")}
    for name in ("two", "both"):
        apart = {step: abs(curves["one"][step]["loss"] - row["loss"]) for step, row in curves[name].items()}
        print(f"{name}: {len(apart)} steps, at most {max(apart.values()):.1e} from one process, at step "
              f"{max(apart, key=lambda step: apart[step])}")
    for name in ("one", "two"):
        late = [row for step, row in curves[name].items() if step > 10]
        means = {key: sum(row[key] for row in late) / len(late) for key in ("clips_s", "wait", "flops", "memory")}
        print(f"{name}: {means['clips_s']:.1f} clips/s, {means['flops'] / 1e9:.1f} GFLOP/s, waiting {means['wait']:.0%}, "
              f"{means['memory']:.2f} GB")
    figure, axis = plt.subplots(figsize=(6, 3.4))
    for name, style, label in (("one", {"linewidth": 4, "alpha": 0.35}, "one process"),
                               ("two", {"linewidth": 1}, "two that share the network"),
                               ("both", {"linewidth": 0, "marker": ".", "markersize": 3}, "two, one, two")):
        axis.plot(list(curves[name]), [row["loss"] for row in curves[name].values()], label=label, **style)
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
    axis.legend()
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("curves.png"), dpi=80)


if __name__ == "__main__":
    main()
