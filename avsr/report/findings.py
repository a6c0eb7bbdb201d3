"""What the tables say, in sentences: rows by condition in, a few lines for the head of the page out."""

from __future__ import annotations

from avsr.metrics import Gain
from avsr.report.book import Book, Judged, name_of, snr_text
from avsr.report.runs import NAMES
from avsr.report.tables import LAW, gain_at

MOST_BROKEN = 6                                             # conditions named one by one


def findings(book: Book) -> list[str]:
    """The rates near 0 dB, whether the law holds, what seeing is worth."""
    out = []
    for system in book.seeing:
        for noise in book.noises:
            out += _near_zero(book, system, noise)
        out += _law(book, system)
    return out


def _near_zero(book: Book, system: str, noise: str) -> list[str]:
    levels = [snr for snr in book.levels(noise) if snr is not None and book.find(system, "av", noise, snr)]
    if not levels:
        return []
    level = min(levels, key=abs)
    judged = book.judged(system, (noise, level))
    of = (("a", judged.sound), ("v", judged.lips), ("av", judged.both))
    percents = [(NAMES[modality], book.percent(cell)) for modality, cell in of]
    told = ", ".join(f"{name} {percent:.1f} %" for name, percent in percents if percent is not None)
    worth = gain_at(book, system, noise, level)
    more = "" if worth is None else f"; seeing is worth {_decibels(worth)}"
    return [f"{_whose(book, system)}{noise} at {snr_text(level)} dB: WER by {told}{more}."]


def _decibels(worth: Gain) -> str:
    if worth.beyond is not None:
        return f"{'more' if worth.db > 0 else 'less'} than {worth.beyond:g} dB".replace("-", "−")
    return f"{worth.db:.1f} dB".replace("-", "−")


def _law(book: Book, system: str) -> list[str]:
    plain = [(name_of(one), book.judged(system, one)) for one in book.conditions_measured]
    damaged = [(f"{name_of(one)}, {kind}" + ("" if amount is None else f" {amount:g}"),
                book.judged(system, one, (kind, amount)))
               for one in book.conditions_measured for kind, amount in book.damages()]
    return [*_kept(book, system, plain, f"law ({LAW})"), *_kept(book, system, damaged, "law with a bad picture")]


def _kept(book: Book, system: str, judged: list[tuple[str, Judged]], what: str) -> list[str]:
    known = [(name, one) for name, one in judged if one.kept is not None]
    broken = [(name, one) for name, one in known if not one.kept]
    if not known:
        return []
    named = "; ".join(f"{name} ({one.less.rate.percent:+.1f})" for name, one in broken[:MOST_BROKEN]).replace("-", "−")
    more = f" and {len(broken) - MOST_BROKEN} more" if len(broken) > MOST_BROKEN else ""
    told = f"; broken at {named}{more}" if broken else ""
    return [f"{_whose(book, system)}{what}: kept at {len(known) - len(broken)} of {len(known)} conditions{told}."]


def _whose(book: Book, system: str) -> str:
    return f"{system}, " if len(book.seeing) > 1 else ""

