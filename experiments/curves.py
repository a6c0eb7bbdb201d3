"""Learning curves of runs: WER on the validation set against minutes of training, one panel per run.

    uv run experiments/curves.py runs/grid runs/default --output experiments/grid/curves.png
Several folders joined by + are stages of one run, one after the other.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

NAMES = {"a": "sound", "v": "lips", "av": "both"}
COLOURS = {"a": "tab:blue", "v": "tab:orange", "av": "tab:green"}


def read(folders: list[Path]) -> dict[str, list[tuple[float, float]]]:
    """(minutes, WER) by modality."""
    curves: dict[str, list[tuple[float, float]]] = {}
    before = minutes = 0.0
    for folder in folders:
        for line in (folder / "log.jsonl").read_text().splitlines():
            row = json.loads(line)
            minutes = before + row.get("minutes", minutes - before)
            for name in NAMES:
                if (score := row.get(f"valid_{name}")) is not None:
                    curves.setdefault(name, []).append((minutes, score))
        before = minutes
    return curves


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders; stages joined by +")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    figure, axes = plt.subplots(1, len(arguments.runs), figsize=(5.5 * len(arguments.runs), 3.8), squeeze=False)
    for axis, run in zip(axes[0], arguments.runs, strict=True):
        for name, points in read([Path(part) for part in run.split("+")]).items():
            axis.plot(*zip(*points, strict=True), marker="o", color=COLOURS[name], label=NAMES[name])
        axis.set(title=Path(run.split("+")[-1]).name, xlabel="minutes of training", ylabel="WER %, validation", ylim=(0, 102))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(arguments.output, dpi=130)


if __name__ == "__main__":
    main()
