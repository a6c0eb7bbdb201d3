"""Other recognisers in the same benchmark: sounds in, their texts out, by the same noise and the same normaliser as ours.

    "faster-whisper:tiny.en" | "pocketsphinx" | "pocketsphinx:FILE.gram" -> Baseline;  (S,) float32 at SAMPLE_RATE -> text
Each recogniser is one function in BASELINES. A text depends on its sound alone, not on what was heard before: the same rows
come out in any order, and after a crash.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

from avsr import assets
from avsr.errors import AvsrError, MissingAsset
from avsr.runtime import n_cores, pick_device

FULL_SCALE = 2**15                                          # of 16 bits
PACKAGED = ("tiny.en", "base")                              # the sizes that the extra `offline` brings
# The files of faster-whisper's layout, and which of our assets each is.
LAYOUT = {"model.bin": "ct2", "config.json": "config.json", "tokenizer.json": "tokenizer.json",
          "vocabulary.txt": "vocabulary.txt"}
REMEDY = "Run pip install 'avsr[against]'"


@dataclass(frozen=True)
class Baseline:
    """A recogniser that is not ours.

    name: `system` of its rows.  sha256: of all model files it goes by.  search: how it searches, as rows say it.
    device: cpu or cuda, where it really runs.  facts: versions and options, for run.json; some tell of the machine.
    write: text of one sound (S,) float32 that is not silent.
    """

    name: str
    sha256: str
    search: str
    device: str
    facts: dict[str, Any]
    write: Callable[[np.ndarray], str]

    def recognise(self, sounds: Sequence[np.ndarray]) -> list[str]:
        """Texts of sounds, each (S,) float32 mono at SAMPLE_RATE, which may pass 1.0; "" for an empty or silent one."""
        out = []
        for sound in sounds:
            assert (sound.ndim, sound.dtype) == (1, np.float32), (sound.shape, sound.dtype)
            # Whisper says "you" or "Thank you" to digital silence; there is nothing in it that anyone could recognise.
            out.append(" ".join(self.write(sound).split()) if sound.any() else "")
        return out


@dataclass(frozen=True)
class Options:
    """What every recogniser is asked for; see open_baseline."""

    device: str
    language: str | None
    beam_size: int
    threads: int | None


def open_baseline(spec: str, *, device: str = "auto", language: str | None = "en", beam_size: int = 5,
               threads: int | None = None) -> Baseline:
    """The recogniser that `spec` names.

    "faster-whisper:SIZE": Whisper of that size, fetched by faster-whisper unless it is here; "faster-whisper:FOLDER": a
    model in CTranslate2's layout.  "pocketsphinx": its US English models with their open vocabulary.
    "pocketsphinx:FILE.gram": the same sounds, held to a JSGF grammar; pronunciations from FILE.dict where that is beside
    it, else from CMU's dictionary.

    device, beam_size, threads: of faster-whisper (all cores if None). pocketsphinx has its own beams and goes by one core.
    language: None lets a multilingual Whisper guess.  Raises AvsrError, MissingAsset.
    """
    kind, _, what = spec.partition(":")
    if kind not in BASELINES:
        forms = ", ".join(form for form, _ in BASELINES.values())
        raise AvsrError(f"{spec}: not a recogniser this program knows.  Known are {forms}.")
    for name, value in (("beam size", beam_size), ("threads", threads)):
        if value is not None and value < 1:
            raise AvsrError(f"{spec}: {name} {value} is below 1.  Leave it out for the usual one.")
    return BASELINES[kind][1](spec, what, Options(device, language, beam_size, threads))


# --- faster-whisper: Whisper by CTranslate2 ---

def _faster_whisper(spec: str, what: str, options: Options) -> Baseline:
    package = _package(spec, "faster_whisper")
    device, why = _whisper_device(spec, options.device)
    folder = _whisper_folder(spec, what, package)
    threads = options.threads or n_cores()
    name, _, index = device.partition(":")
    try:
        # float32 on both devices, whatever the file holds: 16 bits on one of them would give other rows there.
        model = package.WhisperModel(str(folder), device=name, device_index=int(index or 0), compute_type="float32",
                                     cpu_threads=threads)
    except (RuntimeError, ValueError) as error:             # the library's own; it names what is missing or wrong
        raise AvsrError(f"{folder}: faster-whisper cannot load it ({error}).  Name a folder with a Whisper model in "
                        "CTranslate2's layout, or a size.") from error
    if options.language is not None and options.language not in model.supported_languages:
        raise AvsrError(f"{spec}: it does not know the language {options.language!r}, but {len(model.supported_languages)}: "
                        f"{', '.join(model.supported_languages)}.  Take a size without .en, or another language.")
    settings = {
        "language": options.language, "beam_size": options.beam_size,
        # Without the higher temperatures, which draw by lot what the search was unsure of: tried on 20 clips in white
        # noise at 0 dB, they left the errors at 122 in 120 words and took 2.4 times as long.
        "temperature": 0.0, "condition_on_previous_text": False,
        # A detector before it would drop speech in noise, so that the detector were measured; the clips are all speech,
        # and no other system here has one.
        "vad_filter": False}

    def write(sound: np.ndarray) -> str:
        try:
            return "".join(segment.text for segment in model.transcribe(sound, **settings)[0])
        except RuntimeError as error:                       # of CTranslate2: no memory, no library
            raise AvsrError(f"{spec}: it failed on {len(sound)} samples on {device} ({error}).  Use --device cpu.") from error

    facts = {"faster-whisper": metadata.version("faster-whisper"), "ctranslate2": metadata.version("ctranslate2"),
             "device": device + why, "threads": threads, "compute_type": "float32", **settings}
    size = Path(what).name if Path(what).is_dir() else what
    return Baseline(f"faster-whisper:{size}", _sha256(folder / "model.bin"), f"beam {options.beam_size}", name, facts, write)


def _whisper_folder(spec: str, what: str, package: ModuleType) -> Path:
    """The folder of a model: as named, as packaged, or as faster-whisper fetches it."""
    sizes = package.available_models()
    if (folder := Path(what)).is_dir() and what:
        if not (folder / "model.bin").is_file():
            raise AvsrError(f"{folder}: no model.bin in it.  Name a folder with a Whisper model in CTranslate2's layout, or a "
                            f"size: {', '.join(sizes)}.")
        return folder
    if what not in sizes:
        raise AvsrError(f"{spec}: {what!r} is neither a folder nor a size of Whisper.  Sizes are {', '.join(sizes)}.")
    if what in PACKAGED and find_spec(assets.ASSETS[f"whisper-{what}.ct2"].package[0]) is not None:
        return packaged_whisper(what)
    try:
        return Path(package.download_model(what))
    except Exception as error:                              # of the hub client, its HTTP library and the file system
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MissingAsset(f"{spec}: not on this machine, and faster-whisper could not fetch it ({cause}).  Connect and run "
                           f"again, name a folder, or take {' or '.join(PACKAGED)} ({assets.OFFLINE_REMEDY}).") from error


def packaged_whisper(size: str) -> Path:
    """The folder of a Whisper that the extra `offline` brings, as faster-whisper wants it. Raises MissingAsset.

    tiny.en lies so in its package. What comes in parts gets a folder in the cache, of links to the checked files.
    """
    if not assets.ASSETS[f"whisper-{size}.ct2"].rest:
        return assets.find(f"whisper-{size}.ct2").parent
    folder = assets.cache_folder() / f"faster-whisper-{size}"
    for name, part in LAYOUT.items():
        target = assets.find(f"whisper-{size}.{part}").resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            link = folder / f".{name}.{os.urandom(6).hex()}"
            link.symlink_to(target)
            os.replace(link, folder / name)                 # several processes may do so at once
        except OSError as error:
            raise MissingAsset(f"{folder}: no links to the files of {size} can be made there ({error.strerror}).  Set "
                               "AVSR_CACHE to another folder, or name a folder with such a model.") from error
    return folder


def _whisper_device(spec: str, device: str) -> tuple[str, str]:
    """Device, and for the record why `auto` is not the GPU that is there.

    CTranslate2 4.8 wants CUDA 12's cuBLAS, which torch brings no longer since it is built for CUDA 13, and without it
    fails at the first sound.
    """
    picked = str(pick_device(device))
    if picked == "cpu" or sys.platform != "linux" or _loads("libcublas.so.12"):
        return picked, ""
    if device != "auto":
        raise AvsrError(f"{spec}: it needs libcublas.so.12 for --device {device}, which is not to be found.  Run pip install "
                        "nvidia-cublas-cu12 and put its folder into LD_LIBRARY_PATH, or use --device cpu.")
    return "cpu", " (there is a GPU, but no libcublas.so.12)"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


# --- pocketsphinx: Gaussian mixtures and a dictionary, as before neural networks ---

def _pocketsphinx(spec: str, what: str, options: Options) -> Baseline:
    package = _package(spec, "pocketsphinx")
    if options.language not in (None, "en"):
        raise AvsrError(f"{spec}: it brings English models alone, and the language is {options.language!r}.  Leave it out.")
    if not what and ":" in spec:
        raise AvsrError(f"{spec}: no grammar after the colon.  Give pocketsphinx:FILE.gram, or pocketsphinx alone.")
    home = Path(package.get_model_path("en-us"))
    sounds, words = home / "en-us", home / "cmudict-en-us.dict"
    if what:
        by, beside = Path(what), Path(what).with_suffix(".dict")
        words = beside if beside.is_file() else words
        arguments, name, search = {"jsgf": str(by)}, f"pocketsphinx:{by.name}", f"grammar {by.name}"
    else:
        by = home / "en-us.lm.bin"
        arguments, name, search = {"lm": str(by)}, "pocketsphinx", "language model en-us"
    # Its own beams. Held to GRID's grammar in white noise at 20 dB it leaves most sentences unfinished; beams of 1e-64 (for
    # 1e-48) took 8 times as long there and left 42 % of the words wrong instead of 33 (six clips of the valid split).
    used = [*sorted(path for path in sounds.iterdir() if path.is_file()), words, by]
    digest = _sha256(*used)                                 # also makes sure that all can be read: a missing one crashes it
    decoder = _decoder(package, by, {"hmm": str(sounds), "dict": str(words), **arguments})

    def write(sound: np.ndarray) -> str:
        # It adapts its estimate of the noise from one utterance to the next: of 24 clips only the first scored as by a
        # decoder of its own, and some texts changed. This begins anew; `full_utt` takes the mean over the utterance.
        decoder.reinit_feat()
        decoder.start_utt()
        decoder.process_raw(_sixteen_bits(sound).tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return "" if found is None else found.hypstr

    facts = {"pocketsphinx": metadata.version("pocketsphinx"), "device": "cpu", "threads": 1, "acoustic_model": sounds.name,
             "dictionary": words.name, "by": by.name}
    return Baseline(name, digest, search, "cpu", facts, write)


def _decoder(package: ModuleType, by: Path, arguments: dict[str, str]) -> Any:
    """A pocketsphinx decoder. Raises AvsrError with what it wrote to its log, where alone it says what is wrong."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log, decoder = Path(folder) / "log", None
        log.touch()
        with suppress(RuntimeError, ValueError):            # said below, with its reason
            decoder = package.Decoder(loglevel="ERROR", logfn=str(log), **arguments)
        package.set_loglevel("FATAL")                       # it complains of each sound that does not match the grammar
        # A rule that is not defined is an error in the log, but a decoder comes back, which never matches.
        complaints = [line.split(": ", 2)[-1] for line in log.read_text(errors="replace").splitlines()
                      if line.startswith("ERROR: ")]        # ERROR: "dict.c", line 191: Line 2: Phone 'X' is missing
    if decoder is None or complaints:
        more = f"; and {len(complaints) - 2} more" if len(complaints) > 2 else ""
        raise AvsrError(f"{by}: pocketsphinx cannot use it ({'; '.join(complaints[:2]) or 'it does not say why'}{more}).  "
                        f"Correct the grammar (JSGF), or the words in {Path(arguments['dict']).name}.")
    return decoder


