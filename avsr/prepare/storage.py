"""A corpus that is prepared into object storage: files are made in a staging folder on this machine and stored whole.

    staging folder: shard-00000.tar -> address/shard-00000.tar, then address/journal-00000.jsonl with the lines of that shard
A shard is stored first and then the lines of the journal that tell of it, so lines mean that their shard is there. What a crash
leaves of an unfinished shard stays in the staging folder, where the same command on the same machine takes it up; on another
machine, it is made again. Two commands at once must not write to one address: storage has no lock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from avsr import remote
from avsr.errors import BadOutput
from avsr.output import locked

CACHE_FILES = ("cache.json", "journal.jsonl")
SHARDS, SEGMENTS = "shard-*.tar", "journal-{:05d}.jsonl"


class Storage:
    """The address of a corpus and its staging folder. shards: sizes of the shards that are stored, by name."""

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        owner = str(os.getuid()) if hasattr(os, "getuid") else "user"
        place = hashlib.sha256(self.address.encode()).hexdigest()[:16]
        self.local = Path(tempfile.gettempdir()) / f"avsr-{owner}" / place
        self.shards: dict[str, int] = {}
        self.n_segments = self.n_bytes = 0                   # of the journal, that are stored

    def take_up(self) -> None:
        """Make the staging folder agree with what is stored; it keeps what goes beyond that. Raises AvsrError.

        The folder must be locked.
        """
        sizes = remote.object_sizes(self.address)
        self.shards = {name: size for name, size in sizes.items() if name.startswith("shard-") and name.endswith(".tar")}
        names = []
        while (name := SEGMENTS.format(len(names))) in sizes:
            names.append(name)
        if not names and (self.shards or "manifest.jsonl" in sizes):
            raise BadOutput(f"{self.address}: there is a manifest or a cache in it and no {SEGMENTS.format(0)}.  Choose an "
                            "empty folder.")
        stored = b"".join(self._read(name) for name in names)
        self.n_segments, self.n_bytes = len(names), len(stored)
        journal = self.local / "journal.jsonl"
        if not journal.exists() or not names or not _begins_with(journal, stored):
            self._empty()
            if names:
                journal.write_bytes(stored)
        if names:
            (self.local / "cache.json").write_bytes(self._read("cache.json"))
        elif journal.exists():
            self.store("cache.json")

    def store(self, name: str) -> None:
        """Store a file of the staging folder. Raises AvsrError."""
        remote.upload(self.local / name, f"{self.address}/{name}")

    def push(self) -> None:
        """Store the shards that are complete, then the lines of the journal, and remove the shards here. Raises AvsrError."""
        done = sorted(self.local.glob(SHARDS))
        for path in done:
            self.store(path.name)
            self.shards[path.name] = path.stat().st_size
        with (self.local / "journal.jsonl").open("rb") as file:
            file.seek(self.n_bytes)
            lines = file.read()
        if lines:
            remote.write_bytes(f"{self.address}/{SEGMENTS.format(self.n_segments)}", lines)
            self.n_segments, self.n_bytes = self.n_segments + 1, self.n_bytes + len(lines)
        for path in done:
            path.unlink()

    def publish(self) -> None:
        """Store the tables, the contact sheets and, last, the manifest; then remove the staging folder. Raises AvsrError."""
        with locked(self.local, "avsr prepare"):
            tables = sorted(path for path in self.local.rglob("*") if path.suffix in (".tsv", ".png") and path.is_file())
            for path in (*tables, self.local / "manifest.jsonl"):
                self.store(path.relative_to(self.local).as_posix())
        shutil.rmtree(self.local, ignore_errors=True)
        with suppress(OSError):
            self.local.parent.rmdir()

    def _read(self, name: str) -> bytes:
        with remote.storage_errors(f"{self.address}/{name}"):
            return remote.read_bytes(f"{self.address}/{name}")

    def _empty(self) -> None:
        """Remove what an earlier run left in the staging folder, but for the lock."""
        for path in self.local.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.endswith(".lock"):
                path.unlink()


def _begins_with(path: Path, data: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(data)) == data
