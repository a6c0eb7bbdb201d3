"""Train the story's hidden Markov models: phones for alignment, words for recognition.

    uv run python experiments/history/hmm/train.py phones OUTPUT MANIFEST ...
    uv run python experiments/history/hmm/train.py words OUTPUT MANIFEST ...
    uv run python experiments/history/hmm/train.py weights OUTPUT MANIFEST ...      choose the lips' weights on valid
    uv run python experiments/history/hmm/train.py borders OUTPUT MANIFEST ...      measure the borders of words
Manifests are those of `avsr prepare`; one core; see README.md.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from avsr import noise
from avsr.cache import read_entry, read_mouth_crop
from avsr.corrupt import Mouth
from avsr.dataset import ManifestRow, read_prepared, recordings_by_speaker
from avsr.hmm.alignment import BORROWED, PhoneAligner
from avsr.hmm.features import FeatureSettings, lip_features, sound_features
from avsr.hmm.model import HMM
from avsr.hmm.networks import PAUSE, SILENCE, Units, compiled, sentence
from avsr.hmm.pronunciation import GRID
from avsr.hmm.recogniser import LIPS, WordRecogniser, estimated_snr
from avsr.hmm.training import Example, numbered, spread, train
from avsr.metrics.counting import word_errors
from avsr.rates import FEATURE_RATE

GRAMMAR = [line.split() for line in (
    "bin lay place set", "blue green red white", "at by in with", "a b c d e f g h i j k l m n o p q r s t u v x y z",
    "zero one two three four five six seven eight nine", "again now please soon")]
NOISE = {"white": True, "pink": True, "speech-shaped": True, "babble": True, "talker": True}       # of the training speakers
LEVELS = ("sound", "noisy")                                 # streams of the sound: clean, and in noise
SNRS = (-5.0, 15.0)                                         # dB of the noise that teaches the second
VALID_SNRS = (None, 10.0, 0.0, -10.0)
LIP_WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
VALID_STEP = 2                                              # every other valid clip: 28 of 55
NOISY_STEP = 2                                              # every other sound is heard in noise as well
DELAY_STEP = 8                                              # every 8th clip with word times is measured
COMPONENTS = {"phones": 4, "words": 4}
ROUNDS = {"phones": (8, 4), "words": (1, 2)}                # of EM with one Gaussian, and after each split


def rows_of(manifests: Sequence[Path], split: str) -> list[ManifestRow]:
    """The prepared rows of a split of those manifests that have it."""
    return read_prepared(manifests, split, 30)[0]


def train_phones(output: Path, manifests: Sequence[Path]) -> None:
    """Monophones of three states from texts alone."""
    settings = FeatureSettings()
    phones = sorted({phone for ways in GRID.values() for way in ways for phone in way} - set(BORROWED))
    units = numbered({SILENCE: 3, **dict.fromkeys(phones, 3)}, {PAUSE: (SILENCE, 1)})
    examples = []
    rows = rows_of(manifests, "train")
    for row in rows:
        audio, words = read_entry(row.base, row.cache).audio, row.utterance.text.split()
        assert audio is not None, row.utterance.id
        ways = [GRID[word] for word in words]
        examples.append(Example(compiled(sentence(ways, words), units), tuple(phone for way in ways for phone in way[0]),
                                {"sound": sound_features(audio, settings)}))
    model = train(units, examples, {"sound": 1.0}, n_components=COMPONENTS["phones"], rounds=ROUNDS["phones"], say=say)
    about = {"features": settings.to_dict(), "delay": 0.0}
    replace(model, about=about).save(output)
    timed = [row for row in rows if row.utterance.words][::DELAY_STEP]
    about["delay"] = round(float(np.median(border_errors(PhoneAligner.open(output), timed))), 4)
    replace(model, about=about).save(output)
    say(f"delay {about['delay']} s of {len(timed)} clips; {model.n_parameters()} parameters")


def border_errors(aligner: PhoneAligner, rows: Sequence[ManifestRow]) -> np.ndarray:
    """Seconds by which each start and each end of a word is later than in GRID's .align files."""
    out = []
    for row in rows:
        audio, words = read_entry(row.base, row.cache).audio, row.utterance.words
        assert audio is not None
        assert words is not None
        for found, wanted in zip(aligner.align(audio, [word.text for word in words]), words, strict=True):
            out += [found.start - wanted.start, found.end - wanted.end]
    return np.array(out)