def _sixteen_bits(sound: np.ndarray) -> np.ndarray:
    """(S,) float32 -> (S,) int16, little end first: times the power of two that brings the peak to between 1/2 and 1.

    Nothing is cut off where speech and noise pass 1.0, and quiet sounds keep their 16 bits. It is fair, as gain means
    nothing to pocketsphinx: it takes the mean off each utterance's cepstra, the first of which is loudness (24 clips
    made 100 times quieter and 10 times louder gave the same texts).
    """
    gain = 2.0 ** -float(np.frexp(np.abs(sound).max())[1])
    steps = np.rint(sound.astype(np.float64) * (gain * FULL_SCALE))
    return np.minimum(steps, FULL_SCALE - 1).astype("<i2")


# --- both ---

# The form in which each is asked for, and the function that opens it: (spec, what stands after its colon, options) -> Baseline.
BASELINES: dict[str, tuple[str, Callable[[str, str, Options], Baseline]]] = {
    "faster-whisper": ("faster-whisper:SIZE_OR_FOLDER", _faster_whisper),
    "pocketsphinx": ("pocketsphinx[:FILE.gram]", _pocketsphinx),
}


def _package(spec: str, name: str) -> ModuleType:
    """A package that may not be installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise AvsrError(f"{spec}: the package {name.replace('_', '-')} cannot be imported ({error}).  {REMEDY}.") from error


def _sha256(*paths: Path) -> str:
    """Of files one after another. Raises MissingAsset for one that cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except OSError as error:
            raise MissingAsset(f"{path}: it cannot be read ({error.strerror or error}).  Check the name, or run "
                               "pip install --force-reinstall for the package that it belongs to.") from error
    return digest.hexdigest()
