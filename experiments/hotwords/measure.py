"""Hotwords: how many names does Whisper write right with and without them, and does anything else change?

    uv run python experiments/hotwords/measure.py           # writes results.jsonl
Sentences with unusual names are said by two of espeak-ng's voices, clean and in white noise at 10 dB. The names of the first
half choose the weight; those of the second half are reported, also with hundreds of other names in the list.
"""

import json
import sys
from pathlib import Path

import jiwer
import numpy as np
import torch

import avsr
from avsr.decode import Hotwords
from avsr.noise.mixing import mix
from avsr.recogniser import Recogniser
from avsr.text import normalise

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "data" / "demo"))
from talking_voice import speak  # noqa: E402

MODEL, VOICES, SNRS = "tiny.en", ("en-us+f2", "en-us+m3"), (None, 10.0)
CHOOSE = ("Szymborska", "Kovalevskaya", "Nakagawa", "Oyelaran", "Bjornstad", "Tanaguchi", "Wojciech", "Ramanujan", "Esterhazy",
          "Montague", "Abernathy", "Krasinski")
REPORT = ("Kowalczyk", "Obradovic", "Yamaguchi", "Adeyemi", "Haraldsson", "Quintero", "Zbigniew", "Subramaniam", "Lundqvist",
          "Featherstone", "Okonkwo", "Marchetti")
SENTENCES = ("Yesterday {} showed us the new garden.", "The letter from {} came on Friday.", "We asked {} to bring the map.",
             "Nobody knew that {} could sing so well.")
PLAIN = ("The train to the city leaves at seven.", "She painted the old door green.", "My brother sold his car last week.",
         "The weather was cold and wet all day.", "They walked along the river in the evening.",
         "He reads the newspaper after breakfast.")
WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0)
SYLLABLES = ("ka", "lo", "mi", "ster", "van", "dor", "bel", "shi", "nor", "quist", "ra", "tov", "hen", "ley", "gra", "zim")


def other_names(n: int) -> list[str]:
    """Made-up names that nobody says."""
    rng = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < n:
        found["".join(rng.choice(SYLLABLES, rng.integers(2, 5))).capitalize()] = None
    return list(found)


def material(names: tuple[str, ...]) -> list[tuple[str, str | None, float | None, np.ndarray]]:
    """(text, name, SNR, sound) of each sentence: with a name each, and without."""
    texts = [(SENTENCES[i % len(SENTENCES)].format(name), name) for i, name in enumerate(names)]
    texts += [(text, None) for text in PLAIN]
    out = []
    for number, (text, name) in enumerate(texts):
        for voice in VOICES:
            sound = speak(text, voice=voice).samples
            for snr in SNRS:
                rng = np.random.default_rng(number)
                noise = rng.normal(0, 1, len(sound)).astype(np.float32)
                out.append((text, name, snr, sound if snr is None else mix(sound, noise, snr, rng=rng).audio))
    return out


def other_errors(text: str, written: str, name: str | None) -> tuple[int, int]:
    """Errors in all words but the name, and their number. What stands in place of the name does not count."""
    words = normalise(text).split()
    of_name = set(normalise(name).split()) if name else set()
    (chunks,) = jiwer.process_words([" ".join(words)], [normalise(written) or "-"]).alignments
    errors = 0
    for chunk in chunks:
        wrong = [word for word in words[chunk.ref_start_idx:chunk.ref_end_idx] if word not in of_name]
        beside_name = of_name & set(words[max(0, chunk.ref_start_idx - 1):chunk.ref_end_idx + 1])
        if chunk.type in ("substitute", "delete"):
            errors += len(wrong)
        elif chunk.type == "insert" and not beside_name:
            errors += chunk.hyp_end_idx - chunk.hyp_start_idx
    return errors, sum(word not in of_name for word in words)


@torch.inference_mode()
def measure(recogniser: Recogniser, clips: list, lists: dict[str, tuple[list[str], float]], part: str) -> list[dict]:
    """A row for each list of hotwords and each SNR: names found of all, errors in other words of all."""
    sums = {(key, snr): np.zeros(4, int) for key in lists for snr in SNRS}
    for text, name, snr, sound in clips:
        memory = recogniser.encode([sound], None, "a")
        for key, (words, weight) in lists.items():
            helped = {"hotwords": Hotwords(words), "hotword_weight": weight} if weight else {}
            options = recogniser.search_options(temperatures=(0.0,), **helped)
            written = recogniser.detokenize(recogniser.decode(memory, options)[0].tokens)
            found = name is not None and normalise(name) in normalise(written)
            sums[key, snr] += (found, name is not None, *other_errors(text, written, name))
    return [{"part": part, "hotwords": key, "weight": lists[key][1], "snr_db": snr, "found": int(n[0]), "names": int(n[1]),
             "other_errors": int(n[2]), "other_words": int(n[3])} for (key, snr), n in sums.items()]


def main() -> None:
    """See the module."""
    recogniser = Recogniser(avsr.load(MODEL, lips=False))
    rows = measure(recogniser, material(CHOOSE), {f"own, {weight:g}": (list(CHOOSE), weight) for weight in WEIGHTS}, "choose")
    best = max(WEIGHTS, key=lambda weight: sum(row["found"] - row["other_errors"] for row in rows if row["weight"] == weight))
    lists = {"none": (list(REPORT), 0.0), "own": (list(REPORT), best)}
    lists |= {f"own and {n} others": ([*REPORT, *other_names(n)], best) for n in (100, 1000)}
    rows += measure(recogniser, material(REPORT), lists, "report")
    (HERE / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
