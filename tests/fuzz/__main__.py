"""The command: uv run python -m tests.fuzz [KIND...]"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from tests.fuzz.kinds import KINDS, TRIED
from tests.fuzz.run import Limits, Outcome, run, seeds_of


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(list(TRIED)))
@click.option("--cases", type=click.IntRange(min=1), default=None,
              help="Cases of each kind.  [default: as many as there is time for]")
@click.option("--first", type=int, default=0, show_default=True, help="Number of the first case.")
@click.option("--seconds", type=float, default=None,
              help="No case begins after so long.  [default: 60 where --cases is not given]")
@click.option("--seed", default="0", show_default=True, help="Another seed makes other cases of the same numbers.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes.")
@click.option("--time-limit", type=float, default=30.0, show_default=True, help="Seconds that a case may take.")
@click.option("--memory-limit", type=float, default=2.0, show_default=True, help="Gigabytes that a case may take.")
def main(kinds: tuple[str, ...], cases: int | None, first: int, seconds: float | None, seed: str, workers: int,
         time_limit: float, memory_limit: float) -> None:
    """Try damaged and hostile input under limits; the status is 1 where there was a fault.

    A fault is an error that is not one of ours or has no remedy, the death of the process, or a case beyond the limits.
    """
    seconds = 60.0 if seconds is None and cases is None else seconds
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="avsr-fuzz-") as folder:
        kinds = kinds or tuple(KINDS)
        seeds = {kind: seeds_of(kind, Path(folder)) for kind in kinds}
        for outcome in run(_in_turn(kinds, first, cases), seeds, seed, n_workers=workers,
                           limits=Limits(time_limit, round(memory_limit * 1e9)),
                           until=lambda: seconds is not None and time.monotonic() - began > seconds):
            found.append(outcome)
            if outcome.outcome == "fault":
                click.echo(f"FAULT {outcome.kind} --first {outcome.number} --cases 1 --seed {seed}\n{outcome.message}\n")
            if len(found) % 100 == 0:
                click.echo(f"{len(found)} cases, {sum(one.outcome == 'fault' for one in found)} faults, "
                           f"{time.monotonic() - began:.0f} s", err=True)
    click.echo(_table(found))
    sys.exit(1 if any(one.outcome == "fault" for one in found) or not found else 0)


def _in_turn(kinds: tuple[str, ...], first: int, cases: int | None) -> Iterator[tuple[str, int]]:
    """One case of each kind after the other."""
    number = first
    while cases is None or number < first + cases:
        yield from ((kind, number) for kind in kinds)
        number += 1


def _table(found: list[Outcome]) -> str:
    lines = [f"{'kind':10}{'cases':>8}{'accepted':>10}{'refused':>9}{'faults':>8}{'longest':>10}{'most memory':>13}"]
    for kind in dict.fromkeys(one.kind for one in found):
        those = [one for one in found if one.kind == kind]
        counts = Counter(one.outcome for one in those)
        lines.append(f"{kind:10}{len(those):8}{counts['accepted']:10}{counts['refused']:9}{counts['fault']:8}"
                     f"{max(one.seconds for one in those):8.1f} s{max(one.memory for one in those) / 1e6:10.0f} MB")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