def measure_borders(output: Path, manifests: Sequence[Path]) -> None:
    """The word borders of a phone aligner against GRID's, on the valid split, and on test and unseen."""
    aligner = PhoneAligner.open(output)
    for names in (("valid",), ("test", "unseen")):
        rows = [row for name in names for row in rows_of(manifests, name) if row.utterance.words]
        errors = border_errors(aligner, rows)
        median, high = 1000 * np.quantile(np.abs(errors), [0.5, 0.95])
        say(f"{' and '.join(names)}, {len(rows)} clips, {len(errors)} borders: median {median:.0f} ms, 95th percentile "
            f"{high:.0f} ms, mean shift {1000 * np.mean(errors):.0f} ms")


def train_words(output: Path, manifests: Sequence[Path]) -> None:
    """Whole words in sound, sound in noise and lips, which share their states; the phone aligner says where words begin."""
    settings, rows = FeatureSettings(), rows_of(manifests, "train")
    units = word_units()
    own, n_unnamed = recordings_by_speaker(rows)
    sources, left_out = noise.open_training_sources(NOISE, own, n_unnamed=n_unnamed)
    for line in left_out:
        say(line)
    make = WordExamples(units, noise.NoiseMixer(sources, snr_range=SNRS), settings, PhoneAligner.open())
    examples = [make(row, np.random.default_rng(i), noisy=i % NOISY_STEP == 0) for i, row in enumerate(rows)]
    say(f"{len(examples)} examples")
    model = train(units, examples, {"sound": 1.0}, n_components=COMPONENTS["words"], rounds=ROUNDS["words"], say=say)
    about = {"features": settings.to_dict(), "grammar": GRAMMAR, "levels": LEVELS, "lip_weights": [[1e3, 0.3]],
             "mouth_crop": read_mouth_crop(rows[0].base).to_dict()}
    replace(model, about=about).save(output)
    say(f"{model.n_parameters()} parameters")


def word_units() -> Units:
    """Three states a phoneme for letters, which differ in little, and two for other words."""
    lengths = {word: (3 if word in GRAMMAR[3] else 2) * len(GRID[word][0]) for slot in GRAMMAR for word in slot}
    return numbered({SILENCE: 3, **{word: max(3, length) for word, length in lengths.items()}}, {PAUSE: (SILENCE, 1)})


@dataclass(frozen=True)
class WordExamples:
    """Makes examples of rows. mixer: of the noise.  aligner: says where to begin where the manifest has no word times."""

    units: Units
    mixer: noise.NoiseMixer
    settings: FeatureSettings
    aligner: PhoneAligner

    def __call__(self, row: ManifestRow, rng: np.random.Generator, *, noisy: bool) -> Example:
        """Clean sound and lips, and with `noisy` the same sound in noise."""
        cached, words, settings = read_entry(row.base, row.cache), row.utterance.text.split(), self.settings
        assert cached.audio is not None, row.utterance.id
        sound = sound_features(cached.audio, settings)
        variants = []
        if noisy:
            variants.append((LEVELS[1], sound_features(self.mixer(cached.audio, row.utterance.speaker, rng).audio, settings)))
        lips = np.full((len(sound), 3 * settings.n_dct), np.nan, np.float32)
        if cached.images is not None and cached.missing is not None:
            lips = lip_features(cached.images, cached.missing, len(sound), settings)
        network = compiled(sentence([[(word,)] for word in words], words), self.units)
        return Example(network, tuple(words), {"sound": sound, LIPS: lips}, variants,
                       self._first_states(row, cached.audio, len(sound)))

    def _first_states(self, row: ManifestRow, audio: np.ndarray, n_frames: int) -> np.ndarray:
        """(n_frames,) where to begin: the states of each word share its time evenly."""
        out = spread(self.units[SILENCE], n_frames)
        for word in row.utterance.words or self.aligner.align(audio, row.utterance.text.split()):
            first, last = (min(n_frames, max(0, round(time * FEATURE_RATE))) for time in (word.start, word.end))
            out[first:last] = spread(self.units[word.text], last - first)
        return out


