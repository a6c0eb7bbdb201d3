"""Every format read back by a small parser; words never lost, times never backwards; nothing half written."""

import errno
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.errors import AvsrError, BadOutput
from avsr.linebreak import columns, inseparable
from avsr.transcript import (
    FORMATS,
    Cue,
    Segment,
    Transcript,
    Word,
    cues,
    format_timestamp,
    format_transcript,
    of_speaker,
    parse_formats,
    segment,
    write,
)


def timed(text, start=0.0, step=0.4, spoken=0.3):
    """Words of `text`, one every `step` seconds."""
    parts = re.findall(r"\s*\S+", text)
    return tuple(Word(part, start + i * step, start + i * step + spoken, 0.9) for i, part in enumerate(parts))


def part(words, **fields):
    return Segment("".join(word.text for word in words), words[0].start, words[-1].end, tuple(words), **fields)


def transcript(*segments, **fields):
    text = "".join(segment.text for segment in segments)
    base = Transcript(text, tuple(segments), "en", "tiny.en", "av", "The lips were seen throughout.", 10.0)
    return replace(base, **fields)


def read_time(text):
    hours, minutes, seconds = (["0", *text.split(":")])[-3:]
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))


def read_subtitles(text):
    """(start, end, lines) of each cue of an srt or vtt file."""
    found = []
    for block in text.removeprefix("WEBVTT\n\n").removesuffix("\n\n").split("\n\n"):
        lines = block.split("\n")
        lines = lines[1:] if lines[0].isdigit() else lines
        if lines != [""]:
            start, end = lines[0].split(" --> ")
            found.append((read_time(start), read_time(end), lines[1:]))
    return found


HELLO = transcript(part(timed(" Hello there, world.", 1.0)), part(timed(" How are you?", 4.0)))


def test_txt():
    assert format_transcript(HELLO, "txt") == "Hello there, world.\nHow are you?\n"


def test_srt():
    assert format_transcript(HELLO, "srt") == (
        "1\n00:00:01,000 --> 00:00:02,100\nHello there, world.\n\n2\n00:00:04,000 --> 00:00:05,100\nHow are you?\n\n"
    )


def test_vtt():
    assert format_transcript(HELLO, "vtt") == (
        "WEBVTT\n\n00:01.000 --> 00:02.100\nHello there, world.\n\n00:04.000 --> 00:05.100\nHow are you?\n\n"
    )


def test_tsv():
    rows = ["start\tend\ttext", "1000\t2100\tHello there, world.", "4000\t5100\tHow are you?", ""]
    assert format_transcript(HELLO, "tsv").split("\n") == rows


def test_json_has_the_schema_of_whisper_and_ours():
    words = (Word(" Hi", np.float32(0.5), 0.7, np.float64(0.25)), Word(" naïve", 0.7, 1.1, math.nan))
    content = transcript(
        part(words, avg_logprob=np.float32(-0.5), temperature=0.2, tokens=np.array([1, 2]), seek=300, confidence=0.5),
        problems=("No face after 5 s.",),
    )
    text = format_transcript(content, "json", word_timestamps=True)
    assert "naïve" in text
    assert json.loads(text, parse_constant=pytest.fail) == {
        "text": " Hi naïve",
        "segments": [
            {
                "id": 0, "seek": 300, "start": 0.5, "end": 1.1, "text": " Hi naïve", "tokens": [1, 2],
                "temperature": 0.2, "avg_logprob": -0.5, "compression_ratio": None, "no_speech_prob": None,
                "confidence": 0.5,
                "words": [
                    {"word": " Hi", "start": 0.5, "end": 0.7, "probability": 0.25, "confidence": 0.25},
                    {"word": " naïve", "start": 0.7, "end": 1.1, "probability": None, "confidence": None},
                ],
            }
        ],
        "language": "en", "model": "tiny.en", "modality": "av",
        "modality_reason": "The lips were seen throughout.", "duration": 10.0, "problems": ["No face after 5 s."],
    }  # fmt: skip
    without = json.loads(format_transcript(content, "json"))
    assert "words" not in without["segments"][0]


