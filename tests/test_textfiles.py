"""Text files that people write: every editor's encoding, every program's quotes; no row is lost without a word."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.errors import BadManifest
from avsr.textfiles import NotText, decode, read_table, read_text

ASKED = ("media", "text")


def read(path, content: str | bytes, *, short: bool = False, known=("speaker",)) -> list[dict]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row for _, row in read_table(path, ASKED, known, short=short).rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_table_is_the_same_whatever_saved_it(tmp_path, encoding, end, name):
    text = "media\ttext\n" + "é.wav\tçà 日本\n\nb.wav\tx\n"
    content = text.replace("\t", "," if name == "t.csv" else "\t").replace("\n", end).encode(encoding)
    assert read(tmp_path / name, content) == [{"media": "é.wav", "text": "çà 日本"}, {"media": "b.wav", "text": "x"}]


@pytest.mark.parametrize(("data", "problem"), [
    ("naïve".encode("windows-1252"), "byte 2 is no UTF-8"),
    ("\ufeffab".encode("utf-16-le") + b"\xff", "byte 6 is no UTF-16"),
    ("ab".encode("utf-16-le"), "byte 1 is zero, which no text holds; this may be UTF-16 without a byte order mark"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF", "byte 0 is no UTF-8"),
])
def test_what_is_no_text_says_where(tmp_path, data, problem):
    with pytest.raises(NotText, match=problem):
        decode(data)
    with pytest.raises(BadManifest, match=rf"t\.csv: {problem}\.  Save the file as UTF-8\."):
        read(tmp_path / "t.csv", data)
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(NotText):
        read_text(tmp_path / "t.txt")


def test_the_headers_capitals_and_delimiter_may_be_others(tmp_path):
    expected = [{"media": "a.wav", "text": "bin blue", "speaker": "s1", "Accent": "Cork"}]
    for delimiter in ",;\t":
        content = delimiter.join(["Media", "TEXT", " Speaker ", "Accent"]) + "\n" + delimiter.join(expected[0].values())
        assert read(tmp_path / "t.csv", content) == expected
    assert read(tmp_path / "t.jsonl", '{"Media": "a", "TEXT": "b", "Other": 1}\n') == [{"media": "a", "text": "b", "Other": 1}]


TSV = {
    "a quote that begins a cell": ('a\t"Hello, he said\nb\tx\n', [("a", '"Hello, he said'), ("b", "x")]),
    "two of them": ('a\t"Hello\nb\tyou"\n', [("a", '"Hello'), ("b", 'you"')]),
    "two cells that begin so": ('a\t"Hello\nb\t"you\n', [("a", '"Hello'), ("b", '"you')]),
    "words in quotes first": ('a\t"Hello" he said\nb\tx\n', [("a", '"Hello" he said'), ("b", "x")]),
    "a cell in quotes": ('a\t"Hello, ""you"""\nb\tx\n', [("a", 'Hello, "you"'), ("b", "x")]),
    "a tab in quotes": ('a\t"x\ty"\nb\tx\n', [("a", "x\ty"), ("b", "x")]),
    "a line's end in quotes": ('a\t"Hello,\nyou"\nb\tx\n', [("a", "Hello,\nyou"), ("b", "x")]),
    "one of each": ('"a"\t"Hello\nb\tx\n', [("a", '"Hello'), ("b", "x")]),
    "a quote at the end": ('a\tx\nb\t"Hello', [("a", "x"), ("b", '"Hello')]),
}


@pytest.mark.parametrize("case", TSV)
def test_no_row_of_a_tsv_is_lost_to_a_quote(tmp_path, case):
    content, rows = TSV[case]
    assert [tuple(row.values()) for row in read(tmp_path / "t.tsv", "media\ttext\n" + content)] == rows


@pytest.mark.parametrize(("content", "line"), [
    ('a.wav,"Hello he said\nb.wav,x\nc.wav,y\n', 2),                            # never closed
    ('a.wav,x\nb.wav,"Hello\nc.wav,"you\n', 3),                                 # closed by the next one
    ('a.wav,x\nb.wav,"Hello" he said\n', 3),
    ('a.wav,"Hello\nb.wav,you"\nc.wav,x\n', 2),                                 # closed where a cell ends: legal
    ('a.wav,"Hello\nb.wav,x\nc.wav,"\n', 2),
])
def test_a_quote_that_swallows_rows_of_a_csv_is_named_by_its_line(tmp_path, content, line):
    with pytest.raises(BadManifest, match=rf"t\.csv, line {line}: .*  Close "):
        read(tmp_path / "t.csv", "media,text\n" + content)


def test_lines_within_a_cell_that_are_no_rows_stay(tmp_path):
    rows = read(tmp_path / "t.csv", 'media,text,speaker\na.wav,"Good morning,\nall, of you",s1\nb.wav,x,s2\n')
    assert [row["text"] for row in rows] == ["Good morning,\nall, of you", "x"]


@pytest.mark.parametrize(("content", "message"), [
    ("media,text,text\na,b,c\n", 'line 1: the header has "text" twice'),
    ("media,text,Text\na,b,c\n", 'line 1: the header has "text" twice'),
    ("media,text\n\na,b\nc\n", "line 4: 1 cells, where the header has 2"),
    ("media,text\na," + "x" * 200_000 + "\n", r"line 2: not a table \(field larger than field limit"),
])
def test_a_row_that_does_not_fit_is_named_by_its_line(tmp_path, content, message):
    with pytest.raises(BadManifest, match=message):
        read(tmp_path / "t.csv", content)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12).filter(str.strip)
ROWS = st.lists(st.tuples(st.from_regex(r"[a-z]{1,5}\.wav", fullmatch=True), CELLS, CELLS), min_size=1, max_size=6)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_what_a_program_writes_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "back.csv"
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with path.with_suffix(suffix).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([("media", "text", "speaker"), *rows])
        found = read_table(path.with_suffix(suffix), ASKED, ("speaker",)).rows
        assert [tuple(row.values()) for _, row in found] == rows
    lines = [dict(zip(("media", "text", "speaker"), row, strict=True)) for row in rows]
    path.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [row for _, row in read_table(path.with_suffix(".jsonl"), ASKED).rows] == lines


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text('ab ",', max_size=6), min_size=1, max_size=6))
def test_every_line_of_a_tsv_without_quoting_is_a_row(tmp_path_factory, texts):
    """As sheets and databases write it: a text may begin with quotes, and close others' by chance."""
    path = tmp_path_factory.getbasetemp() / "plain.tsv"
    path.write_text("media\ttext\n" + "".join(f"{i}.wav\tx{text}\n" for i, text in enumerate(texts)), encoding="utf-8")
    assert [(row["media"], row["text"]) for _, row in read_table(path, ASKED).rows] == [
        (f"{i}.wav", f"x{text}") for i, text in enumerate(texts)]
    path.write_text("media\ttext\n" + "".join(f"{i}.wav\t\"{text}\n" for i, text in enumerate(texts)), encoding="utf-8")
    assert [row["media"] for _, row in read_table(path, ASKED).rows] == [f"{i}.wav" for i in range(len(texts))]
