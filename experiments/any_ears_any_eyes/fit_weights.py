"""Fit the five numbers of avsr/combine/weights.py: collect the scores of candidates in noise, then search for the numbers.

    uv run python experiments/any_ears_any_eyes/fit_weights.py collect data/grid OUT.jsonl --model tiny.en --lips grid
    uv run python experiments/any_ears_any_eyes/fit_weights.py fit OUT.jsonl OTHER.jsonl ...

`collect --mouths others` shows another clip's mouth with each sound, `--sentences FOLDER` takes the sounds of .wav files with a
.txt beside each, which the lips cannot write. The loss counts what both
make worse than the better one three times.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from avsr import media
from avsr.cache import read_entry
from avsr.checkpoint import load
from avsr.combine import combine
from avsr.combine.candidates import candidates
from avsr.combine.recogniser import CombinedRecogniser, words_of
from avsr.combine.scores import n_letters, score_by_lips
from avsr.combine.spelling import Candidate, SpellingSearch
from avsr.corrupt import Mouth
from avsr.dataset import read_prepared
from avsr.decode import DecodeOptions
from avsr.metrics import word_errors
from avsr.noise import mix, open_sources
from avsr.text import normalise

START = {"base": -1.2, "no_speech": 2.7, "unsure": 7.0, "floor": 2.5, "ctc": 0.7}
STEPS = {"base": 0.5, "no_speech": 1.0, "unsure": 1.0, "floor": 0.7, "ctc": 0.15}
SURE_TEXT = -0.1


def clips(args: argparse.Namespace) -> Iterator[tuple[str, str, np.ndarray, Mouth]]:
    """Speaker, text, sound and mouth of each clip."""
    rows = [row for split in args.splits.split(",") for row in read_prepared([Path(args.manifest)], split, 30)[0]]
    rows = [row for row in rows if args.speakers is None or row.utterance.speaker in args.speakers.split(",")]
    cached = [read_entry(row.base, row.cache) for row in rows]
    said = [(row.utterance.text, one.audio) for row, one in zip(rows, cached, strict=True)]
    if args.sentences is not None:
        sounds = sorted(Path(args.sentences).glob("*.wav"))
        said = [(path.with_suffix(".txt").read_text(), media.read(path, want_video=False).audio) for path in sounds]
    for i, (text, audio) in enumerate(said):
        of = cached[(i + 7 * (args.mouths == "others")) % len(cached)]
        yield rows[i % len(rows)].utterance.speaker or "", text, audio, Mouth(of.images, of.missing)


@torch.inference_mode()
def collect(args: argparse.Namespace) -> None:
    """One line for each clip and noise: the evidence, and the scores and word errors of each candidate."""
    recogniser = CombinedRecogniser(combine(load(args.model, lips=False), load(args.lips)))
    spelling, once = SpellingSearch(recogniser.sound, beam=4), DecodeOptions(temperatures=(0.0,))
    sources, rng = open_sources(json.loads(args.noises)), np.random.default_rng(0)
    with open(args.out, "w", encoding="utf-8") as file:
        for speaker, text, audio, mouth in clips(args):
            for condition in args.conditions.split(","):
                name, _, snr = condition.partition(":")
                noisy = mix(audio, sources[name].draw(len(audio), rng), float(snr), rng=rng).audio if snr else audio
                memory = recogniser.encode([noisy], [mouth], "av")
                (by_sound,), (by_lips,) = (recogniser.sound.nbest(memory.sound, once),
                                           recogniser.lips.nbest(memory.lips, recogniser.lips_search))
                own = words_of(recogniser.sound, by_sound)
                seen = list(words_of(recogniser.lips, by_lips))
                found = candidates(list(own), seen)
                spelt = spelling.spell(memory.sound, [list(map(Candidate, found))])[0]
                lips = score_by_lips(recogniser.lips, memory.lips, found)
                errors = [word_errors(normalise(text), " ".join(words)).errors for words in found]
                best = next((words for words in seen if words), found[0])
                row = {"set": Path(args.out).stem, "speaker": speaker, "condition": condition, "words": len(text.split()),
                       "no_speech": by_sound[0].no_speech_prob, "by_lips": found.index(best), "errors": errors,
                       "sound": [max(one.log_prob, own[words].logprob if words in own else -math.inf) / n_letters(words)
                                 for words, one in zip(found, spelt, strict=True)],
                       "ctc": [one.ctc / n_letters(words) for words, one in zip(found, lips, strict=True)],
                       "decoder": [one.decoder / n_letters(words) for words, one in zip(found, lips, strict=True)]}
                file.write(json.dumps(row) + "\n")


def chosen(row: dict, values: dict[str, float]) -> int:
    """The candidate that these numbers choose."""
    sound, floor = np.array(row["sound"]), -values["floor"]
    weight = math.exp(values["base"] + values["no_speech"] * row["no_speech"] + values["unsure"] * (SURE_TEXT - sound[0]))
    lips = values["ctc"] * np.maximum(row["ctc"], floor) + (1 - values["ctc"]) * np.maximum(row["decoder"], floor)
    return int(np.argmax(sound + weight * lips))


def cells(rows: list[dict], values: dict[str, float]) -> dict[tuple, np.ndarray]:
    """For each set and condition: words, and the errors by sound, by lips, by both, and of the best candidate."""
    out: dict[tuple, np.ndarray] = defaultdict(lambda: np.zeros(5))
    for row in rows:
        errors = row["errors"]
        out[row["set"], row["condition"]] += (row["words"], errors[0], errors[row["by_lips"]], errors[chosen(row, values)],
                                              min(errors))
    return out


def loss(rows: list[dict], values: dict[str, float]) -> float:
    """Mean over the cells: points of WER by which both exceed the better one, what is above it three times."""
    over = [100 * (both - min(sound, lips)) / words for words, sound, lips, both, _ in cells(rows, values).values()]
    return float(np.mean([one + 2 * max(0.0, one) for one in over]))


def fit(args: argparse.Namespace) -> None:
    """Random search around the numbers that are in use, and the table of what they give."""
    rows = [json.loads(line) for path in args.rows for line in Path(path).read_text().splitlines()]
    rng, best = np.random.default_rng(args.seed), dict(START)
    least = loss(rows, best)
    for step in range(args.steps):
        size = 1.0 if step < args.steps / 2 else 0.3
        tried = {name: value + size * STEPS[name] * rng.standard_normal() * (rng.random() < 0.5)
                 for name, value in best.items()}
        tried |= {"ctc": min(1.0, max(0.0, tried["ctc"])), "floor": max(1.0, tried["floor"])}
        if (found := loss(rows, tried)) < least:
            best, least = tried, found
    print({name: round(value, 2) for name, value in best.items()}, "loss", round(least, 2))
    for key, (words, *errors) in cells(rows, best).items():
        print(*key, int(words), *(f"{100 * one / words:.1f}" for one in errors))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("collect")
    first.add_argument("manifest")
    first.add_argument("out")
    first.add_argument("--model", default="tiny.en")
    first.add_argument("--lips", default="grid")
    first.add_argument("--splits", default="valid")
    first.add_argument("--speakers")
    first.add_argument("--mouths", choices=["own", "others"], default="own")
    first.add_argument("--sentences")
    first.add_argument("--conditions", default="clean,white:0,white:-10")
    first.add_argument("--noises", default='{"white": true}', help="as in a noise config, as JSON")
    first.set_defaults(run=collect)
    second = commands.add_parser("fit")
    second.add_argument("rows", nargs="+")
    second.add_argument("--steps", type=int, default=1200)
    second.add_argument("--seed", type=int, default=0)
    second.set_defaults(run=fit)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
