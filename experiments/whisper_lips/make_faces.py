"""Talking faces of our own making that say all sorts of things: lips outside GRID, which are not to be believed.

    seed -> sentences of a grammar, voices, looks -> data/demo's generator -> made-0001.mp4 + .txt ..., metadata.csv

The label `trust` is `no`: the model `default` learns to read lips from GRID alone, and here that it cannot read others.
The same seed gives the same clips, and more of them when more are asked for. Clips that are there are kept.

    uv run experiments/whisper_lips/make_faces.py data/faces --clips 60 --seed 1
    uv run avsr prepare folder data/faces data/faces-prepared
"""

import argparse
import csv
import io
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data" / "demo"))

import talking_face

from avsr import media
from avsr.errors import AvsrError, BadOutput
from avsr.output import write_file
from avsr.rates import SAMPLE_RATE

# A symbol in braces stands for one of its alternatives: those of TEMPLATES are phrases, those of WORDS single words.
TEMPLATES = {
    "sentence": (
        "{who} {did} {what}.", "{who} {did} {what} {when}.", "{who} {did} {what} {where}.", "{who} {went} {whither} {when}.",
        "{when}, {who} {did} {what}.", "{where}, {who} {did} {what}.", "{who} {did} {what} because {reason}.",
        "{who} {went} {adverb} {whither}.", "{which} {was} {adjective} {when}.", "{which} {was} {adjective} and {reason}.",
        "did {who} {do} {what} {when}?", "why did {who} {do} {what}?", "where can I {do} {what}?",
        "will {who} {do} {what} {later}?", "when will {who} {do} {what}?", "who {did} {what} {where}?",
        "how many {things} did {who} {do}?",
        "could you {do} {what} {later}, please?", "please {do} {what} before {hour}.", "do not {do} {what} {where}.",
        "the {event} starts at {hour} on {day}.", "the {event} is on {date}.", "I was born in {year} in {town}.",
        "it costs {number} {money} for {number} {things}.", "there are {number} {things} {where}.",
        "the {place} opens at {hour} and closes at {hour}.", "{name} is {age} years old and lives in {town}.",
        "my {relative} works as a {role} in {town}.", "it will be {weather} in {town} {later}.", "I think {who} {did} {what}.",
        "{who} never {did} {what}, but {name} {did} {number} {things}.", "we {went} from {town} to {town} in {number} {units}.",
        "thank you for the {adjective} {thing}, {name}.", "is the {adjective} {thing} still {where}?",
        "you should {adverb} {do} {what}.", "if it is {weather}, we will {do} {what}.", "{name} has a {adjective} {animal}.",
        "the {animal} {went} {whither} {when}.", "would you like {food} or {food} with that?",
        "we ate {food} and {food} {when}.", "{name}, {name} and {name} {went} {whither}.",
        "nobody knows why the {colour} {thing} {was} {adjective}.",
        "her {relative} plays the {instrument} {often}.", "turn {side} at the {place}, then walk for {number} {units}.",
        "the {colour} {thing} belongs to {who}.", "what a {adjective} {event}!", "let us {do} {what} {later}.",
    ),
    "who": ("{name}", "the {role}", "my {relative}", "the {adjective} {role}", "{name} and {name}", "our {role}", "somebody",
            "they", "everybody"),
    "what": ("the {thing}", "a {adjective} {thing}", "{number} {things}", "the {colour} {thing}", "some {food}", "my {thing}",
             "the {adjective} {things}", "their {animal}", "the {thing} and the {thing}"),
    "which": ("the {thing}", "the {colour} {thing}", "this {thing}", "the {role}", "that {event}", "the {animal}"),
    "where": ("at the {place}", "near the {place}", "in {town}", "behind the {place}", "at the {adjective} {place}"),
    "whither": ("to the {place}", "past the {place}", "to {town}", "towards the {adjective} {place}", "from the {place}"),
    "when": ("yesterday", "last {day}", "in {month}", "on {date}", "at {hour}", "in {year}", "this morning", "last night",
             "{number} weeks ago"),
    "later": ("tomorrow", "tonight", "next {day}", "next week", "on {date}", "this evening", "at {hour}", "after lunch"),
    "reason": ("it was {weather}", "{name} forgot the {thing}", "nobody was {adjective}", "the {place} was closed"),
    "date": ("{month} {ordinal}", "{day}", "{day}, {month} {ordinal}"),
    "hour": ("{small} o'clock", "half past {small}", "{clock}", "noon", "midnight", "quarter to {small}"),
    "number": ("{small}", "{small}", "{large}"),
}
WORDS = {name: tuple(words.split()) for name, words in {
    "name": """Anna Peter Maria Omar Lucy Daniel Grace Samuel Priya Thomas Helen Victor Julia Ahmed Sophie Martin Chloe Walter
        Nina Oscar Irene Felix Laura Hugo Emily George Rosa Philip Judy Kevin""",
    "role": """doctor teacher farmer driver baker painter lawyer nurse plumber singer captain writer student gardener cook judge
        dentist carpenter librarian journalist pilot neighbour manager stranger tailor musician""",
    "relative": "mother father sister brother uncle aunt cousin grandmother grandfather daughter nephew wife husband",
    "did": """bought sold found lost carried opened cleaned repaired painted borrowed wanted needed described watched forgot
        brought collected dropped hid measured ordered photographed polished remembered shared stole wrapped""",
    "do": """buy sell find bring carry open clean repair paint borrow move check describe watch choose collect weigh hide
        measure order photograph keep remember share throw wrap""",
    "went": "walked travelled drove ran hurried moved wandered returned climbed swam flew came",
    "was": "was looked seemed became",
    "adverb": "slowly quickly quietly carefully suddenly happily always usually gladly together barefoot",
    "thing": """bicycle umbrella suitcase letter ladder mirror piano candle blanket camera hammer kettle lamp notebook pillow
        puzzle radio ring scarf shovel sofa telephone ticket towel trumpet wallet window basket bottle carpet newspaper jacket
        keyboard map machine magazine""",
    "things": """books chairs boxes flowers shoes gloves pictures plates spoons buttons coins stamps tyres shirts pencils cups
        envelopes bags tables clocks stones ropes toys photographs""",
    "food": """bread cheese soup rice coffee honey butter salad chocolate fish chicken mushrooms potatoes pepper sugar yoghurt
        tomatoes garlic lemonade cake pasta onions apples strawberries beans tea milk""",
    "place": """station market bridge museum library harbour hospital bakery church school theatre garden river castle airport
        factory hotel restaurant beach village forest kitchen cellar stadium tower lake office""",
    "town": """London Paris Boston Madrid Chicago Dublin Toronto Vienna Sydney Cairo Bristol Denver Oslo Lisbon Mumbai Berlin
        Nairobi Glasgow Tokyo Rome""",
    "adjective": """heavy broken beautiful cheap dirty empty famous friendly gentle hungry lazy modern narrow noisy old
        patient perfect polite quiet rusty sharp silly strange tired tiny ugly warm wet wooden young brave clever""",
    "colour": "purple yellow brown pink orange black grey silver golden scarlet",
    "animal": "dog cat horse rabbit parrot cow duck sheep spider goat mouse tiger elephant monkey frog turtle",
    "event": "meeting concert wedding lecture party festival race funeral match birthday ceremony exhibition",
    "weather": "sunny cloudy windy foggy cold stormy rainy hot freezing dry",
    "instrument": "violin guitar drums flute cello harp accordion clarinet",
    "often": "daily rarely badly beautifully often loudly",
    "side": "left right",
    "units": "minutes hours miles days kilometres metres",
    "money": "dollars pounds euros cents",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January February March April May June July August September October November December",
    "ordinal": "1st 2nd 3rd 4th 5th 7th 9th 11th 12th 14th 15th 18th 20th 22nd 23rd 26th 28th 30th",
    "small": "two three four five six seven eight nine ten eleven",
    "large": "12 14 15 16 18 20 24 25 30 36 40 48 50 60 75 80 90 99 110 150 200 250 300 500 1,000",
    "age": "six nine 17 21 34 45 52 68 73 87",
    "clock": "6:15 7:30 8:45 9:20 10:10 11:25 12:40",
    "year": "1956 1969 1974 1987 1993 2001 2008 2015 2019 2024",
}.items()}
N_WORDS = range(4, 13)
# Voices that differ: espeak-ng takes a variant it does not know for none at all. 13, so that every tenth clip meets all.
VOICES = ("en-us", "en-us+f2", "en-us+m3", "en-gb-x-rp", "en-us-nyc+m1", "en-us+Annie", "en-gb-scotland+m5", "en-us+f4",
          "en-029+m2", "en-us-nyc+f3", "en-gb-x-gbclan+f5", "en-us+m7", "en-us+linda")
