"""What all readers of corpora share: the recordings below a folder, tables, split lists, and the error for a wrong folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from avsr.errors import LONGEST_QUOTE, BadManifest
from avsr.folders import list_folder, nfc
from avsr.manifest import Corpus, Dropped, Utterance
from avsr.textfiles import NotText, read_table, read_text

VIDEO = (".mpg", ".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpeg")      # in the order of preference
SOUND = (".wav", ".flac", ".opus", ".ogg", ".m4a", ".mp3")
MOST_NAMED = 20                                             # column names in a message
SPLITS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "validation": "valid", "test": "test",
          "unseen": "unseen"}


def recordings(folder: Path) -> tuple[list[Path], list[Dropped]]:
    """The recordings below a folder, without hidden ones, video before sound and then by name; and those that are unusable.

    Raises BadManifest for a folder that does not exist, is a file, or contains no recording.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "no such folder"
        raise BadManifest(f"{folder}: {problem}.  Name the folder that the corpus was unpacked into.")
    everything = list_folder(folder)
    found = [path for path in everything.paths if path.suffix.lower() in VIDEO + SOUND]
    found.sort(key=lambda path: ((VIDEO + SOUND).index(path.suffix.lower()), path))
    whole, dropped = [], [Dropped(str(error.filename), f"the folder cannot be read: {error.strerror}")
                          for error in everything.closed]
    for path in found:
        if any("\ud800" <= letter <= "\udfff" for letter in path.as_posix()):
            dropped.append(Dropped(ascii(path.as_posix())[1:-1], "its name is no UTF-8"))
        elif not path.is_file():
            problem = "a pipe or a device, not a file" if path.exists() else "a link to a file that is not there"
            dropped.append(Dropped(path.as_posix(), problem))
        elif not path.stat().st_size:
            dropped.append(Dropped(path.as_posix(), "the file is empty (0 bytes), as half a copy is"))
        else:
            whole.append(path)
    if not found and not dropped:
        raise wrong_layout(folder, "recordings (.mpg, .mp4, .mkv, .wav and the like)")
    return whole, dropped


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted, without hidden ones; also behind links to folders, each folder once."""
    return [path for path in list_folder(folder).paths if path.is_file()]


def is_sound(path: str | Path) -> bool:
    """Whether a recording is audio only, by its suffix."""
    return Path(path).suffix.lower() in SOUND


OWN_CLIPS_REMEDY = "Check the folder; for clips of your own with a .txt beside each, use `avsr prepare folder`."


def wrong_layout(folder: Path, looked_for: str, remedy: str = OWN_CLIPS_REMEDY) -> BadManifest:
    """The error for a folder that does not have what a reader looks for."""
    there = files_below(folder)
    found = f"found {len(there)} files, such as {there[0].relative_to(folder).as_posix()!a}" if there else "found it empty"
    return BadManifest(f"{folder}: looked for {looked_for}, {found}.  {remedy}")


def read_transcript(path: Path) -> str | None:
    """The words of a text file with single spaces between them; None if it is not text."""
    try:
        return " ".join(read_text(path).split())
    except (OSError, NotText):
        return None


def read_cells(path: Path, required: Sequence[str], known: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a .csv, .tsv or .jsonl file by column; empty cells are left out. Raises BadManifest.

    required: columns that must be there. known: columns that may be there. Their names may be written with capitals.
    """
    try:
        found = read_table(path, required, known, short=True)
    except OSError as error:
        raise BadManifest(f"{path}: cannot be read ({error.strerror or error}).  Name a table: CSV, TSV or JSON Lines in "
                          "UTF-8.") from error
    if absent := [name for name in required if name not in found.columns]:
        there = ", ".join(name[:LONGEST_QUOTE] for name in sorted(found.columns)[:MOST_NAMED]) or "none"
        raise BadManifest(f"{path}: no column {absent[0]!r} among {there}{', ...' * (len(found.columns) > MOST_NAMED)}.  "
                          f"It needs a header with {', '.join(required)}.")
    rows = [{name: text for name, value in row.items() if value is not None and (text := _text(value).strip())}
            for _, row in found.rows]
    return [row for row in rows if row]


def _text(value: object) -> str:
    """A value of JSON as the text that a .csv file would have."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def assign_splits(found: Iterable[tuple[str, Utterance]], split_list: Path) -> Corpus:
    """Assign splits from a table with the columns utterance, split and, if names repeat, speaker.

    found: names and utterances. Dropped are utterances that the table does not name, names without an utterance, rows without a
    name or a split and, if there is a column text, utterances of another text. Raises BadManifest for a table that cannot be
    read or that puts an utterance into two splits.
    """
    rows, dropped = _split_rows(split_list)
    used, out = set(), []
    for name, utterance in found:
        speaker = utterance.speaker and nfc(utterance.speaker)
        key = next((key for key in ((speaker, nfc(name)), (None, nfc(name))) if key in rows), None)
        if key is None:
            dropped.append(Dropped(utterance.media, f"not in {split_list.name}"))
            continue
        used.add(key)
        if (row := rows[key]).get("text", utterance.text) != utterance.text:
            dropped.append(Dropped(utterance.media, f"{split_list.name} has {row['text']!r}, its name {utterance.text!r}"))
        else:
            out.append(replace(utterance, split=SPLITS.get(row["split"].lower(), row["split"])))
    dropped += [Dropped("/".join(filter(None, key)), f"in {split_list.name}, but there is no recording")
                for key in rows if key not in used]
    return Corpus(out, dropped)


def _split_rows(path: Path) -> tuple[dict[tuple[str | None, str], dict[str, str]], list[Dropped]]:
    """The rows of a split list by speaker and utterance, and those without an utterance or a split."""
    rows: dict[tuple[str | None, str], dict[str, str]] = {}
    dropped = []
    for number, row in enumerate(read_cells(path, ("utterance", "split"), ("speaker", "text")), start=1):
        if absent := [name for name in ("utterance", "split") if name not in row]:
            dropped.append(Dropped(f"{path.as_posix()}: row {number}: {row.get('utterance', '')}", f"no {absent[0]}"))
            continue
        key = (row.get("speaker") and nfc(row["speaker"]), nfc(row["utterance"]))
        if rows.setdefault(key, row)["split"] != row["split"]:
            raise BadManifest(f"{path}: row {number}: {row['utterance']} is in split {row['split']!r}, and in "
                              f"{rows[key]['split']!r} above.  Take one of the rows out.")
    return rows, dropped
