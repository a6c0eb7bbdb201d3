"""Words that the user gives, in place of what the ears wrote: a text per recording, laid over its segments.

    --text -> text by name of recording;  what the ears wrote in each segment + the text -> the words of each segment
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avsr.corpora.files import read_transcript
from avsr.errors import AvsrError
from avsr.folders import nfc
from avsr.label import Recording
from avsr.text import normalise

# Word errors, for each given word, of what the ears wrote. On 32 clips of GRID, where base is at its worst, single clips reach
# 67 % with their own text and 83 % and more with another's.
MOST_UNLIKE = 0.75


def given_texts(path: Path | None, recordings: Sequence[Recording]) -> dict[str, str]:
    """The text of each recording by its name, normalised: that of a file, or of NAME.txt in a folder. Raises AvsrError."""
    if path is None:
        return {}
    if path.is_file():
        if len(recordings) > 1:
            raise AvsrError(f"{path}: one text for {len(recordings)} videos.  Name a folder with a file NAME.txt for each.")
        files = {recordings[0].name: path}
    elif path.is_dir():
        there = {nfc(one.stem): one for one in sorted(path.glob("*.txt"))}
        files = {one.name: there[name] for one in recordings if (name := nfc(Path(one.media).stem)) in there}
        if missing := [Path(one.media).name for one in recordings if one.name not in files]:
            raise AvsrError(f"{path}: no text for {len(missing)} of {len(recordings)} videos, {missing[0]} for one.  Put a "
                            f"file {Path(missing[0]).stem}.txt there, or leave out --text.")
    else:
        raise AvsrError(f"{path}: no such file or folder.  Name the text of the video, or leave out --text.")
    return {name: _read(file) for name, file in files.items()}


def _read(path: Path) -> str:
    text = read_transcript(path)
    if text is None:
        raise AvsrError(f"{path}: it cannot be read as text.  Save it as UTF-8.")
    if not (words := normalise(text)):
        raise AvsrError(f"{path}: there is no word in it.  Write down what is said, or leave out --text.")
    return words


def laid_over(heard: Sequence[str], text: str, where: str) -> list[str]:
    """The words of `text` that belong to each segment of a recording, by the best alignment with what was heard there.

    heard: what the ears wrote, by segment. where: the recording, for messages. Words that nothing heard corresponds to go with
    the word before them. Raises AvsrError where the text does not fit.
    """
    import jiwer

    words = [normalise(one).split() for one in heard]
    owner = [number for number, some in enumerate(words) for _ in some]
    said = text.split()
    if not owner:
        return [""] * len(heard)
    found = jiwer.process_words(text, " ".join(word for some in words for word in some))
    wrong = (found.substitutions + found.deletions + found.insertions) / len(said)
    if wrong > MOST_UNLIKE:
        raise AvsrError(f"{where}: the given text does not fit: {wrong:.0%} of its words are not what is heard (limit "
                        f"{MOST_UNLIKE:.0%}).  Give the text of this very recording, or leave out --text.")
    out: list[list[str]] = [[] for _ in heard]
    last = owner[0]
    for chunk in found.alignments[0]:
        for place in range(chunk.ref_start_idx, chunk.ref_end_idx):
            if chunk.type != "delete":
                last = owner[chunk.hyp_start_idx + place - chunk.ref_start_idx]
            out[last].append(said[place])
    return [" ".join(some) for some in out]