def test_nothing_said():
    silence = transcript()
    assert [format_transcript(silence, name) for name in FORMATS[:4]] == ["", "", "WEBVTT\n\n", "start\tend\ttext\n"]
    assert json.loads(format_transcript(silence, "json"))["segments"] == []
    blank = transcript(Segment(" ", 0, 1), Segment("", 1, 2, (Word(" ", 1, 2),)))
    assert [format_transcript(blank, name) for name in ("txt", "srt")] == ["", ""]
    assert cues(blank, max_line_width=10, max_line_count=1, highlight_words=True) == []


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (59.9996, "00:01:00,000"),
        (3599.9995, "01:00:00,000"),
        (-0.0004, "00:00:00,000"),
        (-3, "00:00:00,000"),
        (360_000.5, "100:00:00,500"),
        (np.float32(1.5), "00:00:01,500"),
    ],
)
def test_timestamps(seconds, expected):
    assert format_timestamp(seconds, always_hours=True, decimal_mark=",") == expected


def test_vtt_hours_only_when_needed():
    text = format_transcript(transcript(part(timed(" a b", 3599.5))), "vtt")
    assert "59:59.500 --> 01:00:00.200" in text


def test_text_cannot_break_the_file():
    content = transcript(part(timed(" a --> b ---> c\n\nd & <i>")))
    text = format_transcript(content, "srt")
    assert read_subtitles(text)[0][2] == ["a -> b -> c d & <i>"]
    assert "a -> b -> c d &amp; &lt;i>" in format_transcript(content, "vtt")
    assert format_transcript(transcript(Segment("a\tb\u2028c\n", 0, 1)), "tsv").endswith("0\t1000\ta b c\n")


def test_words_glued_into_an_arrow():
    assert cues(transcript(part((Word(" --", 0, 1), Word(">", 1, 2)))))[0].lines == ("->",)


def test_overlaps_and_times_without_length():
    content = transcript(
        part((Word(" one", 1.0, 3.0),)),
        part((Word(" two", 2.0, 2.0),)),
        part((Word(" three", 2.0, 4.0),)),
        part((Word(" four", 1.5, 1.6),)),
        part((Word(" five", 9.0, 9.0),)),
    )
    assert [(cue.start, cue.end) for cue in cues(content)] == [(1, 2), (2, 2), (2, 2), (2, 2.1), (9, 9.1)]


def test_segments_without_words_share_out_their_time():
    content = transcript(Segment(" aaaa bbbb cccc dddd", 10.0, 14.0))
    assert cues(content) == [Cue(10.0, 14.0, ("aaaa bbbb cccc dddd",))]
    assert cues(content, max_line_width=9, max_line_count=1) == [
        Cue(10.0, 12.0, ("aaaa bbbb",)),
        Cue(12.0, 14.0, ("cccc dddd",)),
    ]
    assert len(cues(transcript(Segment("你好。" * 40, 0.0, 20.0)))) > 2


def test_default_subtitles_are_two_even_lines():
    text = " It was the best of times and it was the worst of times for us"
    (cue,) = cues(transcript(part(timed(text, step=0.2, spoken=0.2))))
    assert cue.lines == ("It was the best of times and it", "was the worst of times for us")


def test_default_subtitles_of_wide_characters_are_half_as_long():
    said = "今日はとても天気がいいので散歩に行きましょうと彼は言った"
    words = [Word(letter, i * 0.1, i * 0.1 + 0.1) for i, letter in enumerate(said)]
    (cue,) = cues(transcript(part(words)))
    assert len(cue.lines) == 2
    assert max(map(len, cue.lines)) <= 21
    assert "".join(cue.lines) == said


def test_right_to_left_text_is_left_alone():
    assert cues(transcript(part(timed(" مرحبا بالعالم"))))[0].lines == ("مرحبا بالعالم",)


def test_long_segments_are_cut():
    long = timed(" one two three four five, six seven eight nine ten eleven twelve", step=0.9, spoken=0.8)
    found = cues(transcript(part(long)))
    assert [cue.lines for cue in found] == [
        ("one two three four five,",),
        ("six seven eight nine ten eleven twelve",),
    ]


def test_width_alone_keeps_segments():
    found = cues(HELLO, max_line_width=12)
    assert [cue.lines for cue in found] == [("Hello there,", "world."), ("How are you?",)]


def test_width_and_count_span_segments_but_not_pauses():
    close = transcript(part(timed(" Hello there, world.", 1.0)), part(timed(" How are you?", 4.0)))
    assert [cue.lines for cue in cues(close, max_line_width=12, max_line_count=2)] == [
        ("Hello there,", "world. How"),
        ("are you?",),
    ]
    apart = transcript(part(timed(" Hello there, world.", 1.0)), part(timed(" How are you?", 5.2)))
    assert [cue.lines for cue in cues(apart, max_line_width=12, max_line_count=2)] == [
        ("Hello there,", "world."),
        ("How are you?",),
    ]


