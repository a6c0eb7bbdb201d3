"""Text to text: n-best lists, their simulation, the corrector and its guard, and its use after a recogniser."""

import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr import transcribe
from avsr.cli import main
from avsr.config import read_settings
from avsr.correct import CorrectedRecogniser, Correction, Corrector, open_corrector
from avsr.correct.corrector import passes, support
from avsr.correct.data import CorrectConfig, TrainingData, systems
from avsr.correct.folder import CorrectorParts, Guard, load_parts, save_parts
from avsr.correct.lists import LabelledLists, NBest, line_of, list_of, read_file, read_lists
from avsr.correct.network import TextDims, TextToText
from avsr.correct.simulate import Confusions, aligned
from avsr.correct.train import Judged, fit_guard, train_corrector
from avsr.correct.vocabulary import LEVELS, Vocabulary, level_of, write_vocabulary
from avsr.decode import DecodeOptions
from avsr.errors import BadCheckpoint, BadConfig, BadManifest, BadOutput
from avsr.rates import SAMPLE_RATE
from avsr.recogniser import Recogniser
from avsr.text import normalise
from avsr.train.loop import TrainOptions
from avsr.transcript import format_transcript

ONCE = DecodeOptions(temperatures=(0.0,))
SENTENCES = ["bin blue at f two now", "set red in h one soon", "lay white by k nine again", "place green with q zero please"]
GENEROUS = {"a+v+av": Guard(0.0, 0.0, 1.0, 0.0)}


def made(number: int, text: str, own: str | None = None) -> LabelledLists:
    own = text.replace("bin", "been") if own is None else own
    lists = {"a": NBest((own, "thank you"), (-0.1, -0.4)), "v": NBest((text,), (-0.05,)),
             "av": NBest((own, text), (-0.2, -0.3))}
    return LabelledLists(f"clip{number}", text, own, lists, "babble", -5.0)


@pytest.fixture(scope="module")
def lists() -> list[LabelledLists]:
    return [made(i, text) for i, text in enumerate(SENTENCES)]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Vocabulary:
    return write_vocabulary(tmp_path_factory.mktemp("pieces") / "tokenizer.json", [*SENTENCES * 5, "thank you"], 90)


@pytest.fixture(scope="module")
def parts(vocabulary) -> CorrectorParts:
    torch.manual_seed(0)
    dims = TextDims(vocabulary.size, width=16, n_heads=2, n_encoder_layers=1, n_decoder_layers=1)
    return CorrectorParts(TextToText(dims).eval().requires_grad_(False), vocabulary)


@pytest.fixture
def config(tmp_path, lists) -> str:
    """A config with lists, texts and other texts of its own."""
    for name, some in (("train", lists), ("valid", [made(9, "bin red at b one now"), made(10, "set blue by c two soon")])):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{line_of(one)}\n" for one in some))
    (tmp_path / "texts.txt").write_text("Bin red at B1 now.\nset green by z four again\n")
    (tmp_path / "other.txt").write_text("It was the best of times, it was the worst of times.\n")
    path = tmp_path / "config.toml"
    path.write_text('name = "small"\n[dims]\nwidth = 16\nn_heads = 2\nn_encoder_layers = 1\nn_decoder_layers = 1\n[data]\n'
                    'train = ["train.jsonl"]\nvalid = ["valid.jsonl"]\ntexts = ["texts.txt"]\nother_texts = ["other.txt"]\n'
                    'batch = 6\nn_pieces = 90\n[train]\nsteps = 4\nvalid_every = 2\nsave_every = 1\nwarmup = 1\n')
    return str(path)


# --- lists, pieces ---

def test_lists_are_read_as_they_were_written(tmp_path, lists):
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(f"{line_of(one)}\n" for one in lists))
    assert read_file(path) == lists


