"""The weight of a language model, of rescoring or of hotwords, chosen on validation data by the benchmark's own measurement.

    BenchmarkSettings + weights -> a benchmark of the validation split for each -> Tuned: WER of each, the best weight
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avsr.benchmark.conditions import BenchmarkSettings
from avsr.benchmark.run import CallOptions, benchmark
from avsr.decode import HELPS
from avsr.errors import AvsrError
from avsr.metrics import Cell, Rate, cells, wer
from avsr.results import NAME, NOISE, read_results

DEFAULT = CallOptions()
WEIGHTS = {"lm": (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0), "rescore": (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0),
           "hotwords": (0.0, 0.3, 0.6, 1.0, 1.5, 2.0)}


@dataclass(frozen=True)
class Measured:
    """What one weight gave: WER over all conditions, and of each."""

    weight: float
    rate: Rate
    by_cell: dict[Cell, Rate]


@dataclass(frozen=True)
class Tuned:
    """A weight chosen on validation data. help: a key of decode.HELPS. measured: in the order of the weights."""

    help: str
    measured: tuple[Measured, ...]

    @property
    def best(self) -> Measured:
        """That of the fewest errors over all conditions; of equals that of the smallest weight."""
        return min(self.measured, key=lambda one: (one.rate.score.errors, one.weight))

    @property
    def option(self) -> str:
        """The option of the commands that sets the best weight."""
        return f"--{HELPS[self.help].replace('_', '-')} {self.best.weight:g}"


def tune(manifest: str | Path, output: str | Path, settings: BenchmarkSettings, *, weights: Sequence[float] | None = None,
         options: CallOptions = DEFAULT) -> Tuned:
    """Measure each weight of the one help that `settings` name without its weight, on their split and in their noise, into
    folders of `output`.

    weights: those of WEIGHTS if None; 0, with which the help has no effect, is always among them, so that the weight chosen is
    never worse than none on this data. Every weight is measured in the same noise. Raises AvsrError where no help is named or
    several are, and as `benchmark` does. A run that was stopped goes on.
    """
    named = [name for name in HELPS if getattr(settings, name) is not None and getattr(settings, HELPS[name]) is None]
    if len(named) != 1:
        raise AvsrError(f"tune: {len(named) or 'none'} of --lm, --rescore and --hotwords lacks a weight, and one is tuned "
                        "at a time.  Name one of them, and give the others their weights.")
    (name,) = named
    output, measured = Path(output), []
    for weight in sorted({0.0, *(WEIGHTS[name] if weights is None else weights)}):
        options.say(f"{HELPS[name]} {weight:g}")
        one = replace(settings, noise_manifest=str(output / NOISE), **{HELPS[name]: weight})
        folder = output / f"{HELPS[name]}-{weight:g}"
        output.mkdir(parents=True, exist_ok=True)
        benchmark(manifest, folder, one, options=options)
        measured.append(_measured(weight, folder))
    return Tuned(name, tuple(measured))


def _measured(weight: float, folder: Path) -> Measured:
    rows, _ = read_results(folder / NAME)
    found = {cell: wer(some, rng=np.random.default_rng(0)) for cell, some in cells(rows).items()}
    return Measured(weight, wer(rows, rng=np.random.default_rng(0)), found)
