"""The search with CTC: it answers as auto_avsr's own code and as a plain search do, and CTC counts alignments."""

from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import NAMES, answers, need_oracles, network
from test_decode import Chain, chain_of

from avsr.decode import DecodeOptions, DecoderScorer, decode, search
from avsr.decode.ctc import LOG_ZERO, MIN_LOG_PROB, CTCPrefixScorer
from avsr.decode.hybrid import HybridBeamSearch
from avsr.lm import NGrams
from avsr.memory import Memory
from avsr.models.blocks import length_mask
from avsr.models.hybrid import HybridAVSR, HybridDims

BLANK = 0
OTHERS = 1e-4                                               # how far the oracles may be off
PUBLISHED = SimpleNamespace(start=39, end=39, blank=BLANK, no_speech=None)      # of the oracles' tokenizer


# As auto_avsr's own code

def heard(name, *utterances):
    """The encoder's output of one utterance, or of several as one batch."""
    outs = [answers(name)[f"single{i}.encoder_out"] for i in utterances]
    if len(outs) == 1:
        return Memory(outs[0], None)
    whole = torch.nn.utils.rnn.pad_sequence([out[0] for out in outs], batch_first=True, padding_value=7.0)
    return Memory(whole, None, length_mask(torch.tensor([out.shape[1] for out in outs]), whole.shape[1]))


def published(name, memory, size):
    prompts = [[PUBLISHED.start]] * memory.n_utterances
    return decode(network(name), PUBLISHED, memory, prompts, options=DecodeOptions(beam_size=size, length_penalty=0.0))


def expected(name, i, size):
    """Best text, without start and ends, and the name of the rest of its answers."""
    before = f"single{i}.beam{size}."
    text = answers(name)[before + "tokens"].tolist()[1:]
    while text and text[-1] == PUBLISHED.end:
        text.pop()
    return tuple(text), before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [5, 12])
def test_the_best_text_is_theirs_alone_and_in_company(name, size):
    need_oracles()
    together = published(name, heard(name, 0, 1), size)
    for i, in_company in enumerate(together):
        (alone,) = published(name, heard(name, i), size)
        text, before = expected(name, i, size)
        assert alone.tokens == in_company.tokens == text
        assert in_company.logprob == pytest.approx(alone.logprob, abs=1e-5)
        assert alone.logprob == pytest.approx(answers(name)[before + "score"].item(), abs=OTHERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_best_text_is_theirs_from_picture_and_sound(name):
    need_oracles()
    model, io = network(name), answers(name)
    for i in (0, 1):
        grey = None
        if name != "asr":
            grey = io[f"single{i}.video"][:, :, 0] * model.dims.grey_std + model.dims.grey_mean
        memory = model.encode(io.get(f"single{i}.audio"), grey)
        for size in (5, 12):
            text, before = expected(name, i, size)
            (found,) = published(name, memory, size)
            assert (found.tokens, found.logprob) == (text, pytest.approx(io[before + "score"].item(), abs=OTHERS))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [5, 12])
def test_the_next_best_scores_are_theirs(name, size):
    need_oracles()
    model = network(name)
    for i in (0, 1):
        memory = heard(name, i)
        (log_probs,) = model.ctc_log_probs(memory).values()
        beam = HybridBeamSearch(torch.tensor([memory.audio.shape[1]]), size=size, end=PUBLISHED.end)
        main = DecoderScorer(model, memory, no_speech_token=None, start_token=PUBLISHED.start, weight=0.9)
        ctc = CTCPrefixScorer(log_probs, end=PUBLISHED.end, weight=0.1)
        search([main], torch.tensor([[PUBLISHED.start]]), beam, partial_scorers=[ctc], pre_beam=int(1.5 * size),
               max_tokens=memory.audio.shape[1])
        theirs = answers(name)[expected(name, i, size)[1] + "nbest_scores"].tolist()
        (ours,) = beam.nbest(len(theirs))
        assert [score for _, score in ours] == pytest.approx(theirs, abs=OTHERS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [5, 12])
