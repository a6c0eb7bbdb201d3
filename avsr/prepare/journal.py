"""The journal of what is done, so that a run can be killed at any moment and resumed: nothing is lost or done twice.

    Outcome -> bytes at the end of a shard, then one line of journal.jsonl
Only one process writes, first the bytes and then the line. So a line means that its bytes are there. What a kill left behind
the last whole line (half an utterance, half a line) is overwritten. A power cut may lose bytes whose line was saved, so every
utterance of the unfinished shard is read back when a run is resumed.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avsr import cache
from avsr.errors import BadManifest, BadOutput
from avsr.lips import MouthCropSettings
from avsr.manifest import CacheEntry, Problem, Utterance
from avsr.output import locked
from avsr.prepare.crop import Outcome
from avsr.prepare.storage import Storage

NAME = "journal.jsonl"
SYNC_EVERY = 64                       # utterances: the most that a power cut can cost, about 20 s of one core


@dataclass(frozen=True)
class Done:
    """A line of the journal: the result for an utterance. what: see `identity`; the other fields are those of Outcome."""

    id: str
    what: tuple
    cache: CacheEntry | None
    dropped: str | None
    share: float | None
    problems: tuple[Problem, ...]
    sound_hash: str | None
    curve: tuple[float, ...] | None


def identity(utterance: Utterance) -> tuple:
    """The facts by which a line of the journal belongs to an utterance: if they differ, the work must be done again."""
    return utterance.media, utterance.start, utterance.end, utterance.text


class Journal:
    """The journal and the shards of a folder, open for adding, and locked by this process until `__exit__`.

    storage: where `folder` is only the staging folder, the place to store what is complete. rows: what is done, by id. Raises
    BadManifest for a cache made in another way, AvsrError if another process has locked the folder or a storage refuses.
    """

    def __init__(self, folder: Path, mouth_crop: MouthCropSettings, modality: str, max_bytes: int,
                 storage: Storage | None = None):
        self.folder, self.storage, self.rows = folder, storage, {}
        self._since_sync = 0
        self._held = ExitStack()
        self._held.enter_context(locked(folder, "avsr prepare"))         # two at once would write over one another
        try:
            self._open(mouth_crop, modality, max_bytes)
        except BaseException:
            self._held.close()
            raise

    def _open(self, mouth_crop: MouthCropSettings, modality: str, max_bytes: int) -> None:
        folder, path = self.folder, self.folder / NAME
        if self.storage is not None:
            self.storage.take_up()
        started = path.exists()
        if started:
            cache.read_mouth_crop(folder, mouth_crop)
        elif any(folder.glob("shard-*.tar*")) or (folder / "manifest.jsonl").exists():
            raise BadOutput(f"{folder}: there is a manifest or a cache in it and no {NAME}.  Choose an empty folder.")
        else:
            cache.write_mouth_crop(folder, mouth_crop)
            if self.storage is not None:
                self.storage.store(cache.SETTINGS)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            end = self._read({"version": 1, "modality": modality})
            os.ftruncate(self._file, end)
            os.lseek(self._file, end, os.SEEK_SET)
            if end == 0:
                self._append({"version": 1, "modality": modality})
            self.writer = self._take_up(max_bytes)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        self.writer.close()
        os.close(self._file)
        self._held.close()

    def add(self, outcome: Outcome, utterance: Utterance) -> None:
        """Add an outcome, its bytes first. An OSError, as of a full disk, leaves what was added before."""
        shard = self.writer.shard
        entry = None if outcome.packed is None else self.writer.add(outcome.packed)
        if self.storage is not None and self.writer.shard != shard:
            self.storage.push()                              # the journal has the lines of that shard and no others
        done = Done(outcome.id, identity(utterance), entry, outcome.dropped, outcome.share, outcome.problems,
                    outcome.sound_hash, outcome.curve)
        self._since_sync += 1
        if self._since_sync >= SYNC_EVERY:
            self.writer.sync()
            self._since_sync = 0
        self._append(asdict(done))
        self.rows[done.id] = done

    def finish(self) -> None:
        """Complete the last shard."""
        self.writer.finish()
        os.fsync(self._file)
        if self.storage is not None:
            self.storage.push()

    def _read(self, header: dict[str, Any]) -> int:
        """Fill `rows`. Returns the byte at which the last whole line ends."""
        end = 0
        with open(self.folder / NAME, "rb") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                if end == 0:
                    self._check(row, header)
                else:
                    done = self._done(row)
                    self.rows[done.id] = done
                end += len(line)
        return end

    def _done(self, row: dict[str, Any]) -> Done:
        """A line as `add` wrote it. Raises BadManifest for any other, as of a later version or another program."""
        try:
            problems = tuple(Problem(**problem) for problem in row["problems"])
            entry = None if row["cache"] is None else CacheEntry(**row["cache"])
            curve = None if row["curve"] is None else tuple(row["curve"])
            return Done(**{**row, "what": tuple(row["what"]), "cache": entry, "problems": problems, "curve": curve})
        except (TypeError, KeyError, AttributeError) as error:
            raise BadManifest(f"{self.folder / NAME}: a line is not of this program's kind ({error}).  Prepare into an empty "
                              "folder.") from error

    def _check(self, row: dict[str, Any], header: dict[str, Any]) -> None:
        found = row if isinstance(row, dict) else {}
        wrong = [f"{key}: {found.get(key)} against {value}" for key, value in header.items() if found.get(key) != value]
        if wrong:
            raise BadManifest(f"{self.folder / NAME}: the cache was made in another way ({'; '.join(wrong)}).  Prepare into an "
                              "empty folder, or as before.")

    def _take_up(self, max_bytes: int) -> cache.ShardWriter:
        """A writer that goes on where the good bytes end. Rows whose bytes are not there are dropped."""
        whole = {path.name: path.stat().st_size for path in self.folder.glob("shard-*.tar")}
        if self.storage is not None:                         # a shard without a line was stored just before a crash
            named = {row.cache.shard for row in self.rows.values() if row.cache}
            whole |= {name: size for name, size in self.storage.shards.items() if name in named}
        parts = sorted(path.name.removesuffix(".part") for path in self.folder.glob("shard-*.tar.part"))
        self.rows = {id_: row for id_, row in self.rows.items() if row.cache is None or row.cache.shard in parts
                     or row.cache.offset + row.cache.size <= whole.get(row.cache.shard, 0)}
        if not parts:
            numbers = [int(name[len("shard-"):-len(".tar")]) for name in whole]
            return cache.ShardWriter(self.folder, max_bytes=max_bytes, shard=max(numbers, default=-1) + 1)
        part = parts[-1]
        offset = 0
        for row in sorted((row for row in self.rows.values() if row.cache and row.cache.shard == part),
                          key=lambda row: row.cache.offset):
            if not (row.cache.offset == offset and self._is_whole(row, part)):
                break
            offset += row.cache.size
        self.rows = {id_: row for id_, row in self.rows.items()
                     if not (row.cache and row.cache.shard == part and row.cache.offset >= offset)}
        return cache.ShardWriter(self.folder, max_bytes=max_bytes, shard=int(part[len("shard-"):-len(".tar")]), offset=offset)

    def _is_whole(self, row: Done, part: str) -> bool:
        assert row.cache is not None
        with open(self.folder / f"{part}.part", "rb") as file, suppress(BadManifest):
            file.seek(row.cache.offset)
            cache.unpack(file.read(row.cache.size), row.cache, row.id)
            return True
        return False

    def _append(self, row: dict[str, Any]) -> None:
        line = memoryview(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        while line:
            line = line[os.write(self._file, line):]
