"""The story's table and plot: rows of `avsr benchmark` and facts of the runs in, table.md and wer.png out.

    uv run python experiments/history/table.py
Reads results.jsonl.gz, timings.jsonl and facts.json of this folder, which run.py gathers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from avsr import results
from avsr.html.plot import BOTH, FAINT, OTHER_COLOURS, SOUND, VIDEO, file_bytes, plot_style
from avsr.metrics import Rate, wer
from avsr.results import ResultRow

HERE = Path(__file__).resolve().parent
MODALITIES = {"a": "sound", "v": "lips", "av": "both"}
SNRS = (None, 0.0, -10.0)                                   # dB in babble; None: clean
GROUPS = {"known": ("s1",), "hardly known": ("s4", "s26", "s31"), "unknown": ("s23", "s30", "s33")}
Rows = Sequence[ResultRow]


def load(folder: Path = HERE) -> tuple[list[ResultRow], list[dict], list[dict]]:
    """Rows, timings and facts: a dict for each system, in the order of the story (station, system, parameters, minutes)."""
    rows = results.read_results(folder / "results.jsonl.gz")[0]
    timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    return rows, timings, json.loads((folder / "facts.json").read_text())


def select(rows: Rows, system: str, modality: str, snr_db: float | None,
           speakers: Iterable[str] | None = None) -> list[ResultRow]:
    """The rows of one cell; lips alone are the same at every SNR."""
    wanted = None if modality == "v" else snr_db
    return [row for row in rows if (row.system, row.modality, row.snr_db) == (system, modality, wanted)
            and (speakers is None or row.speaker in speakers)]


def rate(rows: Rows) -> Rate | None:
    """WER with its interval, the same draws for every cell; None where nothing was measured."""
    return wer(rows, rng=np.random.default_rng(0)) if rows else None


def with_interval(found: Rate | None) -> str:
    """`4.7 (2.9 to 6.1)`."""
    if found is None or found.percent is None:
        return ""
    return f"{found.percent:.1f}" + ("" if found.low is None else f" ({found.low:.1f} to {found.high:.1f})")


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]], n_left: int) -> str:
    """A table in Markdown; the first n_left columns are aligned to the left."""
    marks = ["---"] * n_left + ["--:"] * (len(head) - n_left)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *lines))


def seconds_per_second(timings: Iterable[dict], system: str) -> float | None:
    """Seconds of computing for a second of speech, over all conditions and modalities."""
    mine = [one for one in timings if one["system"] == system and one["modality"] != "none"]
    audio = sum(one["audio_s"] for one in mine)
    return sum(one["seconds"] for one in mine) / audio if audio else None


def wer_table(rows: Rows, timings: list[dict], facts: list[dict]) -> str:
    """Every system by every modality: cost, and WER with interval from clean to -10 dB."""
    def cost(fact: dict) -> list[str]:
        speed = seconds_per_second(timings, fact["system"])
        return [f"{fact['parameters'] / 1e6:.2f}" if fact.get("parameters") is not None else "",
                f"{fact['minutes']:.0f}" if fact.get("minutes") is not None else "", "" if speed is None else f"{speed:.2f}"]

    lines = []
    for fact in facts:
        for modality, word in MODALITIES.items():
            found = [rate(select(rows, fact["system"], modality, snr)) for snr in SNRS]
            if any(found):
                lines.append([fact["station"], fact["system"], word, *cost(fact), *map(with_interval, found)])
    head = ["station", "system", "by", "M parameters", "minutes", "s per s", "clean", *(f"{snr:g} dB" for snr in SNRS[1:])]
    return markdown(head, lines, 3)


def group_table(rows: Rows, facts: list[dict], snr_db: float | None) -> str:
    """WER by speakers whom the networks know, hardly know, and do not know."""
    lines = []
    for fact in facts:
        for modality, word in MODALITIES.items():
            found = [rate(select(rows, fact["system"], modality, snr_db, speakers)) for speakers in GROUPS.values()]
            if any(found):
                lines.append([fact["system"], word, *map(with_interval, found)])
    return markdown(["system", "by", *GROUPS], lines, 2)


def draw(rows: Rows, facts: list[dict], path: Path) -> None:
    """WER against SNR: a panel for each station, its systems as lines, sound in blue, lips in orange, both in green."""
    from matplotlib.figure import Figure

    stations = list(dict.fromkeys(fact["station"] for fact in facts))
    n_rows = -(-len(stations) // 3)
    with plot_style():
        figure = Figure(figsize=(9.6, 2.9 * n_rows), layout="constrained")
        axes = list(figure.subplots(n_rows, 3, sharey=True, squeeze=False).flat)
        for axis, station in zip(axes, stations, strict=False):
            mine = [fact for fact in facts if fact["station"] == station]
            _draw_station(axis, rows, mine, station)
        for axis in axes[len(stations):]:
            axis.set_axis_off()
        path.write_bytes(file_bytes(figure, "png", dpi=150))


def _draw_station(axis, rows: Rows, facts: list[dict], station: str) -> None:
    dashes: tuple = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.", (0, (7, 1.5, 1, 1.5, 1, 1.5)))
    for number, fact in enumerate(facts):
        for modality, colour in (("a", SOUND), ("v", VIDEO), ("av", BOTH)):
            points = [(i, found.percent) for i, snr in enumerate(SNRS)
                      if (found := rate(select(rows, fact["system"], modality, snr))) is not None and found.percent is not None]
            if points:
                label = f"{fact['short']}, {MODALITIES[modality]}"
                shade = (SOUND, *OTHER_COLOURS, BOTH, VIDEO)[number % 7] if len(facts) > 4 else colour
                axis.plot(*zip(*points, strict=True), color=shade, linestyle=dashes[number % len(dashes)], marker="o",
                          markersize=3, label=label)
    axis.set_title(station)
    axis.set_xticks(range(len(SNRS)), ["clean", *(f"{snr:g}" for snr in SNRS[1:])])
    axis.set(xlabel="SNR in babble, dB", ylabel="WER, %", ylim=(0, 130))
    axis.axhline(100, color=FAINT, linewidth=0.6, linestyle=":")
    axis.legend(fontsize=6)


def main(say: Callable[[str], None] = print) -> None:
    """Write table.md and wer.png."""
    rows, timings, facts = load()
    text = "\n\n".join(["# WER in %, with 95 % intervals", wer_table(rows, timings, facts),
                        "## Clean, by how well the networks know the speaker", group_table(rows, facts, None),
                        "## Babble at 0 dB, likewise", group_table(rows, facts, 0.0)])
    (HERE / "table.md").write_text(text + "\n")
    draw(rows, facts, HERE / "wer.png")
    say(f"{len(rows)} rows: table.md, wer.png")


if __name__ == "__main__":
    main()
