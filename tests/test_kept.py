"""Models that are kept under a name: where they lie, and that they are found."""

from pathlib import Path

import pytest

from avsr.checkpoint import SHIPPED, load, may_use_video
from avsr.checkpoint.kept import enrolled_folder, fetched_folder, kept_folder
from avsr.errors import BadCheckpoint


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("AVSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AVSR_DATA", str(tmp_path / "data"))
    return tmp_path


def keep(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in (SHIPPED / "grid").iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def test_a_kept_model_is_found_by_its_name_and_enrolled_lips_come_first(places):
    assert kept_folder("anna") is None
    with pytest.raises(BadCheckpoint, match="anna: no such model"):
        load("anna")
    fetched = keep(fetched_folder("anna"))
    assert kept_folder("anna") == fetched == places / "cache/anna"
    enrolled = keep(enrolled_folder("anna"))
    assert kept_folder("anna") == enrolled == places / "data/lips/anna"
    assert load("anna").name == "anna"
    assert may_use_video("anna")


def test_no_name_leads_out_of_the_folder(places):
    for name in ("../x", "/etc", "a/b:c.pth", "..", ""):
        assert enrolled_folder(name).parent == places / "data/lips", name
        assert fetched_folder(name).parent == places / "cache", name


def test_without_variables_they_lie_where_the_system_keeps_them(monkeypatch, tmp_path):
    for variable in ("AVSR_CACHE", "AVSR_DATA", "XDG_CACHE_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert fetched_folder("vsr") == tmp_path / ".cache/avsr/vsr"
    assert enrolled_folder("anna") == tmp_path / ".local/share/avsr/lips/anna"