def test_decoder_and_ctc_give_their_parts_of_the_score(name, size):
    need_oracles()
    model, io = network(name), answers(name)
    for i in (0, 1):
        before, memory = expected(name, i, size)[1], heard(name, i)
        tokens = io[before + "tokens"][:memory.audio.shape[1] + 1]         # one more, an end, they append without a score
        (log_probs,) = model.ctc_log_probs(memory).values()
        main = DecoderScorer(model, memory, no_speech_token=None, start_token=PUBLISHED.start)
        ctc, parts, here = CTCPrefixScorer(log_probs, end=PUBLISHED.end), np.zeros(2), torch.arange(1)
        for n in range(1, len(tokens)):
            prefix, following = tokens[None, :n], tokens[n].view(1, 1)
            parts += [main.score(prefix).log_softmax(dim=-1)[0, tokens[n]].item(), ctc.score_partial(prefix, following).item()]
            main.select(here, None)
            ctc.select(here, None)
        assert parts == pytest.approx([io[before + "score_decoder"].item(), io[before + "score_ctc"].item()], abs=1e-3)


# What CTC says

def posteriors(seed, *shape, sharpness=1.0, holes=0.0):
    """Log-probabilities (..., V); a share of them is 0, or next to it."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=rng) * sharpness
    missing = (torch.rand(shape, generator=rng) < holes)
    missing[..., 0] = False
    return logits.masked_fill(missing, -torch.inf).log_softmax(dim=-1)


def alignments(log_probs):
    """Log-probability of every text that frames (T, V) can spell, summed over all of their V ** T paths."""
    table, texts = log_probs.double().clamp_min(MIN_LOG_PROB).numpy(), {}
    for path in product(range(table.shape[1]), repeat=len(table)):
        text = tuple(b for a, b in pairwise((BLANK, *path)) if b not in (a, BLANK))
        texts.setdefault(text, []).append(sum(table[t, token] for t, token in enumerate(path)))
    return {text: np.logaddexp.reduce(logs) for text, logs in texts.items()}


def frame_loop(table, prefix, psi, state, candidates, end):
    """Watanabe et al. 2017, Algorithm 2, as it stands there: frame by frame, for the candidates that may follow a prefix.

    table (T, V) float64. state: gamma of the prefix as `n` and `b`, each (T,); None for the empty one, which has psi 0.
    Returns for each candidate its psi, and its state.
    """
    blanks = table[:, BLANK].cumsum()
    n, b = state if state is not None else (np.full(len(table), -np.inf), blanks)
    found = []
    for c in candidates:
        if c == end:
            found.append((np.logaddexp(n[-1], b[-1]), None))
            continue
        new_n, new_b = np.full(len(table), -np.inf), np.full(len(table), -np.inf)
        new_n[0] = table[0, c] if not prefix else -np.inf
        total = new_n[0]
        for t in range(1, len(table)):
            phi = b[t - 1] if prefix and prefix[-1] == c else np.logaddexp(n[t - 1], b[t - 1])
            new_n[t] = np.logaddexp(new_n[t - 1], phi) + table[t, c]
            new_b[t] = np.logaddexp(new_b[t - 1], new_n[t - 1]) + table[t, BLANK]
            total = np.logaddexp(total, phi + table[t, c])
        found.append((total, (new_n, new_b)))
    return [(max(total, LOG_ZERO) - psi, max(total, LOG_ZERO), after) for total, after in found]


def follow(scorer, text, *, start, candidates=None):
    """Scores (L + 1, C) of what may follow each prefix of a text, itself at its end included."""
    tokens, found = torch.tensor([[start]]), []
    candidates = torch.arange(scorer.n_vocab) if candidates is None else candidates
    for token in (*text, None):
        found.append(scorer.score_partial(tokens, candidates[None])[0])
        if token is not None:
            scorer.select(torch.arange(1), None)
            tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)
    return torch.stack(found)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n_frames=st.integers(1, 5), n_vocab=st.integers(3, 4), data=st.data(),
       sharpness=st.sampled_from([0.3, 2.0, 20.0]), holes=st.sampled_from([0.0, 0.3]))
def test_ctc_counts_all_alignments(seed, n_frames, n_vocab, data, sharpness, holes):
    log_probs, end = posteriors(seed, n_frames, n_vocab, sharpness=sharpness, holes=holes), n_vocab - 1
    text = data.draw(st.lists(st.integers(1, n_vocab - 2), max_size=n_frames + 2).map(tuple))
    every = alignments(log_probs)

    def begins(prefix):
        return np.logaddexp.reduce([logprob for text, logprob in every.items() if text[:len(prefix)] == prefix] or [-np.inf])

    so_far = 0.0
    for n, scores in enumerate(follow(CTCPrefixScorer(log_probs[None], end=end), text, start=end)):
        prefix = text[:n]
        assert scores[BLANK] <= LOG_ZERO / 2
        for token in range(1, n_vocab):
            wanted = every.get(prefix, -np.inf) if token == end else begins((*prefix, token))
            if wanted == -np.inf:                           # more tokens than frames
                assert so_far + scores[token] == pytest.approx(LOG_ZERO)
            else:
                assert (so_far + scores[token]).item() == pytest.approx(wanted, abs=1e-4)
        if n < len(text):
            so_far += scores[text[n]].item()


@pytest.mark.parametrize("kind", ["flat", "peaky", "certain"])
def test_ctc_is_the_published_loop_over_half_a_minute(kind):
    n_frames, n_vocab, end = 750, 12, 11
    rng = np.random.default_rng(7)
    text = tuple(rng.integers(1, end, size=25).tolist())
    text = (*text[:10], text[9], *text[10:])                # one twice
    log_probs = posteriors(3, n_frames, n_vocab, sharpness={"flat": 1.0, "peaky": 12.0, "certain": 3.0}[kind])
    if kind == "certain":                                   # the text is there, at its time, and blanks between
        log_probs = torch.full((n_frames, n_vocab), -14.0)
        log_probs[:, BLANK] = 0.0
        for i, token in enumerate(text):
            log_probs[20 + 25 * i] = log_probs[21 + 25 * i] = -14.0
            log_probs[20 + 25 * i, token] = log_probs[21 + 25 * i, token] = 0.0
        log_probs = log_probs.log_softmax(dim=-1)
    table, psi, state = log_probs.double().numpy(), 0.0, None
    scores = follow(CTCPrefixScorer(log_probs[None], end=end), text, start=end)
    for n, found in enumerate(scores):
        candidates = [*dict.fromkeys([*text[n:n + 1], *text[n - 1:n], 1 + n % 10]), end]
        loop = frame_loop(table, text[:n], psi, state, candidates, end)
        assert found[candidates].numpy() == pytest.approx([step for step, _, _ in loop], rel=1e-5, abs=1e-5)
        _, psi, state = loop[0]


def test_the_variables_of_ctc_stay_exact():
    """To 1e-9 after half a minute, at which the plain product of probabilities is e-3000."""
    n_frames, text = 750, (1, 2, 2, 3, 1)
    log_probs = posteriors(4, n_frames, 5, sharpness=6.0)
    scorer = CTCPrefixScorer(log_probs[None], end=4)
    follow(scorer, text, start=4)
    table, psi, state = log_probs.double().numpy(), 0.0, None
    for n, token in enumerate(text):
        ((_, psi, state),) = frame_loop(table, text[:n], psi, state, [token], 4)
    assert scorer.prefix.item() == pytest.approx(psi, abs=1e-9)
    for ours, theirs in zip((scorer.nonblank, scorer.blank_last), state, strict=True):
        assert ours[0].numpy() == pytest.approx(theirs, abs=1e-8)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(1, 40), min_size=2, max_size=4), data=st.data())
def test_ctc_of_an_utterance_minds_neither_company_nor_what_is_padded(seed, lengths, data):
    n_vocab, end, n_each = 6, 5, 2
    log_probs = posteriors(seed, len(lengths), max(lengths) + 60, n_vocab, sharpness=4.0)
    texts = torch.tensor(data.draw(st.lists(st.lists(st.integers(1, 4), min_size=6, max_size=6),
                                            min_size=n_each * len(lengths), max_size=n_each * len(lengths))))
    scorer, tokens = CTCPrefixScorer(log_probs, torch.tensor(lengths), end=end), torch.full((len(texts), 1), end)
    everything = torch.arange(n_vocab).expand(len(texts), -1)
    together = []
    for n in range(7):
        together.append(scorer.score_partial(tokens, everything))
        scorer.select(torch.arange(len(texts)), None)
        tokens = torch.cat([tokens, texts[:, n:n + 1]], dim=1)
    for row, text in enumerate(texts.tolist()):
        frames = lengths[row // n_each]
        alone = follow(CTCPrefixScorer(log_probs[row // n_each, None, :frames], end=end), text, start=end)
        torch.testing.assert_close(torch.stack(together)[:, row], alone, atol=1e-5, rtol=1e-5)


def test_ctc_follows_the_rows_and_utterances_that_are_kept():
    log_probs, end = posteriors(5, 3, 9, 5, sharpness=3.0), 4
    scorer, texts = CTCPrefixScorer(log_probs, torch.tensor([9, 5, 7]), end=end), [[1], [2], [1], [3], [3], [2]]
    everything = torch.arange(5).expand(6, -1)
    scorer.score_partial(torch.full((6, 1), end), everything)
    scorer.select(torch.arange(6), None)
    scorer.score_partial(torch.tensor([[end, *text] for text in texts]), everything)
    scorer.select(torch.tensor([1, 1, 5, 4]), torch.tensor([0, 2]))        # the second utterance is done
    kept = torch.tensor([[end, 2, 3], [end, 2, 2], [end, 2, 1], [end, 3, 3]])
    found = scorer.score_partial(kept, everything[:4])
    for row, utterance, frames in ((0, 0, 9), (1, 0, 9), (2, 2, 7), (3, 2, 7)):
        alone = follow(CTCPrefixScorer(log_probs[utterance, None, :frames], end=end), kept[row, 1:].tolist(), start=end)
        torch.testing.assert_close(found[row], alone[-1], atol=1e-6, rtol=1e-6)


# As one hypothesis at a time

def plainly(chain, log_probs, *, size, start, end, ctc_weight=0.1, settles=True):
    """The search as its authors describe it, one hypothesis after the other. chain (V, V), log_probs (T, V) of one
    utterance -> finished texts with their scores, the best first, and the number of steps."""
    n_frames, n_vocab = log_probs.shape
    table, chain = log_probs.double().clamp_min(MIN_LOG_PROB).numpy(), chain.double().numpy()
    running, finished = [((), 0.0, 0.0, None)], []
    for step in range(n_frames):
        candidates = []
        for text, score, psi, state in running:
            decoder = chain[text[-1] if text else start]
            likely = set(range(n_vocab))
            if int(1.5 * size) < n_vocab:
                likely = {*np.argsort(-decoder)[:int(1.5 * size)].tolist(), end}
            asked = sorted(likely - {BLANK})
            for token, (gain, whole, after) in zip(asked, frame_loop(table, text, psi, state, asked, end), strict=True):
                total = score + (1 - ctc_weight) * decoder[token] + ctc_weight * gain
                candidates.append(((*text, token), total, whole, after))
        best = sorted(candidates, key=lambda one: -one[1])[:size]
        last = step == n_frames - 1
        running = [] if last else [one for one in best if one[0][-1] != end]
        # Counted as they do, start and end included; the last step adds an end to everything.
        finished += [(len(text) + 1 + last, text, score) for text, score, *_ in best if last or text[-1] == end]
        if not running or (settles and settled(finished, step)):
            break
    texts = [(text[:-1] if text[-1] == end else text, score) for _, text, score in finished]
    return sorted(texts, key=lambda one: -one[1]), step + 1


def settled(finished, step):
    """ESPnet's end_detect."""
    best = max((score for *_, score in finished), default=0.0)
    alike = [[score for length, _, score in finished if length == step - m] for m in range(3)]
    return all(scores and max(scores) - best < -10 for scores in alike)


