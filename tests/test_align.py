"""Alignment of a given text: where it lies in what was heard, what does not fit; subtitles change in their times alone."""

import re
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.align.given import GivenWord, decoded, given_words
from avsr.align.matching import match
from avsr.align.methods import CTC, open_method
from avsr.align.run import in_order, interpolated
from avsr.align.subtitles import SHORTEST_CUE, _new_times, _with_times, parse_subtitles, read_subtitles
from avsr.cli import main
from avsr.errors import AvsrError
from avsr.transcript import Phone, Segment, Transcript, Word
from avsr.transcript.word_formats import ctm, textgrid


def spoken(text, start=0.0, each=0.3, gap=0.05):
    """Words said one after another."""
    return [Word(f" {word}", start + i * (each + gap), start + i * (each + gap) + each) for i, word in enumerate(text.split())]


def words_of(text):
    return given_words(text, "en", "t.txt")


# The given text

def test_what_is_not_spoken_belongs_to_the_word_before_and_a_word_may_be_several():
    words = words_of("— Bin blue -- at F2.\n\n\nNext")
    assert [word.text for word in words] == [" — Bin", " blue --", " at", " F2.", " Next"]
    assert [word.spoken for word in words] == [("bin",), ("blue",), ("at",), ("f", "two"), ("next",)]
    assert [word.paragraph for word in words] == [0, 0, 0, 0, 1]
    assert [word.text for word in given_words("你好。", "zh", "t")] == ["你", "好。"]


def test_a_text_without_words_or_in_an_unknown_encoding_is_one_sentence():
    with pytest.raises(AvsrError, match=r"t\.txt: there is no word in it"):
        words_of(" ... \n\n --")
    with pytest.raises(AvsrError, match=r"byte 3 is no UTF-8.*--encoding"):
        decoded("caf\u00e9".encode("cp1252"), "t.txt")
    assert decoded("caf\u00e9".encode("cp1252"), "t.txt", "cp1252") == "caf\u00e9"
    assert decoded("\ufeffcaf\u00e9".encode("utf-16"), "t.txt") == "\ufeffcaf\u00e9"
    with pytest.raises(AvsrError, match="no encoding 'nonsense'"):
        decoded(b"a", "t.txt", "nonsense")


# Matching

def test_a_text_that_was_heard_is_cut_at_pauses_and_covers_every_word():
    first, second = spoken("one two three four five six", 1.0), spoken("seven eight nine ten eleven twelve", 6.0)
    found = match(words_of("One two three, four five six. Seven eight nine ten eleven twelve"), [*first, *second], 12.0,
                  longest_s=5.0)
    assert not found.misfits
    assert found.unlike == 0
    assert [(one.kept_first, one.kept_last) for one in found.sections] == [(0, 6), (6, 12)]
    assert found.sections[0].end_s <= second[1].start
    assert found.sections[1].start_s >= first[-2].end


def test_words_that_were_never_said_and_speech_that_is_not_in_the_text_are_misfits():
    heard = spoken("one two three four seven eight nine ten this is not in the text eleven twelve thirteen", 0.0)
    found = match(words_of("one two three four alpha beta gamma delta epsilon seven eight nine ten eleven twelve thirteen"),
                  heard, 12.0, longest_s=20.0)
    assert [(one.first, one.last, one.heard) for one in found.misfits] == [(4, 9, ""), (13, 13, "this is not in the text")]
    assert [(one.first, one.last) for one in found.sections] == [(0, 4), (9, 13), (13, 16)]
    assert found.misfits[1].start_s == pytest.approx(heard[8].start)


def test_another_text_is_unlike_even_where_a_word_is_the_same_by_chance():
    heard = spoken("it rained all night and the river rose above the old bridge before anyone woke")
    found = match(words_of("my sister bought seven green apples from the market near our little house yesterday"), heard, 6.0,
                  longest_s=20.0)
    assert found.unlike == 1
    assert found.misfits[0].first == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["one", "two", "three", "four", "five", "the", "a"]), min_size=1, max_size=30),
       st.lists(st.sampled_from(["one", "two", "three", "four", "five", "the", "a"]), max_size=30))
def test_every_given_word_is_in_one_section_or_one_misfit_and_times_go_forward(said, heard):
    found = match(words_of(" ".join(said)), spoken(" ".join(heard)), 15.0, longest_s=3.0)
    covered = [number for one in found.sections for number in range(one.kept_first, one.kept_last)]
    covered += [number for one in found.misfits for number in range(one.first, one.last)]
    assert sorted(covered) == list(range(len(said)))
    for one in found.sections:
        assert 0 <= one.start_s <= one.end_s <= 15.0
        assert one.first <= one.kept_first < one.kept_last <= one.last


