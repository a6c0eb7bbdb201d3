"""TCD-TIMIT: 59 volunteers and 3 trained lipspeakers read TIMIT's sentences, filmed from the front and from 30 degrees.

    volunteers/56M/Clips/straightcam/sa1.mp4 | lipspeakers/Lipspkr1/Clips/30degcam/sa1.mp4 | .../sa1.wav
This was written from descriptions of the layout, not from the corpus, which is given out on request. The words come from the
first of these: sa1.txt beside the clip (the sentence, with or without TIMIT's two numbers before it); sa1.lab beside it (one
word per line, with or without HTK's times of 100 ns); an .mlf file of words anywhere below; prompts.txt with TIMIT's lines
`sentence (sa1)`. Labels of phonemes, such as the published volunteer_labelfiles.mlf, are not words and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from avsr.corpora.files import assign_splits, files_below, is_sound, read_transcript, recordings, wrong_layout
from avsr.errors import BadManifest
from avsr.folders import Sidecars
from avsr.manifest import Corpus, Dropped, TimedWord, Utterance
from avsr.textfiles import NotText, read_text

TEST = ("28M", "55F", "25M", "56M", "49F", "44F", "33F", "09F", "18M", "54M", "45F", "36F", "34M", "15F", "58F", "08F",
        "41M")                                              # the unseen volunteers of the corpus's own split
VIEWS = {"straightcam": "front", "30degcam": "30 degrees"}
HTK_RATE = 10_000_000                                       # units per second
SILENCE = {"sil", "sp", "!enter", "!exit", "<s>", "</s>"}
TIMIT_PHONEMES = """aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh hv ih ix iy jh k
                    kcl l m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z zh"""
Words = tuple[str, tuple[TimedWord, ...] | None]


def read(folder: Path, *, split_list: Path | None = None) -> Corpus:
    """TCD-TIMIT, or a part of it, as utterances with the labels view and group.

    split_list: a table with the columns speaker, utterance (such as sa1) and split; without it the volunteers in TEST are
    `test`. An audio file beside its video is not used. Raises BadManifest.
    """
    folder = Path(folder).resolve()
    paths, dropped = recordings(folder)
    files = files_below(folder)
    texts = Sidecars(files, paths)
    sentences, unread = _sentences(files)
    dropped += unread
    found: dict[str, tuple[str, Utterance]] = {}
    n_clips = 0
    for path in paths:
        parts = (folder.name, *path.relative_to(folder).parts[:-1])
        speaker, name = _speaker(parts), path.stem.lower()
        if speaker is None or not re.fullmatch(r"s[aix]\d+", name):
            dropped.append(Dropped(path.as_posix(), "not of the kind 56M/Clips/straightcam/sa1.mp4"))
            continue
        n_clips += 1
        view = next((VIEWS[part.lower()] for part in parts if part.lower() in VIEWS), None)
        id_ = f"{speaker}_{name}{'_30' if view == VIEWS['30degcam'] else ''}"
        if id_ in found:
            if not is_sound(path) or is_sound(found[id_][1].media):
                dropped.append(Dropped(path.as_posix(), f"the same speaker, sentence and view as {found[id_][1].media}"))
            continue
        said = _beside(path, texts) or sentences.get((speaker, name)) or sentences.get((None, name))
        if said is None:
            dropped.append(Dropped(path.as_posix(), "no words: no .txt or .lab beside it, in no .mlf of words, no prompts.txt"))
            continue
        labels = {"group": "lipspeaker" if speaker.startswith("Lipspkr") else "volunteer"} | ({"view": view} if view else {})
        split = "test" if speaker in TEST else "train"
        found[id_] = name, Utterance(id_, path.as_posix(), said[0], speaker, split, words=said[1], labels=labels)
    if not n_clips and paths:
        raise wrong_layout(folder, "TCD-TIMIT's clips, such as volunteers/56M/Clips/straightcam/sa1.mp4")
    if paths and not found:
        raise BadManifest(f"{folder}: {n_clips} clips and words for none of them (labels of phonemes are no words).  "
                          "Put TIMIT's prompts.txt into the folder, or a .txt beside each clip.")
    pairs = [found[id_] for id_ in sorted(found)]
    if split_list is None:
        return Corpus([utterance for _, utterance in pairs], dropped)
    corpus = assign_splits(pairs, Path(split_list))
    return Corpus(corpus.utterances, dropped + corpus.dropped)


def _speaker(parts: tuple[str, ...]) -> str | None:
    for part in reversed(parts):
        if re.fullmatch(r"\d\d[MF]", part, re.IGNORECASE):
            return part.upper()
        if re.fullmatch(r"Lipspkr\d", part, re.IGNORECASE):
            return part.capitalize()
    return None


def _beside(path: Path, texts: Sidecars) -> Words | None:
    said = texts.find(path, ".txt")
    if said is not None and (text := read_transcript(said)):
        return re.sub(r"^\d+ \d+ ", "", text), None
    lab = texts.find(path, ".lab")
    try:
        return None if lab is None else _label(read_text(lab).splitlines())
    except (OSError, NotText):
        return None


def _sentences(files: Iterable[Path]) -> tuple[dict[tuple[str | None, str], Words], list[Dropped]]:
    """The words of .mlf files by speaker and clip, those of prompts.txt by clip alone, and the files that are not text."""
    out: dict[tuple[str | None, str], Words] = {}
    unread = []
    for path in files:
        if path.suffix.lower() != ".mlf" and path.name.lower() != "prompts.txt":
            continue
        try:
            text = read_text(path)
        except (OSError, NotText) as error:
            unread.append(Dropped(path.as_posix(), f"no text that can be read: {error}"))
            continue
        if path.suffix.lower() == ".txt":
            for line in text.splitlines():
                if match := re.fullmatch(r"([^;].*?)\s*\((s[aix]\d+)\)\s*", line):
                    out[None, match[2]] = match[1], None
            continue
        for name, body in re.findall(r'^"([^"]+)"\s*\n(.*?)^\.\s*$', "\n".join(text.splitlines()), re.DOTALL | re.MULTILINE):
            parts = name.replace("\\", "/").split("/")
            if said := _label(body.splitlines()):
                out[_speaker(tuple(parts[:-1])), Path(parts[-1]).stem.lower()] = said
    return out, unread


def _label(lines: list[str]) -> Words | None:
    """The words of HTK's label lines, `[start end] word`; None for phonemes, and if there are none."""
    rows = [line.split() for line in lines if line.strip()]
    timed = all(len(row) >= 3 and row[0].isdigit() and row[1].isdigit() for row in rows)
    rows = [row for row in rows if row[2 if timed else 0].lower() not in SILENCE]
    texts = [row[2 if timed else 0] for row in rows]
    if not texts or {text.lower() for text in texts} <= set(TIMIT_PHONEMES.split()):
        return None
    if not timed:
        return " ".join(texts), None
    words = tuple(TimedWord(row[2], int(row[0]) / HTK_RATE, int(row[1]) / HTK_RATE) for row in rows)
    return " ".join(texts), words if all(word.start <= word.end for word in words) else None
