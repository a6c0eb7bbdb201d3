"""Word error rates of a trained model by sound, by lips and by both, from clean to loud noise that it never trained on.

    uv run experiments/grid/evaluate.py --model grid --split test --snr clean,20,10,5,0,-5,-10 --noise babble --plot wer.png
    uv run experiments/grid/evaluate.py --model grid --texts 10              # what it writes, clean and in babble at -5 dB
    uv run experiments/grid/evaluate.py --model default --wild ../shared/data/wild
Rows go to results.jsonl beside this file, one for each utterance, condition and modality; those that are there already are
not computed again. Tables, in Markdown, go to standard output and come from rows alone.
"""

import argparse
import json
import math
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from examples import Cells, level, plot, rates, texts, wild

from avsr import cache, noise
from avsr.checkpoint import SHIPPED, Checkpoint, may_see, shipped
from avsr.dataset import Row, read_rows
from avsr.decode import DecodeOptions, decode
from avsr.errors import AvsrError
from avsr.metrics import Rate, difference
from avsr.models.avsr import Memory
from avsr.rates import PIECE_SECONDS, SAMPLE_RATE
from avsr.runtime import pick_device
from avsr.senses import hear, see
from avsr.transcribe import load_model

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"
UNHEARD = ("s38", "s39", "s40")                             # talkers of lombard_audio: no model trained on them
SLACK = 0.5                                                 # points of WER that the law puts up with
AT_ONCE = 16                                                # utterances
MAIN_SPEAKER = 20                                           # utterances of one speaker that earn a table of their own
TEXTS_EVERY, TEXTS_SNR = 8, -5.0                            # for --texts: one utterance in so many; dB
Condition = tuple[str | None, float | None]                 # noise and SNR in dB; clean: None, None
CLEAN: Condition = (None, None)


class Rows:
    """The rows of a file, by what they were computed from. A last line that a kill cut short is dropped."""

    def __init__(self, path: Path):
        self.path, text = path, path.read_text() if path.exists() else ""
        whole = text[:text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)
        self.by_key = {self.key(row): row for row in map(json.loads, whole.splitlines())}

    @staticmethod
    def key(row: Mapping) -> tuple:
        """The same weights under another name are the same model."""
        told = tuple(row[name] for name in ("beam_size", "split", "modality", "noise", "snr_db", "id"))
        return row["sha256"] or row["model"], *(row["temperatures"] or ()), *told

    def __contains__(self, row: Mapping) -> bool:
        return self.key(row) in self.by_key

    def add(self, rows: Iterable[dict]) -> None:
        """Append to the file at once, so that two models can be evaluated side by side."""
        self.by_key |= (new := {self.key(row): row for row in rows})
        with self.path.open("a") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new.values()))


def open_noises(names: Iterable[str], data: Path = DATA) -> dict[str, noise.NoiseSource]:
    """Noise that no model trained on, by name. Babble is six voices: each talker twice, with different sentences."""
    talkers = {name: sorted((data / "lombard_audio" / name).glob("*.opus")) for name in UNHEARD}
    halves = {f"{name}/{half}": files[half::2] for name, files in talkers.items() for half in (0, 1)}
    known: dict[str, Callable[[], noise.NoiseSource]] = {
        "babble": lambda: noise.Babble(halves, len(halves)),
        "talker": lambda: noise.Talker(talkers),
        "noisex-babble": lambda: noise.Recordings([data / "noise" / "noisex" / "babble.flac"]),
        "music": lambda: noise.Recordings([data / "noise" / "music.flac"]),
        "natural": lambda: noise.Recordings(sorted((data / "noise" / "esc10").glob("*/5-*.ogg"))),
        "white": noise.Coloured,
    }
    if strange := sorted(set(names) - set(known)):
        raise AvsrError(f"--noise {strange[0]}: not known.  Use any of {', '.join(known)}.")
    return {name: known[name]() for name in names}