FACE_SIZES = (224, 288, 384)    # pixels drawn; the portrait has 212, and 512 would cost twice 224's 2.4 s for 5 s of film
PICTURE_HEIGHTS = (224, 256, 288, 320, 384, 512)
ASPECTS = (Fraction(1), Fraction(1), Fraction(5, 4), Fraction(4, 3))
RATES = (Fraction(24), Fraction(25), Fraction(25), Fraction(30), Fraction(30_000, 1001))
VALID_EVERY = 10
# AAC fills its last block: decoded, the sound would outlast the picture by 1 to 3 frames, which no filmed corpus shows, and
# by which these clips could be told. So the picture outlasts the sound.
SILENCE_CUT = SAMPLE_RATE // 8


@dataclass(frozen=True)
class Look:
    """How the drawn face becomes the picture; lengths as shares of the picture's height.

    scale: (2,) across and down, 1 fills the height; angle: degrees; gamma, contrast, brightness: of grey values in 0..1;
    light: what the sides gain and lose in brightness, as a share; blur: standard deviation; noise: of grey values
    """

    height: int
    width: int
    scale: tuple[float, float]
    shift: tuple[float, float]
    angle: float
    mirror: bool
    grey: bool
    gamma: float
    contrast: float
    brightness: float
    light: float
    blur: float
    noise: float


