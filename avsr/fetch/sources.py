"""The sources of `avsr fetch`: name -> description, licence and files. A new corpus or noise is a new entry; models are in
models.py.

The files of a Zenodo record have their address, size and checksum from the record itself (zenodo.py). For others the table has
what is published. If no checksum is published, the archive is checked against its own check sums (CRC).
"""

from __future__ import annotations

import difflib

from avsr.download import Remote
from avsr.errors import AvsrError
from avsr.fetch.hub import hub_source
from avsr.fetch.models import MODELS
from avsr.fetch.source import Source

CC_BY = "https://creativecommons.org/licenses/by/4.0/"


GRID_SPEAKERS = tuple(f"s{number}" for number in range(1, 35) if number != 21)
# The 17 places that the record has at 16 kHz; the eighteenth, SCAFE, is there at 48 kHz only.
DEMAND_PLACES = ("DKITCHEN", "DLIVING", "DWASHING", "NFIELD", "NPARK", "NRIVER", "OHALLWAY", "OMEETING", "OOFFICE",
                 "PCAFETER", "PRESTO", "PSTATION", "SPSQUARE", "STRAFFIC", "TBUS", "TCAR", "TMETRO")
# GitHub makes this archive on demand and publishes neither size nor checksum; its README says "about 600 MB". The commit fixes
# the content.
ESC_COMMIT = "33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6"
ESC_FILE = Remote("esc-50.zip", f"https://github.com/karolpiczak/ESC-50/archive/{ESC_COMMIT}.zip")
# Dog, rooster, rain, sea waves, fire, crying, sneezing, clock, helicopter, chainsaw: column esc10 of meta/esc50.csv.
ESC_10 = r"audio/\d-\d+-[A-Z]-(0|1|10|11|12|20|21|38|40|41)\.wav|meta/esc50\.csv|LICENSE|README\.md"
# OpenSLR publishes no checksum. PaddleSpeech, WeSpeaker and others check their downloads by this MD5, and the server announces
# this size.
MUSAN_FILE = Remote("musan.tar.gz", "https://www.openslr.org/resources/17/musan.tar.gz", 11_086_114_085,
                    "md5:0c472d4fc0c5141eca47ad1ffeb2a7df")

