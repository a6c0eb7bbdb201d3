"""Folders of other people: all files below a folder, also through links, and names as other systems write them.

    folder -> FolderContents;  folder, name in a table -> path;  recording -> the text beside it
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import glob, has_magic
from pathlib import Path
from unicodedata import normalize


@dataclass(frozen=True)
class FolderContents:
    """paths: everything but folders, sorted, without hidden names; broken links, pipes and devices are among them.
    folders: the folders below, in no order. closed: the errors of folders that could not be read."""

    paths: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    closed: list[OSError] = field(default_factory=list)


def list_folder(folder: str | Path) -> FolderContents:
    """Everything below a folder, also behind links to folders.

    Each folder is read once, under its own name if links lead to it as well. Links to a folder above `folder` are not
    followed, because two of them would make an endless path.
    """
    root = os.path.realpath(folder)
    seen, out, links = {root}, FolderContents(), []
    _walk(os.fspath(folder), seen, out, links)
    while links:
        link = links.pop(0)
        target = os.path.realpath(link)
        if target not in seen and os.path.commonpath([target, root]) != target:
            seen.add(target)
            out.folders.append(Path(link))
            _walk(link, seen, out, links)
    out.paths.sort()
    return out


def _walk(folder: str, seen: set[str], out: FolderContents, links: list[str]) -> None:
    """Add the contents of a folder to `out`, the real paths of its folders to `seen`, and its links to folders to `links`."""
    for parent, folders, names in os.walk(folder, onerror=out.closed.append):
        there = sorted(os.path.join(parent, name) for name in folders if not name.startswith("."))
        links += [path for path in there if os.path.islink(path)]
        new = [path for path in there if not os.path.islink(path) and os.path.realpath(path) not in seen]
        seen.update(map(os.path.realpath, new))
        folders[:] = map(os.path.basename, new)
        out.folders.extend(map(Path, new))
        out.paths.extend(Path(parent, name) for name in names if not name.startswith("."))


def matching(pattern: str) -> list[Path]:
    """The files and folders that match a pattern of `glob`. `**` stands for any number of folders, each read once."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return [Path(one) for one in glob(pattern)]
    n_plain = next(i for i, part in enumerate(parts) if has_magic(part))
    root = Path(*parts[:n_plain])
    found = list_folder(root)
    return [path for path in [root, *found.folders, *found.paths] if _matches(path.relative_to(root).parts, parts[n_plain:])]


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def nfc(name: str) -> str:
    """A name in Unicode's NFC, where a letter and its accents are one character, so that equal names compare equal.

    Apple's older file systems, and archives made on them, store an e with a diaeresis as two characters.
    """
    return normalize("NFC", name)


class Sidecars:
    """Sidecar files: files beside recordings with the same name and another suffix, such as the .txt of a clip.

    Capitals and the Unicode form of the names may differ: `CLIP1.TXT` belongs to `clip1.WAV`. A file whose name fits one
    recording exactly belongs to no other.
    """

    def __init__(self, files: Iterable[Path], recordings: Iterable[Path]):
        self._exact: dict[tuple[Path, str, str], Path] = {}
        self._alike: dict[tuple[Path, str, str], list[Path]] = defaultdict(list)
        owned = {(path.parent, nfc(path.stem)) for path in recordings}
        for path in files:
            stem, suffix = nfc(path.stem), path.suffix.lower()
            if path.suffix == suffix or (path.parent, stem, suffix) not in self._exact:
                self._exact[path.parent, stem, suffix] = path
            if (path.parent, stem) not in owned:
                self._alike[path.parent, stem.casefold(), suffix].append(path)

    def find(self, recording: Path, suffix: str) -> Path | None:
        """The file beside a recording with `suffix` (in lower case); None if there is none."""
        folder, stem = recording.parent, nfc(recording.stem)
        alike = self._alike.get((folder, stem.casefold(), suffix), ())
        return self._exact.get((folder, stem, suffix)) or (alike[0] if len(alike) == 1 else None)


def find_path(base: Path, name: str) -> Path | None:
    """The path that a table calls `name`, relative to `base`; None if there is none.

    If nothing has exactly that name, the only one is taken that differs in the Unicode form, in capitals or in the direction of
    its slashes.
    """
    if os.path.lexists(base / name):
        return (base / name).absolute()
    path = Path(os.path.abspath(base / name.replace("\\", "/")))
    here = Path(path.anchor)
    for part in path.parts[1:]:
        there = part if os.path.lexists(here / part) else _similar_name(here, part)
        if there is None:
            return None
        here = here / there
    return here


def _similar_name(folder: Path, wanted: str) -> str | None:
    """The only name in a folder that is `wanted` in another Unicode form or in other capitals; None if there is not one."""
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    for form in (nfc, lambda name: nfc(name).casefold()):
        if found := [name for name in names if form(name) == form(wanted)]:
            return found[0] if len(found) == 1 else None
    return None