@dataclass(frozen=True)
class Plan:
    """One clip before it is filmed. scene: arguments of `talking_face.render`."""

    name: str
    text: str
    speaker: str
    split: str
    scene: dict
    look: Look
    crf: int


@dataclass(frozen=True)
class Made:
    """What came of it. n_kept: clips that were there. film_s, cpu_s: of the clips that were not."""

    table: Path
    n_clips: int
    n_kept: int
    film_s: float
    cpu_s: float


def sentence(rng: np.random.Generator) -> str:
    """A sentence of the grammar with 4 to 12 words, as Whisper would write it."""
    while True:
        text = "{sentence}"
        while symbol := re.search(r"\{(\w+)\}", text):
            choices = TEMPLATES.get(symbol[1]) or WORDS[symbol[1]]
            text = text[: symbol.start()] + str(rng.choice(choices)) + text[symbol.end() :]
        text = re.sub(r"\ba (?=[aeiou])", "an ", text[0].upper() + text[1:])
        words = re.findall(r"\w{4,}", text)
        if len(text.split()) in N_WORDS and len(words) == len(set(words)):
            return text


def plan(n_clips: int, seed: int) -> list[Plan]:
    """The first `n_clips` clips of a seed; no sentence comes twice."""
    out: list[Plan] = []
    texts: set[str] = set()
    for i in range(n_clips):
        rng = np.random.default_rng([seed, i])
        text = sentence(rng)
        while text in texts:
            text = sentence(rng)
        texts.add(text)
        speaker = i % len(VOICES)
        look = _look(rng)
        size = min(FACE_SIZES, key=lambda size: abs(size - look.height))
        scene = {"fps": RATES[rng.integers(len(RATES))], "size": size, "voice": VOICES[speaker],
                 "words_per_minute": int(rng.integers(110, 161)), "pitch": int(rng.integers(35, 66)),
                 "silence_s": tuple(float(pause) for pause in rng.uniform((0.1, 0.2), 0.5))}
        out.append(Plan(f"made-{i + 1:04d}", text, f"made-{speaker + 1}", "train" if (i + 1) % VALID_EVERY else "valid",
                        scene, look, int(rng.integers(18, 33))))
    return out


def _look(rng: np.random.Generator) -> Look:
    height = int(rng.choice(PICTURE_HEIGHTS))
    scale = rng.uniform(0.75, 1.2)
    stretch = rng.uniform(0.9, 1.1)
    return Look(
        height=height,
        width=int(height * ASPECTS[rng.integers(len(ASPECTS))]) // 2 * 2,
        scale=(scale * stretch, scale / stretch),
        shift=tuple(rng.uniform(-0.06, 0.06, 2)),
        angle=rng.uniform(-9, 9),
        mirror=rng.random() < 0.5,
        grey=rng.random() < 0.2,
        gamma=float(np.exp(rng.uniform(-0.5, 0.5))),
        contrast=rng.uniform(0.65, 1.25),
        brightness=rng.uniform(-0.12, 0.12),
        light=rng.uniform(-0.25, 0.25),
        blur=max(0.0, rng.uniform(-0.002, 0.006)),
        noise=max(0.0, rng.uniform(-0.02, 0.03)),
    )