def disturb(speech: np.ndarray, utterance: str, name: str | None, snr_db: float | None,
            sources: Mapping[str, noise.NoiseSource]) -> noise.Mixed:
    """Speech (S,) in noise: the same stretch at every level and in every run, by the utterance's id and the noise's name."""
    rng = np.random.default_rng(zlib.crc32(f"{utterance}{name}".encode()))
    drawn = speech if name is None else sources[name].draw(len(speech), rng)
    return noise.mix(speech, drawn, snr_db, rng=rng)


def encode(checkpoint: Checkpoint, modality: str, sounds: Sequence[np.ndarray], mouths: Sequence[cache.Cached]) -> Memory:
    """What the model makes of B utterances, prepared as `transcribe` does."""
    first, mel, lengths, images, seen = next(checkpoint.model.parameters()), None, None, None, None
    if "a" in modality:
        mel, lengths = hear(sounds, checkpoint.model.dims.n_mels, checkpoint.pad_seconds)
        mel, lengths = mel.to(first), None if lengths is None else lengths.to(first.device)
    if "v" in modality:
        images, seen = see(mouths)
        images, seen = images.to(first), seen.to(first.device)
    return checkpoint.model.encode(mel, images, mel_lengths=lengths, seen=seen)


def sound_of(memory: Memory) -> Memory:
    """What sound alone gives, where no fusion layer has let the lips into the sound."""
    return Memory(audio=memory.audio, audio_mask=memory.audio_mask, video=None)


@torch.inference_mode()
def recognise(checkpoint: Checkpoint, modalities: Sequence[str], sounds: Sequence[np.ndarray], mouths: Sequence[cache.Cached],
              options: DecodeOptions) -> dict[str, list[dict]]:
    """By modality, the text of each of B utterances, how far the lips were trusted, and an equal share of the seconds."""
    found, memory, prompts = {}, None, [checkpoint.tokenizer.prompt("en")] * len(sounds)
    for modality in sorted(modalities, key=("av", "a", "v").index):
        start = time.perf_counter()
        shared = modality == "a" and memory is not None and checkpoint.model.dims.n_fusion_layers == 0
        memory = sound_of(memory) if shared else encode(checkpoint, modality, sounds, mouths)
        written = decode(checkpoint.model, checkpoint.tokenizer, memory, prompts, suppress=checkpoint.suppress,
                         suppress_begin=checkpoint.suppress_begin, options=options)
        trust = [None] * len(sounds) if memory.trust is None else [round(one, 4) for one in memory.trust.tolist()]
        seconds = round((time.perf_counter() - start) / len(sounds), 3)
        found[modality] = [{"hypothesis": checkpoint.tokenizer.decode(text.tokens).strip(), "trust": one, "seconds": seconds}
                           for text, one in zip(written, trust, strict=True)]
    return found


def asked(facts: dict, utterances: Iterable[Row], modalities: Iterable[str], conditions: Iterable[Condition]) -> list[dict]:
    """The rows that are wanted, without results. Noise is nothing to lips alone, so those are read once."""
    return [{**facts, "split": row.utterance.split, "id": row.utterance.id, "speaker": row.utterance.speaker,
             "modality": modality, "noise": name, "snr_db": snr_db, "reference": row.utterance.text}
            for name, snr_db in conditions for modality in modalities if modality != "v" or name is None for row in utterances]


def fill(rows: Rows, wanted: Sequence[dict], utterances: Sequence[Row], checkpoint: Checkpoint,
         sources: Mapping[str, noise.NoiseSource], options: DecodeOptions) -> None:
    """Compute those of the wanted rows that are not there yet, in batches of AT_ONCE utterances."""
    by_id, groups = {row.utterance.id: row for row in utterances}, {}
    for row in (row for row in wanted if row not in rows):
        groups.setdefault((row["noise"], row["snr_db"]), {}).setdefault(row["id"], []).append(row)
    for (name, snr_db), group in groups.items():
        for first in range(0, len(group), AT_ONCE):
            ids = list(group)[first:first + AT_ONCE]
            cached = [cache.read_entry(by_id[one].base, by_id[one].utterance.cache) for one in ids]
            mixed = [disturb(entry.audio, one, name, snr_db, sources) for one, entry in zip(ids, cached, strict=True)]
            modalities = {row["modality"] for one in ids for row in group[one]}
            found = recognise(checkpoint, modalities, [one.audio for one in mixed], cached, options)
            rows.add({**row, "snr_achieved": mixed[i].snr_db and round(mixed[i].snr_db, 3), **found[row["modality"]][i],
                      "duration_s": round(len(mixed[i].audio) / SAMPLE_RATE, 3)}
                     for i, one in enumerate(ids) for row in group[one])
            print(name or "clean", level(snr_db), f"{first + len(ids)}/{len(group)}", file=sys.stderr, flush=True)