def test_words_per_line():
    assert [cue.lines for cue in cues(HELLO, max_words_per_line=2)] == [
        ("Hello there,",), ("world.",), ("How are",), ("you?",)
    ]  # fmt: skip
    found = cues(HELLO, max_line_width=30, max_line_count=2, max_words_per_line=1)
    assert found[0].lines == ("Hello", "there,")


def test_longer_words_are_not_cut():
    content = transcript(part(timed(" a Donaudampfschifffahrt b")))
    assert cues(content, max_line_width=5)[0].lines == ("a", "Donaudampfschifffahrt", "b")


def test_highlight():
    content = transcript(part((Word(" so", 1.0, 1.5), Word(" what?", 2.0, 2.5))))
    assert cues(content, highlight_words=True) == [
        Cue(1.0, 1.5, ("<u>so</u> what?",)),
        Cue(1.5, 2.0, ("so what?",)),
        Cue(2.0, 2.5, ("so <u>what?</u>",)),
    ]
    assert "<u>so</u> what?" in format_transcript(content, "vtt", highlight_words=True)
    twice = Word(" no", 1.0, 1.5)
    assert cues(transcript(part((twice, twice))), highlight_words=True)[0].lines == ("<u>no</u> no",)


@pytest.mark.parametrize("name", ["max_line_width", "max_line_count", "max_words_per_line"])
def test_limits_below_one(name):
    with pytest.raises(AvsrError, match=r"at least 1\.  Leave"):
        format_transcript(HELLO, "srt", **{name: 0})


def test_format_names():
    assert parse_formats("srt, TXT,srt") == ("srt", "txt")
    assert parse_formats("all") == FORMATS
    for wrong in ("doc", "", "srt,"):
        with pytest.raises(AvsrError, match="not an output format"):
            parse_formats(wrong)
    with pytest.raises(AvsrError, match="'all' is not one output format"):
        format_transcript(HELLO, "all")


def texts(groups):
    return ["".join(word.text for word in group).strip() for group in groups]


def test_segment_at_sentence_ends():
    words = timed(' "Is it?" asked Mr. Smith, of the U.S. Navy... quietly. No. It cost 3.5 dollars! See')
    assert texts(segment(words)) == [
        '"Is it?"', "asked Mr. Smith, of the U.S. Navy... quietly.", "No.", "It cost 3.5 dollars!", "See"
    ]  # fmt: skip
    assert texts(segment([Word(c, i, i + 1) for i, c in enumerate(["你", "好。", "再", "见！", "吗"])])) == [
        "你好。", "再见！", "吗"
    ]  # fmt: skip


def test_segment_at_pauses():
    words = timed(" one two") + timed(" three", 2.0)
    assert texts(segment(words)) == ["one two", "three"]
    assert texts(segment(words, pause=2.0)) == ["one two three"]
    assert segment([]) == []


def test_segment_what_is_too_long():
    words = timed(" a b c d e, f g h i j k l", step=0.5)
    assert texts(segment(words, max_seconds=4.0)) == ["a b c d e,", "f g h i j k l"]
    gap = timed(" a b c d e", step=0.5) + timed(" f g h i j", 3.0, step=0.5)
    assert texts(segment(gap, max_seconds=4.0)) == ["a b c d e", "f g h i j"]
    assert texts(segment([Word(" long", 0, 20)])) == ["long"]


LETTERS = st.text("ab.,?!-<>&é漢字。 \n", max_size=8)


@st.composite
def transcripts(draw):
    """Segments with words of any text and times of any order."""
    times = st.floats(-1, 1000)
    segments = []
    for _ in range(draw(st.integers(0, 4))):
        words = [
            Word(draw(st.sampled_from(["", " "])) + draw(LETTERS), draw(times), draw(times), draw(st.floats(0, 1)))
            for _ in range(draw(st.integers(0, 12)))
        ]
        text = "".join(word.text for word in words) if words else draw(LETTERS)
        segments.append(Segment(text, draw(times), draw(times), tuple(words)))
    return transcript(*segments)


LIMITS = st.fixed_dictionaries(
    {name: st.none() | st.integers(1, 20) for name in ("max_line_width", "max_line_count", "max_words_per_line")}
)


def letters(text):
    """What a format may not change: everything but spaces and the dashes that an arrow may lose."""
    return re.sub(r"[\s-]", "", text)


