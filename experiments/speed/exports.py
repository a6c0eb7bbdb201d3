"""Torch, its ONNX export, and that in int8, on clips of GRID: texts, errors and processor time.

    uv run avsr export default -o runs/default32 && uv run avsr export default --int8 -o runs/default8
    uv run python experiments/speed/exports.py default runs/default32 runs/default8 --clips 40
"""

import time
from pathlib import Path

import click
import jiwer
import numpy as np

from avsr import media
from avsr.checkpoint import load
from avsr.lips import MouthCropSettings
from avsr.recogniser import Recogniser
from avsr.segment import SpeechSegment
from avsr.stream import StreamReader, StreamSettings
from avsr.text import normalise

GRID = Path(__file__).resolve().parents[3] / "shared" / "data" / "grid"


def clips(n: int, mouth_crop: MouthCropSettings) -> list[tuple[str, np.ndarray, object]]:
    """Text, sound and mouths of the first n clips of s1's test list."""
    rows = [line.split("\t") for line in (GRID / "splits.tsv").read_text().splitlines()[1:]]
    out = []
    for speaker, name, _, text, _ in [row for row in rows if row[0] == "s1" and row[2] == "test"][:n]:
        path = next(path for path in (GRID / speaker).glob(f"{name}.*") if path.suffix != ".align")
        with media.open_recording(path) as recording:
            (window,) = StreamReader(recording, mouth_crop, StreamSettings(vad=False))
        assert isinstance(window.segment, SpeechSegment)
        out.append((text, window.audio, window.mouths))
    return out


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--clips", "n", default=40)
def main(models: tuple[str, ...], n: int) -> None:
    """Compare models on the same clips, with the first as the reference."""
    given = clips(n, load(models[0]).mouth_crop)
    for modality in ("a", "av"):
        first: list[str] = []
        for name in models:
            recogniser = Recogniser(load(name))
            began, texts = time.process_time(), []
            with recogniser.no_gradients():
                for start in range(0, n, 4):
                    some = given[start:start + 4]
                    memory = recogniser.encode([audio for _, audio, _ in some], [mouths for *_, mouths in some], modality)
                    texts += [normalise(recogniser.detokenize(one.tokens)) or "-" for one in recogniser.decode(memory)]
            spent = time.process_time() - began
            first = first or texts
            wer = 100 * jiwer.wer([normalise(text) for text, _, _ in given], texts)
            same = sum(one == other for one, other in zip(first, texts, strict=True))
            print(f"{modality:2} {name}: WER {wer:.1f} %, {same} of {n} texts as {models[0]}, {spent:.1f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
