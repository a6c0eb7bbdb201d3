"""Is our search of a published-size network at least 5 times faster than one that scores a hypothesis at a time?

    uv run experiments/published/search.py --steps 20                       # CPU, one thread; --device cuda
Both follow auto_avsr's description (beam 40, decoder 0.9, CTC 0.1) on the same machine in one run. The plain one gives
every hypothesis its own decoder step and cache, and its own CTC prefix scores by a loop over frames, over its 60
candidates at once (as ESPnet's CTCPrefixScore); ours does all of that as one batch. Weights are random at the published
size (width 768, 6 decoder blocks, 5049 tokens); a random memory of 10 s and random, peaky posteriors stand for what an
encoder gives. Both must find the same text. Prints seconds, the ratio, and the time of a whole search of ours.
"""

import argparse
import os
import time

import numpy as np
import torch
from torch import Tensor

from avsr.decode import DecoderScorer, search
from avsr.decode.ctc import CTCPrefixScorer
from avsr.decode.hybrid import HybridBeamSearch
from avsr.memory import Memory
from avsr.models.decoder import Cache
from avsr.models.hybrid import HybridAVSR, HybridDims

END, FRAMES, CTC, NO = HybridDims.n_vocab - 1, 250, 0.1, -1e10
SHARP = 5.0                                                 # times the decoder's random logits, which are nearly flat
Text = tuple[tuple[int, ...], float]


def made(n_utterances: int) -> tuple[HybridAVSR, Tensor, Tensor]:
    """The network, memories (B, T, D) and log-probabilities of CTC (B, T, V): a token in every fourth frame, else blank."""
    torch.manual_seed(0)
    model = HybridAVSR(HybridDims(n_audio_layers=1)).eval().requires_grad_(False)
    model.decoder.out.weight.mul_(SHARP)
    likely = torch.randint(1, END, (n_utterances, FRAMES)) * (torch.arange(FRAMES) % 4 == 0)
    logits = torch.randn(n_utterances, FRAMES, END + 1) * 1.5 + 14.0 * torch.nn.functional.one_hot(likely, END + 1)
    return model, torch.randn(n_utterances, FRAMES, model.dims.width), logits.log_softmax(dim=-1)


def ours(model: HybridAVSR, memory: Memory, posteriors: Tensor, size: int, steps: int) -> list[Text]:
    """The search of avsr.decode over all utterances."""
    prompt = torch.full((memory.n_utterances, 1), END, device=memory.device)
    decoder = DecoderScorer(model, memory, no_speech_token=None, start_token=END, weight=1 - CTC)
    beam = HybridBeamSearch(torch.full_like(prompt[:, 0], steps), size=size, end=END)
    return search([decoder], prompt, beam, partial_scorers=[CTCPrefixScorer(posteriors, end=END, weight=CTC)],
                  pre_beam=int(1.5 * size), max_tokens=steps, length_penalty=0.0)


def prefix_scores(table: np.ndarray, text: tuple[int, ...], state: np.ndarray, tokens: np.ndarray):
    """log p(text and token ...) of tokens (C,) and their states (T, 2, C); table (T, V), state (T, 2) of the text."""
    said, after = table[:, tokens], np.full((len(table), 2, len(tokens)), NO, np.float32)
    either = np.logaddexp(state[:, 0], state[:, 1])
    ready = np.repeat(either[:, None], len(tokens), axis=1)
    after[0, 0] = NO if text else said[0]
    if text:
        ready[:, tokens == text[-1]] = state[:, 1:]
    start = max(len(text), 1)
    psi = after[start - 1, 0].copy()
    for t in range(start, len(table)):
        after[t, 0] = np.logaddexp(after[t - 1, 0], ready[t - 1]) + said[t]
        after[t, 1] = np.logaddexp(after[t - 1, 0], after[t - 1, 1]) + table[t, 0]
        psi = np.logaddexp(psi, ready[t - 1] + said[t])
    psi[tokens == END], psi[tokens == 0] = either[-1], NO
    return psi, after


def plain(model: HybridAVSR, memory: Memory, posteriors: Tensor, size: int, steps: int) -> Text:
    """The same for one utterance, a hypothesis at a time."""
    table, first = posteriors[0].cpu().numpy(), model.start(memory)
    state = np.stack([np.full(FRAMES, NO, np.float32), table[:, 0].cumsum()], axis=1)
    running, finished = [((), 0.0, 0.0, state, [])], []
    for step in range(steps):
        grown = []
        for text, score, psi, state, own in running:
            cache = Cache(own, first.audio, None, first.audio_mask, None)
            token = torch.tensor([[text[-1] if text else END]], device=memory.device)
            likely = model.step(token, cache)[0].log_softmax(dim=0)
            tokens, likely = np.union1d(likely.topk(int(1.5 * size)).indices.cpu().numpy(), END), likely.double().cpu().numpy()
            psis, after = prefix_scores(table, text, state, tokens)
            totals = score + (1 - CTC) * likely[tokens] + CTC * (psis.astype(np.float64) - psi)
            grown += [(total, (*text, int(token)), psis[c], after[:, :, c], cache.own)
                      for c, (total, token) in enumerate(zip(totals, tokens, strict=True))]
        best = sorted(grown, key=lambda one: -one[0])[:size]
        last = step + 1 == steps
        finished += [(total, text) for total, text, *_ in best if last or text[-1] == END]
        running = [(text, total, psi, state, own) for total, text, psi, state, own in best if text[-1] != END]
    score, text = max(finished)
    return text[:-1] if text[-1] == END else text, score


def timed(function, *given) -> tuple[float, list[Text]]:
    """Seconds, and what was found: on the CPU, so a GPU is done by then."""
    started, found = time.perf_counter(), function(*given)
    return time.perf_counter() - started, found


@torch.inference_mode()
def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 20), ("beam", 40), ("utterances", 1), ("threads", 1), ("device", "cpu")):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, sound, posteriors = (one.to(asked.device) for one in made(asked.utterances))
    alone = [(model, Memory(sound[i:i + 1], None), posteriors[i:i + 1]) for i in range(len(sound))]
    together = model, Memory(sound, None), posteriors
    print(asked, f"load {os.getloadavg()[0]:.1f}")
    ours(*together, asked.beam, 2), plain(*alone[0], 2, 2)  # to warm up
    batched, texts = timed(ours, *together, asked.beam, asked.steps)
    single, theirs = timed(lambda: [plain(*one, asked.beam, asked.steps) for one in alone])
    assert [text for text, _ in texts] == [text for text, _ in theirs], f"{texts} are not {theirs}"
    assert np.allclose([score for _, score in texts], [score for _, score in theirs], atol=1e-2), f"{texts} are not {theirs}"
    print(f"{asked.steps} steps: ours {batched:.2f} s, one at a time {single:.2f} s, {single / batched:.1f} times; same texts")
    whole, texts = timed(ours, *together, asked.beam, FRAMES)
    print(f"ours to the limit of {FRAMES} tokens: {whole:.1f} s; the texts have {[len(text) for text, _ in texts]} tokens")


if __name__ == "__main__":
    main()
