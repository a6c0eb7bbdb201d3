"""Lombard GRID: 54 other talkers say GRID's sentences in a plain or, with noise in their ears, a raised voice.

    s30/s30_l_bbbm4a.opus | front/s30_l_bbbm4a.mov | side/s30_l_bbbm4a.mov | audio/s30_l_bbbm4a.wav
The name has the talker, the style (l Lombard, p plain) and the sentence. The talkers are not GRID's: s30 becomes `lombard-s30`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from avsr.corpora.files import assign_splits, is_sound, recordings, wrong_layout
from avsr.corpora.grid import sentence
from avsr.manifest import Corpus, Dropped, Utterance

STYLES = {"l": "lombard", "p": "plain"}
TEST = tuple(f"lombard-s{number}" for number in (38, 39, 40))               # our choice, as no split is published


def read(folder: Path, *, split_list: Path | None = None) -> Corpus:
    """Lombard GRID, or a part of it, as utterances with the label style, and the label view if a clip lies below front/ or
    side/.

    split_list: a table with the columns utterance (such as s30_l_bbbm4a) and split; without it s38, s39 and s40 are `test`. An
    audio file is not used if its video from the front is there. Raises BadManifest.
    """
    folder = Path(folder).resolve()
    paths, dropped = recordings(folder)
    found: dict[str, tuple[str, Utterance]] = {}
    for path in paths:
        match = re.fullmatch(r"(s\d+)_([lp])_(\w{6})", path.stem.lower())
        if match is None or (text := sentence(match[3])) is None:
            other = "_WRONG_" in path.stem                    # two of the 221 clips we have seen
            dropped.append(Dropped(path.as_posix(), "its name says that another sentence was spoken" if other
                                   else "its name is not of the kind s30_l_bbbm4a"))
            continue
        parts = {part.lower() for part in (folder.name, *path.relative_to(folder).parts[:-1])}
        view = "side" if "side" in parts else "front" if "front" in parts else None
        speaker, name = f"lombard-{match[1]}", path.stem.lower()
        id_ = f"lombard-{name}{'-side' if view == 'side' else ''}"
        labels = {"style": STYLES[match[2]]} | ({"view": view} if view else {})
        if id_ not in found:
            split = "test" if speaker in TEST else "train"
            found[id_] = name, Utterance(id_, path.as_posix(), text, speaker, split, labels=labels)
        elif not is_sound(path) or is_sound(found[id_][1].media):
            dropped.append(Dropped(path.as_posix(), f"the same talker, style and sentence as {found[id_][1].media}"))
    if paths and not found:
        raise wrong_layout(folder, "Lombard GRID's clips, such as s30_l_bbbm4a.wav")
    pairs = [found[id_] for id_ in sorted(found)]
    if split_list is None:
        return Corpus([utterance for _, utterance in pairs], dropped)
    # The list has the corpus's names of talkers.
    bare = [(name, replace(utterance, speaker=(utterance.speaker or "").removeprefix("lombard-"))) for name, utterance in pairs]
    corpus = assign_splits(bare, Path(split_list))
    return Corpus([replace(row, speaker=f"lombard-{row.speaker}") for row in corpus.utterances], dropped + corpus.dropped)
