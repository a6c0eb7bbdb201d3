"""avsr lm train and score: texts are read and held out, networks learn and go on bit for bit, figures are those by hand."""

import gzip
import json
import math

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from avsr import manifest
from avsr.cli import main
from avsr.errors import AvsrError, BadConfig, BadManifest
from avsr.lm import TextScore, open_language_model
from avsr.lm.config import read_lm_config
from avsr.lm.texts import read_data, read_sentences
from avsr.manifest import Utterance
from avsr.metrics import perplexity, perplexity_ratio
from avsr.train.language_model import order_batches, train_language_model
from avsr.train.loop import TrainOptions

SENTENCES = ["the cat sat", "the dog sat", "a cat ran", "a dog ran", "the cat ran", "a dog sat"]
SMALL = ("network.width=16", "network.hidden=24", "network.n_layers=1", "network.n_heads=2", "network.dropout=0.1",
         "train.steps=12", "train.batch_tokens=80", "train.warmup=2", "train.valid_every=6", "train.save_every=3",
         "train.threads=1", "train.lr=1e-2")


@pytest.fixture
def written(tmp_path):
    """A config beside its texts."""
    (tmp_path / "train.txt").write_text("\n".join([*SENTENCES * 3, "", "The cat slept.", "..."]) + "\n")
    (tmp_path / "valid.txt").write_text("the cat slept\na dog sat\n")

    def write(kind="ngram", more=""):
        path = tmp_path / "lm.toml"
        tokens = "" if kind == "ngram" else 'tokenizer = "grid"\n'
        path.write_text(f'name = "try"\nkind = "{kind}"\n{tokens}{more}[data]\ntrain = ["train.txt"]\nvalid = ["valid.txt"]\n')
        return path

    return write


def run(*arguments):
    return CliRunner().invoke(main, ["lm", *map(str, arguments)])


# Texts

def test_texts_are_read_and_held_out_ones_taken_out(written):
    data = read_data(read_lm_config(written()))
    assert (len(data.train), data.left_out, data.n_empty) == (15, 4, 2)
    assert "a dog sat" not in data.train
    assert data.summary == "15 sentences to train with, 2 to validate; left out: 4 that are held out, 2 without a word"


def test_manifests_tables_and_packed_texts_are_read(tmp_path):
    rows = [Utterance(f"u{i}", f"{i}.mp4", text, split=split)
            for i, (text, split) in enumerate([("one", "train"), ("two", "train"), ("three", "valid"), ("four", "test")])]
    manifest.write(tmp_path / "manifest.jsonl", rows)
    found = {role: read_sentences(tmp_path, role) for role in ("train", "valid", "held_out", "all")}
    assert found == {"train": ["one", "two"], "valid": ["three"], "held_out": ["three", "four"],
                     "all": ["one", "two", "three", "four"]}
    (tmp_path / "grid.tsv").write_text("speaker\tutterance\ns1\tbbaf2n\n")
    assert read_sentences(tmp_path / "grid.tsv") == ["bin blue at f two now"]
    (tmp_path / "t.tsv").write_text("text\tsplit\nhello\ttrain\nyou\tvalid\n")
    assert read_sentences(tmp_path / "t.tsv", "valid") == ["you"]
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"hello\nyou\n"))
    assert read_sentences(tmp_path / "t.txt.gz") == ["hello", "you"]


