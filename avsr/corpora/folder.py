"""Your own clips: with a .txt of the same name beside each, or listed in a table.

    clip.mp4 + clip.txt | anna/clip.mp4 + anna/clip.txt | train/anna/clip.mp4 + ... | metadata.csv, .tsv or .jsonl
The header of a table has media and text, and may have id, speaker, split, start, end, language; other columns become labels.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from avsr.corpora.files import (
    SPLITS,
    assign_splits,
    files_below,
    is_sound,
    read_cells,
    read_transcript,
    recordings,
    wrong_layout,
)
from avsr.errors import BadManifest
from avsr.folders import Sidecars, find_path, nfc
from avsr.manifest import Corpus, Dropped, Utterance

TABLES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
COLUMNS = ("id", "media", "text", "speaker", "split", "start", "end", "language")


def read(folder: Path, *, split_list: Path | None = None) -> Corpus:
    """The clips of a folder or a table as utterances.

    folder: a folder, or the path of a table. If the folder has a metadata.csv, .tsv or .jsonl, the clips are those of the
    table. Without a table, the name of the sub-folder is the speaker, and a first sub-folder train, valid or test is the split.
    split_list: a table with the columns utterance (the id), split and, if ids repeat, speaker. Raises BadManifest.
    """
    folder = Path(folder).resolve()
    named = (find_path(folder, name) for name in TABLES)        # also Metadata.CSV
    path = folder if folder.is_file() else next((path for path in named if path is not None and path.is_file()), None)
    if path is not None and path.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise BadManifest(f"{path}: neither a folder nor a table.  Name a folder, or a .csv, .tsv or .jsonl file.")
    corpus = _by_table(path) if path else _by_name(folder)
    if split_list is None:
        return corpus
    chosen = assign_splits(((row.id, row) for row in corpus.utterances), Path(split_list))
    return Corpus(chosen.utterances, corpus.dropped + chosen.dropped)


def _by_name(folder: Path) -> Corpus:
    paths, dropped = recordings(folder)
    files, everyone = files_below(folder), [*paths, *(Path(item.item) for item in dropped)]
    texts = Sidecars(files, everyone)
    used = {texts.find(path, ".txt") for path in everyone}
    if paths and used == {None}:
        raise wrong_layout(folder, "recordings with a .txt of the same name, or metadata.csv",
                      "Write one of the two as data/README.md shows.")
    found: dict[str, Utterance] = {}
    for path in paths:
        name = nfc(path.relative_to(folder).with_suffix("").as_posix())
        said = texts.find(path, ".txt")
        text = None if said is None else read_transcript(said)
        if name in found:
            if not is_sound(path) or is_sound(found[name].media):
                dropped.append(Dropped(path.as_posix(), f"the same name as {found[name].media}"))
        elif text:
            *above, _ = name.split("/")
            split = SPLITS[above.pop(0).lower()] if above and above[0].lower() in SPLITS else "train"
            found[name] = Utterance(name, path.as_posix(), text, above[-1] if above else None, split)
        elif said is None:
            dropped.append(Dropped(path.as_posix(), "no .txt beside it"))
        else:
            dropped.append(Dropped(path.as_posix(), "its .txt is no UTF-8 text" if text is None else "its .txt is empty"))
    dropped += [Dropped(path.as_posix(), "no recording beside it") for path in files
                if path.suffix.lower() == ".txt" and path not in used]
    return Corpus([found[name] for name in sorted(found)], dropped)


def _by_table(path: Path) -> Corpus:
    rows = read_cells(path, ("media", "text"), COLUMNS)
    often = Counter(row.get("media") for row in rows)
    found: dict[str, Utterance] = {}
    dropped = []
    for number, row in enumerate(rows, start=1):
        utterance = _utterance(row, path.parent, often[row.get("media")] > 1)
        if isinstance(utterance, str):
            dropped.append(Dropped(f"{path.as_posix()}: row {number}: {row.get('media', '')}", utterance))
        elif utterance.id in found:
            dropped.append(Dropped(f"{path.as_posix()}: row {number}: {row['media']}", f"the id {utterance.id} is taken"))
        else:
            found[utterance.id] = utterance
    return Corpus(list(found.values()), dropped)


def _utterance(row: dict[str, str], base: Path, shared: bool) -> Utterance | str:
    """The utterance of a row, or the reason why there is none. shared: whether other rows have the same recording."""
    if absent := [name for name in ("media", "text") if name not in row]:
        return f"no {absent[0]}"
    media, url = row["media"], "://" in row["media"]
    if not url:
        file = find_path(base, media)
        if file is None or not file.is_file():
            return "no such file" if file is None or not file.exists() else "this is no file"
        if not file.stat().st_size:
            return "the file is empty (0 bytes)"
        media = file.as_posix()
    try:
        start, end = (float(row[name]) if name in row else None for name in ("start", "end"))
    except ValueError:
        return f"start {row.get('start')}, end {row.get('end')}: no numbers of seconds"
    if not 0 <= (start or 0.0) < (math.inf if end is None else end) or end == math.inf:
        return f"start {row.get('start')}, end {row.get('end')}: not one after the other"
    id_ = row.get("id") or Path(nfc(row["media"])).with_suffix("").as_posix() + (f"@{start or 0:g}" if shared else "")
    labels = {name: value for name, value in row.items() if name not in COLUMNS}
    split = SPLITS.get(row.get("split", "train").lower(), row.get("split", "train"))
    text, language = " ".join(row["text"].split()), row.get("language", "en")
    return Utterance(id_, media, text, row.get("speaker"), split, language, start, end, labels=labels)
