"""How well `avsr align --subtitles` puts subtitles back that are late, or drift.

    sentences -> espeak -> a minute and a half of speech with pauses, and its true subtitles
    true subtitles, late by 2.5 s | drifting by 3 % -> avsr.align.subtitles.retime -> errors of starts before and after
Run it as `python experiments/history/alignment/retiming.py`; it prints a line of JSON for each case.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3] / "data" / "demo"))

from talking_voice import speak  # pyright: ignore[reportMissingImports]

from avsr.align.subtitles import parse_subtitles, retime
from avsr.rates import SAMPLE_RATE
from avsr.transcript import format_timestamp

SENTENCES = (
    "Good morning, and welcome to the museum.",
    "This building was a railway station until nineteen sixty.",
    "In the first room you see the oldest paintings of the collection.",
    "Please do not touch the frames.",
    "The portrait on the left was painted by a woman whose name nobody knows.",
    "She lived near the harbour, and sold her pictures to sailors.",
    "Many of them were lost at sea.",
    "The next room is about music.",
    "You may play the large piano, but only with clean hands.",
    "Children like the drums best.",
    "Upstairs there is a small theatre.",
    "Every evening at seven somebody reads a story there.",
    "Coffee and cake are sold in the garden.",
    "Thank you for coming, and enjoy your visit.",
)
VOICES = ("en-us+f2", "en-us")


def made_speech(rng: np.random.Generator, voice: str) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The sentences with pauses of 0.3 to 2.5 s: sound (S,) float32, and start and end of each, seconds."""
    parts, spans, at = [], [], 0
    for sentence in SENTENCES:
        pause = np.zeros(int(SAMPLE_RATE * rng.uniform(0.3, 2.5)), np.float32)
        speech = speak(sentence, voice=voice)
        start = (at + len(pause)) / SAMPLE_RATE
        spans.append((start + speech.phonemes[0].start_s, start + speech.phonemes[-1].end_s))
        parts += [pause, speech.samples.astype(np.float32)]
        at += len(pause) + len(speech.samples)
    return np.concatenate([*parts, np.zeros(SAMPLE_RATE, np.float32)]), spans


def srt(spans: list[tuple[float, float]], late_s: float, drift: float) -> str:
    """Subtitles of the sentences with times that are late and too slow."""
    def shown(time: float) -> str:
        return format_timestamp(time * (1 + drift) + late_s, always_hours=True, decimal_mark=",")

    return "".join(f"{number}\n{shown(start)} --> {shown(end)}\n{text}\n\n"
                   for number, ((start, end), text) in enumerate(zip(spans, SENTENCES, strict=True), start=1))


def main() -> None:
    for voice in VOICES:
        sound, spans = made_speech(np.random.default_rng(0), voice)
        for name, late_s, drift in (("late by 2.5 s", 2.5, 0.0), ("drift of 3 %", 0.0, 0.03), ("as they should be", 0.0, 0.0)):
            for by in sys.argv[1:] or ["auto"]:
                old = parse_subtitles(srt(spans, late_s, drift), "made.srt")
                new = retime(sound, old, model="tiny.en", by=by)
                truth = np.array(spans)
                before = np.abs(np.array([(cue.start, cue.end) for cue in old.cues]) - truth)
                after = np.abs(np.array(new.times) - truth)
                row = {"voice": voice, "case": name, "by": by, "cues": len(spans), "seconds": round(len(sound) / SAMPLE_RATE)}
                for side, column in (("start", 0), ("end", 1)):
                    for when, errors in (("before", before), ("after", after)):
                        row |= {f"{side}_{when}_median": round(float(np.median(errors[:, column])), 3),
                                f"{side}_{when}_max": round(float(errors[:, column].max()), 3)}
                print(json.dumps({**row, "problems": list(new.problems)}), flush=True)


if __name__ == "__main__":
    main()
