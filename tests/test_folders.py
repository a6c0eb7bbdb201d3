"""Folders of other people: links, capitals, accents stored in two ways; each folder once, each name found."""

import os
import tempfile
from pathlib import Path
from unicodedata import normalize

import pytest

from avsr.folders import Sidecars, find_path, list_folder, matching

ZOE = [normalize(form, "Zoë") for form in ("NFC", "NFD")]


@pytest.fixture
def linked(tmp_path) -> Path:
    """Two talkers with links to the folder above each, to each other and to a folder outside, and links that lead nowhere."""
    root = tmp_path / "root"
    for who in ("anna", "bob"):
        (root / who).mkdir(parents=True)
        (root / who / "c.wav").write_text("x")
        (root / who / "up").symlink_to("..")
    (root / "anna" / "all").symlink_to("../bob")
    (root / "far").symlink_to(tmp_path)
    (root / "slash").symlink_to("/")
    (root / "gone").symlink_to("nowhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.wav").write_text("x")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    return root


def test_each_folder_is_read_once_under_its_own_name(linked):
    found = list_folder(linked)
    assert [path.relative_to(linked).as_posix() for path in found.paths] == ["anna/c.wav", "bob/c.wav", "cat/d.wav", "gone"]
    assert found.closed == []


def test_a_pattern_goes_through_links_without_end(linked):
    def found(pattern: str) -> list[str]:
        return sorted(path.relative_to(linked).as_posix() for path in matching(f"{linked}/{pattern}"))

    assert found("**/*.wav") == [*found("**/**/c.wav"), "cat/d.wav"] == ["anna/c.wav", "bob/c.wav", "cat/d.wav"]
    assert found("anna/**") == ["anna", "anna/all", "anna/all/c.wav", "anna/c.wav"]
    assert found("**/b?b") == ["bob"]
    assert found("*/c.wav") == ["anna/c.wav", "bob/c.wav"]
    assert found("**/*.mp4") == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no file permissions here")
def test_a_closed_folder_is_told():
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:            # tmp_path is its owner's alone
        os.chmod(folder, 0o755)
        closed = Path(folder) / "in"
        closed.mkdir(mode=0)
        try:
            if root:                                         # who may enter any folder
                os.seteuid(65534)
            assert [error.filename for error in list_folder(folder).closed] == [str(closed)]
        finally:
            if root:
                os.seteuid(0)
            closed.chmod(0o755)


@pytest.mark.parametrize(("stored", "named"), [
    ("Zoë.wav", "Zoë.wav"), (f"{ZOE[1]}.wav", f"{ZOE[0]}.wav"), (f"{ZOE[0]}.wav", f"{ZOE[1]}.wav"),
    (f"{ZOE[1]}/a/{ZOE[1]}.wav", f"{ZOE[0]}/a/{ZOE[0]}.wav"), ("CLIP1.WAV", "clip1.wav"), ("a/b.wav", "A\\B.wav"),
    ("a/b.wav", "c/../a/b.wav"), ("a\\b.wav", "a\\b.wav"),
])
def test_a_name_is_found_in_another_spelling(tmp_path, stored, named):
    (tmp_path / stored).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / stored).write_text("x")
    assert find_path(tmp_path, named).read_text() == "x"
    assert find_path(tmp_path, "other.wav") is None


def test_of_two_that_are_alike_none_is_guessed(tmp_path):
    for name in ("Clip.wav", "CLIP.wav"):
        (tmp_path / name).write_text(name)
    assert find_path(tmp_path, "clip.wav") is None
    assert find_path(tmp_path, "CLIP.wav").read_text() == "CLIP.wav"
    assert find_path(tmp_path / "Clip.wav", "x") is None


@pytest.mark.parametrize(("text", "recording", "others", "fits"), [
    ("CLIP1.TXT", "CLIP1.WAV", (), True), ("CLIP1.TXT", "clip1.wav", (), True), ("clip1.txt", "CLIP1.WAV", (), True),
    (f"{ZOE[0]}.txt", f"{ZOE[1]}.wav", (), True), ("a.txt", "a.wav", ("A.wav",), True), ("a.txt", "A.wav", ("a.wav",), False),
    ("b.txt", "a.wav", (), False), ("x/a.txt", "a.wav", (), False), ("a.txt", "a.b.wav", (), False),
])
def test_a_text_lies_beside_its_recording(text, recording, others, fits):
    texts = Sidecars([Path(text)], map(Path, (recording, *others)))
    assert texts.find(Path(recording), ".txt") == (Path(text) if fits else None)
    assert texts.find(Path(recording), ".lab") is None


def test_of_several_texts_the_exact_one_is_taken():
    texts = Sidecars([Path("a.TXT"), Path("a.txt"), Path("A.txt"), Path("B.txt"), Path("b.TXT")],
                     [Path("a.wav"), Path("C.wav")])
    assert texts.find(Path("a.wav"), ".txt") == Path("a.txt")
    assert texts.find(Path("A.wav"), ".txt") == Path("A.txt")
    assert Sidecars([Path("B.txt"), Path("b.TXT")], [Path("bB.wav")]).find(Path("bb.wav"), ".txt") is None
