"""Fixtures every test may use. Real clips come from ../shared/data, present in CI and absent on a user's machine."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_data() -> Path | None:
    """The folder of real clips, or None on a machine that does not have it."""
    folder = ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real clips: GRID, wild, broken. Skips where the folder is absent."""
    folder = shared_data()
    if folder is None:
        pytest.skip("real clips (../shared/data) are not on this machine")
    return folder