def law(both: float, *alone: float) -> bool:
    """Whether both together are as good as the better one alone, WER in percent; within SLACK."""
    return both <= min(alone) + SLACK + 1e-9


def gain_db(sound: Mapping[float, float], both: float, at_db: float = 0.0) -> float:
    """What the lips are worth in dB: how much less noise sound alone needs for the WER (percent) that both have at `at_db`.

    sound: WER of sound alone by SNR; in between it is taken as straight. The nearest such SNR counts; inf (or -inf) where
    it lies beyond those measured.
    """
    if both == sound[at_db]:
        return 0.0
    up = both < sound[at_db]
    levels = sorted((snr for snr in sound if (snr >= at_db if up else snr <= at_db)), reverse=not up)
    for here, there in pairwise(levels):
        if min(sound[here], sound[there]) <= both <= max(sound[here], sound[there]):
            return here + (there - here) * (sound[here] - both) / (sound[here] - sound[there]) - at_db
    return math.inf if up else -math.inf


def cells_of(rows: Iterable[dict], name: str) -> Cells:
    """Those in one noise; clean ones belong to each noise."""
    cells = {}
    for row in (row for row in rows if row["noise"] in (None, name)):
        cells.setdefault((row["modality"], row["snr_db"]), []).append(row)
    return cells


def show(rate: Rate | None, pattern: str = ".1f") -> str:
    """`12.3 (10.1 to 14.6)`."""
    if rate is None or rate.percent is None:
        return "-"
    return f"{rate.percent:{pattern}}" + ("" if rate.low is None else f" ({rate.low:{pattern}} to {rate.high:{pattern}})")


def table(cells: Cells, snrs: Sequence[float | None]) -> list[str]:
    """Markdown: a line for each SNR, and what follows from them. Where the law is broken, `both` is bold."""
    found, kept = rates(cells), []
    lines = ["| SNR, dB | sound | lips | both | both less the better one |", "|--:|--:|--:|--:|--:|"]
    for snr in snrs:
        sound, lips, both = (found.get(cell) for cell in (("a", snr), ("v", None), ("av", snr)))
        text, less = show(both), "-"
        if sound and lips and both:
            better = ("a", snr) if sound.percent <= lips.percent else ("v", None)
            less = show(difference(cells["av", snr], cells[better], rng=np.random.default_rng(0)), "+.1f")
            kept.append(law(both.percent, sound.percent, lips.percent))
            text = text if kept[-1] else f"**{text}**"
        lines.append(f"| {level(snr)} | {show(sound)} | {show(lips)} | {text} | {less} |")
    if kept:
        lines += ["", f"Law (both at most {SLACK} above the better one): kept at {sum(kept)} of {len(kept)} levels."]
    curve = {snr: rate.percent for (modality, snr), rate in found.items() if modality == "a" and snr is not None}
    if ("av", 0.0) in found and 0.0 in curve:
        gain = gain_db(curve, found["av", 0.0].percent)
        beyond = f"more than {max(curve):g}" if gain > 0 else f"less than {min(curve):g}"
        lines += ["", f"At 0 dB the lips are worth {f'{gain:.1f}' if math.isfinite(gain) else beyond} dB."]
    return lines


def groups_of(utterances: Sequence[Row]) -> dict[str, set[str]]:
    """Title -> ids: the main speaker alone where there is one, and everybody."""
    counts = Counter(row.utterance.speaker for row in utterances)
    ((speaker, most),) = counts.most_common(1)
    alone = {f"{speaker} alone": {row.utterance.id for row in utterances if row.utterance.speaker == speaker}}
    everyone = {f"all {len(counts)} speakers": {row.utterance.id for row in utterances}}
    return alone if len(counts) == 1 else alone | everyone if most >= MAIN_SPEAKER else everyone


