"""A process that tries cases, one after the other, and tells of each in a line of JSON. Its parent watches time and memory."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

from tests.fuzz.kinds import TRIED

LONGEST_MESSAGE = 1500                                      # letters; an error is a sentence and a remedy


def main() -> None:
    """Read the numbers of cases from standard input, one a line. Arguments: kind, seed of chance, folder of seeds."""
    from avsr.errors import AvsrError

    kind, seed, seeds = TRIED[sys.argv[1]], sys.argv[2], Path(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")                     # what a library prints must not be taken for an answer
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.enable()
    kind.warm(seeds)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        number, began = int(line), time.process_time()
        folder = Path(tempfile.mkdtemp(dir=seeds.parent, prefix=f"case-{number}-"))
        try:
            kind.use(kind.make(seeds, folder, Random(f"{sys.argv[1]} {seed} {number}")))
            outcome, message = "accepted", ""
        except AvsrError as error:
            outcome, message = "refused", str(error)
            if "\n" in message or "  " not in message or len(message) > LONGEST_MESSAGE:
                outcome, message = "fault", f"not one sentence and a remedy: {message!r}"
        except Exception:
            outcome, message = "fault", traceback.format_exc()
        shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps({"number": number, "outcome": outcome, "message": message, "seconds": time.process_time() - began}),
              file=answers, flush=True)


if __name__ == "__main__":
    main()