SOURCES = {
    source.name: source
    for source in (
        Source(
            name="grid",
            kind="corpus",
            what="34 talkers, 1000 sentences of six words each, sound and video of 33",
            size="about 0.4 GB a speaker, 14 GB in all",
            licence="CC BY 4.0",
            terms=CC_BY,
            cite="Cooke, Barker, Cunningham and Shao, JASA 120 (2006)",
            use="avsr prepare grid {folder} data/grid",
            record="3625687",
            # alignments.zip is left out because its folders are shuffled across speakers. audio_25k.zip has audio only, cut
            # close around the words and so not in time with the videos, which have audio of their own.
            parts={part: f"{part}.zip" for part in (*GRID_SPEAKERS, "audio_25k")},
            default=GRID_SPEAKERS,
            licence_ids=("cc-by-4.0",),
            speakers=34,
            absent={21: "s21 has no video; its sound is in --part audio_25k"},
        ),
        Source(
            name="lombard",
            kind="corpus",
            what="Lombard GRID: 54 other talkers, plain and raised speech; front (video), side (video), audio",
            size="front 0.8 GB, side 1.0 GB, audio 0.7 GB",
            licence="CC BY 4.0",
            terms=CC_BY,
            cite="Alghamdi, Maddock, Marxer, Barker and Brown, JASA 143 (2018)",
            use="avsr prepare lombard {folder} data/lombard",
            record="3736465",
            parts={part: f"lombardgrid_{part}.zip" for part in ("front", "side", "audio")},
            default=("front",),
            licence_ids=("cc-by-4.0",),
            leading="lombardgrid",
        ),
        Source(
            name="demand",
            kind="noise",
            what="DEMAND: 17 places (kitchen, river, office, cafe, bus ...), 5 minutes each; the first of 16 microphones",
            size="about 0.1 GB a place to fetch, 10 MB to keep",
            licence="CC BY-SA 3.0 by its description, CC BY 4.0 by its record",
            terms="https://creativecommons.org/licenses/by-sa/3.0/",
            cite="Thiemann, Ito and Vincent, POMA 19 (2013)",
            use="avsr benchmark MANIFEST --noise demand={folder}",
            record="1227121",
            parts={place: f"{place}_16k.zip" for place in DEMAND_PLACES},
            default=DEMAND_PLACES,
            licence_ids=("cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
            keep=r"(.*/)?ch01\.wav",
        ),
        Source(
            name="musan",
            kind="noise",
            what="MUSAN: 42 hours of music, 60 hours of speech, 6 hours of noise",
            size="11.1 GB",
            licence="CC BY 4.0",
            terms=CC_BY,
            cite="Snyder, Chen and Povey, arXiv 1510.08484",
            use="avsr benchmark MANIFEST --noise noise={folder}/noise",
            parts={"musan": "musan.tar.gz"},
            default=("musan",),
            files={"musan.tar.gz": MUSAN_FILE},
            leading="musan",
        ),
        Source(
            name="esc-10",
            kind="noise",
            what="ESC-10, of ESC-50: 400 recordings of 5 s in ten classes (rain, sea, clock, helicopter ...)",
            size="about 0.6 GB to fetch, 0.2 GB to keep",
            licence="CC BY, as its README says",
            terms="https://github.com/karolpiczak/ESC-50#license",
            cite="Piczak, ACM Multimedia (2015); the makers of each recording are in its LICENSE",
            use="avsr benchmark MANIFEST --noise 'natural={folder}/audio/5-*.wav'",
            parts={"esc-10": "esc-50.zip"},
            default=("esc-10",),
            files={"esc-50.zip": ESC_FILE},
            leading="ESC-50-*",
            keep=ESC_10,
        ),
        Source(
            name="esc-50",
            kind="noise",
            what="ESC-50: 2000 recordings of 5 s in fifty classes",
            size="about 0.6 GB",
            licence="CC BY-NC 3.0, which forbids commercial use",
            terms="https://creativecommons.org/licenses/by-nc/3.0/",
            cite="Piczak, ACM Multimedia (2015); the makers of each recording are in its LICENSE",
            use="avsr benchmark MANIFEST --noise 'natural={folder}/audio/5-*.wav'",
            parts={"esc-50": "esc-50.zip"},
            default=("esc-50",),
            files={"esc-50.zip": ESC_FILE},
            must_agree=True,
            leading="ESC-50-*",
        ),
    )
} | MODELS


def source_of(name: str) -> Source:
    """The source of that name, or of a file of the hub, owner/repository:file. Raises AvsrError."""
    if name in SOURCES:
        return SOURCES[name]
    if (source := hub_source(name)) is not None:
        return source
    close = difflib.get_close_matches(name.lower(), SOURCES, n=1)
    meant = f"Did you mean {close[0]}?" if close else "avsr fetch --list shows what can be."
    raise AvsrError(f"{name}: nothing that can be fetched is called so.  {meant}")


def choose(source: Source, parts: tuple[str, ...] = (), speakers: str | None = None) -> tuple[list[str], list[str]]:
    """The requested parts in the order of the table, and notes for the user. Raises AvsrError."""
    if unknown := [part for part in parts if part not in source.parts]:
        known = ", ".join(part for part in source.parts if not source.speakers or part not in source.default)
        more = " (speakers: --speakers)" if source.speakers else ""
        raise AvsrError(f"--part {unknown[0]}: {source.name} has no such part.  It has {known}{more}.")
    wanted, notes = set(parts), []
    if speakers is not None:
        numbers = _numbers(source, speakers)
        wanted |= {f"s{number}" for number in numbers if number not in source.absent}
        notes = [source.absent[number] for number in sorted(numbers) if number in source.absent]
        if not wanted:
            raise AvsrError(f"--speakers {speakers}: {'; '.join(notes)}.  Name other speakers.")
    return [part for part in source.parts if part in (wanted or source.default)], notes


def _numbers(source: Source, text: str) -> set[int]:
    """`1-4,7` -> {1, 2, 3, 4, 7}."""
    if not source.speakers:
        raise AvsrError(f"--speakers {text}: {source.name} does not come by speaker.  Leave --speakers out.")
    out: set[int] = set()
    for piece in text.split(","):
        first, dash, last = (end.strip().lower().removeprefix("s") for end in piece.partition("-"))
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise AvsrError(f"--speakers {text}: {piece.strip()!r} is no speaker's number.  Write it as 1-4, or 1,3,20-25.")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= source.speakers:
            problem = f"{low} comes after {high}" if low > high else f"{source.name} has speakers 1 to {source.speakers}"
            raise AvsrError(f"--speakers {text}: {problem}.  Write it as 1-4, or 1,3,20-25.")
        out |= set(range(low, high + 1))
    return out