def test_words_without_times_lie_between_their_neighbours_and_are_marked():
    texts = [GivenWord(f" {one}", (one,)) for one in ("a", "bb", "cc", "d")]
    words = interpolated(texts, [Word(" a", 0.0, 1.0), None, None, Word(" d", 2.0, 3.0)], (), 4.0)
    assert [(one.start, one.end, one.interpolated) for one in words] == [
        (0.0, 1.0, False), (1.0, 1.5, True), (1.5, 2.0, True), (2.0, 3.0, False)]
    ordered = in_order([Word(" a", 0.0, 1.2), None, Word(" b", 1.0, 1.1, phones=(Phone("B", 1.0, 1.1),))])
    assert ordered[2] == Word(" b", 1.2, 1.2, phones=(Phone("B", 1.2, 1.2),))


# Formats

def small():
    words = (Word(' say "hi"', 0.5, 1.0, 0.25, phones=(Phone("S", 0.5, 0.7), Phone("EY", 0.7, 1.0))), Word(" now", 0.9, 1.5))
    return Transcript("", (Segment("", 0.5, 1.5, words),), "en", "m", "a", "", 2.0)


def read_textgrid(text):
    """(name, intervals) of each tier."""
    tiers = {}
    for part in text.split("class = \"IntervalTier\"")[1:]:
        name, = re.findall(r'name = "(\w+)"', part)
        tiers[name] = [(float(a), float(b), t.replace('""', '"')) for a, b, t in re.findall(
            r"intervals \[\d+\]:\s+xmin = (\S+)\s+xmax = (\S+)\s+text = \"((?:[^\"]|\"\")*)\"", part)]
    return tiers


def test_a_textgrid_covers_the_recording_without_gaps_or_overlaps():
    tiers = read_textgrid(textgrid(small()))
    assert tiers["words"] == [(0.0, 0.5, ""), (0.5, 0.9, 'say "hi"'), (0.9, 1.5, "now"), (1.5, 2.0, "")]
    assert tiers["phones"] == [(0.0, 0.5, ""), (0.5, 0.7, "S"), (0.7, 1.0, "EY"), (1.0, 2.0, "")]
    empty = Transcript("", (), "en", "m", "a", "", 2.0)
    assert read_textgrid(textgrid(empty)) == {"words": [(0.0, 2.0, "")], "phones": [(0.0, 2.0, "")]}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 2)), max_size=8))
def test_intervals_always_fit_together(spans):
    words = tuple(Word(" w", a, a + b) for a, b in sorted(spans))
    found = read_textgrid(textgrid(Transcript("", (Segment("", 0, 1, words),), "en", "m", "a", "", 6.0)))["words"]
    assert found[0][0] == 0
    assert all(a < b for a, b, _ in found)
    assert all(one[1] == other[0] for one, other in pairwise(found))


def test_a_ctm_has_a_line_for_each_word():
    assert ctm(small(), "my clip") == 'my_clip 1 0.500 0.500 say_"hi" 0.250\nmy_clip 1 0.900 0.600 now\n'


# Subtitles

OLD = ("\ufeff7\r\n00:00:03,500 --> 00:00:04,000  X1:5\r\n<i>Good</i> {\\an8}morning,\r\nMARY: to you &amp; me\r\n\r\n"
       "8\r\n00:00:05,000 -> 00:00:06,000\r\nnever\r\n\r\n"
       "9\r\n0:00:07,250 --> 00:00:09,000\r\n[music]\r\n\r\n\r\n2\r\n00:00:10,000 --> 00:00:09,500\r\n- Bye.")


def test_subtitles_are_read_with_their_damage_and_only_times_change():
    found = parse_subtitles(OLD.replace("-> 00:00:06", "--> 00;00:06"), "old.srt")
    assert [(cue.start, cue.end, cue.said) for cue in found.cues] == [
        (3.5, 4.0, "Good morning, to you me"), (7.25, 9.0, ""), (10.0, 10.0, "Bye.")]
    assert len(found.problems) == 2
    assert "line 7 for one" in found.problems[0]
    new = _with_times(found, [(1.0, 2.0), (3.0, 4.0), (5.25, 6.0)])
    assert new == found.content.replace("00:00:03,500 --> 00:00:04,000", "00:00:01,000 --> 00:00:02,000").replace(
        "0:00:07,250 --> 00:00:09,000", "00:00:03,000 --> 00:00:04,000").replace(
        "00:00:10,000 --> 00:00:09,500", "00:00:05,250 --> 00:00:06,000")


def test_webvtt_keeps_its_header_its_settings_and_its_way_to_write_times():
    text = "WEBVTT - a title\n\nNOTE nothing\n\nname\n00:01.500 --> 00:02.000 align:start\n<v Ann>Hi &lt;you>\n"
    found = parse_subtitles(text, "old.vtt")
    assert [cue.said for cue in found.cues] == ["Hi <you>"]
    assert _with_times(found, [(61.0, 62.5)]) == text.replace("00:01.500 --> 00:02.000", "01:01.000 --> 01:02.500")