def film(frames: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Frames (T, N, N, 3) uint8 RGB as they look: (T, height, width, 3) uint8 RGB."""
    drawn, middle = frames.shape[1], np.array([look.width, look.height]) / 2
    turn = cv2.getRotationMatrix2D((0, 0), look.angle, 1)[:, :2]
    matrix = turn @ np.diag(look.scale) * (look.height / drawn) @ np.diag((-1 if look.mirror else 1, 1))
    offset = middle + np.array(look.shift) * look.height - matrix @ np.full(2, (drawn - 1) / 2)
    warp = np.column_stack([matrix, offset])
    curve = (np.linspace(0, 1, 256) ** look.gamma - 0.5) * look.contrast + 0.5 + look.brightness
    light = np.linspace(1 - look.light, 1 + look.light, look.width, dtype=np.float32)[None, :, None]
    grain = rng.normal(0, 255 * look.noise, (look.height, look.width, 1)).astype(np.float32)
    size = (look.width, look.height)
    out = np.empty((len(frames), look.height, look.width, 3), np.uint8)
    for t, frame in enumerate(frames):
        image = cv2.warpAffine(frame, warp, size, borderMode=cv2.BORDER_REPLICATE)  # reflected, a second face showed
        if look.blur * look.height > 0.3:                    # pixels: less is not seen
            image = cv2.GaussianBlur(image, (0, 0), look.blur * look.height)
        if look.grey:
            image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        bright = (255 * curve).astype(np.float32)[image] * light
        out[t] = np.clip(bright + np.roll(grain, tuple(rng.integers(0, 64, 2)), axis=(0, 1)), 0, 255)
    return out


def make_faces(folder: str | Path, n_clips: int, *, seed: int = 1, progress: Callable[[int, Plan], None] | None = None) -> Made:
    """Film the first `n_clips` clips of `seed` into `folder`, with a .txt beside each and metadata.csv for all of them.

    progress: called with the number of clips done, and the clip, after each that was filmed. Clips that are there are
    kept. Raises BadOutput where the folder cannot be written to, or holds clips of another seed.
    """
    folder = Path(folder)
    plans = plan(n_clips, seed)
    kept = [clip for clip in plans if (folder / f"{clip.name}.mp4").exists()]
    for clip in kept:
        _check_text(folder / f"{clip.name}.txt", clip.text)
    table = folder / "metadata.csv"
    write_file(table, _table(plans))                         # first: without it half a folder would be read, and be believed
    film_s, start = 0.0, time.process_time()
    for i, clip in enumerate(plans):
        if clip in kept:
            continue
        write_file(folder / f"{clip.name}.txt", clip.text + "\n")                    # before the clip, which vouches for it
        take = talking_face.render(clip.text, **clip.scene)
        frames = film(take.frames, clip.look, np.random.default_rng([seed, i, 1]))
        media.write(frames, folder / f"{clip.name}.mp4", audio=take.samples[:-SILENCE_CUT], fps=clip.scene["fps"], crf=clip.crf)
        film_s += len(take.samples) / SAMPLE_RATE
        if progress:
            progress(i + 1, clip)
    return Made(table, n_clips, len(kept), film_s, time.process_time() - start)


def _check_text(beside: Path, text: str) -> None:
    try:
        found = beside.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadOutput(f"{beside}: cannot be read ({error}), though its clip is there.  Delete the clip.") from error
    if found != text:
        raise BadOutput(f"{beside}: says {found!r}, where this seed says {text!r}.  Give the folder's own --seed, or another "
                        "folder.")


def _table(plans: list[Plan]) -> str:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("media", "text", "speaker", "split", "trust"))
    rows.writerows((f"{clip.name}.mp4", clip.text, clip.speaker, clip.split, "no") for clip in plans)
    return out.getvalue()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write, such as data/faces")
    parser.add_argument("--clips", type=int, default=60, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="other seeds, other clips")
    options = parser.parse_args()
    if options.clips < 1 or options.seed < 0:
        parser.error("--clips must be 1 or more, and --seed 0 or more")

    def show(done: int, clip: Plan) -> None:
        print(f"{done}/{options.clips}  {clip.name}  {clip.speaker}  {clip.text}", flush=True)

    try:
        made = make_faces(options.folder, options.clips, seed=options.seed, progress=show)
    except AvsrError as error:
        sys.exit(f"make_faces: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"make_faces: the package {error.name} is not installed.  Install the group dev: uv sync.")
    print(f"{made.table}: {made.n_clips} clips, {made.n_kept} of them there before; {made.film_s / 60:.1f} minutes filmed "
          f"in {made.cpu_s:.0f} s of processor time")


if __name__ == "__main__":
    main()
