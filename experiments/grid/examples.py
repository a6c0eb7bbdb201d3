"""What goes beside evaluate.py's tables: the plot, texts side by side, and recordings without references.

    rows -> WER curves (--plot), texts (--texts);  folder + Checkpoint -> words that looking changes (--wild)
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import avsr
from avsr.checkpoint import Checkpoint
from avsr.errors import AvsrError
from avsr.metrics import NOTHING, Rate, wer, word_errors
from avsr.models.avsr import Memory
from avsr.text import normalise

NAMES = {"a": "sound", "v": "lips", "av": "both"}
Cells = Mapping[tuple[str, float | None], Sequence[dict]]   # rows by modality and SNR, in one noise


def rates(cells: Cells) -> dict[tuple[str, float | None], Rate]:
    """The word error rate of each cell."""
    return {cell: wer(rows, rng=np.random.default_rng(0)) for cell, rows in cells.items()}


def level(snr: float | None) -> str:
    """As it is written."""
    return "clean" if snr is None else f"{snr:g}"


def plot(path: Path, panels: Mapping[str, Cells]) -> None:
    """WER against SNR with 95 % bands, a panel for each noise; clean stands at the right, the lips are a level line."""
    from matplotlib import pyplot

    figure, (axes,) = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4), sharey=True, squeeze=False)
    for axis, (title, cells) in zip(axes, panels.items(), strict=True):
        found, levels = rates(cells), [*sorted({snr for _, snr in cells if snr is not None}), None]
        for modality, style in (("a", "o-"), ("v", "--"), ("av", "s-")):
            cell = [(modality, None if modality == "v" else snr) for snr in levels]
            x = [place for place, one in enumerate(cell) if one in found]
            of = [found[cell[place]] for place in x]
            if of:
                (line,) = axis.plot(x, [rate.percent for rate in of], style, label=NAMES[modality])
                if of[0].low is not None:
                    low, high = zip(*((rate.low, rate.high) for rate in of), strict=True)
                    axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(title=title, xlabel="SNR, dB", ylim=(0, None), xticks=range(len(levels)), xticklabels=map(level, levels))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("word error rate, %")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def texts(rows: Sequence[dict], noise: str, snr_db: float) -> list[str]:
    """A line for each utterance: reference, and the texts of each modality, clean and in noise."""
    columns = [("a", None), ("v", None), ("av", None), ("a", snr_db), ("av", snr_db)]
    heads = [f"{NAMES[modality]}{'' if modality == 'v' else ', clean' if snr is None else f', {noise} {snr:g} dB'}"
             for modality, snr in columns]
    said = {(row["id"], row["modality"], row["snr_db"]): row["hypothesis"] for row in rows}
    lines = [f"| id | reference | {' | '.join(heads)} |", "|--" * (len(heads) + 2) + "|"]
    for one, reference in {row["id"]: row["reference"] for row in rows}.items():
        written = (said.get((one, *column), "-").replace("|", "\\|") for column in columns)
        lines.append(f"| {one} | {reference} | {' | '.join(written)} |")
    return lines


@contextmanager
def trusts(checkpoint: Checkpoint) -> Iterator[list[float]]:
    """How far the lips were trusted in each piece that the model encodes meanwhile; `transcribe` does not tell."""
    told, encode = [], checkpoint.model.encode

    def overheard(*inputs, **named) -> Memory:
        memory = encode(*inputs, **named)
        told.extend([] if memory.trust is None else memory.trust.tolist())
        return memory

    checkpoint.model.encode = overheard
    try:
        yield told
    finally:
        del checkpoint.model.encode


def listen(path: Path, checkpoint: Checkpoint, row: dict) -> dict:
    """The row with what `avsr.transcribe` makes of a recording."""
    start = time.perf_counter()
    with trusts(checkpoint) as told:
        said = avsr.transcribe(path, model=checkpoint, modality=row["modality"], beam_size=row["beam_size"])
    return {**row, "used": said.modality, "hypothesis": said.text, "trust": round(float(np.mean(told)), 4) if told else None,
            "seconds": round(time.perf_counter() - start, 2), "duration_s": round(said.duration, 3)}


def wild(folder: Path, checkpoint: Checkpoint, facts: dict, rows) -> int:
    """Print how many words of sound alone both change, a line for each recording: by the law, none where all is clean.

    rows: evaluate.Rows.  Returns how many recordings could not be transcribed.
    """
    total, n_failed = NOTHING, 0
    print("| recording | words by sound | differing | used | trust |\n|--|--:|--:|--|--:|")
    for path in sorted(folder.iterdir()):
        pair = [{**facts, "temperatures": None, "split": "wild", "id": path.name, "speaker": None, "modality": modality,
                 "noise": None, "snr_db": None, "snr_achieved": None, "reference": None} for modality in ("a", "av")]
        try:
            rows.add([listen(path, checkpoint, row) for row in pair if row not in rows])
        except AvsrError as error:
            n_failed += 1
            print(f"| {path.name} | {str(error).replace('|', ' ')} | | | |", flush=True)
            continue
        sound, both = (rows.by_key[rows.key(row)] for row in pair)
        score = word_errors(normalise(sound["hypothesis"]), normalise(both["hypothesis"]))
        total, trust = total + score, "-" if both["trust"] is None else both["trust"]
        print(f"| {path.name} | {score.words} | {score.errors} | {both['used']} | {trust} |", flush=True)
    print(f"\nOf {total.words} words by sound alone {total.errors} differ; {n_failed} recordings failed.")
    return n_failed
