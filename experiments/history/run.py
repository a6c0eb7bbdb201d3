"""The whole story on one benchmark: trains what is missing, chooses weights, measures every system, gathers rows and facts.

    uv run python experiments/history/run.py                # all stages in order, from data/grid; what is done is left out
    uv run python experiments/history/run.py --list         # the stages, and which are done
    uv run python experiments/history/run.py clips          # data/grid/story.jsonl, the clips on which all are compared
    uv run python experiments/history/run.py rows table     # these alone
A stage is one or more commands of `avsr`, which resume by themselves; what they write lies in runs/. See README.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from avsr import checkpoint, manifest
from avsr.checkpoint import SHIPPED
from avsr.tensorfiles import n_numbers, read_header

HERE = Path(__file__).resolve().parent
ROOT, RUNS = HERE.parents[1], Path("runs")
LIST, ROWS, TUNED = Path("data/grid/story.jsonl"), RUNS / "history", RUNS / "history-tuned"
SNRS, VALID_SNRS = "clean,0,-10", "clean,0"
MANY = 30                                                   # test clips of one speaker beyond which every third is taken
NGRAMS = "runs/lm-grid-ngram/model.arpa.gz"
WHISPER_LMS = {"n-gram": NGRAMS, "LSTM": "runs/lm-grid-whisper-lstm/model", "GPT": "runs/lm-grid-whisper-gpt/model"}
LETTER_LMS = {"n-gram": NGRAMS, "LSTM": "runs/lm-grid-grid-lstm/model", "GPT": "runs/lm-grid-grid-gpt/model"}
LIPS = {"from nothing": "", "pre-trained": "-pretrained"}
WEIGHTS = "0,0.2,0.5,1"


@dataclass(frozen=True)
class Measured:
    """A system of the table. station: its panel; short: its line there; weights: where its weights or facts of training lie.

    options: of `avsr benchmark`. tune: the help whose weight is chosen first, with its path, or None.
    """

    station: str
    short: str
    options: tuple[str, ...]
    weights: str
    modality: str = "a,v,av"
    tune: tuple[str, str] | None = None


def systems() -> list[Measured]:
    """Every row of the table, in the order of the story."""
    out = [Measured("HMM", "HMM, grammar", ("--model", "none", "--against", "hmm:runs/hmm"), "runs/hmm")]
    for name, short in (("lstm", "LSTM"), ("transformer", "Transformer")):
        model = f"runs/history-{name}/model"
        out.append(Measured(f"{short} from nothing", short, ("--model", model), model))
        out += [Measured(f"{short} from nothing", f"{short} + {lm}", ("--model", model), model, "a",
                         ("lm", path)) for lm, path in LETTER_LMS.items()]
    for share in ("10", "30", "100"):
        for start, suffix in LIPS.items():
            model = f"runs/history-lips-{share}{suffix}/model"
            out.append(Measured("Pre-training", f"{share} % of the texts, {start}", ("--model", model), model, "v"))
    out.append(Measured("Transformer, more training", "grid", ("--model", "grid"), "grid"))
    out.append(Measured("Whisper by sound", "Whisper tiny.en", ("--model", "tiny.en"), "tiny.en", "a"))
    for help_name, joined in (("lm", "in the search"), ("rescore", "on n-best lists")):
        out += [Measured(f"Whisper, LM {joined}", f"+ {lm}, {help_name}", ("--model", "tiny.en"), "tiny.en", "a",
                         (help_name, path)) for lm, path in WHISPER_LMS.items()]
    correct = ("--correct", "runs/correct/model")
    out.append(Measured("Correction", "Whisper, corrected", ("--model", "tiny.en", *correct), "tiny.en", "a"))
    pair = ("--model", "tiny.en", "--lips", "grid")
    out.append(Measured("Whisper with lips", "default", ("--model", "default"), "default"))
    out.append(Measured("Whisper with lips", "tiny.en, lips of grid", pair, "grid", "v,av"))
    out.append(Measured("Whisper with lips", "tiny.en, lips of grid, + n-gram", pair, "grid", "av", ("lm", NGRAMS)))
    out.append(Measured("Correction", "tiny.en, lips of grid, corrected", (*pair, *correct), "grid", "av"))
    return out


def avsr(*words: str) -> list[str]:
    """A command of `avsr`."""
    return [sys.executable, "-m", "avsr", *words]


def training() -> list[tuple[str, Path, list[list[str]]]]:
    """(stage, what it leaves, commands) of everything that is trained, in order."""
    def train(name: str, *more: str, verb: str = "train", config: str | None = None) -> tuple[str, Path, list[list[str]]]:
        folder = RUNS / f"history-{name}"
        resume = ["--resume"] if (folder / "state.json").exists() else []
        command = avsr(verb, str(HERE / f"{config or name}.toml"), "-o", str(folder), *more, *resume)
        return name, folder / "model" / "model.json", [command]

    script = [sys.executable, str(HERE / "hmm" / "train.py")]
    out = [("hmm", RUNS / "hmm" / "hmm.json", [[*script, "words", "runs/hmm", "data/grid"],
                                               [*script, "weights", "runs/hmm", "data/grid"]])]
    for name in ("grid-ngram", "grid-whisper-lstm", "grid-whisper-gpt", "grid-grid-lstm", "grid-grid-gpt"):
        folder = RUNS / f"lm-{name}"
        left = folder / ("model.arpa.gz" if name.endswith("ngram") else "model/model.json")
        out.append((f"lm-{name}", left, [avsr("lm", "train", str(HERE / "lm" / f"{name}.toml"), "-o", str(folder))]))
    out += [train("transformer"), train("lstm"), train("pretrain", verb="pretrain")]
    for percent, share in (("10", "0.1"), ("30", "0.3"), ("100", "1")):
        out.append(train(f"lips-{percent}", "--set", f"data.share={share}", config="lips"))
        out.append(train(f"lips-{percent}-pretrained", "--set", f"data.share={share}", "--set",
                         f"model.start={(RUNS / 'history-pretrain' / 'model').resolve()}", config="lips"))
    correct, lists = HERE / "correct", RUNS / "correct" / "lists"
    nbest = ("--model", "tiny.en", "--lips", "grid", "--noise-of", "experiments/grid/shipped.toml")
    out.append(("correct", RUNS / "correct" / "model" / "model.json", [
        [sys.executable, str(correct / "texts.py"), "data/text/grid-sentences.tsv", "data/grid/manifest.jsonl",
         "runs/correct/texts"],
        avsr("correct", "nbest", "data/grid", str(lists / "train.jsonl"), *nbest, "--corrupted", "0.6"),
        avsr("correct", "nbest", "data/grid", str(lists / "valid.jsonl"), *nbest, "--split", "valid", "--rounds", "2"),
        avsr("correct", "train", str(correct / "config.toml"), "-o", "runs/correct")]))
    return out


def folder_of(one: Measured) -> Path:
    """The rows of a system."""
    return ROWS / one.short.replace(" ", "_").replace("%", "percent").replace(",", "")


def make_list() -> None:
    """The clips on which all are compared: those of the splits test and unseen, of a speaker with many every third."""
    rows = [row for row in manifest.read("data/grid/manifest.jsonl") if row.split in ("test", "unseen")]
    count, seen, kept = Counter(row.speaker for row in rows), Counter(), []
    for row in rows:
        if count[row.speaker] <= MANY or seen[row.speaker] % 3 == 2:
            kept.append(replace(row, split="test"))
        seen[row.speaker] += 1
    manifest.write(LIST, kept)


def chosen_weight(one: Measured) -> list[str]:
    """The options of the help that a system is measured with; its weight is chosen on split valid, and kept."""
    if one.tune is None:
        return []
    name, path = one.tune
    kept = TUNED / f"{one.short.replace(' ', '_')}-{name}.txt"
    if not kept.exists():
        folder = TUNED / kept.stem
        modality = "a" if "a" in one.modality.split(",") else "av"
        typed = avsr("tune", "data/grid/manifest.jsonl", *one.options, f"--{name}", path, "--modality", modality, "--snr",
                     VALID_SNRS, "--noise", "speech-shaped", "--weights", WEIGHTS, "--limit", "10", "-o", str(folder), "-q")
        done = subprocess.run(typed, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(typed)}\n{done.stderr}")
        kept.write_text(done.stdout)
        print(done.stdout)
    return [f"--{name}", path, *kept.read_text().splitlines()[-1].split()]


def measure(one: Measured) -> None:
    """The rows of one system."""
    folder = folder_of(one)
    if (folder / "run.json").exists():
        return
    needed = [word.removeprefix("hmm:") for word in (*one.options, *(one.tune or ())) if "runs/" in word]
    if missing := [path for path in needed if not Path(path).exists()]:
        print(f"not measured: {one.short}, because {missing[0]} does not exist", flush=True)
        return
    snrs = "clean" if one.modality == "v" else SNRS
    run(avsr("benchmark", str(LIST), *one.options, *chosen_weight(one), "--modality", one.modality, "--noise",
             "none" if one.modality == "v" else "babble", "--snr", snrs, "-o", str(folder), "--noise-manifest",
             str(ROWS / "noise.jsonl"), "-q"))


def facts_of(one: Measured, system: str) -> dict:
    """What the table says of a system beside its rows: parameters, minutes of training."""
    folder = SHIPPED / one.weights if (SHIPPED / one.weights).is_dir() else Path(one.weights)
    log = folder.parent / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    minutes = max((line["minutes"] for line in lines if "minutes" in line), default=None)
    return {"station": one.station, "short": one.short, "system": system, "parameters": n_parameters(one), "minutes": minutes}


@lru_cache
def _loaded(name: str) -> int:
    return sum(parameter.numel() for parameter in checkpoint.load(name).model.parameters())


def n_parameters(one: Measured) -> int:
    """The numbers in the recognisers of a system; those of a language model or corrector are not counted."""
    options = dict(zip(one.options[::2], one.options[1::2], strict=True))
    if "--against" in options:
        return n_numbers(read_header(Path(options["--against"].removeprefix("hmm:")) / "hmm.safetensors"))
    return sum(_loaded(options[name]) for name in ("--model", "--lips") if name in options)


def gather() -> None:
    """results.jsonl.gz, timings.jsonl and facts.json of this folder from the rows of all systems."""
    rows: dict[tuple, str] = {}
    timings, facts = [], []
    for one in systems():
        folder = folder_of(one)
        if not (folder / "run.json").exists():
            print(f"not measured: {one.short}")
            continue
        for line in (folder / "results.jsonl").read_text().splitlines():
            row = json.loads(line)
            rows.setdefault((row["system"], row["modality"], row["noise"], row["snr_db"], row["id"]), line)
        timings += [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
        (system,) = json.loads((folder / "run.json").read_text())["systems"]
        facts.append(facts_of(one, system))
    with gzip.GzipFile(HERE / "results.jsonl.gz", "wb", mtime=0) as file:
        file.write(("\n".join(rows.values()) + "\n").encode())
    (HERE / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timings))
    (HERE / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def run(command: list[str]) -> None:
    """Run a command; end where it fails."""
    print("$", " ".join(command).replace(sys.executable + " -m ", ""), flush=True)
    if done := subprocess.run(command, check=False).returncode:
        raise SystemExit(done)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", help="stages to run; all without any")
    parser.add_argument("--list", action="store_true", help="list the stages, and which are done")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="measure every Nth system from the Ith on")
    asked = parser.parse_args()
    stages = training()
    if asked.list:
        for name, left, _ in stages:
            print("done   " if left.exists() else "to do  ", name)
        return
    for name, left, commands in stages:
        if (name in asked.stages or not asked.stages) and not left.exists():
            for command in commands:
                run(command)
    if asked.stages == ["clips"]:
        make_list()
    first, step = map(int, asked.part.split("/"))
    if "rows" in asked.stages or not asked.stages:
        TUNED.mkdir(parents=True, exist_ok=True)
        ROWS.mkdir(parents=True, exist_ok=True)
        if not LIST.exists():
            make_list()
        for one in systems()[first::step]:
            measure(one)
    if "table" in asked.stages or not asked.stages:
        gather()
        run([sys.executable, str(HERE / "table.py")])


if __name__ == "__main__":
    main()