@pytest.mark.parametrize(("name", "data", "problem"), [
    ("odd.txt", b"caf\xe9\n", r"no text \(byte 3 is no UTF-8\)\.  Save the file as UTF-8"),
    ("cut.gz", gzip.compress(b"hello\n" * 99, mtime=0)[:-20], r"the gzip file is damaged or cut short"),
    ("t.tsv", b"words\nhello\n", "no column text among words"),
    ("grid.tsv", b"speaker\tutterance\ns1\thello\n", "line 2: hello is no name of a GRID sentence"),
    ("t.csv", b"text,split\nhello,test\n", r"none of its 1 rows is for train \(splits: test\)"),
])
def test_files_that_hold_no_sentences_are_refused(tmp_path, name, data, problem):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadManifest, match=problem) as caught:
        read_sentences(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    with pytest.raises(BadManifest, match=r"nothing\.txt: cannot be read \(No such file"):
        read_sentences(tmp_path / "nothing.txt")


@pytest.mark.parametrize(("kind", "overrides", "problem"), [
    ("ngram", ("data.train=[]",), r"data.train names no text\.  Add a section"),
    ("lstm", ("tokenizer=none",), r"tokenizer names none\.  Write tokenizer = \"tiny.en\""),
    ("gpt", ("data.valid=[]",), r"data.valid names no text, by which"),
    ("gpt", ("network.width=30",), r"network.width is 30, which does not divide into 4 heads"),
    ("ngram", ("ngram.order=7",), "ngram.order is 7, but must be a whole number from 1 to 6"),
    ("ngram", ("kind=bert",), "kind is \"bert\", but must be one of ngram, lstm, gpt"),
    ("ngram", ("ngram.ordr=2",), r"ngram.ordr is not a setting\.  Did you mean ngram.order"),
    ("ngram", ('data.train=["valid.txt"]',), r"none of the 2 sentences of data.train is left to train with \(2 are held out"),
])
def test_bad_settings_are_refused_in_one_sentence(written, kind, overrides, problem):
    with pytest.raises(BadConfig, match=problem):
        read_data(read_lm_config(written(kind), overrides))


# Training

def test_ngrams_from_the_command_line_to_the_search(written, tmp_path):
    done = run("train", written(), "-o", tmp_path / "run", "--set", "ngram.order=2")
    assert done.exit_code == 0, done.output
    assert "15 sentences to train with" in done.output
    assert f"The language model is {tmp_path / 'run' / 'model.arpa.gz'} (validation: perplexity " in done.output
    assert open_language_model(tmp_path / "run").order == 2
    again = run("train", written(), "-o", tmp_path / "run", "--resume")
    assert "error: --resume: n-grams are estimated in one go" in again.output


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "gpt"])
def test_a_network_learns_and_goes_on_bit_for_bit(written, tmp_path, kind):
    config, lines = read_lm_config(written(kind), SMALL), []
    trained = train_language_model(config, tmp_path / "one", TrainOptions(say=lines.append))
    assert (trained.step, trained.done) == (12, True)
    rows = [json.loads(line) for line in (tmp_path / "one" / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]
    assert [row["step"] for row in rows if "valid_perplexity" in row] == [6, 12]
    assert open_language_model(tmp_path / "one").training["valid_perplexity"] == trained.perplexity
    assert lines[0].startswith("15 sentences to train with")

    class Stop(Exception):
        pass

    def stop(line):
        if line.startswith("valid at step 6"):
            raise Stop

    with pytest.raises(Stop):
        train_language_model(config, tmp_path / "two", TrainOptions(say=stop))
    assert train_language_model(config, tmp_path / "two", TrainOptions(resume=True)).perplexity == trained.perplexity
    one, two = (load_file(tmp_path / name / "state-12.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(AvsrError, match="holds a run already"):
        train_language_model(config, tmp_path / "two", TrainOptions())


def test_sentences_with_letters_that_the_tokenizer_lacks_are_counted(written, tmp_path):
    lines = []
    with (tmp_path / "train.txt").open("a") as file:
        file.write("un café\n")
    config = read_lm_config(written("lstm"), [*SMALL, "train.steps=1"])
    train_language_model(config, tmp_path / "run", TrainOptions(say=lines.append))
    assert lines[1] == "1 of 16 sentences hold letters without a token, such as 'é'; they are left out"
    (tmp_path / "train.txt").write_text("один\nдва\nthe cat\n")
    with pytest.raises(BadConfig, match=r"try: 2 of 3 sentences hold letters without a token, such as .*  Set data.spelling"):
        train_language_model(read_lm_config(written("lstm"), SMALL), tmp_path / "other", TrainOptions())


def test_a_gpt_can_begin_as_the_recognisers_decoder(written, tmp_path):
    from avsr import checkpoint

    path = written("gpt", "from_decoder = true\n")
    with pytest.raises(BadConfig, match=r"from_decoder wants the sizes of the recogniser's decoder\.  Write kind ="):
        train_language_model(read_lm_config(path, SMALL), tmp_path / "run", TrainOptions())
    decoder = checkpoint.load("grid", lips=False).model.decoder
    sizes = (f"network.width={decoder.embedding.weight.shape[1]}", f"network.n_layers={len(decoder.blocks)}",
             f"network.n_heads={decoder.blocks[0].attention.n_heads}", f"network.n_context={min(64, len(decoder.positions))}")
    config = read_lm_config(path, [*SMALL, *sizes, "train.steps=1", "train.lr=1e-9"])
    train_language_model(config, tmp_path / "run", TrainOptions())
    network = open_language_model(tmp_path / "run").network
    assert torch.allclose(network.embedding.weight[1:], decoder.embedding.weight[network.known], atol=1e-6)
    assert torch.allclose(network.blocks[0].feed[0].weight, decoder.blocks[0].feed[0].weight, atol=1e-6)


def test_every_sentence_is_once_in_an_epoch_and_batches_are_full():
    import numpy as np

    lengths = np.random.default_rng(0).integers(2, 30, 500).tolist()
    batches = order_batches(lengths, 100, np.random.default_rng(1))
    assert sorted(number for batch in batches for number in batch) == list(range(500))
    assert max(len(batch) * max(lengths[number] for number in batch) for batch in batches) <= 100
    assert len(batches) < 1.5 * sum(lengths) / 100
    assert batches == order_batches(lengths, 100, np.random.default_rng(1))
    assert batches != order_batches(lengths, 100, np.random.default_rng(2))


# Perplexity

def test_perplexity_by_hand():
    scores = [TextScore(-6.0, 3, 11), TextScore(-9.0, 3, 13, n_unknown=1, unknown_letters=4, unknown_logprob=-5.0)]
    found = perplexity(scores)
    assert (found.n_sentences, found.n_words, found.n_letters, found.n_unknown) == (2, 6, 24, 1)
    assert found.unspelt.value == pytest.approx(math.exp(15 / 6))
    assert found.per_word.value == pytest.approx(math.exp((15 + 5 * math.log(28)) / 6))
    assert found.per_letter.value == pytest.approx(math.exp((15 + 5 * math.log(28)) / 24))
    assert found.known.value == pytest.approx(math.exp(10 / 5))
    better = [TextScore(one.logprob + 1, one.n_words, one.n_letters) for one in scores]
    assert perplexity_ratio(better, scores).value == pytest.approx(math.exp(-2 / 6) / 28**(5 / 6))
    with pytest.raises(AvsrError, match=r"none of the 1 sentences has a word"):
        perplexity([TextScore(-1.0, 0, 0)])


def test_the_command_compares_models_on_the_same_sentences(written, tmp_path):
    run("train", written(), "-o", tmp_path / "one", "--set", "ngram.order=1", "-q")
    run("train", written(), "-o", tmp_path / "two", "--set", "ngram.order=3", "-q")
    done = run("score", tmp_path / "valid.txt", "--model", tmp_path / "one", "--model", tmp_path / "two", "-q")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == f"{tmp_path / 'valid.txt'}: 2 sentences, 6 words, 22 letters"
    assert lines[1].startswith(f"{tmp_path / 'one'}: perplexity ")
    assert lines[2].startswith("  1 words are unknown to it; known words: ")
    assert lines[-1].startswith("  per word 0.")
    assert lines[-1].endswith(f"times that of {tmp_path / 'one'}")
    (tmp_path / "empty.txt").write_text("\n...\n")
    done = run("score", tmp_path / "empty.txt", "--model", tmp_path / "one")
    assert "empty.txt: it holds no sentence with a word.  Name a text" in done.output
    assert done.exit_code == 1
