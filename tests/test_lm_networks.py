"""LSTM and GPT language models: the equations, the cached states, the scores of the search and of whole texts, the folder."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.decode import BeamSearch, DecodeOptions, search
from avsr.errors import AvsrError, BadCheckpoint
from avsr.lm import open_language_model
from avsr.lm.networks import LMDims, LstmState, make_network
from avsr.lm.neural import NeuralLM
from avsr.lm.spelling import spell
from avsr.text import write_characters

SIZES = {"lstm": {"width": 12, "hidden": 16, "n_layers": 2}, "gpt": {"width": 16, "n_heads": 2, "n_layers": 2, "n_context": 16}}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_characters(tmp_path_factory.mktemp("tokens") / "tokenizer.json")


def model_of(kind, tokenizer, known="abcdefghijklmnopqrst '", seed=0):
    torch.manual_seed(seed)
    numbers = sorted({tokenizer.end, *(token for letter in known for token in tokenizer.encode(letter))})
    network = make_network(LMDims(kind, n_tokens=tokenizer.n_tokens, n_classes=len(numbers) + 1, **SIZES[kind])).eval()
    network.known.copy_(torch.tensor(numbers))
    for parameter in network.parameters():                  # at their first values all tokens are about equally likely
        parameter.data += 0.3 * torch.randn_like(parameter)
    return NeuralLM(network, tokenizer, name="lm", made_for="grid", spelling="normalised")


@pytest.fixture(scope="module", params=["lstm", "gpt"])
def model(request, tokenizer):
    return model_of(request.param, tokenizer)


# The equations

def test_an_lstm_step_is_hochreiter_and_schmidhubers(tokenizer):
    network = model_of("lstm", tokenizer).network
    x, state = network.embedding(torch.tensor([[3], [5]]))[:, 0], LstmState()
    network(torch.tensor([[7], [2]]), state)                # any state but zeros
    h, c = state.h.clone(), state.c.clone()
    below = x
    for layer in range(2):
        w, u, b, d = (getattr(network.lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        i, f, g, o = (below @ w.T + h[layer] @ u.T + b + d).chunk(4, dim=1)
        c[layer] = torch.sigmoid(f) * c[layer] + torch.sigmoid(i) * torch.tanh(g)
        h[layer] = below = torch.sigmoid(o) * torch.tanh(c[layer])
    out = network(torch.tensor([[3], [5]]), state)
    assert torch.allclose(state.h, h, atol=1e-5)
    assert torch.allclose(state.c, c, atol=1e-5)
    assert torch.allclose(out[:, 0], network.project(below), atol=1e-5)


def test_a_gpt_sees_nothing_of_what_comes_later(tokenizer):
    network = model_of("gpt", tokenizer).network
    one, other = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[1, 2, 3, 9, 8]])
    a, b = network(one, network.start()), network(other, network.start())
    assert torch.allclose(a[:, :3], b[:, :3], atol=1e-5)
    assert not torch.allclose(a[:, 3], b[:, 3])


def test_probabilities_add_up_to_one_and_tokens_never_seen_share_alike(model):
    network = model.network
    hidden = network(torch.tensor([[1, 2]]), network.start())[:, -1]
    logprobs = network.all_logprobs(hidden, model.tokenizer.n_tokens)
    assert logprobs.exp().sum().item() == pytest.approx(1, abs=1e-5)
    unseen = [token for token in range(model.tokenizer.n_tokens) if token not in network.known.tolist()]
    assert len({logprobs[0, token].item() for token in unseen}) == 1 < len(unseen)
    tokens = torch.arange(model.tokenizer.n_tokens)
    assert torch.allclose(network.token_logprobs(hidden.expand(len(tokens), -1), tokens), logprobs[0], atol=1e-5)


# In the search

@settings(max_examples=10)
@given(data=st.data())
def test_the_scorer_says_what_the_whole_text_says(model, data):
    """Hypotheses that are read token by token, and exchanged on the way, are worth what score_texts finds."""
    tokenizer, prompt = model.tokenizer, model.tokenizer.prompt(None)
    texts = data.draw(st.lists(st.text("abct ", min_size=1, max_size=12), min_size=2, max_size=3))
    texts = [" ".join(text.split()) or "a" for text in texts]
    written = [model.tokens(text) for text in texts]
    length = min(map(len, written))
    scorer = model.scorer(tokenizer, n_prompt=len(prompt), n_vocab=tokenizer.n_tokens + 3, weight=0.5)
    tokens, totals = torch.tensor([prompt] * len(texts)), torch.zeros(len(texts))
    order = list(range(len(texts)))
    for at in range(length):
        scores = scorer.score(tokens)
        assert scores.shape == (len(texts), tokenizer.n_tokens + 3)
        chosen = torch.tensor([written[number][at] for number in order])
        totals = totals + scores.gather(1, chosen[:, None])[:, 0]
        rows = torch.tensor(data.draw(st.permutations(range(len(texts)))))
        tokens, totals = torch.cat([tokens, chosen[:, None]], dim=1)[rows], totals[rows]
        order = [order[row] for row in rows.tolist()]
        scorer.select(rows, None)
    ends = scorer.score_partial(tokens, torch.full((len(texts), 1), tokenizer.end))[:, 0]
    for number, total in zip(order, (totals + ends).tolist(), strict=True):
        ((_, alone),) = [(0, one) for one in model._logprobs([written[number][:length]])]
        assert total == pytest.approx(alone, abs=1e-3)


class Likes:
    """A recogniser that finds each token equally likely."""

    weight = 1.0

    def __init__(self, n_vocab):
        self.n_vocab = n_vocab

    def score(self, tokens):
        return torch.zeros(len(tokens), self.n_vocab)

    def select(self, rows, utterances):
        pass


def test_a_search_finds_the_text_that_the_model_likes_best(model):
    tokenizer = model.tokenizer
    prompt, options = torch.tensor([tokenizer.prompt(None)] * 2), DecodeOptions(beam_size=4)
    scorer = model.scorer(tokenizer, n_prompt=prompt.shape[1], n_vocab=tokenizer.n_tokens, weight=2.0)
    found = search([Likes(tokenizer.n_tokens), scorer], prompt, BeamSearch(2, options, tokenizer.end), max_tokens=12)
    for tokens, score in found:
        own = model._logprobs([tokens])[0] if len(tokens) < 12 else None
        flat = -math.log(tokenizer.n_tokens) * (len(tokens) + 1)
        assert own is None or score == pytest.approx(flat + 2 * own, abs=1e-3)
    assert found[0] == found[1]


def test_a_text_longer_than_the_context_is_scored_in_parts(tokenizer):
    model = model_of("gpt", tokenizer)
    text = "abcd " * 12
    assert len(model.tokens(text)) > 3 * 16
    prompt = tokenizer.prompt(None)
    scorer = model.scorer(tokenizer, n_prompt=len(prompt), n_vocab=tokenizer.n_tokens, weight=1.0)
    tokens, total = prompt, 0.0
    for token in [*model.tokens(text), tokenizer.end]:
        total += scorer.score(torch.tensor([tokens]))[0, token].item()
        tokens = [*tokens, token]
        scorer.select(torch.tensor([0]), None)
    assert math.isfinite(total)
    score = model.score_texts([text, "a"])
    assert score[0].logprob == pytest.approx(total, rel=0.2)            # they see different parts of what is before
    assert score[1].logprob == pytest.approx(model.score_texts(["a"])[0].logprob, abs=1e-4)


# Texts

def test_scores_count_words_and_letters_and_batches_change_nothing(model):
    texts = ["a bad cat", "", "Cat!", "it's a dog s"]
    scores = model.score_texts(texts)
    assert [(one.n_words, one.n_letters, one.n_unknown) for one in scores] == [(3, 9, 0), (0, 0, 0), (1, 3, 0), (4, 12, 0)]
    for text, score in zip(texts, scores, strict=True):
        assert model.score_texts([text])[0].logprob == pytest.approx(score.logprob, abs=1e-3)


def test_letters_that_the_tokenizer_lacks_are_named(model):
    with pytest.raises(AvsrError, match=r"lm: its tokens cannot write \"\\u00e9\", which \"caf\\u00e9 a\" holds\.  Take such"):
        model.score_texts(["a cat", "café a"])


@pytest.mark.parametrize(("text", "sentence"), [
    ("bin blue at f two now", "Bin blue at F2 now."), ("lay red with a nine soon", "Lay red with A9 soon."),
    ("i have a dog", "I have a dog."), ("it's twenty two b thirty one", "It's twenty two B31."),
    ("Mr. A was b", "Mr. A was b"), ("", ""),
])
def test_words_are_spelt_as_whisper_writes_them(text, sentence):
    assert spell(text, "sentence") == sentence
    assert spell(f"  {text} ", "plain") == text


# The folder

def test_a_folder_comes_back_as_it_was(model, tmp_path):
    folder = model.save(tmp_path / "run" / "model")
    for path in (folder, folder.parent):
        again = open_language_model(path)
        assert (again.name, again.made_for, again.spelling) == (str(folder), "grid", "normalised")
        assert again.score_texts(["a bad cat"]) == model.score_texts(["a bad cat"])
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors", "tokenizer.json"]


def test_a_recogniser_and_a_language_model_are_not_taken_for_each_other(model, tmp_path):
    from avsr import checkpoint

    with pytest.raises(BadCheckpoint, match=r"a language model, and no recogniser\.  Give it as --lm"):
        checkpoint.load(model.save(tmp_path / "model"))
    with pytest.raises(BadCheckpoint, match=r"no language model, but a network of the kind \"avsr\"\.  Name an ARPA file"):
        open_language_model(checkpoint.SHIPPED / "grid")


def test_the_tokenizer_must_be_the_recognisers(model, tmp_path):
    model.check(model.tokenizer)
    same = (tmp_path / "same.json")
    same.write_text(json.dumps(json.loads(model.tokenizer.path.read_text())))
    from avsr.text import open_tokenizer
    model.check(open_tokenizer(same))                       # other bytes, the same tokens
    other = write_characters(tmp_path / "other.json", "abc")
    with pytest.raises(BadCheckpoint, match=r"lm: a language model of the 34 tokens of grid, and the recogniser has \d+ others "
                                            r"\(sha256 \w{8} and \w{8}\)\.  Train one for this recogniser"):
        model.check(other)


@pytest.mark.parametrize(("change", "problem"), [
    (lambda about: about.update(layout=9), "model.json of layout 9, known is 1"),
    (lambda about: about.update(network="avsr"), "no language model, but a network of the kind \"avsr\""),
    (lambda about: about["dims"].update(width=14), "do not fit its dims|not of the sizes"),
    (lambda about: about["dims"].update(width=10**9), "dims.width is 1000000000"),
    (lambda about: about["dims"].update(depth=1), "depth"),
    (lambda about: about.pop("tokenizer"), "lacks tokenizer"),
    (lambda about: about["sha256"].update({"tokenizer.json": "0"}), "tokenizer.json is not there, or another than"),
    (lambda about: about.update(spelling="odd"), "spelling is \"odd\""),
])
def test_a_damaged_folder_is_refused_in_one_sentence(model, tmp_path, change, problem):
    folder = model.save(tmp_path / "model")
    about = json.loads((folder / "model.json").read_text())
    change(about)
    (folder / "model.json").write_text(json.dumps(about))
    with pytest.raises(BadCheckpoint, match=problem) as caught:
        open_language_model(folder)
    assert str(caught.value).count(".  ") == 1
    assert str(caught.value).startswith(str(tmp_path))


def test_dims_are_stored_as_they_are(model, tmp_path):
    about = json.loads((model.save(tmp_path) / "model.json").read_text())
    assert about["dims"] == asdict(model.network.dims)