@pytest.mark.parametrize(("line", "says"), [
    ("", "there are no n-best lists in it"),
    ("{", "line 1: has no id, reference, own and lists"),
    ('{"id": "x", "reference": "a", "own": "a"}', "line 1: has no id, reference, own and lists"),
    ('{"id": "x", "reference": 3, "own": "a", "lists": {}}', "reference is 3, but must be text"),
    ('{"id": "x", "reference": "a", "own": "a", "lists": {"lidar": {"texts": ["a"], "scores": [0]}}}', "modality 'lidar'"),
    ('{"id": "x", "reference": "a", "own": "a", "lists": {"a": {"texts": ["a"], "scores": []}}}', "not one score for each"),
])
def test_a_file_that_holds_no_lists_is_refused_in_a_sentence(tmp_path, line, says):
    path = tmp_path / "lists.jsonl"
    path.write_text(line)
    with pytest.raises(BadManifest, match=says) as caught:
        read_file(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(BadManifest, match="cannot be read"):
        read_file(tmp_path / "absent.jsonl")


def test_lists_become_pieces_with_marks_of_modality_rank_and_score(vocabulary, lists):
    pieces = vocabulary.encode_lists(lists[0].lists, (2, 1, 1))
    names = [vocabulary.tokenizer.texts[piece] for piece in pieces]
    assert [name for name in names if name.startswith("<")] == ["<a1>", "<s2>", "<a2>", "<s4>", "<v1>", "<s1>", "<av1>", "<s3>"]
    assert pieces[-1] == vocabulary.end
    assert vocabulary.decode(pieces[:-1]) == "been blue at f two now thank you bin blue at f two now been blue at f two now"


@given(st.floats(-10, 0), st.floats(0, 3))
def test_a_higher_score_has_no_higher_level(score, less):
    assert LEVELS.index(level_of(score)) <= LEVELS.index(level_of(score - less))
    assert level_of(-np.inf) == LEVELS[-1]


# --- simulated lists ---

@given(st.permutations(["bin", "blue", "at", "f"]), st.lists(st.sampled_from(["bin", "been", "blue"]), max_size=8))
def test_the_words_of_a_text_are_shared_out_to_the_reference_in_order(reference, words):
    parts = aligned(reference, words)
    assert len(parts) == len(reference)
    assert " ".join(filter(None, parts)).split() == words


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_a_simulated_list_has_only_words_of_the_text_and_errors_that_were_made(seed):
    confusions = Confusions([made(i, text) for i, text in enumerate(SENTENCES)])
    found = confusions.simulate("bin red at zebra two now", np.random.default_rng(seed))
    assert set(found) == {"a", "v", "av"}
    assert found["v"].texts == ("bin red at zebra two now",)    # the lips made no error
    assert found["a"].texts[0] == "been red at zebra two now"   # by sound each bin was a been
    assert found["a"].scores[0] == -0.1


# --- the guard ---

JUDGED = st.builds(lambda group, margin, confidence, keep, own, text: Judged(
    group, Correction("b", "a", margin, confidence, keep, 0.8), 6, own, text), st.sampled_from([("a", None), ("a", 0.0)]),
    st.floats(-2, 8), st.floats(0, 1), st.floats(0, 1), st.integers(0, 6), st.integers(0, 6))


@settings(max_examples=50, deadline=None)
@given(st.lists(JUDGED, max_size=12))
def test_the_guard_that_is_fitted_raises_the_errors_of_no_group(judged):
    guard, gained = fit_guard(judged), defaultdict(int)
    for one in judged:
        if passes(guard, one.correction):
            gained[one.group] += one.errors_own - one.errors_text
    assert all(value >= 0 for value in gained.values())


def test_the_guard_lets_pass_what_helps():
    good = Judged(("a", None), Correction("b", "a", 4.0, 0.9, 0.01, 0.9), 6, 2, 0)
    bad = Judged(("a", None), Correction("b", "a", 1.0, 0.5, 0.3, 0.9), 6, 0, 3)
    guard = fit_guard([good, bad])
    assert passes(guard, good.correction)
    assert not passes(guard, bad.correction)


def test_what_nobody_heard_or_saw_is_not_written():
    invented = support("set red in r four please", {"a": NBest(("thank you very much", "thank you in"), (-0.1, -0.2))})
    assert invented == 1 / 6
    assert not passes(Guard(), Correction("set red in r four please", "thank you very much", 65.0, 0.99, 0.0, invented))
    assert support("bin blue", {"a": NBest(("been blue",), (-0.1,)), "v": NBest(("bin red",), (-0.1,))}) == 1


# --- the corrector on disk ---

def test_a_corrector_is_read_as_it_was_written_and_leaves_alone_what_it_cannot_read(tmp_path, parts, lists):
    save_parts(replace(parts, guards=GENEROUS), tmp_path / "model")
    corrector, again = Corrector(load_parts(tmp_path / "model")), open_corrector(tmp_path / "model")
    inputs = [one.lists for one in lists]
    found = corrector.correct(inputs, [one.own for one in lists])
    assert found == again.correct(inputs, [one.own for one in lists])
    assert again.guards == GENEROUS
    assert not any(one.used for one in again.correct([{"a": of["a"]} for of in inputs], [one.own for one in lists]))
    alone = corrector.correct(inputs[1:2], [lists[1].own])[0]
    assert (alone.text, alone.used) == (found[1].text, found[1].used)
    assert alone.margin == pytest.approx(found[1].margin, abs=1e-3)
    long = NBest(("word " * 400,), (-0.1,))
    empty, much = corrector.correct([{}, {"a": long}], ["", long.texts[0]])
    assert (empty.used, much.used) == (False, False)
    assert "no text" in str(empty.refused)
    assert "320" in str(much.refused)


def test_a_folder_that_holds_no_corrector_is_refused_in_a_sentence(tmp_path, parts):
    folder = save_parts(replace(parts, guards={"a": Guard()}), tmp_path / "model")
    with pytest.raises(BadCheckpoint, match="no such folder"):
        open_corrector(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadCheckpoint, match=r"there is no model\.json in it"):
        open_corrector(tmp_path / "empty")
    about = json.loads((folder / "model.json").read_text())
    for change, says in (({"kind": "recogniser"}, "this model is no corrector"),
                         ({"guards": {"a": {}}}, "its fields are absent"),
                         ({"dims": about["dims"] | {"width": 32}}, "do not fit the dims"),
                         ({"dims": about["dims"] | {"n_vocab": 99_999}}, "is not the one"),
                         ({"guards": {"a": about["guards"]["a"] | {"keep": 3}}}, "keep is 3, but must be a number")):
        (folder / "model.json").write_text(json.dumps(about | change))
        with pytest.raises(BadCheckpoint, match=says):
            open_corrector(folder)
    (folder / "model.json").write_text(json.dumps(about))
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(BadCheckpoint, match="cannot be read as weights"):
        open_corrector(folder)


def test_a_corrector_with_other_marks_is_refused(tmp_path, parts):
    text = (parts.vocabulary.path).read_text().replace('"<v1>"', '"<lips1>"')
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(BadCheckpoint, match="has no piece for <v1>"):
        Vocabulary(tmp_path / "tokenizer.json")


def test_a_model_that_recognises_is_no_corrector():
    from avsr.checkpoint import SHIPPED

    arguments = ["transcribe", "data/demo/hello.mp4", "--correct", str(SHIPPED / "grid"), "--modality", "a"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "this model is no corrector" in done.stderr


# --- training ---

def test_a_run_that_is_stopped_goes_on_to_the_same_weights(tmp_path, config):
    whole = train_corrector(read_settings(CorrectConfig, config), tmp_path / "whole")
    train_corrector(read_settings(CorrectConfig, config, ["train.steps=2"]), tmp_path / "parts")
    with pytest.raises(BadOutput, match="holds a run already"):
        train_corrector(read_settings(CorrectConfig, config), tmp_path / "parts")
    state = json.loads((tmp_path / "parts" / "state.json").read_text())
    assert state["step"] == 2
    assert whole.done
    assert whole.scores.keys() == {"own", "corrected"}
    assert whole.scores["corrected"] <= whole.scores["own"]
    again = train_corrector(read_settings(CorrectConfig, config), tmp_path / "parts", TrainOptions(resume=True))
    assert again.step == 4
    assert whole.model is not None
    assert open_corrector(whole.model).parts.training["lists"] == len(SENTENCES)


def test_examples_are_real_simulated_and_left_alone_and_each_recogniser_has_its_lists(config, vocabulary):
    data = TrainingData(read_settings(CorrectConfig, config))
    made = [data.example(np.random.default_rng(seed)) for seed in range(60)]
    targets = {text for _, text in made}
    assert None in targets
    assert {"bin red at b one now", "set green by z four again"} & targets
    assert set(SENTENCES) & targets
    assert {tuple(lists) for lists, _ in made} >= {("a",), ("av",), ("a", "v", "av")}
    assert systems(data.valid[0]).keys() == {"a+v+av", "a", "v"}
    inputs, wanted = data.batch(3, vocabulary, (3, 3, 1), 320)
    assert (inputs, wanted) == data.batch(3, vocabulary, (3, 3, 1), 320)


@pytest.mark.parametrize(("override", "error", "says"), [
    ("data.train=[]", BadConfig, "data.train names no n-best lists"),
    ('data.valid=["train.jsonl"]', BadManifest, "are in data.train and in data.valid"),
    ('data.texts=["absent.txt"]', BadManifest, "these texts cannot be read"),
    ("dims.depth=3", BadConfig, "dims.depth is not a setting"),
    ("dims.width=15", BadConfig, "dims.width 15 is odd"),
    ("data.text=3", BadConfig, "Did you mean data.texts"),
])
def test_a_config_that_cannot_be_trained_is_refused_in_a_sentence(tmp_path, config, override, error, says):
    with pytest.raises(error, match=says):
        train_corrector(read_settings(CorrectConfig, config, [override]), tmp_path / "run")


# --- after a recogniser ---

class Scripted(Corrector):
    """A corrector whose network is not asked: it writes a text whatever the lists are."""

    def __init__(self, parts: CorrectorParts, text: str):
        super().__init__(parts)
        self.text = text

    def correct(self, lists, own):
        return [Correction(self.text, before, 5.0, 0.9, 0.0, used=before != self.text) for before in own]


def test_a_corrected_text_is_spelt_and_timed_as_the_recogniser_would(tiny_en, hello, parts):
    recogniser = Recogniser(tiny_en)
    memory = recogniser.encode([hello], None, "a")
    (found,) = read_lists(recogniser, memory, "a", ONCE)
    (own,) = recogniser.decode(memory, ONCE)
    assert found.own == own
    assert found.lists["a"].texts[0] == normalise(recogniser.detokenize(own.tokens))
    assert list_of(recogniser, [own]).texts == found.lists["a"].texts[:1]
    corrected = CorrectedRecogniser(recogniser, Scripted(parts, "hello this video was made by a commuter"), "a")
    (text,) = corrected.decode(memory, ONCE)
    assert normalise(corrected.detokenize(text.tokens)) == "hello this video was made by a commuter"
    assert corrected.detokenize(text.tokens)[0] == "H"
    assert text.corrected_from == recogniser.detokenize(own.tokens)
    assert text.avg_logprob == pytest.approx(own.avg_logprob)
    (words,) = corrected.align(memory, [text.tokens], [len(hello) / SAMPLE_RATE])
    assert [normalise(word.text) for word in words] == normalise(corrected.detokenize(text.tokens)).split()
    refusing = CorrectedRecogniser(recogniser, Corrector(parts), "a")
    assert refusing.decode(memory, ONCE) == [own]
    assert corrected.decode(memory, ONCE, "de") == recogniser.decode(memory, ONCE, "de")


@pytest.mark.slow
def test_json_tells_what_was_corrected(tiny_en, hello, parts):
    said = transcribe(hello, model=tiny_en, modality="a", correct=Scripted(parts, "it was a commuter"))
    rows = json.loads(format_transcript(said, "json"))["segments"]
    assert {normalise(row["text"]) for row in rows} == {"it was a commuter"}
    assert rows[0]["corrected_from"].startswith("Hello")
    plain = transcribe(hello, model=tiny_en, modality="a", correct=Corrector(parts))
    assert "corrected_from" not in json.loads(format_transcript(plain, "json"))["segments"][0]
    assert plain.text == transcribe(hello, model=tiny_en, modality="a").text
