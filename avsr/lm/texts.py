"""The texts that a language model learns from: read from files, spelt alike, without those that are held out.

    .txt, .gz | manifest | table -> sentences -> TextData(train, valid), and what was left out, counted
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avsr.corpora import grid
from avsr.errors import BadConfig, BadManifest, counted
from avsr.lm.config import LMConfig
from avsr.lm.spelling import Spelling, spell
from avsr.manifest import manifest_path
from avsr.manifest import read as read_manifest
from avsr.runtime import Progress, no_progress
from avsr.text import normalise
from avsr.textfiles import NotText, decode, read_table

MAX_TEXT = 2**32                                            # bytes of one text, unpacked
REMEDY = "Name a text file with a sentence a line (.txt, .gz), a manifest, or a table with a column text."


@dataclass(frozen=True)
class TextData:
    """The sentences of a training, spelt. left_out: those of train that are held out; n_empty: without a word."""

    train: list[str]
    valid: list[str]
    left_out: int
    n_empty: int

    @property
    def summary(self) -> str:
        """A line for people."""
        return (f"{counted(len(self.train), 'sentence')} to train with, {len(self.valid)} to validate; left out: "
                f"{self.left_out} that are held out, {self.n_empty} without a word")


def read_data(config: LMConfig, progress: Progress = no_progress) -> TextData:
    """The sentences of a config. Raises BadConfig where none is left to train with, BadManifest for a file that is not text."""
    def read(names: Sequence[str], role: str) -> list[str]:
        out = []
        for number, name in enumerate(names):
            progress("reading the texts", number, len(names), "files")
            out += read_sentences(config.path(name), role)
        return out

    spelling = config.data.spelling
    valid = [spelt for spelt in _spelt(read(config.data.valid, "valid"), spelling) if spelt]
    held_out = {normalise(text) for text in (*read(config.data.held_out, "held_out"), *valid)}
    texts = read(config.data.train, "train")
    kept = [text for text in texts if normalise(text) not in held_out or not text.strip()]
    train = [spelt for spelt in _spelt(kept, spelling) if spelt]
    if not train:
        raise BadConfig(f"{config.name}: none of the {counted(len(texts), 'sentence')} of data.train is left to train with "
                        f"({len(texts) - len(kept)} are held out, {len(kept)} have no word).  Name other texts.")
    if config.data.valid and not valid:
        raise BadConfig(f"{config.name}: data.valid holds no sentence.  Name other texts.")
    return TextData(train, valid, len(texts) - len(kept), len(kept) - len(train))


def _spelt(texts: Sequence[str], spelling: Spelling) -> list[str]:
    return [spell(text, spelling) if normalise(text) else "" for text in texts]


def read_sentences(path: Path | str, role: str = "train") -> list[str]:
    """The sentences of a file or a manifest's folder.

    role: which rows of a manifest or table with splits: `train` or `valid`, the split of that name; `held_out`, all others than
    train; `all`. Raises BadManifest.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() == ".jsonl":
        rows = [(one.text, one.split) for one in read_manifest(manifest_path(path))]
    elif path.suffix.lower() in (".tsv", ".csv"):
        rows = _table(path)
    else:
        return _lines(path)
    chosen = [text for text, split in rows if _plays(role, split)]
    if rows and not chosen:
        splits = sorted({str(split) for _, split in rows})
        raise BadManifest(f"{path}: none of its {len(rows)} rows is for {role} (splits: {', '.join(splits)}).  Name another "
                          "file.")
    return chosen


def _plays(role: str, split: str | None) -> bool:
    """Whether a row of this split is wanted. A row without split is for training."""
    split = split or "train"
    return role == "all" or (split != "train" if role == "held_out" else split == role)


def _table(path: Path) -> list[tuple[str, str | None]]:
    try:
        table = read_table(path, (), ("text", "utterance", "split"))
    except OSError as error:
        raise BadManifest(f"{path}: cannot be read ({error.strerror}).  {REMEDY}") from error
    if "text" in table.columns:
        return [(str(row["text"]), row.get("split")) for _, row in table.rows]
    if "utterance" not in table.columns:
        raise BadManifest(f"{path}: no column text among {', '.join(table.columns)}.  {REMEDY}")
    out = []
    for number, row in table.rows:
        text = grid.sentence(str(row["utterance"]))
        if text is None:
            raise BadManifest(f"{path}, line {number}: {row['utterance']} is no name of a GRID sentence, such as bbaf2n.  "
                              f"{REMEDY}")
        out.append((text, row.get("split")))
    return out


def _lines(path: Path) -> list[str]:
    """The lines of a text file, plain or gzipped."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                data = file.read(MAX_TEXT + 1)
            if len(data) > MAX_TEXT:
                raise BadManifest(f"{path}: unpacks to more than {MAX_TEXT} bytes.  Cut it into several files.")
        return decode(data).splitlines()
    except NotText as error:
        raise BadManifest(f"{path}: no text ({error}).  Save the file as UTF-8.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadManifest(f"{path}: the gzip file is damaged or cut short ({error}).  Make it anew.") from error
    except OSError as error:
        raise BadManifest(f"{path}: cannot be read ({error.strerror}).  {REMEDY}") from error
