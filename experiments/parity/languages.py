"""Languages: ours beside faster-whisper's on one text in many languages; which language each hears, and what it writes if told.

    uv run experiments/parity/languages.py                  # Whisper base, as the extra `offline` brings it
The text is article 1 of the Universal Declaration of Human Rights, said by espeak-ng. Its voices are far from a
person's, so the error rates say little of Whisper; that both make the same of them is what is asked. Its French
voice is left out: both hear it as Thai, write loops, and draw by chance.
"""

import json
import sys

import jiwer
import numpy as np
import torch
from faster_whisper import WhisperModel
from run import HERE, keep
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

import avsr
from avsr.benchmark.baselines import packaged_whisper
from avsr.rates import SAMPLE_RATE
from avsr.recogniser import Recogniser
from avsr.text.tokenizers import SPACELESS_LANGUAGES

sys.path.insert(0, str(HERE.parents[1] / "data" / "demo"))
from talking_voice import speak

VOICES = {"zh": "cmn", "en": "en-us"}                       # where espeak-ng names a language otherwise than Whisper
TEXTS = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
          "and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt "
          "und sollen einander im Geiste der Brüderlichkeit begegnen.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
          "conciencia, deben comportarse fraternalmente los unos con los otros.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di "
          "coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de consciência,"
          " devem agir uns para com os outros em espírito de fraternidade.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en "
          "geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i "
          "sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и "
          "должны поступать в отношении друг друга в духе братства.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
}
normalise = BasicTextNormalizer()


def errors(reference: str, hypothesis: str, language: str) -> tuple[int, int]:
    """Wrong and all words, or characters where there are no spaces, after Whisper's normaliser for other languages."""
    process = jiwer.process_characters if language in SPACELESS_LANGUAGES else jiwer.process_words
    out = process(normalise(reference), normalise(hypothesis) or "-")
    return out.substitutions + out.deletions + out.insertions, out.hits + out.substitutions + out.deletions


def time_differences(ours: list, theirs: list) -> list[float]:
    """Of the starts of words that both wrote, in order, up to where they part: ours less theirs, in seconds."""
    out = []
    for mine, yours in zip(ours, theirs, strict=False):
        if normalise(mine.text) != normalise(yours.word):
            break
        out.append(mine.start - yours.start)
    return out


def detected(checkpoint: avsr.Checkpoint, sound: np.ndarray) -> str:
    """The language that ours finds likeliest, as `avsr transcribe` does where none is given."""
    recogniser = Recogniser(checkpoint)
    with torch.inference_mode():
        return recogniser.detect_language(recogniser.encode([sound], None, "a"))


def main() -> None:
    """See the module."""
    ours = avsr.load("base", lips=False)
    theirs = WhisperModel(str(packaged_whisper("base")), device="cpu", compute_type="float32")
    rows, differences = [], []
    for language, text in TEXTS.items():
        sound = speak(text, voice=VOICES.get(language, language)).samples
        mine = avsr.transcribe(sound, model=ours, modality="a", language=language)
        segments = list(theirs.transcribe(sound, beam_size=5, language=language, word_timestamps=True)[0])
        yours = "".join(segment.text for segment in segments).strip()
        differences += time_differences(mine.words, [word for segment in segments for word in segment.words])
        rows.append({"set": "languages base", "id": language, "seconds": round(len(sound) / SAMPLE_RATE, 1), "reference": text,
                     "avsr": mine.text, "avsr hears": detected(ours, sound), "faster-whisper float32": yours,
                     "faster-whisper hears": theirs.detect_language(sound)[0]})
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    keep(rows)
    print("language | avsr hears | faster-whisper hears | avsr, % wrong | faster-whisper, % wrong | differing, %")
    for row in rows:
        rates = [100 * np.divide(*errors(row[one], row[two], row["id"])) for one, two in (
            ("reference", "avsr"), ("reference", "faster-whisper float32"), ("faster-whisper float32", "avsr"))]
        print(row["id"], row["avsr hears"], row["faster-whisper hears"], *(f"{rate:.1f}" for rate in rates), sep=" | ")
    low, middle, high = np.percentile(differences, [5, 50, 95])
    print(f"starts of {len(differences)} words, ours less theirs: median {middle:.3f} s, 90 % from {low:.3f} to {high:.3f} s")


if __name__ == "__main__":
    main()
