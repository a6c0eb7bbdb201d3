"""The page: a summary, plots and recordings in, one HTML file that needs no other out."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avsr import media
from avsr.explain.attention import CTC_MODALITY
from avsr.explain.input import Input
from avsr.explain.plots import Plot
from avsr.html import data_uri, render
from avsr.names import MODALITIES, MODALITY_NAMES

CASES = {name: MODALITY_NAMES[name].long for name in MODALITIES}
CASES |= {f"{name}_clean": f"{CASES[name]}, without the noise" for name in ("a", "av")}


def make_recordings(given: Input) -> dict[str, str]:
    """What can be played, as data URIs: `mouth`, a video with the sound that the model gets, or else `sound`; `clean` where
    noise was added. Sums of sound and noise that pass full scale are turned down."""
    parts: dict[str, tuple[np.ndarray | None, np.ndarray | None]] = {"sound": (None, given.sound)}
    if given.mouths is not None:
        parts = {"mouth": (given.mouths.images, given.sound)}
    if given.noise is not None:
        parts["clean"] = (None, given.clean)
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (frames, sound) in parts.items():
            path = Path(folder) / f"{name}.{'m4a' if frames is None else 'mp4'}"
            if sound is not None:
                sound = (sound / max(1.0, float(np.abs(sound).max()))).astype(np.float32)
            media.write(frames, path, audio=sound)
            out[name] = data_uri(path.read_bytes(), "audio/mp4" if frames is None else "video/mp4")
    return out


def render_page(summary: Mapping[str, Any], plots: Mapping[str, Plot], recordings: Mapping[str, str],
                command: str | None) -> str:
    """The page's text. command: what makes the page again, None where it was not made by a command."""
    return render("explain/page.html", FILTERS, it=summary, plots=plots,
                  recordings=recordings, cases=CASES, command=command,
                  ctc_cases={name: CASES[modality] for name, modality in CTC_MODALITY.items()},
                  widest_change=max((gate["change"] for gate in summary["gates"]), default=0.0) or 1.0)


def chance(log_prob: float) -> str:
    """A mean log-probability as the chance of a token: 63 %, 0.4 %, 1 in 12,000."""
    share = math.exp(log_prob)
    if share >= 0.0095:
        return percent(share)
    return f"{100 * share:.1f}\u00a0%" if share >= 0.00095 else f"1 in {_two_digits(1 / share)}"


def factor(nats: float) -> str:
    """A difference of log-probabilities as a factor: 3.1, 0.5, 14,000."""
    return f"{math.exp(nats):.2g}" if nats < math.log(99.5) else _two_digits(math.exp(nats))


def percent(share: float) -> str:
    """63 %."""
    return f"{100 * share:.0f}\u00a0%"


def _two_digits(number: float) -> str:
    """12,000; 1.2e15."""
    return f"{float(f'{number:.2g}'):,.0f}" if number < 1e9 else f"{number:.1e}".replace("e+", "e")


FILTERS = {"chance": chance, "factor": factor, "percent": percent}      # of the templates
