"""Train the story's hidden Markov models: phones for alignment, words for recognition.

    uv run python experiments/history/hmm/train.py phones OUTPUT MANIFEST ...
    uv run python experiments/history/hmm/train.py words OUTPUT MANIFEST ...
    uv run python experiments/history/hmm/train.py weights OUTPUT MANIFEST ...      choose the lips' weights anew on valid
Manifests are those of `avsr prepare`; one core; see README.md.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avsr import noise
from avsr.cache import read_entry
from avsr.corrupt import Mouth
from avsr.dataset import ManifestRow, read_prepared, recordings_by_speaker
from avsr.hmm.alignment import BORROWED, PhoneAligner
from avsr.hmm.features import FeatureSettings, lip_features, sound_features
from avsr.hmm.model import HMM
from avsr.hmm.networks import PAUSE, SILENCE, Units, compiled, sentence
from avsr.hmm.pronunciation import GRID
from avsr.hmm.recogniser import LIPS, WordRecogniser
from avsr.hmm.training import Example, numbered, spread, train
from avsr.metrics.counting import word_errors
from avsr.rates import FEATURE_RATE

GRAMMAR = [line.split() for line in (
    "bin lay place set", "blue green red white", "at by in with", "a b c d e f g h i j k l m n o p q r s t u v x y z",
    "zero one two three four five six seven eight nine", "again now please soon")]
NOISE = {"white": True, "pink": True, "speech-shaped": True, "babble": True, "talker": True}       # of the training speakers
LEVELS = {"sound": None, "noisy": (5.0, 20.0), "loud": (-10.0, 5.0)}   # dB of the noise that teaches each stream; None: clean
VALID_SNRS = (None, 10.0, 5.0, 0.0, -5.0, -10.0)
LIP_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
COMPONENTS = {"phones": 4, "words": 4}
ROUNDS = {"phones": (8, 4), "words": (3, 3)}                # of EM with one Gaussian, and after each split


def rows_of(manifests: Sequence[Path], split: str) -> list[ManifestRow]:
    """The prepared rows of a split of those manifests that have it."""
    return read_prepared(manifests, split, 30)[0]


def train_phones(output: Path, manifests: Sequence[Path]) -> None:
    """Monophones of three states from texts alone."""
    settings = FeatureSettings()
    phones = sorted({phone for ways in GRID.values() for way in ways for phone in way} - set(BORROWED))
    units = numbered({SILENCE: 3, **dict.fromkeys(phones, 3)}, {PAUSE: (SILENCE, 1)})
    examples = []
    for row in rows_of(manifests, "train"):
        audio, words = read_entry(row.base, row.cache).audio, row.utterance.text.split()
        assert audio is not None, row.utterance.id
        ways = [GRID[word] for word in words]
        examples.append(Example(compiled(sentence(ways, words), units), tuple(phone for way in ways for phone in way[0]),
                                {"sound": sound_features(audio, settings)}))
    model = train(units, examples, {"sound": 1.0}, n_components=COMPONENTS["phones"], rounds=ROUNDS["phones"], say=say)
    replace(model, about={"features": settings.to_dict(), "delay": 0.0}).save(output)


def train_words(output: Path, manifests: Sequence[Path]) -> None:
    """Whole words in sound, sound in noise and lips, which share their states; the phone aligner says where words begin."""
    settings, rows = FeatureSettings(), rows_of(manifests, "train")
    units = word_units()
    own, n_unnamed = recordings_by_speaker(rows)
    sources, left_out = noise.open_training_sources(NOISE, own, n_unnamed=n_unnamed)
    for line in left_out:
        say(line)
    mixers = {name: noise.NoiseMixer(sources, snr_range=span) for name, span in LEVELS.items() if span is not None}
    make = WordExamples(units, mixers, settings, PhoneAligner.open())
    examples = [make(row, np.random.default_rng(i)) for i, row in enumerate(rows)]
    say(f"{len(examples)} examples")
    model = train(units, examples, {"sound": 1.0}, n_components=COMPONENTS["words"], rounds=ROUNDS["words"], say=say)
    about = {"features": settings.to_dict(), "grammar": GRAMMAR, "levels": [[name, 0.5] for name in LEVELS]}
    replace(model, about=about).save(output)
    say(f"{model.n_parameters()} parameters")


def word_units() -> Units:
    """Three states a phoneme for letters, which differ in little, and two for other words."""
    lengths = {word: (3 if word in GRAMMAR[3] else 2) * len(GRID[word][0]) for slot in GRAMMAR for word in slot}
    return numbered({SILENCE: 3, **{word: max(3, length) for word, length in lengths.items()}}, {PAUSE: (SILENCE, 1)})


@dataclass(frozen=True)
class WordExamples:
    """Makes examples of rows. mixers: of the noise of each stream in LEVELS that has noise.  aligner: says where to begin."""

    units: Units
    mixers: dict[str, noise.NoiseMixer]
    settings: FeatureSettings
    aligner: PhoneAligner

    def __call__(self, row: ManifestRow, rng: np.random.Generator) -> Example:
        """Clean sound and lips, and the same sound in noise of each level."""
        cached, words, settings = read_entry(row.base, row.cache), row.utterance.text.split(), self.settings
        assert cached.audio is not None, row.utterance.id
        sound = sound_features(cached.audio, settings)
        noisy = [(name, sound_features(mixer(cached.audio, row.utterance.speaker, rng).audio, settings))
                 for name, mixer in self.mixers.items()]
        lips = np.full((len(sound), 3 * settings.n_dct), np.nan, np.float32)
        if cached.images is not None and cached.missing is not None:
            lips = lip_features(cached.images, cached.missing, len(sound), settings)
        network = compiled(sentence([[(word,)] for word in words], words), self.units)
        return Example(network, tuple(words), {"sound": sound, LIPS: lips}, noisy,
                       self._first_states(cached.audio, words, len(sound)))

    def _first_states(self, audio: np.ndarray, words: Sequence[str], n_frames: int) -> np.ndarray:
        """(n_frames,) where to begin: the states of each word share its time by the phone aligner evenly."""
        out = spread(self.units[SILENCE], n_frames)
        for word in self.aligner.align(audio, words):
            first, last = (min(n_frames, max(0, round(time * FEATURE_RATE + 0.5))) for time in (word.start, word.end))
            out[first:last] = spread(self.units[word.text], last - first)
        return out


def choose_weights(output: Path, manifests: Sequence[Path]) -> None:
    """Choose the weight of the lips for each level of noise on the valid split, and store it."""
    model = HMM.load(output)
    recogniser = WordRecogniser.of(model)
    rows = [row for row in rows_of(manifests, "valid") if "v" in row.cache.modality]
    errors: dict[str, dict[float, int]] = defaultdict(lambda: defaultdict(int))
    by_snr: dict[float | None, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, snr, reference, texts in decoded(recogniser, rows, manifests):
        for lips, text in texts.items():
            wrong = word_errors(reference, text).errors
            errors[name][lips] += wrong
            by_snr[snr][f"lips {lips:g}"] += wrong
        by_snr[snr][name] += 1
    levels = []
    for level in recogniser.levels:
        found = errors[level.stream]
        best = min(found, key=lambda lips: (found[lips], lips)) if found else level.lips
        say(f"{level.stream}: errors by the lips' weight {dict(found)}, so {best:g}")
        levels.append([level.stream, best])
    for snr, counts in by_snr.items():
        say(f"{'clean' if snr is None else f'{snr:g} dB'}: {dict(counts)}")
    replace(model, about={**model.about, "levels": levels}).save(output)


def decoded(recogniser: WordRecogniser, rows: Sequence[ManifestRow],
            manifests: Sequence[Path]) -> Iterator[tuple[str, float | None, str, dict[float, str]]]:
    """Every valid clip at every SNR: the level it was taken for, the SNR, the text, and the texts by the lips' weight."""
    own, n_unnamed = recordings_by_speaker(rows_of(manifests, "train"))
    sources, _ = noise.open_training_sources({"babble": True}, own, n_unnamed=n_unnamed)
    for i, row in enumerate(rows):
        cached = read_entry(row.base, row.cache)
        assert cached.audio is not None
        assert cached.images is not None
        assert cached.missing is not None
        for snr in VALID_SNRS:
            mixer = noise.NoiseMixer(sources, snrs=(snr,))
            audio = mixer(cached.audio, row.utterance.speaker, np.random.default_rng(i)).audio
            tables = recogniser.tables(recogniser.features(audio, Mouth(cached.images, cached.missing)))
            level = recogniser.level(tables)
            yield level.stream, snr, row.utterance.text, {lips: recogniser.decode(tables, level, lips) for lips in LIP_WEIGHTS}


def say(line: str) -> None:
    """Print a line with the seconds of computing."""
    print(f"{time.process_time():6.0f} s  {line}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("phones", "words", "weights"))
    parser.add_argument("output", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    asked = parser.parse_args()
    {"phones": train_phones, "words": train_words, "weights": choose_weights}[asked.what](asked.output, asked.manifests)