def choose_weights(output: Path, manifests: Sequence[Path]) -> None:
    """Choose the weight of the lips by the estimated SNR on the valid split, and store it."""
    model = HMM.load(output)
    found = list(decoded(WordRecogniser.of(model), manifests))
    means = [np.mean([one.estimate for one in found if one.snr == snr]) for snr in VALID_SNRS]
    # From loud noise to none; the border between two is halfway between their mean estimates.
    borders = sorted([*(float(low + high) / 2 for low, high in pairwise(means)), 1e3])
    table, low = [], -1e3
    for border in borders:
        here = [one for one in found if low <= one.estimate < border]
        errors = {lips: sum(one.errors[lips] for one in here) for lips in LIP_WEIGHTS}
        best = min(errors, key=lambda lips: (errors[lips], lips))
        say(f"estimates up to {border:.1f} dB: {len(here)} texts, errors by the lips' weight {errors}, so {best:g}")
        table.append([round(border, 1), best])
        low = border
    for snr, mean in zip(VALID_SNRS, means, strict=True):
        here = [one for one in found if one.snr == snr]
        percent = {lips: f"{100 * sum(one.errors[lips] for one in here) / (6 * len(here)):.1f}" for lips in LIP_WEIGHTS}
        say(f"{'clean' if snr is None else f'{snr:g} dB'}: estimate {mean:.1f} dB, "
            f"taken as {dict(Counter(one.stream for one in here))}, WER by the lips' weight {percent}")
    replace(model, about={**model.about, "lip_weights": table}).save(output)


@dataclass(frozen=True)
class Decoded:
    """A valid clip at an SNR: the estimate of it, the stream of the sound that was taken, and word errors by lips' weight."""

    snr: float | None
    estimate: float
    stream: str
    errors: dict[float, int]


def decoded(recogniser: WordRecogniser, manifests: Sequence[Path]) -> Iterator[Decoded]:
    """Every VALID_STEP-th valid clip at every SNR, in babble of the training speakers."""
    rows = [row for row in rows_of(manifests, "valid") if "v" in row.cache.modality][::VALID_STEP]
    own, n_unnamed = recordings_by_speaker(rows_of(manifests, "train"))
    sources, _ = noise.open_training_sources({"babble": True}, own, n_unnamed=n_unnamed)
    for i, row in enumerate(rows):
        cached = read_entry(row.base, row.cache)
        assert cached.audio is not None
        assert cached.images is not None
        assert cached.missing is not None
        observed = recogniser.features(cached.audio, Mouth(cached.images, cached.missing))
        for snr in VALID_SNRS:
            audio = noise.NoiseMixer(sources, snrs=(snr,))(cached.audio, row.utterance.speaker, np.random.default_rng(i)).audio
            tables = recogniser.tables({**observed, "sound": sound_features(audio, recogniser.settings)})
            stream = recogniser.stream(tables)
            texts = {lips: recogniser.decode(tables, stream, lips) for lips in LIP_WEIGHTS}
            yield Decoded(snr, estimated_snr(audio), stream,
                          {lips: word_errors(row.utterance.text, text).errors for lips, text in texts.items()})


def say(line: str) -> None:
    """Print a line with the seconds of computing."""
    print(f"{time.process_time():6.0f} s  {line}", flush=True)


COMMANDS = {"phones": train_phones, "words": train_words, "weights": choose_weights, "borders": measure_borders}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("output", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    asked = parser.parse_args()
    COMMANDS[asked.what](asked.output, asked.manifests)