class Counted(Chain):
    """Counts the steps it is asked about."""

    steps = 0

    def score(self, tokens):
        self.steps += 1
        return super().score(tokens)


def searched(chains, log_probs, lengths, *, size, end, ctc_weight=0.1):
    """Ours, for utterances with chains (B, V, V) and posteriors (B, T, V): best texts, all texts, steps."""
    main, lengths = Counted(chains, len(lengths)), torch.tensor(lengths)
    main.weight = 1 - ctc_weight
    ctc = CTCPrefixScorer(log_probs, lengths, end=end, weight=ctc_weight)
    beam = HybridBeamSearch(lengths, size=size, end=end)
    best = search([main], torch.full((len(lengths), 1), end), beam, partial_scorers=[ctc], pre_beam=int(1.5 * size),
                  max_tokens=int(lengths.max()), length_penalty=0.0)
    return best, beam.nbest(10**6), main.steps


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(1, 8), min_size=1, max_size=3), n_vocab=st.integers(3, 9),
       size=st.integers(1, 6), ctc_weight=st.sampled_from([0.1, 0.5, 0.9]), sharpness=st.sampled_from([0.5, 2.0, 6.0]))
def test_it_is_the_plain_search(seed, lengths, n_vocab, size, ctc_weight, sharpness):
    end = n_vocab - 1
    chains = chain_of(seed, n_vocab, n_utterances=len(lengths), sharpness=sharpness)
    log_probs = posteriors(seed + 1, len(lengths), max(lengths), n_vocab, sharpness=sharpness)
    best, every, _ = searched(chains, log_probs, lengths, size=size, end=end, ctc_weight=ctc_weight)
    for i, n_frames in enumerate(lengths):
        wanted, _ = plainly(chains[i], log_probs[i, :n_frames], size=size, start=end, end=end, ctc_weight=ctc_weight)
        possible = [one for one in wanted if one[1] > LOG_ZERO / 1e3]
        assert best[i] == (wanted[0][0], pytest.approx(wanted[0][1], abs=1e-4))
        assert best[i] == every[i][0]
        found = [one for one in every[i] if one[1] > LOG_ZERO / 1e3]
        assert [score for _, score in found] == pytest.approx([score for _, score in possible], abs=1e-4)
        assert {text for text, _ in found} == {text for text, _ in possible}
        assert all(len(text) <= n_frames and not {BLANK, end} & {*text} for text, _ in found)


