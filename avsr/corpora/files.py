"""What every reader needs: the recordings below a folder, tables with a header, split lists, and how a folder is refused."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from avsr.errors import BadManifest
from avsr.manifest import Corpus, Dropped, Utterance

VIDEO = (".mpg", ".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpeg")      # in the order of preference
SOUND = (".wav", ".flac", ".opus", ".ogg", ".m4a", ".mp3")
SPLITS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "validation": "valid", "test": "test",
          "unseen": "unseen"}


def recordings(folder: Path) -> tuple[list[Path], list[Dropped]]:
    """Recordings below a folder, hidden ones left out: video before sound, then by name; and those that are empty.

    Raises BadManifest for a folder that is not there, is a file, or holds no recording at all.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "no such folder"
        raise BadManifest(f"{folder}: {problem}.  Name the folder that the corpus was unpacked into.")
    found = [path for path in below(folder) if path.suffix.lower() in VIDEO + SOUND]
    found.sort(key=lambda path: ((VIDEO + SOUND).index(path.suffix.lower()), path))
    whole, dropped = [], []
    for path in found:
        if any("\ud800" <= letter <= "\udfff" for letter in path.as_posix()):
            dropped.append(Dropped(ascii(path.as_posix())[1:-1], "its name is no UTF-8"))
        elif not path.stat().st_size:
            dropped.append(Dropped(path.as_posix(), "the file is empty (0 bytes), as half a copy is"))
        else:
            whole.append(path)
    if not found:
        raise refusal(folder, "recordings (.mpg, .mp4, .mkv, .wav and the like)")
    return whole, dropped


def below(folder: Path) -> list[Path]:
    """All files below a folder, by name, but for hidden ones; through links to folders, which `rglob` would not follow."""
    out = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        out += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in out if path.is_file())


def is_sound(path: str | Path) -> bool:
    """Whether a recording is of sound alone, by its suffix."""
    return Path(path).suffix.lower() in SOUND


OWN = "Check the folder; for clips of your own with a .txt beside each, use `avsr prepare folder`."


def refusal(folder: Path, looked_for: str, remedy: str = OWN) -> BadManifest:
    """The error for a folder without what a reader looks for."""
    there = below(folder)
    found = f"found {len(there)} files, such as {there[0].relative_to(folder).as_posix()!a}" if there else "found it empty"
    return BadManifest(f"{folder}: looked for {looked_for}, {found}.  {remedy}")


def transcript(path: Path) -> str | None:
    """A text file's words with single spaces, None where it is no text."""
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError):
        return None


def table(path: Path, required: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a .csv, .tsv or .jsonl file by its header's names; empty cells are left out. Raises BadManifest."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("a line that is no object")
            rows = [{key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                     for key, value in row.items() if value is not None} for row in rows]
        else:
            delimiter = "," if path.suffix.lower() == ".csv" else "\t"
            lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
            header = [name.strip() for name in lines[0]] if lines else []
            if long := [i for i, line in enumerate(lines) if len(line) > len(header)]:
                raise ValueError(f"row {long[0]} has {len(lines[long[0]])} cells, the header {len(header)}: "
                                 "quote cells that hold the separator")
            rows = [dict(zip(header, line, strict=False)) for line in lines[1:]]
    except (OSError, ValueError, csv.Error) as error:
        raise BadManifest(f"{path}: no table that can be read ({error}).  Write CSV, TSV or JSON Lines in UTF-8.") from error
    rows = [{key: value.strip() for key, value in row.items() if value.strip()} for row in rows]
    rows = [row for row in rows if row]
    names = {name for row in rows for name in row}
    if absent := [name for name in required if name not in names]:
        raise BadManifest(f"{path}: no column {absent[0]!r} among {', '.join(sorted(names)) or 'none'}.  "
                          f"It needs a header with {', '.join(required)}.")
    return rows


def assign(found: Iterable[tuple[str, Utterance]], split_list: Path) -> Corpus:
    """Splits from a table with columns utterance, split and, where names repeat, speaker; (name, utterance) each.

    Dropped: what the list does not name, names that have no clip, and where it has a column text, clips of another text.
    """
    rows = {(row.get("speaker"), row.get("utterance")): row for row in table(split_list, ("utterance", "split"))}
    used, out, dropped = set(), [], []
    for name, utterance in found:
        key = next((key for key in ((utterance.speaker, name), (None, name)) if key in rows), None)
        row = rows.get(key, {})
        used.add(key)
        if "split" not in row:
            dropped.append(Dropped(utterance.media, f"not in {split_list.name}"))
        elif row.get("text", utterance.text) != utterance.text:
            dropped.append(Dropped(utterance.media, f"{split_list.name} has {row['text']!r}, its name {utterance.text!r}"))
        else:
            out.append(replace(utterance, split=SPLITS.get(row["split"], row["split"])))
    dropped += [Dropped("/".join(filter(None, key)), f"in {split_list.name}, but there is no recording")
                for key in rows if key not in used]
    return Corpus(out, dropped)
