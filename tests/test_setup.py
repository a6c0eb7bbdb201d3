"""Set-up: conda and uv install the same, one OpenCV, nothing in git names a registry, CI runs the README's command."""

import re
import subprocess
import tomllib
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
import yaml

import avsr

ROOT = Path(__file__).resolve().parents[1]


def test_environment_yml_has_the_same_set_as_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["project"]["dependencies"], *(name for extra in extras for name in extra),
              # Not what is in a group of its own: with pip the packages that carry faces' models would bring others along.
              *(name for name in project["dependency-groups"]["dev"] if isinstance(name, str) and not name.startswith("avsr")),
              *project["tool"]["uv"]["constraint-dependencies"]]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in wanted}
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    assert pip[0] == "-e ."
    listed: dict[str, str] = dict(re.match(r"([\w.\[\]-]+)(.*)", line).groups() for line in pip[1:])
    assert set(listed) == names
    for requirement in wanted:
        name = re.split(r"[<>=]", requirement)[0]
        assert requirement.removeprefix(name) in listed[name].split(","), requirement


def test_ci_runs_the_commands_the_readme_gives():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text().splitlines()
    typed = [line.partition("#")[0].strip() for line in readme.splitlines() if line.startswith("uv run pytest")]
    assert typed == ["uv run pytest", 'uv run pytest -m "not slow"']
    assert typed[0] in ci                                    # the very line
    assert any(line.endswith(typed[1]) and line.startswith("AVSR_SHARED=") for line in ci)
    assert {"uv run ruff check .", "uv run pyright"} <= set(ci)


def test_contributing_names_the_commands_of_ci_and_files_that_exist():
    page, ci = (ROOT / "CONTRIBUTING.md").read_text(), (ROOT / ".ci" / "run").read_text()
    commands = [line.partition("#")[0].strip() for line in page.splitlines() if line.startswith("uv run ")]
    assert {"uv run ruff check .", "uv run pyright", "uv run pytest"} <= set(commands)
    (documented,) = (command.split()[3:-2] for command in commands if " pdoc " in command)
    assert f"-m pdoc {' '.join(documented)} -o" in ci
    for name in re.findall(r"`((?:avsr|tests|data|experiments)/[\w./-]*)`", page):
        assert (ROOT / name).exists() or "NAME" in name, name


def test_the_version_is_in_one_place_and_types_are_shipped():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "avsr/__init__.py"
    assert avsr.__version__ == version("avsr")
    assert f"{avsr.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "avsr" / "py.typed").exists()


def test_exactly_one_opencv_is_installed_and_whole():
    """Two would write into one folder; removing one of two leaves half of the other."""
    import cv2

    assert packages_distributions()["cv2"] == ["opencv-contrib-python"]
    remedy = "Run uv sync --reinstall-package opencv-contrib-python."
    assert hasattr(cv2, "__version__"), remedy
    assert version("opencv-contrib-python").startswith(cv2.__version__), remedy


def test_pip_is_asked_for_no_second_opencv():
    """pip knows no overrides, so what it may be asked for must not require opencv-python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"],
             *(one for extra in project["project"]["optional-dependencies"].values() for one in extra)]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in asked}
    assert {name for name in names if name.startswith("opencv")} == {"opencv-contrib-python"}
    for name in names:
        others = [one for one in requires(name) or () if one.startswith("opencv") and "extra ==" not in one]
        assert {re.split(r"[<>=; ]", one)[0] for one in others} <= {"opencv-contrib-python"}, name


def test_the_users_packages_are_dependencies():
    """The user's card names them; opencv-python as its superset contrib, which mediapipe requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    asked = {re.split(r"[<>=]", one)[0] for one in listed if isinstance(one, str)}
    assert asked >= {"torch", "torchvision", "opencv-contrib-python", "mediapipe", "librosa", "pytest"}


def test_the_readme_tree_is_true():
    readme = (ROOT / "README.md").read_text()
    tree = readme[readme.index("<!-- tree -->"):readme.index("<!-- end of tree -->")]
    rooms = re.findall(r"^  ([a-z_]+\.py|[a-z_]+/)", tree, re.MULTILINE)
    assert sorted(set(rooms)) == sorted(rooms), "a room is named twice"
    named = set(re.findall(r"^\s*([a-z_]+\.py|[a-z_]+/)", tree, re.MULTILINE))
    there = {path.name + ("/" if path.is_dir() else "") for path in (ROOT / "avsr").iterdir()
             if path.name[0] not in "._" and path.name != "py.typed"}
    assert named >= there, there - named
    for name in named:
        assert any(ROOT.rglob(name.rstrip("/"))), name


def test_git_holds_no_lock_file_no_registry_and_no_path_of_a_machine():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in listing.stdout.split():
        assert not name.endswith(".lock"), name
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yml", ".json", ".jsonl", ""} and path.is_file():
            text = path.read_text(errors="replace")
            assert "pypi" + ".org" not in text, name
            assert not re.search(r"(?<![\w.])/(work|root|home)/\w", text), name
