"""Our sound-only text beside faster-whisper's, same weights, same beam, same normaliser.

    uv run experiments/parity/run.py grid --split test      # WER on GRID's public clips, 95 % intervals
    uv run experiments/parity/run.py wild                   # how many words differ on videos without reference texts
    uv run experiments/parity/run.py grid --model base      # the multilingual Whisper, likewise
Rows go to results.jsonl beside this file; summaries to standard output.
"""

import argparse
import csv
import json
from pathlib import Path

import jiwer
import numpy as np
from faster_whisper import WhisperModel
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

import avsr
from avsr import media
from avsr.benchmark.baselines import packaged_whisper

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"
normalise = EnglishTextNormalizer({})


def systems(model: str, compute_type: str) -> dict:
    """Name -> function from a path to text."""
    ours = avsr.load(model, lips=False)
    theirs = WhisperModel(str(packaged_whisper(model)), device="cpu", compute_type=compute_type)

    def faster_whisper(path: Path) -> str:
        # Through our reader, so that only recognition is compared.
        audio = media.read(path, want_video=False).audio
        return "".join(segment.text for segment in theirs.transcribe(audio, beam_size=5, language="en")[0]).strip()

    return {"avsr": lambda path: avsr.transcribe(path, model=ours, modality="a", language="en").text,
            f"faster-whisper {compute_type}": faster_whisper}


def grid(split: str) -> list[tuple[str, Path, str]]:
    """Utterance id, path and sentence of each clip of a split."""
    with (DATA / "grid" / "splits.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["split"] == split]
    return [(f"{row['speaker']}_{row['utterance']}", next(path for path in
             (DATA / "grid" / row["speaker"]).glob(f"{row['utterance']}.m*")), row["text"]) for row in rows]


def interval(errors: np.ndarray, words: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the WER over utterances, in percent."""
    draws = np.random.default_rng(0).integers(0, len(errors), (10_000, len(errors)))
    return tuple(np.percentile(100 * errors[draws].sum(axis=1) / words[draws].sum(axis=1), [2.5, 97.5]))


def n_errors(reference: str, hypothesis: str) -> int:
    """Word errors after normalising both; an empty reference counts every word written."""
    reference, hypothesis = normalise(reference), normalise(hypothesis)
    if not reference:
        return len(hypothesis.split())
    out = jiwer.process_words(reference, hypothesis)
    return out.substitutions + out.deletions + out.insertions


def keep(rows: list[dict]) -> None:
    """Write the rows to results.jsonl in place of those of the same set."""
    path = HERE / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["set"] != rows[0]["set"]]
    path.write_text("\n".join([*kept, *(json.dumps(row, ensure_ascii=False) for row in rows)]) + "\n")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["grid", "wild"])
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default="tiny.en", help="a Whisper that the extra `offline` brings: tiny.en or base")
    parser.add_argument("--compute-type", default="float32", help="of faster-whisper: float32 or int8")
    arguments = parser.parse_args()
    clips = grid(arguments.split) if arguments.what == "grid" else [
        (path.stem, path, None) for path in sorted((DATA / "wild").iterdir())]
    named, rows = systems(arguments.model, arguments.compute_type), []
    kind = arguments.what if arguments.what == "wild" else f"grid {arguments.split}"
    kind += "" if arguments.model == "tiny.en" else f" {arguments.model}"
    for utterance, path, reference in clips:
        texts = {name: run(path) for name, run in named.items()}
        rows.append({"set": kind, "id": utterance, "reference": reference, **texts})
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    keep(rows)
    ours, theirs = named
    if arguments.what == "wild":
        errors = sum(n_errors(row[theirs], row[ours]) for row in rows)
        words = sum(len(normalise(row[theirs]).split()) for row in rows)
        print(f"words of {theirs}: {words}; differing: {errors} = {100 * errors / words:.1f} %")
        return
    words = np.array([len(normalise(row["reference"]).split()) for row in rows])
    for name in named:
        errors = np.array([n_errors(row["reference"], row[name]) for row in rows])
        low, high = interval(errors, words)
        wer = 100 * errors.sum() / words.sum()
        print(f"{name}: WER {wer:.2f} % ({low:.1f} - {high:.1f}) on {words.sum()} words, {len(rows)} clips")


if __name__ == "__main__":
    main()
