"""GRID: 34 talkers, sentences of six words, whose text is in the name of the file.

    s1/bbaf2n.mpg | s1_processed/bbaf2n.mpg | s1/video/mpg_6000/bbaf2n.mpg | audio_25k/s1/bbaf2n.wav  (or .mkv, .mp4, .avi)
The times of words come from an .align file beside the clip, if its words are those of the name: the `alignments/` folders that
the corpus publishes are shuffled across speakers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from avsr.corpora.files import assign_splits, files_below, is_sound, recordings, wrong_layout
from avsr.errors import BadManifest
from avsr.folders import Sidecars, find_path
from avsr.manifest import Corpus, Dropped, TimedWord, Utterance, shuffled
from avsr.textfiles import read_text

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},             # w, which has two more syllables, is left out
    {"z": "zero"} | {str(digit): word for digit, word in enumerate(DIGITS) if digit},
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)
ALIGN_RATE = 25_000                                         # units a second in .align files
UNSEEN = ("s1", "s2", "s20", "s22")                         # LipNet's test speakers (arXiv 1611.01599)
SEEN_PER_SPEAKER = 255                                      # the other protocol: so many sentences of each speaker
PROTOCOLS = ("unseen", "seen")


def read(folder: Path, *, split_list: Path | str | None = None) -> Corpus:
    """GRID, or a part of it, as utterances.

    split_list: a table with the columns speaker, utterance, split (and text); or `unseen`, which puts s1, s2, s20 and s22 into
    split `test`; or `seen`, which puts 255 random utterances of each speaker there. None stands for splits.tsv in the folder
    or, if there is none, for `unseen` if another speaker is left to train on, else `seen`. Raises BadManifest.
    """
    folder = Path(folder).resolve()
    paths, dropped = recordings(folder)
    times = Sidecars(files_below(folder), paths)
    found: dict[tuple[str, str], Utterance] = {}
    for path in paths:
        speaker, name = _speaker(path, folder), path.stem.lower()
        text = sentence(name)
        if text is None:
            dropped.append(Dropped(path.as_posix(), "its name is no GRID sentence, such as bbaf2n"))
        elif speaker is None:
            dropped.append(Dropped(path.as_posix(), "it lies in no folder of a speaker, such as s1"))
        elif (speaker, name) not in found:
            align = times.find(path, ".align")
            words, problem = (None, None) if align is None else _words(align, text)
            dropped += [Dropped(str(align), problem)] if problem else []
            found[speaker, name] = Utterance(f"{speaker}_{name}", path.as_posix(), text, speaker, words=words)
        elif not is_sound(path) or is_sound(found[speaker, name].media):     # sound beside its video is not another clip
            dropped.append(Dropped(path.as_posix(), f"the same speaker and sentence as {found[speaker, name].media}"))
    if paths and not found:
        raise wrong_layout(folder, "GRID's clips, such as s1/bbaf2n.mpg")
    corpus = _split([(name, found[speaker, name]) for speaker, name in sorted(found)], folder, split_list)
    return Corpus(corpus.utterances, dropped + corpus.dropped)


def sentence(name: str) -> str | None:
    """`bbaf2n` -> `bin blue at f two now`; None if it is not a sentence of GRID."""
    if len(name) != len(WORDS) or any(letter not in words for letter, words in zip(name, WORDS, strict=True)):
        return None
    return " ".join(words[letter] for letter, words in zip(name, WORDS, strict=True))


def _speaker(path: Path, folder: Path) -> str | None:
    """The speaker of a clip: the name of the nearest folder that is called like a speaker, `folder` included."""
    for part in reversed((folder.name, *path.relative_to(folder).parts[:-1])):
        if match := re.fullmatch(r"(s\d+)(_processed)?", part, re.IGNORECASE):
            return match[1].lower()
    return None


def _words(path: Path, text: str) -> tuple[tuple[TimedWord, ...] | None, str | None]:
    """The times of words in a file; or None and the reason why the file is not used."""
    try:
        rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
        words = tuple(TimedWord(word, int(start) / ALIGN_RATE, int(end) / ALIGN_RATE) for start, end, word in rows
                      if word not in ("sil", "sp"))
    except (OSError, ValueError):
        return None, "times of words not used: not three columns of start, end and word"
    if " ".join(word.text for word in words) != text:
        return None, f"times of words not used: they are of {' '.join(word.text for word in words)!r}"
    if any(not 0 <= word.start <= word.end for word in words):
        return None, "times of words not used: they run backwards"
    return words, None


def _split(found: list[tuple[str, Utterance]], folder: Path, split_list: Path | str | None) -> Corpus:
    if split_list is None:
        split_list = find_path(folder, "splits.tsv")
    speakers = {utterance.speaker for _, utterance in found}
    protocol = ("unseen" if speakers - set(UNSEEN) else "seen") if split_list is None else str(split_list)
    if protocol not in PROTOCOLS:
        if not Path(protocol).exists():
            raise BadManifest(f"{protocol}: no such split list.  Name a table, or one of {', '.join(PROTOCOLS)}.")
        return assign_splits(found, Path(protocol))
    utterances = [utterance for _, utterance in found]
    test = {utterance.id for utterance in utterances if utterance.speaker in UNSEEN}
    if protocol == "seen":
        groups = groupby(utterances, key=lambda utterance: utterance.speaker)
        test = {id_ for _, group in groups for id_ in shuffled((row.id for row in group), seed=0)[:SEEN_PER_SPEAKER]}
    return Corpus([replace(row, split="test" if row.id in test else "train") for row in utterances], [])
