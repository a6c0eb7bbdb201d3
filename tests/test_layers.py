"""The house: a file imports only from files above it, nothing heavy at import, one home for numbers and for printing."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import avsr
from avsr.fetch import run as fetch_run
from avsr.transcribe import run as transcribe_run

PACKAGE = Path(__file__).resolve().parents[1] / "avsr"
# In the order in which data flows; a folder stands for its files.
ORDER = ["errors", "names", "arrays", "memory", "output", "rates", "runtime", "schema", "tensorfiles", "textfiles", "folders",
         "remote", "workers",
         "download", "assets", "fetch", "media", "faces", "sync", "lips", "cropped", "features", "segment", "selection",
         "speakers", "segmenters", "stream", "noise", "augment", "corrupt", "linebreak", "text", "transcript", "manifest",
         "corpora",
         "cache", "prepare", "config", "dataset", "batch", "models", "losses", "importers", "checkpoint", "export", "lm", "hmm",
         "decode", "timing", "recogniser", "combine", "results", "metrics", "modality", "train", "correct", "pretrain", "plan",
         "transcribe", "align", "find_speakers", "live", "benchmark", "tune", "html", "label", "enrol", "explain", "report",
         "serve", "cli", "__main__"]
MODELS = ["protocol", "blocks", "conformer", "recurrent", "resnet", "audio", "video", "fusion", "decoder", "avsr", "hybrid",
          "onnx"]
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Names of the package's modules that a file imports, wherever in the file; `avsr.media.write` for a file in a folder."""
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names if alias.name.startswith("avsr.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "avsr":
            out |= {f"avsr.{alias.name}" for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("avsr."):
            out.add(node.module)
    return out


@pytest.mark.parametrize("path", [path for path in FILES if path != PACKAGE / "__init__.py"],
                         ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_above(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    own = ORDER.index(parts[0])
    for module in imported(path):
        names = module.split(".")[1:]
        above = ORDER.index(names[0])
        assert above <= own, f"{path.name} imports {module}, which comes later"
        if above == own and parts[0] == "models":
            assert MODELS.index(names[1]) < MODELS.index(parts[1]), f"{path.name} imports {module}"


def test_every_file_is_in_the_order_and_says_what_it_is():
    assert {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES} - {"__init__"} == set(ORDER)
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_importing_the_package_and_asking_for_help_loads_nothing_heavy():
    code = ("import sys, avsr, avsr.cli; from click.testing import CliRunner; "
            "assert CliRunner().invoke(avsr.cli.main, ['transcribe', '--help']).exit_code == 0; "
            "print(sorted({'torch', 'numpy', 'av', 'mediapipe', 'cv2', 'rich', 'librosa'} & set(sys.modules)))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


UNNEEDED = {"librosa", "numba", "scipy", "sklearn", "matplotlib", "sounddevice", "torchvision", "torchaudio", "transformers",
            "huggingface_hub", "tensorboard", "sympy", "pandas", "torch._dynamo", "torch._inductor", "torch._export.serde"}


@pytest.mark.parametrize(("modality", "needed", "more"), [
    ("a", {"torch", "av", "onnxruntime"}, {"mediapipe", "cv2", "PIL"}),
    pytest.param("auto", {"torch", "av", "onnxruntime", "mediapipe", "cv2"}, set(), marks=pytest.mark.slow),
])
def test_the_transcribe_command_imports_only_what_it_uses(modality, needed, more):
    clip = PACKAGE.parent / "data/demo/hello.mp4"
    command = [sys.executable, "-X", "importtime", "-m", "avsr", "transcribe", str(clip), "--modality", modality]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "made by a computer" in done.stdout
    names = re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE)
    imported = {".".join(name.split(".")[:depth]) for name in names for depth in (1, 2, 3)}
    assert needed <= imported
    assert not (UNNEEDED | more) & imported


@pytest.mark.slow
def test_the_function_transcribe_is_not_hidden_by_the_file():
    code = ("import avsr.transcribe; from avsr.transcribe.run import load_model; from avsr.fetch import sources; import avsr; "
            "assert callable(avsr.transcribe) and callable(avsr.fetch)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_quick_functions_have_the_signatures_of_those_that_work():
    for quick, at_work in ((avsr.transcribe, transcribe_run.transcribe), (avsr.fetch, fetch_run.fetch)):
        assert inspect.signature(quick) == inspect.signature(at_work)


@pytest.mark.slow
def test_every_file_is_imported_where_a_system_lacks_what_only_posix_has():
    modules = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
    code = ("import sys, os, importlib\nsys.modules |= dict.fromkeys(('fcntl', 'resource', 'termios', 'pwd', 'grp'))\n"
            "for name in ('sched_getaffinity', 'pwrite', 'pread'): delattr(os, name)\n"
            f"for name in {modules!r}: importlib.import_module(name)\n"
            "from avsr.output import locked\nwith locked(sys.argv[1], 'avsr train'): print(os.listdir(sys.argv[1]))")
    with TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.slow
def test_only_the_command_line_prints():
    for path in FILES:
        calls = [node for node in ast.walk(ast.parse(path.read_text()))
                 if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"]
        assert not calls or path.parent == PACKAGE / "cli", path


def test_rates_have_one_home():
    for path in FILES:
        if path.name != "rates.py":
            assert not re.search(r"(?<![\w.])(16000|16_000|640)(?![\w.])", path.read_text()), path


def test_sizes_stay_readable():
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
