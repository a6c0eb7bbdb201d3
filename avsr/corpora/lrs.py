"""LRS2 and LRS3: sentences from television and talks, with a .txt beside each .mp4.

    LRS2: main/VIDEO/CLIP.mp4, pretrain/VIDEO/CLIP.mp4, and lists train.txt, val.txt, test.txt of VIDEO/CLIP
    LRS3: pretrain/VIDEO/CLIP.mp4, trainval/VIDEO/CLIP.mp4, test/VIDEO/CLIP.mp4
The .txt has `Text:`, `Conf:` and, below WORD START END ASDSCORE, a row for each word. Clips of pretrain/ may last minutes, so
they are split between words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avsr.corpora.files import assign_splits, files_below, recordings, wrong_layout
from avsr.errors import BadManifest
from avsr.folders import Sidecars, find_path
from avsr.manifest import Corpus, Dropped, TimedWord, Utterance
from avsr.textfiles import NotText, read_text

PARTS = {"main": None, "pretrain": "train", "trainval": "train", "test": "test"}     # main: by the lists
LISTS = {"train.txt": "train", "val.txt": "valid", "test.txt": "test"}
PAD_S = 0.2                                                 # kept before and after a segment if the pause is long enough


@dataclass(frozen=True)
class _Transcript:
    text: str
    confidence: str | None
    words: tuple[TimedWord, ...] | None


def read(folder: Path, *, split_list: Path | None = None, max_seconds: float = 12.0) -> Corpus:
    """LRS2 or LRS3, or a part of it, as utterances. The text is as written, without marks such as {NS}; the video is the
    speaker.

    split_list: a table with the columns utterance (PART/VIDEO/CLIP) and split; without it the lists of the corpus apply, and
    pretrain/ and trainval/ are `train`. max_seconds: roughly the longest segment of a clip of pretrain/. Raises BadManifest.
    """
    folder = Path(folder).resolve()
    paths, dropped = recordings(folder)
    lists, files = _lists(folder), files_below(folder)
    texts = Sidecars(files, paths)
    found: list[tuple[str, Utterance]] = []
    clips = [path for path in paths if path.suffix.lower() == ".mp4" and _part(path, folder) in PARTS]
    for path in clips:
        name = path.relative_to(folder).with_suffix("").as_posix()
        transcript = _transcript(texts.find(path, ".txt"))
        split = PARTS[_part(path, folder)] or lists.get(name.partition("/")[2], "train" if split_list else None)
        if isinstance(transcript, str):
            dropped.append(Dropped(path.as_posix(), transcript))
        elif split is None:
            dropped.append(Dropped(path.as_posix(), f"in none of {', '.join(LISTS)} beside main/"))
        elif name.startswith("pretrain/") and transcript.words is None:
            dropped.append(Dropped(path.as_posix(), "no times of words to cut it by"))
        else:
            found += [(name, row) for row in _utterances(path, name, split, transcript, max_seconds)]
    if paths and not clips:
        raise wrong_layout(folder, "LRS2's or LRS3's clips, such as pretrain/VIDEO/00001.mp4")
    stems = {path.with_suffix("") for path in clips}         # sound beside its video is not another clip
    dropped += [Dropped(path.as_posix(), "no .mp4 at PART/VIDEO/CLIP.mp4") for path in paths
                if path not in clips and path.with_suffix("") not in stems]
    used = {texts.find(path, ".txt") for path in paths}
    alone = [path for path in files if path.suffix.lower() == ".txt" and _part(path, folder) in PARTS and path not in used]
    dropped += [Dropped(path.as_posix(), "no .mp4 beside it") for path in alone]
    dropped += _not_there(folder, {path.with_suffix("") for path in [*paths, *alone]}, lists)
    if split_list is None:
        return Corpus([row for _, row in found], dropped)
    corpus = assign_splits(found, Path(split_list))
    return Corpus(corpus.utterances, dropped + corpus.dropped)


def _lists(folder: Path) -> dict[str, str]:
    """The split of each VIDEO/CLIP in the lists of the corpus. Raises BadManifest."""
    lists = {}
    for name, split in LISTS.items():
        path = find_path(folder, name)
        if path is None or not path.is_file():
            continue
        try:
            lines = read_text(path).splitlines()
        except (OSError, NotText) as error:
            raise BadManifest(f"{path}: no list of clips that can be read ({error}).  Save the file as UTF-8.") from error
        lists.update((line.split()[0], split) for line in lines if line.strip())
    return lists


def _part(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) == 3 else ""


def _transcript(path: Path | None) -> _Transcript | str:
    """The transcript in a .txt file, or the reason why it cannot be used."""
    if path is None:
        return "no .txt beside it"
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, NotText):
        return "its .txt is no UTF-8 text"
    heads = {key.strip().lower(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
    if "text" not in heads:
        return "its .txt holds no line Text:"
    text = " ".join(word for word in heads["text"].split() if not _is_mark(word))
    if not text:
        return "its text is empty"
    try:
        start = next((i for i, line in enumerate(lines) if line.split()[:3] == ["WORD", "START", "END"]), len(lines))
        rows = [line.split() for line in lines[start + 1:] if line]
        words = tuple(TimedWord(row[0], float(row[1]), float(row[2])) for row in rows if not _is_mark(row[0]))
        if any(not 0 <= word.start <= word.end < float("inf") for word in words):
            raise ValueError
    except (ValueError, IndexError):
        return "its table of words has a row that is not word, start, end"
    if words and " ".join(word.text for word in words) != text:
        return "its table of words does not say what its text says"
    return _Transcript(text, heads.get("conf") or None, words or None)


def _is_mark(word: str) -> bool:
    """Whether this is a mark of a noise ({NS}) or of laughter ({LG})."""
    return word.startswith("{") and word.endswith("}")


def _utterances(path: Path, name: str, split: str, transcript: _Transcript, max_seconds: float) -> list[Utterance]:
    part, video, clip = name.split("/")
    id_ = f"{part}_{video}_{clip}"
    labels = {"part": part} | ({"confidence": transcript.confidence} if transcript.confidence else {})
    if part != "pretrain":
        return [Utterance(id_, path.as_posix(), transcript.text, video, split, words=transcript.words, labels=labels)]
    assert transcript.words is not None, "clips of pretrain/ without times of words are dropped before"
    out = []
    for first, last in _segments(transcript.words, max_seconds):
        words = transcript.words[first:last + 1]
        start, end = _span(transcript.words, first, last)
        timed = tuple(TimedWord(word.text, *(round(max(0.0, time - start), 3) for time in (word.start, word.end)))
                      for word in words)
        out.append(Utterance(f"{id_}.{len(out)}", path.as_posix(), " ".join(word.text for word in timed), video, split,
                             start=start, end=end, words=timed, labels=labels))
    return out


def _span(words: tuple[TimedWord, ...], first: int, last: int) -> tuple[float, float]:
    """The start and the end of a segment in seconds, with up to PAD_S of the pauses around it, but at most half of each."""
    before = words[first - 1].end if first else 0.0
    after = words[last + 1].start if last + 1 < len(words) else words[last].end            # nothing after the end of the clip
    start = words[first].start - min(PAD_S, max(0.0, words[first].start - before) / (2 if first else 1))
    end = words[last].end + min(PAD_S, max(0.0, after - words[last].end) / 2)
    return round(start, 3), round(max(end, start + 0.04), 3)


def _segments(words: tuple[TimedWord, ...], max_seconds: float) -> list[tuple[int, int]]:
    """The first and the last word of each segment: as many words as fit, and then back to the longest pause in its second
    half."""
    out, first = [], 0
    while first < len(words):
        last = first
        while last + 1 < len(words) and words[last + 1].end - words[first].start <= max_seconds - 2 * PAD_S:
            last += 1
        if last + 1 < len(words):
            last = max(range((first + last + 1) // 2, last + 1), key=lambda i: (words[i + 1].start - words[i].end, i))
        out.append((first, last))
        first = last + 1
    return out


def _not_there(folder: Path, there: set[Path], lists: dict[str, str]) -> list[Dropped]:
    """The lines of the lists for which there is neither a clip nor a text."""
    if not (folder / "main").is_dir():
        return []
    return [Dropped(f"main/{name}", f"listed as {split}, but there is no clip") for name, split in lists.items()
            if folder / "main" / name not in there]
