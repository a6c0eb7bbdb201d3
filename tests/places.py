"""Where tests look for what only some machines have: the folder `shared` with real clips and other systems' answers.

The variable AVSR_SHARED names it; unset it is the folder beside the repository. A path that does not exist hides it.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("AVSR_SHARED") or ROOT.parent / "shared")
