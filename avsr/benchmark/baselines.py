"""Other recognisers in the same benchmark, with the same noise and the same normaliser as our models.

    "faster-whisper:tiny.en" | "pocketsphinx" | "pocketsphinx:FILE.gram"  ->  Baseline, a System;  (S,) float32 -> text
Each recogniser is one function in BASELINES. A text depends on its sound alone, not on earlier sounds, so that the rows are
the same in any order, and after a crash.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import time
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
from avsr.benchmark.systems import Recognition, Request, Result
from avsr.checkpoint.whisper import PACKAGED
from avsr.errors import AvsrError, MissingAsset
from avsr.runtime import n_cores, pick_device

FULL_SCALE = 2**15                                          # of 16 bits
# The files of faster-whisper's layout, and the end of the name that each has among our assets.
LAYOUT = {"model.bin": "ct2", "config.json": "config.json", "tokenizer.json": "tokenizer.json",
          "vocabulary.txt": "vocabulary.txt"}
REMEDY = "Run pip install 'avsr[against]'"


@dataclass
class Baseline:
    """A recogniser that is not ours, as a System that uses sound alone, one batch after the other.

    device: where it really runs.  facts: sha256 of all its model files, and how it searches.  about: versions and options;
    some depend on the machine.  transcribe_one: the text of one sound (S,) float32 that is not silent.
    """

    name: str
    device: str
    facts: dict[str, Any]
    about: dict[str, Any]
    transcribe_one: Callable[[np.ndarray], str]
    modalities: tuple[str, ...] = ("a",)
    n_parallel_batches: int = 1

    def recognise(self, audio: Sequence[np.ndarray], references: Sequence[str], requests: Sequence[Request]) -> list[Result]:
        """See System."""
        assert [request.modality for request in requests] == ["a"]
        start = time.perf_counter()
        recognitions = [Recognition(text) for text in self.transcribe(audio)]
        return [Result(recognitions, time.perf_counter() - start)]

    def transcribe(self, audio: Sequence[np.ndarray]) -> list[str]:
        """Texts of sounds, each (S,) float32 mono at SAMPLE_RATE, which may pass 1.0; "" for an empty or silent one."""
        out = []
        for sound in audio:
            assert (sound.ndim, sound.dtype) == (1, np.float32), (sound.shape, sound.dtype)
            # Whisper says "you" or "Thank you" to digital silence, in which nobody could recognise anything.
            out.append(" ".join(self.transcribe_one(sound).split()) if sound.any() else "")
        return out


@dataclass(frozen=True)
class BaselineOptions:
    """The arguments of open_baseline."""

    device: str
    language: str | None
    beam_size: int
    threads: int | None


def open_baseline(spec: str, *, device: str = "auto", language: str | None = "en", beam_size: int = 5,
                  threads: int | None = None) -> Baseline:
    """The recogniser that `spec` names.

    "faster-whisper:SIZE": Whisper of that size, fetched if need be; "faster-whisper:FOLDER": a model in CTranslate2's layout.
    "pocketsphinx": its US English models.  "pocketsphinx:FILE.gram": its acoustic model with a JSGF grammar; pronunciations
    come from FILE.dict beside it, else from CMU's dictionary.

    device, beam_size, threads: of faster-whisper (all cores if None).  language: None lets a multilingual Whisper guess.
    Raises AvsrError, MissingAsset.
    """
    kind, _, what = spec.partition(":")
    if kind not in BASELINES:
        forms = ", ".join(form for form, _ in BASELINES.values())
        raise AvsrError(f"{spec}: not a recogniser this program knows.  Known are {forms}.")
    for name, value in (("beam size", beam_size), ("threads", threads)):
        if value is not None and value < 1:
            raise AvsrError(f"{spec}: {name} {value} is below 1.  Leave it out for the usual one.")
    return BASELINES[kind][1](spec, what, BaselineOptions(device, language, beam_size, threads))


# --- faster-whisper: Whisper by CTranslate2 ---

def _faster_whisper(spec: str, what: str, options: BaselineOptions) -> Baseline:
    package = _package(spec, "faster_whisper")
    device, why = _whisper_device(spec, options.device)
    folder = _whisper_folder(spec, what, package)
    threads = options.threads or n_cores()
    name, _, index = device.partition(":")
    try:
        # float32 on both devices, whatever the file holds: 16 bits on one of them would give other rows there.
        model = package.WhisperModel(str(folder), device=name, device_index=int(index or 0), compute_type="float32",
                                     cpu_threads=threads)
    except (RuntimeError, ValueError) as error:             # faster-whisper says what is missing or wrong
        raise AvsrError(f"{folder}: faster-whisper cannot load it ({error}).  Name a folder with a Whisper model in "
                        "CTranslate2's layout, or a size.") from error
    if options.language is not None and options.language not in model.supported_languages:
        raise AvsrError(f"{spec}: it does not know the language {options.language!r}, but {len(model.supported_languages)}: "
                        f"{', '.join(model.supported_languages)}.  Take a size without .en, or another language.")
    settings = {
        "language": options.language, "beam_size": options.beam_size,
        # No fallback temperatures, which sample at random where the search was unsure: on 20 clips in white noise at 0 dB
        # they left the errors at 122 in 120 words and took 2.4 times as long.
        "temperature": 0.0, "condition_on_previous_text": False,
        # A voice activity detector would drop speech in noise, and the benchmark would measure the detector. The clips are
        # all speech, and no other system here has one.
        "vad_filter": False}

    def transcribe_one(sound: np.ndarray) -> str:
        try:
            return "".join(segment.text for segment in model.transcribe(sound, **settings)[0])
        except RuntimeError as error:                       # CTranslate2 has no memory or no library
            raise AvsrError(f"{spec}: it failed on {len(sound)} samples on {device} ({error}).  Use --device cpu.") from error

    about = {"faster-whisper": metadata.version("faster-whisper"), "ctranslate2": metadata.version("ctranslate2"),
             "device": device + why, "threads": threads, "compute_type": "float32", **settings}
    size = Path(what).name if Path(what).is_dir() else what
    facts = {"sha256": file_sha256(folder / "model.bin"), "search": f"beam {options.beam_size}"}
    return Baseline(f"faster-whisper:{size}", name, facts, about, transcribe_one)


def _whisper_folder(spec: str, what: str, package: ModuleType) -> Path:
    """The folder of a model: the one named, the packaged one, or the one that faster-whisper fetches."""
    sizes = package.available_models()
    if (folder := Path(what)).is_dir() and what:
        if not (folder / "model.bin").is_file():
            raise AvsrError(f"{folder}: no model.bin in it.  Name a folder with a Whisper model in CTranslate2's layout, or a "
                            f"size: {', '.join(sizes)}.")
        return folder
    if what not in sizes:
        raise AvsrError(f"{spec}: {what!r} is neither a folder nor a size of Whisper.  Sizes are {', '.join(sizes)}.")
    package_of = assets.ASSETS[f"whisper-{what}.ct2"].package if what in PACKAGED else None
    if package_of is not None and find_spec(package_of[0]) is not None:
        return packaged_whisper(what)
    try:
        return Path(package.download_model(what))
    except Exception as error:                              # from the hub client, its HTTP library or the file system
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MissingAsset(f"{spec}: not on this machine, and faster-whisper could not fetch it ({cause}).  Connect and run "
                           f"again, name a folder, or take {' or '.join(PACKAGED)} ({assets.OFFLINE_REMEDY}).") from error


def packaged_whisper(size: str) -> Path:
    """The folder of a Whisper of the extra `offline`, in faster-whisper's layout. Raises MissingAsset.

    The package of tiny.en has that layout. A model that comes in parts gets a folder of links to the checked files.
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
    """The device, and for run.json why `auto` did not take the GPU of this machine.

    CTranslate2 4.8 needs CUDA 12's cuBLAS and fails at the first sound without it; torch, now built for CUDA 13, no longer
    brings it.
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

def _pocketsphinx(spec: str, what: str, options: BaselineOptions) -> Baseline:
    package = _package(spec, "pocketsphinx")
    if options.language not in (None, "en"):
        raise AvsrError(f"{spec}: it brings English models alone, and the language is {options.language!r}.  Leave it out.")
    if not what and ":" in spec:
        raise AvsrError(f"{spec}: no grammar after the colon.  Give pocketsphinx:FILE.gram, or pocketsphinx alone.")
    home = Path(package.get_model_path("en-us"))
    sounds, words = home / "en-us", home / "cmudict-en-us.dict"
    if what:
        search_file, beside = Path(what), Path(what).with_suffix(".dict")
        words = beside if beside.is_file() else words
        arguments, name, search = {"jsgf": str(search_file)}, f"pocketsphinx:{search_file.name}", f"grammar {search_file.name}"
    else:
        search_file = home / "en-us.lm.bin"
        arguments, name, search = {"lm": str(search_file)}, "pocketsphinx", "language model en-us"
    # It keeps its own beams. With GRID's grammar in white noise at 20 dB it leaves most sentences unfinished; beams of 1e-64
    # (instead of 1e-48) took 8 times as long and left 42 % of the words wrong instead of 33 (six clips of the valid split).
    used = [*sorted(path for path in sounds.iterdir() if path.is_file()), words, search_file]
    digest = file_sha256(*used)                             # also checks that they can be read: pocketsphinx crashes otherwise
    decoder = _decoder(package, search_file, {"hmm": str(sounds), "dict": str(words), **arguments})

    def transcribe_one(sound: np.ndarray) -> str:
        # It adapts its noise estimate from one utterance to the next: of 24 clips only the first scored as with a decoder of
        # its own, and some texts changed. This starts afresh; `full_utt` takes the mean over the utterance.
        decoder.reinit_feat()
        decoder.start_utt()
        decoder.process_raw(_sixteen_bits(sound).tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return "" if found is None else found.hypstr

    about = {"pocketsphinx": metadata.version("pocketsphinx"), "device": "cpu", "threads": 1, "acoustic_model": sounds.name,
             "dictionary": words.name, "by": search_file.name}
    return Baseline(name, "cpu", {"sha256": digest, "search": search}, about, transcribe_one)


def _decoder(package: ModuleType, search_file: Path, arguments: dict[str, str]) -> Any:
    """A pocketsphinx decoder. Raises AvsrError with the messages of its log, the only place where it says what is wrong."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log, decoder = Path(folder) / "log", None
        log.touch()
        with suppress(RuntimeError, ValueError):            # reported below, with its reason
            decoder = package.Decoder(loglevel="ERROR", logfn=str(log), **arguments)
        package.set_loglevel("FATAL")                       # it logs an error for each sound that does not match the grammar
        # An undefined rule is an error in the log, but a decoder is returned, which never matches.
        complaints = [line.split(": ", 2)[-1] for line in log.read_text(errors="replace").splitlines()
                      if line.startswith("ERROR: ")]        # ERROR: "dict.c", line 191: Line 2: Phone 'X' is missing
    if decoder is None or complaints:
        more = f"; and {len(complaints) - 2} more" if len(complaints) > 2 else ""
        said = "; ".join(complaints[:2]) or "it does not say why"
        raise AvsrError(f"{search_file}: pocketsphinx cannot use it ({said}{more}).  Correct the grammar (JSGF), or the words "
                        f"in {Path(arguments['dict']).name}.")
    return decoder