@settings(deadline=None, max_examples=60)
@given(transcripts(), LIMITS)
def test_no_word_is_lost_and_times_run_forward(content, limits):
    said = letters(content.text)
    for name in ("srt", "vtt"):
        found = read_subtitles(format_transcript(content, name, **limits))
        shown = letters("".join(line for _, _, lines in found for line in lines))
        assert (shown.replace("&lt;", "<").replace("&amp;", "&") if name == "vtt" else shown) == said
        times = [time for start, end, _ in found for time in (start, end)]
        assert times == sorted(times)
        assert all(line.strip() for _, _, lines in found for line in lines)
    assert letters(format_transcript(content, "txt")) == said
    assert letters("".join(row.split("\t")[2] for row in format_transcript(content, "tsv").splitlines()[1:])) == said
    data = json.loads(format_transcript(content, "json", word_timestamps=True))
    assert "".join(row["word"] for part in data["segments"] for row in part["words"]) == "".join(
        word.text for word in content.words
    )


@settings(deadline=None, max_examples=60)
@given(transcripts(), LIMITS)
def test_limits_hold(content, limits):
    width, count = limits["max_line_width"], limits["max_line_count"]
    # An invisible word is not shown, and does not separate those around it: "字 a", "", "a" is one word of four columns.
    shown = [[word for word in part.words if word.text.strip()] for part in content.segments]
    longest = max((columns(word.text.strip()) for words in shown for word in inseparable(words)[1]), default=0)
    for cue in cues(content, **limits):
        assert count is None or len(cue.lines) <= count
        for line in cue.lines:
            n_words = len(re.findall(r"\s*\S+", line))
            assert width is None or columns(line) <= max(width, longest) or n_words == 1


@settings(deadline=None, max_examples=60)
@given(transcripts(), LIMITS)
def test_highlighting_underlines_every_word_once(content, limits):
    found = [re.findall("<u>(.*?)</u>", "\n".join(cue.lines)) for cue in cues(content, highlight_words=True, **limits)]
    underlined = "".join(text for cue in found for text in cue)
    assert letters(underlined).replace("<u>", "") == letters(content.text)
    assert all(len(cue) <= 1 for cue in found)


@settings(deadline=None, max_examples=60)
@given(transcripts(), st.floats(0.5, 10), st.integers(5, 90))
def test_segment_keeps_every_word(content, max_seconds, max_characters):
    groups = segment(content.words, max_seconds=max_seconds, max_characters=max_characters)
    assert tuple(word for group in groups for word in group) == content.words
    units = [tuple(unit) for unit in inseparable(content.words)[0]]
    for group in groups:
        n_characters = len(re.sub("-{2,}>", "->", texts([group])[0]))
        seconds = group[-1].end - group[0].start
        assert group in units or (n_characters <= max_characters and seconds <= max_seconds)


def spoken(text, start, speakers):
    return part([replace(word, speakers=speakers) for word in timed(text, start)], speakers=speakers)


@pytest.fixture
def conversation():
    """One speaker, another, both at once, and somebody out of sight."""
    return transcript(spoken("Hello there.", 0, ("SPEAKER_00",)), spoken(" Hi!", 2, ("SPEAKER_01",)),
                      spoken(" Yes. & no", 4, ("SPEAKER_01", "SPEAKER_00")), spoken(" Cut!", 6, ()))


def test_speakers_in_plain_text_are_labelled_as_by_whisperx(conversation):
    labelled = ["[SPEAKER_00]: Hello there.", "[SPEAKER_01]: Hi!", "[SPEAKER_01, SPEAKER_00]: Yes. & no", "Cut!"]
    assert format_transcript(conversation, "txt").splitlines() == labelled
    assert format_transcript(conversation, "srt").splitlines()[2::4] == labelled
    without = transcript(*(replace(one, speakers=None) for one in conversation.segments))
    assert format_transcript(conversation, "tsv") == format_transcript(without, "tsv"), "whisperX has no speakers there"


def test_speakers_in_webvtt_are_voices(conversation):
    texts = format_transcript(conversation, "vtt").splitlines()[3::3]
    assert texts == ["<v SPEAKER_00>Hello there.", "<v SPEAKER_01>Hi!", "<v SPEAKER_01, SPEAKER_00>Yes. &amp; no", "Cut!"]


