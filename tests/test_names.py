"""Names of files: another for every id, on every file system; and names that cannot command a terminal."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avsr.names import escape_controls, file_name

IDS = st.text(st.sampled_from("abAB/_\\.: -é\u0301e日\x1b\ud800"), max_size=6)


@settings(deadline=None, max_examples=500)
@given(IDS, IDS)
@example("a/b_c", "a_b/c")
@example("CLIP1", "clip1")
@example("é", "e\u0301")
@example("a" * 300, "a" * 301)
@example("a/b_c", "a_b_c-ab14be70")
@example("a\x1b", "a\\x1b")
def test_two_ids_never_share_a_file(one, other):
    on_disk = [unicodedata.normalize("NFC", file_name(name)).lower() for name in (one, other)]
    assert (on_disk[0] == on_disk[1]) == (one == other)


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(), max_size=300))
@example("../../etc/passwd")
@example("..")
@example("nul.txt")
@example("")
def test_any_text_becomes_a_name_that_every_file_system_takes(text):
    name = file_name(text)
    assert name not in ("", ".", "..")
    assert len(f"{name}.tar.gz".encode()) < 128
    assert not set(name) & set('/\\:*?"<>|\0')
    assert not name.startswith((".", " "))
    assert not name.endswith((".", " "))
    assert escape_controls(name) == name


@pytest.mark.parametrize("name", ["s1_bbaf2n", "t0", "lombard-s2", "日本語", "ein clip", "naïve", "a.b-c"])
def test_plain_names_stay_as_they_are(name):
    assert file_name(name) == name
    assert file_name(name.upper()) != name or name == "日本語"


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"), ("\x9b2J\x07\x08", r"\x9b2J\x07\x08"), ("a\r\nb\tc", r"a\r\nb\tc"),
    ("photo\u202egpj.exe", r"photo\u202egpj.exe"), ("\u2066x\u2069\u2028", r"\u2066x\u2069\u2028"), ("\udcff", r"\udcff"),
    ("عربي हिन्दी ไทย 👍🏽 $x$ <b>", "عربي हिन्दी ไทย 👍🏽 $x$ <b>")])
def test_what_a_terminal_would_obey_is_spelt_out(text, shown):
    assert escape_controls(text) == shown


def test_line_breaks_may_be_meant():
    assert escape_controls("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"