def subject(name: str, asked_for: tuple[str, ...]) -> tuple[Checkpoint, tuple[str, ...], str | None]:
    """A model, the modalities it can be asked, and its sha256; Whispers by name have none."""
    checkpoint = load_model(name, "av" if may_see(name) and asked_for != ("a",) else "a", pick_device())
    if not checkpoint.lips_trained and asked_for != ("a",):
        print(f"{name}: no trained lips, so by sound alone.", file=sys.stderr)
    described = (SHIPPED / name if name in shipped() else Path(name)) / "model.json"
    sha256 = json.loads(described.read_text())["sha256"]["model.safetensors"] if described.exists() else None
    return checkpoint, asked_for if checkpoint.lips_trained else ("a",), sha256


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a name or a folder")
    parser.add_argument("--manifest", type=Path, default=HERE.parents[1] / "data" / "grid" / "manifest.jsonl")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="only the first utterances of the split")
    parser.add_argument("--snr", default="clean,20,10,5,0,-5,-10", help="dB; write --snr=-5,0 where the first is negative")
    parser.add_argument("--noise", default="babble", help="babble, talker, noisex-babble, music, natural, white")
    parser.add_argument("--modalities", default="a,v,av", type=lambda text: tuple(text.split(",")))
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--temperatures", default=(0.0,), type=lambda text: tuple(map(float, text.split(","))))
    parser.add_argument("--texts", type=int, help="print the texts of so many clips instead, clean and in noise at -5 dB")
    parser.add_argument("--wild", type=Path, metavar="FOLDER", help="recordings without references instead of a split")
    parser.add_argument("--rows", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    return parser.parse_args()


def main() -> int:
    """See the module."""
    arguments = parse()
    snrs = [None if snr == "clean" else float(snr) for snr in arguments.snr.split(",")]
    options = DecodeOptions(beam_size=arguments.beam_size, temperatures=arguments.temperatures)
    checkpoint, modalities, sha256 = subject(arguments.model, arguments.modalities)
    facts = {"model": arguments.model, "sha256": sha256, "beam_size": options.beam_size,
             "temperatures": list(options.temperatures)}
    rows = Rows(arguments.rows)
    if arguments.wild:
        if checkpoint.model.dims.lips is None:
            raise AvsrError(f"--wild compares sound with lips, and {arguments.model} has none.  Name a model that reads lips.")
        return min(1, wild(arguments.wild, checkpoint, facts, rows))
    sources = open_noises(arguments.noise.split(","))
    utterances = read_rows([arguments.manifest], arguments.split, PIECE_SECONDS)[0][:arguments.limit]
    if "v" in "".join(modalities):
        cache.read_recipe(arguments.manifest.parent, checkpoint.recipe)
    groups = groups_of(utterances)
    if arguments.texts:
        first = next(iter(groups.values()))
        utterances = [row for row in utterances if row.utterance.id in first][::TEXTS_EVERY][:arguments.texts]
        snrs = [None, TEXTS_SNR]
    conditions = [CLEAN, *((name, snr) for name in sources for snr in snrs if snr is not None)]
    wanted = asked(facts, utterances, modalities, conditions)
    fill(rows, wanted, utterances, checkpoint, sources, options)
    found = [rows.by_key[Rows.key(row)] for row in wanted]
    for name in sources:
        if arguments.texts:
            print("\n".join(texts([row for row in found if row["noise"] in (None, name)], name, TEXTS_SNR)), "\n")
            continue
        for title, ids in groups.items():
            print(f"\n{arguments.model}, {arguments.split}, {title}, {len(ids)} utterances, {name}: WER in % (95 % interval)\n")
            print("\n".join(table(cells_of((row for row in found if row["id"] in ids), name), snrs)))
    if arguments.plot:
        title, ids = next(iter(groups.items()))
        some = [row for row in found if row["id"] in ids]
        plot(arguments.plot, {f"{arguments.model}, {title}, {name}": cells_of(some, name) for name in sources})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AvsrError as error:
        sys.exit(str(error))