def test_the_encoding_and_the_mark_of_a_file_stay(tmp_path):
    path = tmp_path / "old.srt"
    path.write_bytes("\ufeff1\n00:00:01,000 --> 00:00:02,000\nOl\u00e9\n".encode("utf-16-le"))
    found = read_subtitles(path)
    assert found.encoded(found.content) == path.read_bytes()
    path.write_bytes("1\n00:00:01,000 --> 00:00:02,000\nOl\u00e9\n".encode("cp1252"))
    with pytest.raises(AvsrError, match=r"old\.srt: it cannot be read as text \(byte 34 is no UTF-8\)"):
        read_subtitles(path)
    found = read_subtitles(path, "cp1252")
    assert found.encoded(found.content) == path.read_bytes()
    with pytest.raises(AvsrError, match="there is no subtitle in it"):
        parse_subtitles("some text", "old.srt")


def test_a_cue_that_is_not_heard_or_lands_far_off_goes_with_its_neighbours():
    lines = "".join(f"{i}\n00:00:{i * 4:02d},000 --> 00:00:{i * 4 + 2:02d},000\nw\n\n" for i in range(1, 9))
    cues = parse_subtitles(lines, "old.srt").cues
    own = {k: (cue.start * 1.03 - 2.0, cue.end * 1.03 - 2.0) for k, cue in enumerate(cues)}
    own[2] = (own[2][0] + 9, own[2][1] + 9)
    del own[5]
    times, moved = _new_times(cues, range(8), own, 40.0)
    assert moved == [2, 5]
    np.testing.assert_allclose([start for start, _ in times], [cue.start * 1.03 - 2.0 for cue in cues], atol=1e-6)
    assert all(end - start >= SHORTEST_CUE for start, end in times)


# Methods and the command

def test_methods_that_cannot_be_used_say_why(tiny_en):
    from avsr.recogniser import Recogniser

    with pytest.raises(AvsrError, match="no trained CTC head for this modality"):
        CTC(Recogniser(tiny_en), "a", "en")
    with pytest.raises(AvsrError, match="phones are those of English, and the language is 'de'"):
        open_method("hmm", Recogniser(tiny_en), "a", "de")
    with pytest.raises(AvsrError, match="only the lips are used"):
        open_method("hmm", Recogniser(tiny_en), "v", "en")
    assert open_method("auto", Recogniser(tiny_en), "a", "de").name == "attention"


def run(*arguments):
    done = CliRunner().invoke(main, ["align", *map(str, arguments)])
    return done.exit_code, done.output


def test_the_command_refuses_what_it_cannot_do_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("one two")
    assert run("a.mp4") == (1, "error: avsr align: there is no text to align.  Name it with --text, or old subtitles with "
                               "--subtitles; avsr transcribe writes what is said.\n")
    assert "one text for 2 recordings" in run("a.mp4", "b.mp4", "--text", "t.txt")[1]
    assert "no text for a.mp4.  Put a file a.txt there" in run("a.mp4", "--text", tmp_path)[1]
    assert "'pdf' is not an output format" in run("a.mp4", "--text", "t.txt", "-f", "pdf")[1]
    assert "subtitles keep their format, .srt" in run("a.mp4", "--subtitles", "old.srt", "-o", "new.vtt")[1]
    assert "both a text and subtitles" in run("a.mp4", "--subtitles", "old.srt", "--text", "t.txt")[1]


HELLO = "Hello, this video was made by a computer. You can read the words on my lips."


@pytest.mark.slow
def test_the_demo_is_aligned_and_its_late_subtitles_come_back(tmp_path, monkeypatch):
    from places import ROOT

    video = ROOT / "data/demo/hello.mp4"
    (tmp_path / "t.txt").write_text(HELLO)
    status, printed = run(video, "--text", tmp_path / "t.txt", "--model", "tiny.en", "-q", "-o", tmp_path / "new.TextGrid")
    assert status == 0, printed
    tiers = read_textgrid((tmp_path / "new.TextGrid").read_text())
    words = [one for one in tiers["words"] if one[2]]
    assert [one[2] for one in words] == HELLO.split()
    assert len([one for one in tiers["phones"] if one[2]]) > 2 * len(words)
    (tmp_path / "old.srt").write_text(f"1\n00:00:09,000 --> 00:00:11,000\n{HELLO[:41]}\n\n2\n00:00:12,000 --> 00:00:14,000\n"
                                      f"{HELLO[42:]}\n")
    status, printed = run(video, "--subtitles", tmp_path / "old.srt", "--model", "tiny.en", "-q", "-o", tmp_path / "new.srt")
    assert status == 0, printed
    cues = parse_subtitles((tmp_path / "new.srt").read_text(), "new.srt").cues
    assert [cue.start for cue in cues] == pytest.approx([words[0][0], words[8][0]], abs=0.15)
    (tmp_path / "t.txt").write_text("An entirely different sentence about cooking potatoes in salted water for dinner.")
    status, printed = run(video, "--text", tmp_path / "t.txt", "--model", "tiny.en", "-q")
    assert status == 1
    assert "does not fit the sound from" in printed
