"""Lines in scripts without spaces: they begin at words or letters, never with a mark, and none is wider than it may be."""

import re
import subprocess
import sys
import unicodedata
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.linebreak import clusters, columns, line_starts
from avsr.text import Tokenizer
from avsr.transcript import Segment, Transcript, Word, cues, format_transcript, segment

THAI = "วันนี้อากาศดีมากฉันจึงตัดสินใจออกไปเดินเล่นที่สวนสาธารณะใกล้บ้านกับเพื่อนๆของฉันที่กรุงเทพฯ"
KHMER = "ខ្ញុំស្រឡាញ់ភាសាខ្មែរហើយខ្ញុំចង់រៀនវាឱ្យបានល្អដើម្បីអាចនិយាយជាមួយមិត្តភក្តិរបស់ខ្ញុំនៅភ្នំពេញបានយ៉ាងរលូន"
LAO = "ຂ້ອຍຮັກພາສາລາວແລະຢາກຮຽນໃຫ້ເກັ່ງເພື່ອຈະໄດ້ລົມກັບໝູ່ເພື່ອນຢູ່ວຽງຈັນທຸກໆມື້ແລະກິນເຂົ້າໜຽວນໍ້າ"
BURMESE = "ကျွန်တော်မြန်မာဘာသာစကားကိုချစ်တယ်ပြီးတော့သူငယ်ချင်းတွေနဲ့အင်္ဂလိပ်စကားပြောချင်တယ်။"
TIBETAN = "བོད་སྐད་ནི་བོད་མིའི་སྐད་ཡིག་ཡིན་ཞིང་དེ་ནི་སྐད་ཡིག་གལ་ཆེན་ཞིག་རེད།"
TEXTS = {"Thai": THAI, "Khmer": KHMER, "Lao": LAO, "Burmese": BURMESE, "Tibetan": TIBETAN}
BEFORE = "เแโใไເແໂໃໄ"                                          # vowels written before their consonant


def transcript(*segments):
    return Transcript("".join(part.text for part in segments), segments, "th", "base", "a", "", 60.0)


def by_letter(text):
    """As Whisper times these scripts: every code point by itself, one each 0.1 s."""
    return tuple(Word(letter, i / 10, (i + 1) / 10) for i, letter in enumerate(text))


def cut(text, words=(0,)):
    starts = sorted(line_starts(text, set(words)))
    return [text[first:last] for first, last in zip(starts, [*starts[1:], len(text)], strict=True)]


def check(lines, text, width):
    assert "".join(lines) == text
    for line in lines:
        assert columns(line) <= width
        assert unicodedata.category(line[0])[0] != "M"
        assert line[0] not in "ๆฯໆຯ។။"
        assert line[-1] not in BEFORE
        assert not re.search("[\u17d2\u1039]$", line)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("width", [None, 20, 12])
def test_no_line_begins_with_a_mark_or_is_too_wide(text, width):
    limits = {} if width is None else {"max_line_width": width}
    for words in (by_letter(text), (Word(text, 0.0, len(text) / 10),), ()):         # by letters, as one word, untimed
        found = cues(transcript(Segment(text, 0.0, len(text) / 10, words)), **limits)
        check([line for cue in found for line in cue.lines], text, width or 42)
        times = [time for cue in found for time in (cue.start, cue.end)]
        assert times == sorted(times)
        assert times[0] == 0
        assert times[-1] == pytest.approx(len(text) / 10)
        if width is None:
            assert all(len(cue.lines) <= 2 and cue.end - cue.start <= 7.05 for cue in found)


def test_thai_is_broken_between_words():
    assert cut(THAI)[:8] == ["วัน", "นี้", "อากาศ", "ดี", "มาก", "ฉัน", "จึง", "ตัดสินใจ"]
    found = cues(transcript(Segment(THAI, 0.0, 9.0, by_letter(THAI))), max_line_width=20)
    lines = [line for cue in found for line in cue.lines]
    assert len(lines) > 3
    assert set(accumulate(map(len, lines))) <= set(accumulate(map(len, cut(THAI))))