def test_a_wide_beam_finds_the_best_of_all_texts():
    n_vocab, n_frames, end = 4, 4, 3
    for seed in range(5):
        chain, log_probs = chain_of(seed, n_vocab), posteriors(seed, n_frames, n_vocab, sharpness=2.0)
        exact, best = alignments(log_probs), -np.inf
        for n in range(n_frames):
            for text in product((1, 2), repeat=n):
                path = [end, *text, end]
                likely = sum(chain[a, b].item() for a, b in pairwise(path))
                best = max(best, 0.5 * likely + 0.5 * exact.get(text, -np.inf))
        _, (every,), _ = searched(chain[None], log_probs[None], [n_frames], size=100, end=end, ctc_weight=0.5)
        assert max(score for text, score in every if len(text) < n_frames) == pytest.approx(best, abs=1e-4)


def test_it_stops_when_longer_texts_are_out_of_the_question():
    """Token 1 goes on for ever; its end costs 10.2 nats after the first token, 9.8 in the other case."""
    for nats, steps in ((10.2, 6), (9.8, 50)):
        chain = torch.full((3, 3), -40.0)
        chain[2, 1:] = np.log(0.5)
        chain[1, 1], chain[1, 2] = np.log1p(-np.exp(-nats)), -nats
        log_probs = torch.tensor([0.5, 0.25, 0.25]).log().expand(1, 50, -1)
        best, _, taken = searched(chain[None], log_probs, [50], size=3, end=2, ctc_weight=0.0)
        assert taken == steps
        assert best == [((), pytest.approx(np.log(0.5), abs=1e-4))]
        # In company of one that goes on, its own answer stays.
        other = chain.clone()
        other[1, 1], other[1, 2] = np.log1p(-np.exp(-9)), -9.0
        both, _, taken = searched(torch.stack([chain, other]), log_probs.expand(2, -1, -1), [50, 30], size=3, end=2,
                                  ctc_weight=0.0)
        assert (both[0], taken) == (best[0], max(steps, 30))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n_frames=st.integers(1, 6), n_vocab=st.integers(3, 7), size=st.integers(1, 4))
