"""Noise sources by name, from the command line, a noise.toml, a corpus's own recordings, or computed.

    open_sources({"natural": "esc10/*/[1-4]-*.ogg", "white": True})      a description
    open_training_sources({"babble": True}, own)                          the same, as training configs hold it
    open_families(["babble", "rain"], config="noise.toml", given={"rain": "my/rain"}, own={"s1": [Recorded(...)]})
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Literal

from avsr.errors import AvsrError, BadConfig, quote
from avsr.folders import list_folder, matching
from avsr.noise.plans import Recorded
from avsr.noise.sources import BABBLE_TALKERS, Babble, Coloured, NoiseSource, Recordings, SpeechShaped
from avsr.textfiles import read_toml

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".mkv", ".mpg", ".mov", ".avi", ".webm"}
COLOURS = {"white": 0.0, "pink": 1.0, "brown": 2.0}
CORPUS_FAMILIES = ("babble", "speech-shaped", "talker")     # made of the corpus's own recordings
TRUE_WORDS = ("true", "yes", "on")
MAX_EXPONENT = 10                                           # of coloured noise; brown has 2
MAX_TALKERS = 1000                                          # at once; from 8 on they blend into stationary noise
NOISE_KINDS = ("files", "talkers", "shaped", "colour")


def open_families(names: Sequence[str], *, config: Path | str | None = None, given: Mapping[str, str] | None = None,
                  own: Mapping[str, Sequence[Recorded]] | None = None) -> dict[str, NoiseSource]:
    """Name -> source, in the order of `names`, then of `given`. Each name is looked up in this order:

    given: NAME=PATH of the command line, a folder, a file or a pattern, relative to the working folder.
    config: a noise.toml as `open_sources` describes it, with paths relative to its folder.
    Built-in ones: white, pink, brown; and from `own` (speaker -> recordings) speech-shaped, talker and babble.
    Raises AvsrError.
    """
    given = dict(given or {})
    table = {} if config is None else read_toml(Path(config), "a noise.toml, as data/README.md shows one, or none")
    described = {name: value for name, value in table.items() if value is not False}
    builtin = _builtin(own)
    opened: dict[str, NoiseSource] = {}
    for name in dict.fromkeys([*names, *given]):
        if name in given:
            opened[name] = _open(name, given[name], Path("."))
        elif config is not None and name in described:
            try:
                opened[name] = _open(name, described[name], Path(config).parent)
            except AvsrError as error:
                instead = f"  For the built-in one write {name} = false there." if name in builtin else ""
                raise BadConfig(f"{config}: {error}{instead}") from error
        elif name in builtin:
            opened[name] = builtin[name]()
        else:
            raise AvsrError(_unknown(name, {*described, *builtin, *given}, config))
    return opened


def _builtin(own: Mapping[str, Sequence[Recorded]] | None) -> dict[str, Callable[[], NoiseSource]]:
    """Functions that open the families that need no files of their own."""
    builtin: dict[str, Callable[[], NoiseSource]] = {name: partial(Coloured, exponent) for name, exponent in COLOURS.items()}
    if own:
        builtin |= {"babble": lambda: Babble(own, "all", wants_speaker=True),
                    "talker": lambda: Babble(own, 1, wants_speaker=True),
                    "speech-shaped": lambda: SpeechShaped([sound for sounds in own.values() for sound in sounds])}
    return builtin


def why_unavailable(name: str, own: Mapping[str, Sequence[Recorded]], n_unnamed: int = 0) -> str | None:
    """Why a corpus cannot make the built-in family `name` from its own recordings; None where it can.

    own: speaker -> recordings. n_unnamed: utterances without a speaker, whose own voice could be in their noise.
    """
    needed = {"babble": BABBLE_TALKERS[0] + 1, "talker": 2, "speech-shaped": 1}.get(name, 0)
    if len(own) < needed:
        return f"it needs {needed} speakers at least, and the corpus has {len(own)}"
    if n_unnamed and needed > 1:
        return f"it needs the speaker of every utterance, and {n_unnamed} have none"
    return None


def _unknown(name: str, known: set[str], config: Path | str | None) -> str:
    more = ", ".join(sorted(set(CORPUS_FAMILIES) - known))
    own = f"; with a corpus's own recordings also {more}" if more else ""
    where = "" if config is None else f" (with {config})"
    return (f"--noise {name}: not known; known are {', '.join(sorted(known))}{where}{own}.  Correct the name, or name a folder "
            f"of recordings: --noise {name}=FOLDER.")


def open_sources(config: Mapping[str, object], *, base: Path | str = ".") -> dict[str, NoiseSource]:
    """Sources by name from a description as in TOML; paths are relative to `base`.

        natural = "noise/esc10/*/[1-4]-*.ogg"                          a folder or a pattern, or a list of them
        babble = {talkers = "lombard", exclude = "s3[89]", n_talkers = [4, 8]}     a folder with one folder a talker
        rival = {talkers = "lombard/s3[0-4]", n_talkers = 1, prefix = "lombard-"}  prefix: of the talkers' names
        party = {talkers = [{folders = "lombard", prefix = "lombard-"}, "grid/s23"], n_talkers = "all"}     3 to 8
        ssn = {shaped = "grid/s1"}
        white = true                                                   or pink, brown; or {colour = 1.5}
    `exclude` drops files and folders whose name matches one of its patterns. False leaves a source out. Raises AvsrError.
    """
    return {name: _open(name, value, Path(base)) for name, value in config.items() if value is not False}


def open_training_sources(config: Mapping[str, object], own: Mapping[str, Sequence[Recorded]], *, n_unnamed: int = 0,
                          base: Path | str = ".") -> tuple[dict[str, NoiseSource], list[str]]:
    """As `open_sources`, with two additions for training; also a sentence for each source that is left out.

        babble = true                                                  or talker, speech-shaped: made of the training speakers,
                                                                       and left out where these cannot make it
        rain = {files = "noise/rain", optional = "rain"}               left out where no such files exist; the text says what
                                                                       the model does not learn without them
    own, n_unnamed: see `why_unavailable`. Raises AvsrError.
    """
    opened: dict[str, NoiseSource] = {}
    left_out = []
    for name, value in config.items():
        if value is True and name in CORPUS_FAMILIES:
            why = why_unavailable(name, own, n_unnamed)
            if why is None:
                opened[name] = _builtin(own)[name]()
            else:
                left_out.append(f"noise '{name}' is left out: {why}.")
        elif isinstance(value, Mapping) and "optional" in value:
            if not isinstance(value["optional"], str) or not value["optional"]:
                raise AvsrError(f"noise '{name}': optional = {quote(value['optional'])}, but must be a text: what the model "
                                "does not learn without this noise.  Write it as optional = \"rain\", or leave it out.")
            described = {key: one for key, one in value.items() if key != "optional"}
            try:
                opened[name] = _open(name, described, Path(base))
            except NoSuchNoise as error:
                left_out.append(f"noise '{name}' is left out, so the model does not learn {value['optional']}: nothing is at "
                                f"{os.path.relpath(error.path)}.")
        elif value is not False:
            opened[name] = _open(name, value, Path(base))
    return opened, left_out


class NoSuchNoise(AvsrError):
    """The `path` or pattern of a noise matches nothing."""

    def __init__(self, message: str, path: Path):
        super().__init__(message)
        self.path = path


def _open(name: str, value: object, base: Path) -> NoiseSource:
    if value is True:
        if name not in COLOURS:
            raise AvsrError(f"noise '{name}' = true: only {', '.join((*COLOURS, *CORPUS_FAMILIES))} need no more, "
                            "the last three only in a training config.  Name a folder of files.")
        return Coloured(COLOURS[name])
    looks_true = isinstance(value, str) and value.lower() in TRUE_WORDS and not (base / value).exists()
    if looks_true and name in (*COLOURS, *CORPUS_FAMILIES):
        raise AvsrError(f"noise '{name}' = {value!r} is a text, which names a folder.  Write {name} = true.")
    if value == "" or not isinstance(value, str | Path | list | tuple | Mapping):
        raise AvsrError(f"noise '{name}' = {quote(value)}: this names no files.  Give a folder, a pattern, or a list of them.")
    options = dict(value) if isinstance(value, Mapping) else {"files": value}
    kinds = [kind for kind in NOISE_KINDS if kind in options]
    allowed = {"exclude", *kinds, *(("n_talkers", "prefix") if "talkers" in options else ())}
    if len(kinds) != 1 or set(options) - allowed:
        raise AvsrError(f"noise '{name}': it has {', '.join(map(repr, options)) or 'nothing'}.  Give one of "
                        f"{', '.join(NOISE_KINDS)}, with exclude, and for talkers n_talkers and prefix.")
    for key in ("files", "shaped", "exclude"):
        _check_texts(name, key, options.get(key, "x"))
    if kinds == ["colour"]:
        return Coloured(_number(name, options["colour"]))
    exclude = _list(options.get("exclude", ()))
    if kinds == ["talkers"]:
        return Babble(_talkers(name, options, exclude, base), _n_talkers(name, options.get("n_talkers", (4, 8))))
    return {"files": Recordings, "shaped": SpeechShaped}[kinds[0]](_files(name, options[kinds[0]], exclude, base))


def _check_texts(name: str, key: str, value: object) -> None:
    """Raises AvsrError unless a value is a path or pattern, or a list of them."""
    several = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, str | Path) and "\0" not in str(one) for one in several):
        raise AvsrError(f"noise '{name}': {key} = {quote(value)}, but must be a text or a list of texts.  Give a folder, a "
                        "pattern, or a list of them.")


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_EXPONENT:
        raise AvsrError(f"noise '{name}': colour = {quote(value)} is no number from -{MAX_EXPONENT} to "
                        f"{MAX_EXPONENT}.  Give a number: 0 for white, 1 for pink, 2 for brown.")
    return float(value)


def _n_talkers(name: str, value: object) -> int | tuple[int, int] | Literal["all"]:
    """The number of talkers as Babble takes it."""
    if value == "all":
        return "all"
    pair = (value, value) if type(value) is int else value
    if (isinstance(pair, list | tuple) and len(pair) == 2 and all(type(one) is int for one in pair)
            and 1 <= pair[0] <= pair[1] <= MAX_TALKERS):
        return pair[0], pair[1]
    raise AvsrError(f"noise '{name}': n_talkers = {quote(value)}.  Give a number from 1 to {MAX_TALKERS}, [fewest, most], or "
                    "\"all\".")


def _list(value: object) -> list[str]:
    """The texts of a value that _check_texts has passed."""
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def _matches(name: str, patterns: object, exclude: Sequence[str], base: Path) -> list[Path]:
    """Paths that match, sorted. Raises NoSuchNoise where a pattern matches nothing."""
    found: set[Path] = set()
    for pattern in _list(patterns):
        whole = base / pattern
        paths = [whole] if os.path.exists(whole) else matching(str(whole))
        paths = [path for path in paths if not any(fnmatch(path.name, one) for one in exclude)]
        if not paths:
            raise NoSuchNoise(f"noise '{name}': {whole} matches 0 files or folders.  Check the path, relative to {base}.",
                              whole)
        found.update(paths)
    return sorted(found)


def _talkers(name: str, options: Mapping[str, object], exclude: Sequence[str], base: Path) -> dict[str, list[Path]]:
    """Talker -> recordings, from groups of folders with their prefixes."""
    groups = options["talkers"] if isinstance(options["talkers"], list | tuple) else [options["talkers"]]
    talkers: dict[str, Path] = {}
    for group in groups:
        group = dict(group) if isinstance(group, Mapping) else {"folders": group}
        if "folders" not in group or set(group) - {"folders", "prefix"}:
            raise AvsrError(f"noise '{name}': a group of talkers has {', '.join(map(repr, group)) or 'nothing'}.  Give folders "
                            "and, where names repeat, prefix.")
        _check_texts(name, "talkers", group["folders"])
        prefix = group.get("prefix", options.get("prefix", ""))
        if not isinstance(prefix, str):
            raise AvsrError(f"noise '{name}': prefix = {quote(prefix)}, but must be a text.  Put it in quotes.")
        for folder in _folders(name, _matches(name, group["folders"], exclude, base), exclude):
            if talkers.setdefault(prefix + folder.name, folder) != folder:
                raise AvsrError(f"noise '{name}': {talkers[prefix + folder.name]} and {folder} would be one talker, "
                                f"{prefix + folder.name}.  Give one of them a prefix, as in {{folders = ..., prefix = ...}}.")
    return {talker: _files(name, folder, exclude, Path()) for talker, folder in talkers.items()}


def _folders(name: str, paths: Sequence[Path], exclude: Sequence[str]) -> list[Path]:
    """The folders among `paths`; a folder with subfolders is replaced by these."""
    try:
        inside = {path: [one for one in sorted(path.iterdir()) if one.is_dir()] for path in paths if path.is_dir()}
    except OSError as error:
        raise _unreadable(name, error) from error
    folders = [one for path, subfolders in inside.items() for one in subfolders or [path]]
    return [folder for folder in folders if not any(fnmatch(folder.name, one) for one in exclude)]


def _files(name: str, patterns: object, exclude: Sequence[str], base: Path) -> list[Path]:
    """Recordings that match, and those anywhere inside folders that match."""
    within = [file for path in _matches(name, patterns, exclude, base)
              for file in (_walked(name, path) if path.is_dir() else [path])]
    files = [file for file in within if file.suffix.lower() in SUFFIXES and not any(fnmatch(file.name, one) for one in exclude)
             and (file.is_file() or not file.exists())]      # reading a pipe would wait
    if not files:
        raise AvsrError(f"noise '{name}': {patterns} holds 0 recordings that can be read.  Put some there, or name another "
                        f"folder; known endings are {' '.join(sorted(SUFFIXES))}.")
    return files


def _walked(name: str, folder: Path) -> list[Path]:
    """Everything inside a folder and its subfolders, sorted, also behind links. Raises AvsrError."""
    found = list_folder(folder)
    for error in found.closed:                               # an unreadable folder is not left out silently
        raise _unreadable(name, error) from error
    return found.paths


def _unreadable(name: str, error: OSError) -> AvsrError:
    return AvsrError(f"noise '{name}': {error.filename}: this folder cannot be read ({error.strerror}).  Allow it, or name "
                     "another.")