def test_clusters_are_kept_whole():
    assert cut(KHMER)[:6] == ["ខ្ញុំ", "ស្រ", "ឡា", "ញ់", "ភា", "សា"]
    assert cut("မြန်မာနိုင်ငံ အင်္ဂလိပ်။", [0, 13]) == ["မြန်", "မာ", "နိုင်", "ငံ", " အင်္ဂ", "လိပ်။"]
    assert clusters("เก่ง") == ["เก่", "ง"]
    assert clusters("👩‍👩‍👧e\u0301") == ["👩‍👩‍👧", "e\u0301"]
    assert cut("ភាសា\u200bខ្មែរ\u200bល្អ") == ["ភាសា\u200b", "ខ្មែរ\u200b", "ល្អ"]


def test_latin_words_and_numbers_in_such_a_text_stay_whole():
    assert cut("ราคา100บาทiPhone", range(16)) == ["ราคา", "100", "บาท", "iPhone"]
    assert cut("日本でiPhoneを買う", range(12)) == ["日", "本", "で", "iPhone", "を", "買", "う"]
    assert cut("می\u200cخواهم من", [0, 8]) == ["می\u200cخواهم", " من"]
    assert cut("Hello there", [0, 5]) == ["Hello", " there"]
    assert cut("re-use", [0, 2]) == ["re", "-use"]


def test_times_of_letters_are_kept():
    words = by_letter("ที่กรุงเทพฯ")
    (cue, *_) = cues(transcript(Segment("ที่กรุงเทพฯ", 0.0, 1.1, words)), max_line_width=5, max_line_count=1)
    assert (cue.lines, cue.start, cue.end) == (("ที่กรุง",), 0.0, 0.7)             # 4 columns, 7 code points


def test_a_segment_does_not_begin_inside_a_word():
    groups = segment(by_letter(THAI), max_seconds=3.0)
    assert tuple(word for group in groups for word in group) == by_letter(THAI)
    assert len(groups) > 2
    assert set(accumulate(map(len, groups))) <= set(accumulate(map(len, cut(THAI))))


@pytest.mark.parametrize("text", ["e\u0301" * 30, "हिन्दी " * 9, "ọ̀rọ̀ " * 12])
def test_marks_take_no_place_on_a_line(text):
    said = " ".join(text.split())
    (cue, *_) = cues(transcript(Segment(text, 0.0, 5.0)))
    assert columns(said) < len(said)
    assert all(columns(line) <= 42 for line in cue.lines)
    assert columns("abc") == columns("a\u0301b\u200dc") == 3


SIGNS = st.text(st.sampled_from("กเแ่้ำะๆฯ ขາເໍ້ຂបខ្ិ៌។မန့်ါ္ကང་ ab1(),.日\u200b\u0301\u200d"), max_size=30)


@settings(deadline=None, max_examples=200)
@given(st.lists(SIGNS, max_size=4), st.none() | st.integers(1, 12))
def test_nothing_is_lost_and_clusters_stay_whole(texts, width):
    words = [Word(text, i, i + 1.0) for i, text in enumerate(texts)]
    content = transcript(Segment("".join(texts), 0.0, 9.0, tuple(words)))
    lines = [line for cue in cues(content, max_line_width=width) for line in cue.lines]
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", "".join(texts))
    assert "".join(clusters("".join(texts))) == "".join(texts)
    assert [word for group in segment(words, max_characters=12) for word in group] == words
    format_transcript(content, "srt", highlight_words=True)


def test_words_of_tokens_begin_with_letters(tiny_en_folder):
    tokenizer = Tokenizer(tiny_en_folder / "tokenizer.json")
    tokens = tokenizer.encode(THAI)
    words = tokenizer.words(tokens, "th")
    assert "".join(word.text for word in words) == THAI
    assert [token for word in words for token in word.tokens] == tokens
    assert not any(unicodedata.category(word.text[0])[0] == "M" for word in words)


def test_other_scripts_need_neither_library():
    code = ("import sys; from avsr.transcript import *; part = Segment('Naïve “日本” привет हिन्दी', 0, 3); "
            "format_transcript(Transcript('', (part,), 'en', '', 'a', '', 3), 'srt'); "
            "print(sorted({'regex', 'budoux'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