def _sixteen_bits(sound: np.ndarray) -> np.ndarray:
    """(S,) float32 -> (S,) int16, little-endian, times the power of two that brings the peak to between 1/2 and 1.

    Nothing is clipped where speech and noise pass 1.0, and quiet sounds keep their 16 bits. The gain changes no text, because
    pocketsphinx subtracts the mean of each utterance's cepstra, the first of which is loudness (24 clips made 100 times
    quieter and 10 times louder gave the same texts).
    """
    gain = 2.0 ** -float(np.frexp(np.abs(sound).max())[1])
    steps = np.rint(sound.astype(np.float64) * (gain * FULL_SCALE))
    return np.minimum(steps, FULL_SCALE - 1).astype("<i2")


# --- both ---

# For each kind the form of its spec, and the function that opens it: (spec, the part after its colon, options) -> Baseline.
BASELINES: dict[str, tuple[str, Callable[[str, str, BaselineOptions], Baseline]]] = {
    "faster-whisper": ("faster-whisper:SIZE_OR_FOLDER", _faster_whisper),
    "pocketsphinx": ("pocketsphinx[:FILE.gram]", _pocketsphinx),
}


def _package(spec: str, name: str) -> ModuleType:
    """A package that may not be installed. Raises AvsrError."""
    try:
        return import_module(name)
    except ImportError as error:
        raise AvsrError(f"{spec}: the package {name.replace('_', '-')} cannot be imported ({error}).  {REMEDY}.") from error


def file_sha256(*paths: Path) -> str:
    """The sha256 of files one after another. Raises MissingAsset for one that cannot be read."""
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