def test_without_weight_ctc_has_no_say(seed, n_frames, n_vocab, size):
    end, chain = n_vocab - 1, chain_of(seed, n_vocab)
    chain[:, BLANK] = -30.0                                 # no decoder writes it
    chain = chain.log_softmax(dim=-1)
    found = [searched(chain[None], posteriors(other, 1, n_frames, n_vocab, sharpness=5.0), [n_frames], size=size, end=end,
                      ctc_weight=0.0)[0] for other in (seed, seed + 1)]
    assert found[0] == found[1]
    wanted, _ = plainly(chain, posteriors(seed, n_frames, n_vocab), size=size, start=end, end=end, ctc_weight=0.0)
    assert found[0][0] == (wanted[0][0], pytest.approx(wanted[0][1], abs=1e-4))


def test_one_frame_holds_one_token_or_none():
    end, chain = 3, torch.full((4, 4), 0.25).log()
    for likely, text in ((0, ()), (2, (2,))):
        log_probs = torch.full((1, 1, 4), 0.01)
        log_probs[0, 0, likely] = 0.97
        (best,), (every,), steps = searched(chain[None], log_probs.log(), [1], size=10, end=end)
        assert (best[0], steps) == (text, 1)
        assert {text for text, score in every if score > LOG_ZERO / 1e3} == {(), (1,), (2,)}
        assert best[1] == pytest.approx(0.9 * np.log(0.25) + 0.1 * np.log(0.97), abs=1e-5)


