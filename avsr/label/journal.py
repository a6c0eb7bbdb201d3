"""The journal of labels: what was measured and recognised, so that no expensive pass is ever done twice.

    Label, RecordingEnd -> one line each of labels.jsonl -> LabelJournal.labels, LabelJournal.ends
A line is added as soon as a segment is labelled, in any order. The shards are written in the order of the corpus, by the
journal of prepare. Labels hold all that the limits judge, so other limits need no other pass.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avsr.errors import BadManifest, BadOutput
from avsr.label.labels import Label
from avsr.manifest import TimedWord
from avsr.output import append_lines

NAME = "labels.jsonl"
VERSION = 1


@dataclass(frozen=True)
class RecordingEnd:
    """That a recording was read to its end: how long it is, how many segments it has, what was wrong with it.

    reason: why nothing could be read from it, or from its rest; None where all was read.
    """

    media: str
    seconds: float
    n_segments: int
    problems: tuple[str, ...] = ()
    reason: str | None = None


class LabelJournal:
    """The labels of a folder. Use it while the folder is locked, as by prepare's journal.

    made_by: facts that all labels depend on, see readings.fingerprint; other ones are refused. labels: by recording and first
    frame. ends: by recording. Raises BadManifest for a file that is not of this kind.
    """

    def __init__(self, folder: Path, made_by: Mapping[str, Any]):
        self.path, self.made_by = folder / NAME, dict(made_by)
        self.labels: dict[str, dict[int, Label]] = defaultdict(dict)
        self.ends: dict[str, RecordingEnd] = {}
        header = {"version": VERSION, **made_by}
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []      # the last may be half a line
        if not lines:
            append_lines(self.path, json.dumps(header, ensure_ascii=False) + "\n")
        for number, line in enumerate(lines):
            try:
                row = json.loads(line)
                if number == 0:
                    self._check(row, header)
                else:
                    self._take(row)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise BadManifest(f"{self.path}: line {number + 1} is not of this program's kind ({error}).  Prepare into an "
                                  "empty folder.") from error

    def add(self, row: Label | RecordingEnd) -> None:
        """Add a line. Raises BadOutput where it cannot be written; the lines before it stay."""
        kind = "end" if isinstance(row, RecordingEnd) else "label"
        try:
            append_lines(self.path, json.dumps({kind: asdict(row)}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise BadOutput(f"{self.path}: it cannot be written ({error.strerror}).  Make room and run the same command again: "
                            "what is done is kept.") from error
        self._keep(row)

    def _check(self, found: Any, header: Mapping[str, Any]) -> None:
        theirs = found if isinstance(found, dict) else {}
        wrong = [f"{key}: {theirs.get(key)} against {value}" for key, value in header.items() if theirs.get(key) != value]
        if wrong:
            raise BadManifest(f"{self.path}: the labels were made in another way ({'; '.join(wrong)}).  Prepare into an empty "
                              "folder, or as before.")

    def _take(self, row: Any) -> None:
        if "end" in row:
            self._keep(RecordingEnd(**{**row["end"], "problems": tuple(row["end"]["problems"])}))
        else:
            values = row["label"]
            self._keep(Label(**{**values, "words": tuple(TimedWord(**word) for word in values["words"])}))

    def _keep(self, row: Label | RecordingEnd) -> None:
        if isinstance(row, RecordingEnd):
            self.ends[row.media] = row
        else:
            self.labels[row.media][row.start_frame] = row
