"""Corpora and noise from their publishers: a name -> a folder that `avsr prepare` or `--noise` reads.

    name, parts -> Remotes (zenodo.py, or the table in sources.py) -> archives, checked -> files (archives.py)
        -> a record that they are whole (records.py)
The work is in run.py; this file imports nothing heavy, so that `import avsr` is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from avsr.runtime import Progress, no_progress

if TYPE_CHECKING:
    from pathlib import Path

    from avsr.fetch.run import Fetched


def fetch(name: str, folder: str | Path, *, speakers: str | None = None, parts: Sequence[str] = (),
          accept_licence: bool = False, progress: Progress = no_progress) -> Fetched:
    """Fetch a corpus or noise into `folder`, checked and unpacked. The same call again continues where it was stopped.

    name: as `avsr fetch --list` shows it. speakers: such as `1-4,7`, for corpora that come by speaker. parts: such as `side`;
    if neither is given, the usual parts. accept_licence: whether the user agrees to a licence that forbids some uses.
    progress: counts bytes. Raises AvsrError, BadDownload (network, server, damaged archive), BadOutput (disk).
    """
    from avsr.fetch import run

    return run.fetch(name, folder, speakers=speakers, parts=parts, accept_licence=accept_licence, progress=progress)