def test_the_length_penalty_counts_the_tokens_of_a_text():
    beam = HybridBeamSearch(torch.tensor([2]), size=2, end=0)
    prompt, scores = torch.zeros(2, 0, dtype=torch.long), torch.full((2, 3), -90.0)
    scores[0, 1:] = torch.tensor([-1.0, -2.0])
    beam.step(scores, None, prompt)
    scores = torch.tensor([[-3.0, -90.0, -90.0], [-90.0, -90.0, -3.0]])
    beam.step(scores, None, prompt)
    assert beam.nbest(9, length_penalty=1.0) == [[((2, 2), -5.0), ((1,), -4.0)]]
    assert beam.nbest(9, length_penalty=0.0) == [[((1,), -4.0), ((2, 2), -5.0)]]


# With a network

SMALL = HybridDims(width=8, n_heads=2, n_inside=8, n_audio_layers=1, n_decoder_layers=1, n_vocab=6)
WORDS = SimpleNamespace(start=5, end=5, blank=BLANK, no_speech=None, texts=["", " left", " right", " now", " again", ""])


@pytest.fixture(scope="module")
def small():
    """A network of random weights."""
    torch.manual_seed(0)
    return HybridAVSR(SMALL).eval().requires_grad_(False)


def test_a_language_model_has_its_say(small, tmp_path):
    """The network thinks "left" a little likelier than "right"; the language model has heard only of "right"."""
    torch.nn.init.zeros_(small.ctc.weight)
    torch.nn.init.zeros_(small.decoder.out.weight)
    small.ctc.bias.copy_(torch.tensor([-4.0, 0.5, 0.4, -20.0, -20.0, -20.0]))
    small.decoder.out.bias.copy_(torch.tensor([-20.0, 0.5, 0.4, -20.0, -20.0, -1.0]))
    path = tmp_path / "one.arpa"
    path.write_text("\\data\\\nngram 1=5\n\n\\1-grams:\n-9 <s>\n-1 </s>\n-4 <unk>\n-3 left\n-0.1 right\n\n\\end\\\n")
    memory, lm, found = Memory(torch.zeros(2, 3, 8), None), NGrams.open(path), {}
    for weight in (None, 0.0, 1.0):
        options = DecodeOptions(beam_size=4, length_penalty=0.0, ctc_weight=0.5, lm=None if weight is None else lm,
                                lm_weight=weight or 0.0)
        found[weight] = decode(small, WORDS, memory, [[5], [5]], options=options)
    assert [text.tokens for text in found[None]] == [text.tokens for text in found[0.0]]
    assert 1 in found[0.0][0].tokens
    assert {*found[1.0][1].tokens} == {2}
    assert found[1.0][0] == found[1.0][1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_the_same():
    log_probs, lengths = posteriors(2, 3, 40, 9, sharpness=3.0), [40, 7, 23]
    everything, tokens = torch.arange(9).expand(6, -1), torch.full((6, 1), 8)
    found = {}
    for device in ("cpu", "cuda"):
        ctc, steps = CTCPrefixScorer(log_probs.to(device), torch.tensor(lengths, device=device), end=8), []
        written = tokens.to(device)
        for n in range(8):
            steps.append(ctc.score_partial(written, everything.to(device)).cpu())
            ctc.select(torch.arange(6, device=device), None)
            written = torch.cat([written, (torch.arange(6, device=device)[:, None] * 3 + n) % 7 + 1], dim=1)
        torch.manual_seed(3)
        model = HybridAVSR(SMALL).eval().requires_grad_(False).to(device)
        memory = Memory(torch.randn(2, 20, 8).to(device), None, length_mask(torch.tensor([20, 11]), 20).to(device))
        found[device] = torch.stack(steps), decode(model, WORDS, memory, [[5], [5]], options=DecodeOptions(beam_size=4))
    torch.testing.assert_close(found["cuda"][0], found["cpu"][0], atol=1e-5, rtol=1e-5)
    for there, here in zip(found["cuda"][1], found["cpu"][1], strict=True):
        assert (there.tokens, there.logprob) == (here.tokens, pytest.approx(here.logprob, abs=1e-3))
