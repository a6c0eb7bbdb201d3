"""Commands that take several files: each in turn, whatever happens to the others, and what is left after a stop."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from avsr.cli.console import ProgressBar, print_status
from avsr.errors import AvsrError


class FileQueue:
    """The files of a command, and how many of them are done."""

    def __init__(self, paths: Sequence[str]):
        self.paths, self.n_done = paths, 0

    def resume_hint(self) -> str:
        """How to continue, for a user who has stopped the command."""
        if self.n_done == len(self.paths):
            return "All files are done."
        at = self.paths[self.n_done]
        if len(self.paths) == 1:
            return f"{at} is not done, and no file was written for it.  Give the same command again; it begins anew."
        return (f"{self.n_done} of {len(self.paths)} files are done, and {at} is not.  Give the same command again with the "
                "files from that one on.")

    def run(self, work: Callable[[str], None], bars: ProgressBar) -> None:
        """Call `work` with each path. Errors are printed, and make the exit status 1 when all files have been tried."""
        failures = []
        for n_done, path in enumerate(self.paths):
            self.n_done = n_done
            bars.begin(path, heading=len(self.paths) > 1)
            try:
                work(path)
            except AvsrError as error:
                failures.append(path)
                print_status(f"error: {error}")
            except (KeyboardInterrupt, BrokenPipeError):
                raise
            except Exception as error:                      # an error in avsr must not cost the user the other files
                if os.environ.get("AVSR_DEBUG"):
                    raise
                failures.append(path)
                print_status(f"error: {path}: {type(error).__name__}: {error}.  This is a mistake in avsr, please report it; "
                             "AVSR_DEBUG=1 shows where.")
        self.n_done = len(self.paths)
        if failures:
            if len(self.paths) > 1:
                print_status(f"{len(failures)} of {len(self.paths)} files failed: {', '.join(failures)}")
            sys.exit(1)


def distinct_stems(paths: Sequence[str]) -> dict[str, str]:
    """A name to write under for each path: its stem, or its full name if two stems are the same, numbered if two names are
    the same but for upper and lower case, which some file systems ignore."""
    from avsr.media import source_name

    names = {path: Path(source_name(path)) for path in paths}
    stems = Counter(name.stem for name in names.values())
    taken: set[str] = set()
    out = {}
    for path, full_name in names.items():
        name = full_name.stem if stems[full_name.stem] == 1 else full_name.name
        numbered = (name if n == 1 else f"{name}-{n}" for n in count(1))
        out[path] = next(one for one in numbered if one.lower() not in taken)
        taken.add(out[path].lower())
    return out