def test_speakers_in_json_and_their_absence(conversation):
    rows = json.loads(format_transcript(conversation, "json", word_timestamps=True))["segments"]
    assert [row["speaker"] for row in rows] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_01", None]
    assert [row["speakers"] for row in rows][2:] == [["SPEAKER_01", "SPEAKER_00"], []]
    assert all(word["speaker"] == row["speaker"] for row in rows for word in row["words"])
    (row,) = json.loads(format_transcript(transcript(part(timed("Who?"))), "json", word_timestamps=True))["segments"]
    assert not {"speaker", "speakers"} & {*row, *row["words"][0]}, "nobody asked"


def test_a_cue_is_of_one_speaker(conversation):
    limits = {"max_line_width": 80, "max_line_count": 2}
    assert len(cues(transcript(*(replace(one, words=tuple(replace(word, speakers=None) for word in one.words), speakers=None)
                                 for one in conversation.segments)), **limits)) == 1
    assert [cue.speakers for cue in cues(conversation, **limits)] == [one.speakers for one in conversation.segments]
    for cue in cues(conversation, highlight_words=True):
        owner = next(one for one in reversed(conversation.segments) if cue.start >= one.start)
        assert cue.speakers == owner.speakers
    untimed = transcript(*(replace(one, words=()) for one in conversation.segments))
    assert format_transcript(untimed, "srt").count("[SPEAKER_01") == 2


def test_files_of_single_speakers_have_their_words_without_labels(conversation, tmp_path):
    paths = write(conversation, ("txt",), output_dir=tmp_path, stem="talk", separate_speakers=True)
    assert [path.name for path in paths] == ["talk.txt", "talk.SPEAKER_00.vtt", "talk.SPEAKER_01.vtt"]
    assert "".join(paths[1].read_text().splitlines()[3:4]) == "Hello there."
    assert paths[2].read_text().splitlines()[3::3] == ["Hi!", "Yes. &amp; no"]
    assert of_speaker(conversation, "SPEAKER_01").text == "Hi! Yes. & no"
    assert [path.name for path in write(conversation, (), output_dir=tmp_path, stem="a", separate_speakers=True)] == [
        "a.SPEAKER_00.vtt", "a.SPEAKER_01.vtt"]


@given(st.lists(st.tuples(st.sampled_from([("SPEAKER_00",), ("SPEAKER_01",), ()]), st.integers(1, 12)), min_size=1, max_size=6),
       st.sampled_from([{}, {"max_line_width": 20}, {"max_line_width": 20, "max_line_count": 2}, {"highlight_words": True}]))
def test_no_word_changes_its_speaker(turns, layout):
    whole = transcript(*(spoken(f"{speakers[0] if speakers else 'nobody'} " * n, 10 * i, speakers)
                         for i, (speakers, n) in enumerate(turns)))
    for cue in cues(whole, **layout):
        words = set(re.sub("</?u>", "", " ".join(cue.lines)).split())
        assert words == {cue.speakers[0] if cue.speakers else "nobody"}


def test_write(tmp_path):
    folder = tmp_path / "new" / "folder"
    paths = write(HELLO, "all", output_dir=folder, stem="clip.v2", word_timestamps=True, max_line_width=12)
    assert [path.name for path in paths] == [f"clip.v2.{name}" for name in FORMATS]
    for path, name in zip(paths, FORMATS, strict=True):
        expected = format_transcript(HELLO, name, word_timestamps=True, max_line_width=12)
        assert path.read_bytes().decode() == expected
    assert sorted(folder.iterdir()) == sorted(paths)
    assert write(transcript(), ["srt"], output_dir=folder, stem="clip.v2")[0].read_text() == ""


def test_written_files_have_ordinary_permissions(tmp_path):
    (path,) = write(HELLO, ["txt"], output_dir=tmp_path, stem="clip")
    (tmp_path / "other").write_text("")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_disk_full_leaves_what_was_there(tmp_path, monkeypatch):
    write(HELLO, ["txt"], output_dir=tmp_path, stem="clip")
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadOutput, match=r"clip: txt, srt cannot be written \(No space left on device\)\.  Make room"):
        write(transcript(), ["txt", "srt"], output_dir=tmp_path, stem="clip")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.txt"]
    assert (tmp_path / "clip.txt").read_text() == format_transcript(HELLO, "txt")


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "clip.txt").mkdir()
    for folder, stem in ((tmp_path / "file", "clip"), (tmp_path, "clip"), (tmp_path, "x" * 300)):
        with pytest.raises(BadOutput, match=f"{re.escape(str(folder / stem))}: txt cannot be written"):
            write(HELLO, ["txt"], output_dir=folder, stem=stem)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.txt", "file"]


def test_import_needs_no_torch():
    code = "import sys, avsr.transcript; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"
