"""Model folders that somebody has altered: each is refused in a sentence, or works; none takes long, or much memory.

One process of limited memory tries them all, see made_hostile.py, which tries 1,455 where it is started by hand.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_hostile import WEIGHTS, tiny
from places import ROOT

from avsr import schema
from avsr.checkpoint import Checkpoint, load, may_use_video, save
from avsr.checkpoint.description import Description
from avsr.cli import main
from avsr.errors import BadCheckpoint

SENTENCE = re.compile(r"[^\0-\x1f]{5,600}  [A-Z][^\0-\x1f]*[.?]")                   # on one line, then the remedy
HARMLESS = {"weights: as float64", "weights: as float32", "weights: as bfloat16"}    # as good as float16


@pytest.fixture(scope="module")
def rows():
    """What came of each altered folder."""
    command = [sys.executable, str(Path(__file__).with_name("made_hostile.py")), "4", "11"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_no_altered_model_gives_more_than_a_sentence(rows):
    assert len(rows) > 280
    assert [row for row in rows if row["came"] == "raw"] == []
    assert [row for row in rows if row["came"] == "refused" and not SENTENCE.fullmatch(row["message"])] == []
    assert [row for row in rows if row["seconds"] > 30] == []
    assert max(row["peak_mb"] for row in rows) < 2000


@pytest.mark.slow
def test_damaged_weights_are_refused_when_they_are_loaded(rows):
    came = {row["case"]: row["came"] for row in rows if row["case"].startswith("weights: ")}
    assert len(came) == len(WEIGHTS)
    assert {case for case, one in came.items() if one == "works"} == HARMLESS
    by_case = {row["case"]: row.get("message", "") for row in rows}
    assert "audio.conv1.weight holds values that are infinite or no numbers" in by_case["weights: NaN"]
    assert "has wrong types: audio.conv1.weight of type I64" in by_case["weights: as int64"]
    assert "it only adds to itself, by way of others" in by_case["base: in a circle"]
    assert "more than 3 models would add to one another" in by_case["base: a chain of 50"]
    for case in ("wide", "many words", "many layers"):
        assert "its weights do not fit its dims" in by_case[f"model.json {case}"]
    assert "it would change texts by" in by_case["tokenizer: growing text"]


def test_a_checkpoints_facts_are_in_the_schema_of_model_json():
    facts = {name for name in Checkpoint.__dataclass_fields__} - {"model", "tokenizer", "mouth_crop"}
    assert facts <= set(Description.__dataclass_fields__)
    assert schema.type_hints(Description)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("hostile") / "tiny")


def test_a_loaded_model_is_saved_and_loaded_again(folder, tmp_path):
    again = load(save(load(folder), tmp_path / "again"))
    assert again.search == {"beam_size": 2, "temperatures": [0.0]}
    assert again.alignment_heads == ((0, 1),)


@pytest.mark.parametrize(("name", "says"), [
    ("", r"The model's name is empty.  Name a model: default, grid, a Whisper size, or a folder\."),
    ("y" * 5000, r"y{40}\.\.\.: cannot be read \(File name too long\).  Name a model's folder"),
    ("a\0b", r'"a\\u0000b": no such model or folder\.  Known: default'),
])
def test_names_that_no_model_has(name, says):
    with pytest.raises(BadCheckpoint, match=says):
        load(name)
    assert not may_use_video(name)


@pytest.mark.parametrize(("options", "says"), [
    (["--model", ""], "error: The model's name is empty.  Name a model"),
    (["--model", "FOLDER"], "config.json names neither a model_type"),
])
def test_the_command_says_it_in_a_sentence(tmp_path, monkeypatch, options, says):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)                             # which must not be taken for the model without a name
    clip = str(ROOT / "data" / "demo" / "hello.mp4")
    result = CliRunner().invoke(main, ["transcribe", clip, *[str(tmp_path) if one == "FOLDER" else one for one in options]])
    assert result.exit_code == 1
    assert says in result.stderr
    assert "  Name a " in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_language_without_a_name_is_told_as_such(folder):
    from avsr import AvsrError, transcribe

    with pytest.raises(AvsrError, match=r"the language asked for is empty; .*  Leave --language out, or use one, such as en\."):
        transcribe(ROOT / "data" / "demo" / "hello.mp4", model=load(folder), language=" ")


@pytest.mark.parametrize(("value", "hint", "says"), [
    (2**70, "int", None), ("1", "int", "x is \"1\", but must be a whole number"), (True, "int", "x is true"),
    (1e400, "float", "x is Infinity, but must be a number"), (10**400, "float", "x is a number of more than 40 digits"),
    ([1, None], "tuple[int, ...]", r"x\[1\] is null"), ([1], "tuple[int, int]", r"x is \[1\], but must be a list of 2 numbers"),
    ([], "Annotated[tuple[int, ...], Between(1, 9)]", r"x is \[\], but must be a list of 1 to 9 numbers"),
    (None, "int | None", None), ({"a": 1}, "dict[str, str]", "x.a is 1, but must be text"),
    ("\ud800", "Annotated[str, Printable(9)]", "none of them a control character"), (0, "bool", "must be true or false"),
])
def test_a_value_is_what_its_annotation_says(value, hint, says):
    from typing import Annotated

    kind = eval(hint, {"Annotated": Annotated, "Between": schema.Between, "Printable": schema.Printable})
    if says is None:
        assert schema.validate(value, kind, "x") == value
        return
    with pytest.raises(schema.InvalidValue, match=says):
        schema.validate(value, kind, "x")
