"""Corpora: every clip becomes an utterance or a line of what was dropped, and real folders give what they are known to hold."""

import csv
import json
import os
from collections import Counter
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsr import manifest
from avsr.corpora import CORPORA, folder, grid, lombard, lrs, tcd_timit
from avsr.errors import BadManifest
from avsr.manifest import TimedWord


def make(root: Path, *names: str, content: str = "x") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


def splits(corpus) -> dict[str, str]:
    return {row.id: row.split for row in corpus.utterances}


def reasons(corpus, root: Path) -> dict[str, str]:
    """Reasons by item, from the folder on."""
    return {item.item.removeprefix(f"{root.resolve().as_posix()}/"): item.reason for item in corpus.dropped}


@pytest.mark.parametrize("name", CORPORA)
def test_a_folder_that_is_not_the_corpus_is_refused_with_what_was_found(name, tmp_path):
    read = CORPORA[name]
    with pytest.raises(BadManifest, match=r"nothere: no such folder\.  "):
        read(tmp_path / "nothere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadManifest, match=r"empty: looked for recordings .*, found it empty\.  "):
        read(tmp_path / "empty")
    make(tmp_path / "films", "film.mp4", "notes.md")
    with pytest.raises(BadManifest, match=r"films: looked for .*, found 2 files, such as 'film.mp4'\.  "):
        read(tmp_path / "films")
    with pytest.raises(BadManifest, match=r"notes.md: (is a file|neither a folder nor a table)\.  "):
        read(tmp_path / "films" / "notes.md")


@pytest.mark.parametrize("name", CORPORA)
def test_a_folder_of_empty_files_is_all_dropped(name, tmp_path):
    corpus = CORPORA[name](make(tmp_path, "s1/bbaf2n.mpg", content=""))
    assert corpus.utterances == []
    assert reasons(corpus, tmp_path) == {"s1/bbaf2n.mpg": "the file is empty (0 bytes), as half a copy is"}


def test_real_grid_is_what_its_table_says(real_data):
    corpus = grid.read(real_data / "grid")
    with (real_data / "grid" / "splits.tsv").open() as file:
        rows = {f"{row['speaker']}_{row['utterance']}": row for row in csv.DictReader(file, delimiter="\t")}
    assert corpus.dropped == []
    assert splits(corpus) == {id_: row["split"] for id_, row in rows.items()}
    assert {row.id: row.text for row in corpus.utterances} == {id_: row["text"] for id_, row in rows.items()}
    assert {row.id for row in corpus.utterances if row.words} == {id_ for id_, row in rows.items() if row["has_align"] == "1"}
    assert [problem for row in corpus.utterances for problem in manifest.check(row)] == []
    assert manifest.check_all(corpus.utterances) == []
    first = corpus.utterances[0]
    assert first.words[0] == TimedWord("bin", 23750 / 25000, 29500 / 25000)
    assert (first.id, first.speaker, Path(first.media)) == ("s1_bbaf2n", "s1", (real_data / "grid/s1/bbaf2n.mkv").resolve())


def test_real_words_follow_one_another_within_the_clip(real_data):
    for row in grid.read(real_data / "grid").utterances:
        times = [time for word in row.words or () for time in (word.start, word.end)]
        assert times == sorted(times)
        assert all(0 <= time <= 3.05 for time in times)


def test_real_lombard_speech(real_data):
    corpus = lombard.read(real_data / "lombard_audio")
    assert len(corpus.utterances) + len(corpus.dropped) == 221
    assert [item.reason for item in corpus.dropped] == ["its name says that another sentence was spoken"] * 2
    assert Counter(row.split for row in corpus.utterances) == {"train": 159, "test": 60}
    assert {row.speaker for row in corpus.utterances} == {f"lombard-s{number}" for number in range(30, 41)}
    first = corpus.utterances[0]
    assert (first.id, first.text, first.labels) == ("lombard-s30_l_bbbm4a", "bin blue by m four again", {"style": "lombard"})


BBAF2N = ("bin", "blue", "at", "f", "two", "now")
LETTERS = st.tuples(*(st.sampled_from(sorted(words)) for words in grid.WORDS)).map("".join)


@given(LETTERS)
def test_a_sentence_is_its_names_words(name):
    words = grid.sentence(name).split()
    letters = [{word: letter for letter, word in said.items()} for said in grid.WORDS]
    assert [letter[word] for letter, word in zip(letters, words, strict=True)] == list(name)


@given(st.text(alphabet="bglprswainz19x_", max_size=8))
def test_other_names_are_no_sentences(name):
    known = len(name) == 6 and all(letter in words for letter, words in zip(name, grid.WORDS, strict=True))
    assert (grid.sentence(name) is not None) == known


def test_every_published_layout_of_grid_is_read(tmp_path):
    make(tmp_path, "s1/bbaf2n.mpg", "s2_processed/bbaf2n.mpg", "s3/video/mpg_6000/bbaf2n.mpg", "audio_25k/s4/bbaf2n.wav",
         "S5/BBAF2N.MP4", "audio_25k/s1/bbaf2n.wav", "s1/._bbaf2n.mpg", ".trash/s9/bbaf2n.mpg")
    (tmp_path / "s6").symlink_to(make(tmp_path.with_name(f"{tmp_path.name}-elsewhere"), "bbaf3s.avi"))
    corpus = grid.read(tmp_path)
    assert {row.id: Path(row.media).relative_to(tmp_path.resolve()).as_posix() for row in corpus.utterances} == {
        "s1_bbaf2n": "s1/bbaf2n.mpg", "s2_bbaf2n": "s2_processed/bbaf2n.mpg", "s3_bbaf2n": "s3/video/mpg_6000/bbaf2n.mpg",
        "s4_bbaf2n": "audio_25k/s4/bbaf2n.wav", "s5_bbaf2n": "S5/BBAF2N.MP4", "s6_bbaf3s": "s6/bbaf3s.avi"}
    assert corpus.dropped == []
    assert [row.id for row in grid.read(tmp_path / "s1").utterances] == ["s1_bbaf2n"]


def test_what_grid_cannot_use_is_listed(tmp_path):
    make(tmp_path, "s1/bbaf2n.mpg", "s1/bbaf2n.avi", "s1/holiday.mpg", "s1/bbaw3s.mpg", "bbaf3s.mpg")
    make(tmp_path, "s1/bbaf3s.mpg", content="")
    corpus = grid.read(tmp_path)
    assert [row.id for row in corpus.utterances] == ["s1_bbaf2n"]
    assert reasons(corpus, tmp_path) == {
        "s1/bbaf2n.avi": f"the same speaker and sentence as {tmp_path.resolve()}/s1/bbaf2n.mpg",
        "s1/holiday.mpg": "its name is no GRID sentence, such as bbaf2n",
        "s1/bbaw3s.mpg": "its name is no GRID sentence, such as bbaf2n",
        "bbaf3s.mpg": "it lies in no folder of a speaker, such as s1",
        "s1/bbaf3s.mpg": "the file is empty (0 bytes), as half a copy is"}


@pytest.mark.parametrize(("align", "reason"), [
    ("0 100 sil\n100 200 bin\n200 300 red\n", "times of words not used: they are of 'bin red'"),
    ("0 100 sil\n100 200\n", "times of words not used: not three columns of start, end and word"),
    ("\n".join(f"200 100 {word}" for word in BBAF2N), "times of words not used: they run backwards"),
])
def test_times_of_other_words_are_not_used(tmp_path, align, reason):
    make(make(tmp_path, "s1/bbaf2n.mpg"), "s1/bbaf2n.align", content=align)
    corpus = grid.read(tmp_path)
    assert corpus.utterances[0].words is None
    assert reasons(corpus, tmp_path) == {"s1/bbaf2n.align": reason}


def test_published_alignments_are_left_alone(tmp_path):
    make(make(tmp_path, "s1/bbaf2n.mpg"), "alignments/s1/bbaf2n.align", "s1/align/bbaf2n.align",
         content="\n".join(f"100 200 {word}" for word in BBAF2N))
    assert grid.read(tmp_path).utterances[0].words is None


def test_grid_is_split_as_published(tmp_path):
    make(tmp_path, *(f"s{speaker}/bbaf{digit}n.mpg" for speaker in (1, 3, 22) for digit in range(1, 10)))
    assert Counter((row.speaker, row.split) for row in grid.read(tmp_path).utterances) == {
        ("s1", "test"): 9, ("s3", "train"): 9, ("s22", "test"): 9}
    assert grid.read(tmp_path, split_list="unseen") == grid.read(tmp_path)
    assert {row.split for row in grid.read(tmp_path / "s1").utterances} == {"test"}      # fewer than 255: all are drawn
    with pytest.raises(BadManifest, match="mine: no such split list"):
        grid.read(tmp_path, split_list="mine")


def test_seen_draws_255_of_each_speaker_whatever_else_is_there(tmp_path):
    names = [f"{a}{b}a{letter}{digit}n" for a in "bl" for b in "bg" for letter in "abcdefgh" for digit in range(1, 10)]
    make(tmp_path, *(f"s3/{name}.mpg" for name in names), *(f"s1/{name}.mpg" for name in names[:270]))
    both = grid.read(tmp_path, split_list="seen")
    assert Counter((row.speaker, row.split) for row in both.utterances) == {
        ("s1", "test"): 255, ("s1", "train"): 15, ("s3", "test"): 255, ("s3", "train"): 33}
    alone = grid.read(tmp_path / "s3", split_list="seen")
    assert splits(alone).items() <= splits(both).items()


def test_a_split_list_decides_and_what_it_does_not_fit_is_listed(tmp_path):
    make(tmp_path, "s1/bbaf2n.mpg", "s1/bbaf3s.mpg", "s1/bbaf4p.mpg", "s1/bbaf5a.mpg")
    table = tmp_path / "list.csv"
    table.write_text("speaker,utterance,split,text\ns1,bbaf2n,dev,\ns1,bbaf3s,test,bin blue at f three soon\n"
                     "s1,bbaf4p,test,bin blue\ns9,bbaf2n,test,\n")
    corpus = grid.read(tmp_path, split_list=table)
    assert splits(corpus) == {"s1_bbaf2n": "valid", "s1_bbaf3s": "test"}
    assert reasons(corpus, tmp_path) == {
        "s1/bbaf4p.mpg": "list.csv has 'bin blue', its name 'bin blue at f four please'", "s1/bbaf5a.mpg": "not in list.csv",
        "s9/bbaf2n": "in list.csv, but there is no recording"}
    table.write_text("speaker,name\ns1,bbaf2n\n")
    with pytest.raises(BadManifest, match=r"no column 'utterance' among name, speaker\.  "):
        grid.read(tmp_path, split_list=table)


def test_lombard_views_and_sound(tmp_path):
    make(tmp_path, "front/s2_l_bbim3a.mov", "side/s2_l_bbim3a.mov", "audio/s2_l_bbim3a.wav", "audio/s2_p_bbim4a.wav",
         "audio/s2_l_xxim3a.wav", "front/s38_p_bbim3a.mov")
    corpus = lombard.read(tmp_path)
    assert {row.id: (row.speaker, row.split, row.labels) for row in corpus.utterances} == {
        "lombard-s2_l_bbim3a": ("lombard-s2", "train", {"style": "lombard", "view": "front"}),
        "lombard-s2_l_bbim3a-side": ("lombard-s2", "train", {"style": "lombard", "view": "side"}),
        "lombard-s2_p_bbim4a": ("lombard-s2", "train", {"style": "plain"}),
        "lombard-s38_p_bbim3a": ("lombard-s38", "test", {"style": "plain", "view": "front"})}
    assert reasons(corpus, tmp_path) == {"audio/s2_l_xxim3a.wav": "its name is not of the kind s30_l_bbbm4a"}
    table = tmp_path / "list.tsv"
    table.write_text("speaker\tutterance\tsplit\ns2\ts2_l_bbim3a\tvalid\n")
    chosen = lombard.read(tmp_path, split_list=table)
    assert [(row.speaker, row.split) for row in chosen.utterances] == [("lombard-s2", "valid")] * 2
    assert len(chosen.dropped) == 3


def lrs_text(words, times, text=None) -> str:
    rows = "".join(f"{word} {start:.2f} {end:.2f} 5.0\n" for word, (start, end) in zip(words, times, strict=True))
    return f"Text:  {text or ' '.join(words)}\nConf:  4\n\nWORD START END ASDSCORE\n{rows}"


def test_lrs2_goes_by_its_lists(tmp_path):
    make(tmp_path, *(f"main/55/0000{clip}.mp4" for clip in (1, 2, 3, 4, 5, 6)))
    make(tmp_path, *(f"main/55/0000{clip}.txt" for clip in (1, 2, 3, 4)), "main/66/00009.txt",
         content="Text:  IT'S {NS} SO\nConf: 3\n")
    make(tmp_path, "main/55/00006.txt", content="nothing of the kind")
    make(tmp_path, "train.txt", content="55/00001\n")
    make(tmp_path, "val.txt", content="55/00002\n55/00008\n")
    make(tmp_path, "test.txt", content="55/00003 NF\n55/00006\n")
    corpus = lrs.read(tmp_path)
    assert splits(corpus) == {"main_55_00001": "train", "main_55_00002": "valid", "main_55_00003": "test"}
    row = corpus.utterances[0]
    assert (row.text, row.speaker, row.start, row.words) == ("IT'S SO", "55", None, None)
    assert row.labels == {"part": "main", "confidence": "3"}
    assert reasons(corpus, tmp_path) == {
        "main/55/00004.mp4": "in none of train.txt, val.txt, test.txt beside main/", "main/55/00005.mp4": "no .txt beside it",
        "main/55/00006.mp4": "its .txt holds no line Text:", "main/66/00009.txt": "no .mp4 beside it",
        "main/55/00008": "listed as valid, but there is no clip"}


def test_lrs3_parts_and_times(tmp_path):
    make(tmp_path, "trainval/a-_B/50001.mp4", "test/c/50001.mp4", "test/c/50001.wav", "pretrain/d/50001.mp4", "stray.mp4")
    times = [(0.5, 0.7), (0.7, 1.0)]
    make(tmp_path, "trainval/a-_B/50001.txt", "test/c/50001.txt", content=lrs_text(["SO", "IT"], times))
    make(tmp_path, "pretrain/d/50001.txt", content="Text:  SO IT\n")
    corpus = lrs.read(tmp_path)
    assert splits(corpus) == {"trainval_a-_B_50001": "train", "test_c_50001": "test"}
    assert corpus.utterances[0].words == (TimedWord("IT", 0.7, 1.0), TimedWord("SO", 0.5, 0.7))[::-1]
    assert reasons(corpus, tmp_path) == {"pretrain/d/50001.mp4": "no times of words to cut it by",
                                         "stray.mp4": "no .mp4 at PART/VIDEO/CLIP.mp4"}
    table = tmp_path / "list.tsv"
    table.write_text("utterance\tsplit\ntest/c/50001\tunseen\n")
    assert splits(lrs.read(tmp_path, split_list=table)) == {"test_c_50001": "unseen"}


@pytest.mark.parametrize(("content", "reason"), [
    (lrs_text(["SO"], [(2, 1)]), "its table of words has a row that is not word, start, end"),
    ("Text: SO\nWORD START END ASDSCORE\nSO 1\n", "its table of words has a row that is not word, start, end"),
    (lrs_text(["SO"], [(0, 1)], text="OTHER"), "its table of words does not say what its text says"),
    ("Text:  {LG}\n", "its text is empty"),
])
def test_damaged_transcripts_of_lrs_are_listed(tmp_path, content, reason):
    make(make(tmp_path, "pretrain/d/50001.mp4"), "pretrain/d/50001.txt", content=content)
    corpus = lrs.read(tmp_path)
    assert (corpus.utterances, reasons(corpus, tmp_path)) == ([], {"pretrain/d/50001.mp4": reason})


LENGTHS = st.lists(st.tuples(st.integers(0, 200), st.integers(2, 90)), min_size=1, max_size=60)


@pytest.mark.slow
@given(LENGTHS, st.floats(2, 20))
def test_long_clips_are_cut_between_words_and_nothing_is_lost(tmp_path_factory, lengths, max_seconds):
    root = tmp_path_factory.getbasetemp() / "lrs"
    words, times, now = [], [], 0
    for i, (pause, length) in enumerate(lengths):
        times.append(((now + pause) / 100, (now + pause + length) / 100))
        words.append(f"W{i}")
        now += pause + length
    make(make(root, "pretrain/v/00001.mp4"), "pretrain/v/00001.txt", content=lrs_text(words, times))
    rows = lrs.read(root, max_seconds=max_seconds).utterances
    assert " ".join(row.text for row in rows).split() == words
    assert [row.id for row in rows] == [f"pretrain_v_00001.{i}" for i in range(len(rows))]
    there = [(row.start + word.start, row.start + word.end) for row in rows for word in row.words]
    assert sum(there, ()) == pytest.approx(sum(times, ()), abs=2e-3)
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        assert row.end - row.start <= max_seconds + 0.01
        assert after is None or row.end <= after.start + 0.041
        assert row.words[-1].end <= row.end - row.start + 2e-3


def test_the_cut_is_at_the_longest_pause(tmp_path):
    times = [(i + (0.5 if i >= 7 else 0), i + (0.5 if i >= 7 else 0) + 0.9) for i in range(12)]
    make(make(tmp_path, "pretrain/v/1.mp4"), "pretrain/v/1.txt", content=lrs_text([f"W{i}" for i in range(12)], times))
    first, second = lrs.read(tmp_path, max_seconds=10).utterances
    assert first.text.split()[-1] == "W6"
    assert (first.end, second.start) == (7.1, 7.3)


MLF = '#!MLF!#\n"Q:/Videos/TCD-TIMIT/volunteers/01M/Clips/straightcam/si1.rec"\n'


def test_tcd_timit_takes_words_wherever_they_are(tmp_path):
    clips = "volunteers/01M/Clips/straightcam"
    make(tmp_path, *(f"{clips}/{name}.mp4" for name in ("sa1", "sa2", "sx3", "si1", "sx9")), f"{clips}/sa1.wav",
         "volunteers/56M/Clips/30degcam/sa1.mp4", "lipspeakers/Lipspkr1/Clips/straightcam/sa1.mp4", "intro.mp4")
    make(tmp_path, f"{clips}/sa1.txt", content="0 46797 She had your dark suit.\n")
    make(tmp_path, f"{clips}/sa2.lab", content="0 2000000 sil\n2000000 5000000 Don't\n5000000 7500000 ask\n")
    make(tmp_path, f"{clips}/sx3.lab", content="Plain\nwords\n")
    make(tmp_path, "words.mlf", content=f"{MLF}0 10000000 Long\n10000000 20000000 ago\n.\n")
    make(tmp_path, "prompts.txt", content="; of TIMIT\nShe had her dark suit. (sa1)\n")
    corpus = tcd_timit.read(tmp_path)
    assert {row.id: row.text for row in corpus.utterances} == {
        "01M_sa1": "She had your dark suit.", "01M_sa2": "Don't ask", "01M_si1": "Long ago", "01M_sx3": "Plain words",
        "56M_sa1_30": "She had her dark suit.", "Lipspkr1_sa1": "She had her dark suit."}
    rows = {row.id: row for row in corpus.utterances}
    assert rows["01M_sa2"].words == (TimedWord("Don't", 0.2, 0.5), TimedWord("ask", 0.5, 0.75))
    assert rows["01M_sa1"].words is None
    assert rows["56M_sa1_30"].labels == {"group": "volunteer", "view": "30 degrees"}
    assert [row.id for row in corpus.utterances if row.split == "test"] == ["56M_sa1_30"]
    assert reasons(corpus, tmp_path) == {
        f"{clips}/sx9.mp4": "no words: no .txt or .lab beside it, in no .mlf of words, no prompts.txt",
        "intro.mp4": "not of the kind 56M/Clips/straightcam/sa1.mp4"}


def test_phonemes_are_no_words(tmp_path):
    make(tmp_path, "volunteers/01M/Clips/straightcam/si1.mp4")
    make(tmp_path, "volunteer_labelfiles.mlf", content=f"{MLF}0 10 sil\n10 20 sh\n20 30 iy\n30 40 sil\n.\n")
    with pytest.raises(BadManifest, match=r"1 clips and words for none of them .*prompts.txt"):
        tcd_timit.read(tmp_path)


def test_own_clips_with_a_text_beside_each(tmp_path):
    make(tmp_path, "a.mp4", "anna/b.MOV", "valid/ben/c.mkv", "test/d.wav", "anna/b.wav", "silent.mp4", "blank.mp4", "bad.mp4")
    make(tmp_path, "a.txt", "anna/b.txt", "valid/ben/c.txt", "test/d.txt", "README.txt", content="\ufeff Hello,\r\n  world \n")
    make(tmp_path, "blank.txt", content=" \n")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    corpus = folder.read(tmp_path)
    assert {row.id: (row.speaker, row.split, row.text) for row in corpus.utterances} == {
        "a": (None, "train", "Hello, world"), "anna/b": ("anna", "train", "Hello, world"),
        "test/d": (None, "test", "Hello, world"), "valid/ben/c": ("ben", "valid", "Hello, world")}
    assert reasons(corpus, tmp_path) == {
        "silent.mp4": "no .txt beside it", "blank.mp4": "its .txt is empty", "bad.mp4": "its .txt is no UTF-8 text",
        "README.txt": "no recording beside it"}
    table = tmp_path / "list.tsv"
    table.write_text("utterance\tsplit\na\ttest\n")
    assert splits(folder.read(tmp_path, split_list=table)) == {"a": "test"}


ROWS = [{"media": "a.mp4", "text": "Hello,  you", "speaker": "anna", "split": "dev", "accent": "Cork"},
        {"media": "b.mp4", "text": "one", "start": "0", "end": "1.5"},
        {"media": "b.mp4", "text": "two", "start": "1.5", "end": "3"},
        {"media": "https://x.org/c.mp4", "text": "le \u2028 mot", "language": "fr", "id": "c"},
        {"media": "gone.mp4", "text": "x"}, {"media": "a.mp4"}, {"media": "b.mp4", "text": "x", "start": "3", "end": "2"},
        {"media": "b.mp4", "text": "x", "start": "soon"}, {"media": "b.mp4", "text": "x", "start": "0"},
        {"media": "empty.mp4", "text": "x"}]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_own_clips_by_a_table(tmp_path, kind):
    make(make(tmp_path, "a.mp4", "b.mp4"), "empty.mp4", content="")
    path = tmp_path / f"metadata.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["media", "text", "speaker", "split", "start", "end", "language", "id", "accent"],
                                    delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    corpus = folder.read(tmp_path)
    assert folder.read(path) == corpus
    a, one, two, c = corpus.utterances
    assert (a.text, a.speaker, a.split, a.labels) == ("Hello, you", "anna", "valid", {"accent": "Cork"})
    assert Path(a.media) == (tmp_path / "a.mp4").resolve()
    assert [(row.id, row.start, row.end) for row in (one, two)] == [("b@0", 0.0, 1.5), ("b@1.5", 1.5, 3.0)]
    assert (c.id, c.media, c.text, c.language) == ("c", "https://x.org/c.mp4", "le mot", "fr")
    assert [item.reason for item in corpus.dropped] == [
        "no such file", "no text", "start 3, end 2: not one after the other", "start soon, end None: no numbers of seconds",
        "the id b@0 is taken", "the file is empty (0 bytes)"]
    assert corpus.dropped[0].item.endswith(f"metadata.{kind}: row 5: gone.mp4")


@pytest.mark.parametrize(("name", "content", "message"), [
    ("t.csv", "media,text\na.mp4,Hello, you\n", "t.csv, line 2: 3 cells, where the header has 2"),
    ("t.csv", "", "no column 'media' among none"),
    ("t.csv", "media,words\na.mp4,x\n", "no column 'text' among media, words"),
    ("t.jsonl", "[1]\n", "t.jsonl, line 1: .1., where an object in braces belongs"),
    ("t.jsonl", '{"media": "a', "t.jsonl, line 1: cut off after 12 letters"),
])
def test_tables_that_cannot_be_read_say_why(tmp_path, name, content, message):
    with pytest.raises(BadManifest, match=message):
        folder.read(make(tmp_path, name, content=content) / name)


def test_a_name_that_is_no_utf8_is_dropped_and_can_be_listed(tmp_path):
    make(tmp_path, "s3/bbaf2n.mpg")
    Path(str(tmp_path / "s3") + "/bbaf3\udcff.mpg").write_bytes(b"x")
    corpus = grid.read(tmp_path)
    assert [item.reason for item in corpus.dropped] == ["its name is no UTF-8"]
    manifest.write_dropped(tmp_path / "dropped.tsv", corpus.dropped)
    assert "bbaf3\\udcff.mpg\tits name is no UTF-8" in (tmp_path / "dropped.tsv").read_text()


def test_capitals_and_accents_as_cameras_and_macs_write_them(tmp_path):
    make(tmp_path, "CLIP1.WAV", "Anna/Clip2.MP4", f"{normalize('NFD', 'Zoë')}/{normalize('NFD', 'é')}.wav")
    make(tmp_path, "CLIP1.TXT", "Anna/clip2.TXT", f"{normalize('NFD', 'Zoë')}/é.txt", content="bin blue")
    corpus = folder.read(tmp_path)
    assert [(row.id, row.speaker) for row in corpus.utterances] == [("Anna/Clip2", "Anna"), ("CLIP1", None), ("Zoë/é", "Zoë")]
    assert corpus.dropped == []
    make(tmp_path, "list.csv", content="Utterance,Split\nZoë/é,TEST\nCLIP1,Dev\n")
    assert splits(folder.read(tmp_path, split_list=tmp_path / "list.csv")) == {"CLIP1": "valid", "Zoë/é": "test"}
    make(tmp_path, "Metadata.CSV", content="Media;Text;Speaker\nclip1.wav;bin blue;Anna\nanna\\clip2.mp4;lay;Anna\n"
                                           f"Zoë/{normalize('NFD', 'é')}.wav;set;Zoë\n")
    corpus = folder.read(tmp_path)
    assert [(row.id, Path(row.media).name) for row in corpus.utterances] == [
        ("clip1", "CLIP1.WAV"), ("anna\\clip2", "Clip2.MP4"), ("Zoë/é", normalize("NFD", "é.wav"))]
    assert corpus.dropped == []


@pytest.mark.parametrize("name", CORPORA)
def test_links_to_folders_above_come_to_an_end(tmp_path, name):
    clips = {"grid": "s1/bbaf2n.mpg", "lombard": "s1/s2_l_bbim3a.wav", "tcd-timit": "01M/Clips/straightcam/sa1.wav",
             "lrs2": "main/55/00001.mp4", "lrs3": "test/c/50001.mp4", "folder": "anna/c.wav"}
    path = make(tmp_path / "corpus", clips[name]) / clips[name]
    path.with_suffix(".txt").write_text("Text: BIN BLUE")
    make(tmp_path / "corpus", "test.txt" if name == "lrs2" else "notes", content="55/00001")
    for link in ("up", "above"):
        (path.parent / link).symlink_to(tmp_path / "corpus")
        (path.parent / f"{link}-more").symlink_to(tmp_path)
    corpus = CORPORA[name](tmp_path / "corpus")
    assert [Path(row.media) for row in corpus.utterances] == [path.resolve()]


def test_links_that_lead_nowhere_and_pipes_are_listed(tmp_path):
    make(tmp_path, "a.wav", "a.txt")
    (tmp_path / "b.wav").symlink_to("annexed/object")
    os.mkfifo(tmp_path / "c.wav")
    os.mkfifo(tmp_path / "a.align")
    corpus = folder.read(tmp_path)
    assert [row.id for row in corpus.utterances] == ["a"]
    assert reasons(corpus, tmp_path) == {"b.wav": "a link to a file that is not there",
                                         "c.wav": "a pipe or a device, not a file"}
    make(tmp_path, "metadata.csv", content="media,text\na.wav,x\nb.wav,x\nc.wav,x\n")
    assert [item.reason for item in folder.read(tmp_path).dropped] == ["no such file", "this is no file"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_texts_of_corpora_may_have_a_byte_order_mark(tmp_path, encoding):
    def text(name: str, content: str) -> None:
        (tmp_path / name).write_bytes(content.replace("\n", "\r\n").encode(encoding))

    make(tmp_path, "s1/bbaf2n.mpg", "main/55/00001.mp4", "01M/sa1.wav", "01M/sa2.wav", "01M/sx3.wav")
    text("s1/bbaf2n.align", "".join(f"{i}00 {i + 1}00 {word}\n" for i, word in enumerate(BBAF2N, 1)))
    assert len(grid.read(tmp_path / "s1").utterances[0].words) == 6
    text("main/55/00001.txt", "Text:  SO ÉTÉ\n")
    text("val.txt", "55/00001\n")
    assert [(row.text, row.split) for row in lrs.read(tmp_path).utterances] == [("SO ÉTÉ", "valid")]
    text("01M/sa1.lab", "Don't\nask\n")
    text("prompts.txt", "Été. (sa2)\n")
    text("words.mlf", '#!MLF!#\n"Q:/01M/sx3.rec"\nLong\nago\n.\n')
    assert {row.id: row.text for row in tcd_timit.read(tmp_path / "01M").utterances} == {"01M_sa1": "Don't ask"}
    assert {row.id: row.text for row in tcd_timit.read(tmp_path).utterances} == {
        "01M_sa1": "Don't ask", "01M_sa2": "Été.", "01M_sx3": "Long ago"}


def test_texts_in_another_encoding_are_not_taken_for_other_words(tmp_path):
    cafe = "Café".encode("windows-1252")
    make(tmp_path, "01M/sa1.wav", "01M/sa2.wav", "main/55/00001.mp4", "a.wav")
    for name in ("01M/sa1.lab", "main/55/00001.txt", "a.txt"):
        (tmp_path / name).write_bytes(b"Text: " * name.startswith("main") + cafe)
    (tmp_path / "prompts.txt").write_bytes(cafe + b" (sa1)\nask (sa2)\n")
    (tmp_path / "01M/sa2.txt").write_text("ask me")
    corpus = tcd_timit.read(tmp_path)
    assert [row.id for row in corpus.utterances] == ["01M_sa2"]
    assert reasons(corpus, tmp_path)["prompts.txt"] == "no text that can be read: byte 3 is no UTF-8"
    assert reasons(lrs.read(tmp_path), tmp_path)["main/55/00001.mp4"] == "its .txt is no UTF-8 text"
    assert reasons(folder.read(tmp_path), tmp_path)["a.wav"] == "its .txt is no UTF-8 text"
    (tmp_path / "val.txt").write_bytes(cafe)
    with pytest.raises(BadManifest, match=r"val\.txt: no list of clips that can be read \(byte 3 is no UTF-8\)\.  Save"):
        lrs.read(tmp_path)


def test_a_split_list_that_contradicts_itself_or_lacks_a_cell_says_so(tmp_path):
    make(tmp_path, "a.wav", "a.txt", "b.wav", "b.txt")
    path = make(tmp_path, "list.tsv", content="utterance\tsplit\na\ttrain\na\ttrain\nb\t\n\ttest\n") / "list.tsv"
    corpus = folder.read(tmp_path, split_list=path)
    assert splits(corpus) == {"a": "train"}
    assert {item.item.split("/")[-1]: item.reason for item in corpus.dropped} == {
        "list.tsv: row 3: b": "no split", "list.tsv: row 4: ": "no utterance", "b.wav": "not in list.tsv"}
    path.write_text("utterance\tsplit\na\ttrain\na\ttest\n")
    with pytest.raises(BadManifest, match=r"list\.tsv: row 2: a is in split 'test', and in 'train' above\.  Take one"):
        folder.read(tmp_path, split_list=path)


def test_what_the_readers_give_is_a_manifest(tmp_path, real_data):
    for name, place in (("grid", "grid"), ("lombard", "lombard_audio")):
        utterances = CORPORA[name](real_data / place).utterances
        manifest.write(tmp_path / "manifest.jsonl", utterances)
        assert manifest.read(tmp_path / "manifest.jsonl") == utterances
