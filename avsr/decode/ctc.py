"""What CTC says of a text in the making: how likely it is that all that was said begins so.

    CTC log-probabilities (B, T, V) -> scores of next tokens, given every hypothesis's prefix
The label-synchronous prefix score of hybrid CTC/attention decoding (Watanabe et al. 2017, Algorithm 2; Graves 2012), for
all hypotheses and candidates of all utterances at once, without a loop over frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from avsr.models.blocks import length_mask

IMPOSSIBLE = -1e10                                          # in place of log 0, so that differences exist
LEAST = -1e3                                                # of a frame: sums of it stay exact to 1e-9 in float64


class CTCPrefixScorer:
    """log p(prefix and token ...) - log p(prefix ...), or for the end log p(exactly the prefix) - log p(prefix ...).

    Of each hypothesis it keeps two forward variables: log-probabilities that by frame t exactly the prefix was written, its
    last token at t (`written`), or a blank at t (`blanks`). A candidate's score is a sum over frames of the parent's
    variables, so only hypotheses that survive need variables of their own. Those follow a linear recursion over frames,
        r[t] = p[t] (r[t - 1] + a[t])   =>   r[t] = P[t] sum_(s <= t) a[s] / P[s - 1],   P = cumulative product of p,
    which in logarithms is one running log-sum; float64 carries it (P reaches e^-3000 within 30 s).
    """

    def __init__(self, log_probs: Tensor, lengths: Tensor | None = None, *, end: int, blank: int = 0, weight: float = 0.1):
        """log_probs (B, T, V) float, of the decoder's tokens; lengths (B,) frames that count, None for all of them."""
        batch, n_frames, self.n_vocab = log_probs.shape
        if lengths is None:
            lengths = torch.full((batch,), n_frames, device=log_probs.device)
        self.there = length_mask(lengths, n_frames)                              # (B, T)
        self.last = lengths - 1
        padded = log_probs.float().clamp_min(LEAST).masked_fill(~self.there[:, :, None], 0.0)
        self.by_token = padded.transpose(1, 2).reshape(-1, n_frames)             # (B * V, T): a candidate's row is one piece
        self.silence = padded[:, :, blank].double()                              # (B, T)
        self.end, self.blank, self.weight = end, blank, weight
        self.utterances = torch.arange(batch, device=log_probs.device)           # of those still searched, their places above
        self.n_tokens: int | None = None

    def score_at(self, tokens: Tensor, candidates: Tensor) -> Tensor:
        """See PartialScorer. Called once for each token that is added: (N, C) float64."""
        if self.n_tokens is None:
            self._begin(len(tokens))
        else:
            assert tokens.shape[1] == self.n_tokens + 1, "asked about every token, in order"
            self._advance(tokens[:, -1])
        self.n_tokens = tokens.shape[1]
        home = self._home(len(tokens))
        either = torch.logaddexp(self.written, self.blanks)
        before = self._before(either).masked_fill(~self.there[home], -torch.inf)
        loudest = before.amax(dim=1, keepdim=True).clamp_min(IMPOSSIBLE)         # what is far below it adds nothing: float32
        near = (before - loudest).float()
        rows = self.by_token[(home[:, None] * self.n_vocab + candidates).flatten()].view(*candidates.shape, -1)
        scores = (near[:, None] + rows).logsumexp(dim=2).double() + loudest
        if self.token is not None:                          # a token said twice needs a blank between
            again = self._sum(self._before(self.blanks), self._rows(home, self.token), home)
            scores = torch.where(candidates == self.token[:, None], again[:, None], scores)
        whole = either.gather(1, self.last[home][:, None])
        scores = torch.where(candidates == self.end, whole, scores).clamp_min(IMPOSSIBLE) - self.prefix[:, None]
        return scores.masked_fill(candidates == self.blank, IMPOSSIBLE)    # not -inf, which a weight of 0 makes NaN

    def select(self, rows: Tensor, utterances: Tensor | None) -> None:
        """See Scorer."""
        self.written, self.blanks, self.prefix = self.written[rows], self.blanks[rows], self.prefix[rows]
        self.token = None if self.token is None else self.token[rows]
        if utterances is not None:
            self.utterances = self.utterances[utterances]

    def _begin(self, n_rows: int) -> None:
        """Nothing was written yet: only blanks so far, and before the first frame that is certain."""
        self.blanks = self.silence.cumsum(dim=1)[self._home(n_rows)]
        self.written = torch.full_like(self.blanks, -torch.inf)
        self.prefix = self.blanks.new_zeros(n_rows)
        self.token: Tensor | None = None

    def _advance(self, chosen: Tensor) -> None:
        """The variables of each hypothesis with the token (N,) that it went on with."""
        home = self._home(len(chosen))
        said, silence = self._rows(home, chosen), self.silence[home]
        ready = torch.logaddexp(self.written, self.blanks)
        if self.token is not None:
            ready = torch.where((chosen == self.token)[:, None], self.blanks, ready)
        ready = self._before(ready)
        self.prefix = self._sum(ready, said, home).clamp_min(IMPOSSIBLE)
        self.token = chosen
        self.written = _recursion(ready, said)
        self.blanks = _recursion(self._before(self.written), silence)

    def _before(self, x: Tensor) -> Tensor:
        """At each frame what x (N, T) was at the one before. Before the first frame nothing is written: the only certainty."""
        return F.pad(x[:, :-1], (1, 0), value=0.0 if self.token is None else -torch.inf)

    def _sum(self, ready: Tensor, said: Tensor, home: Tensor) -> Tensor:
        """Over the frames of an utterance: (N, T) twice -> (N,)."""
        return (ready + said).masked_fill(~self.there[home], -torch.inf).logsumexp(dim=1)

    def _home(self, n_rows: int) -> Tensor:
        """The place of each row's utterance (N,)."""
        return self.utterances.repeat_interleave(n_rows // len(self.utterances))

    def _rows(self, home: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities of a token at each frame: (N,) -> (N, T) float64."""
        return self.by_token[home * self.n_vocab + tokens].double()


def _recursion(a: Tensor, p: Tensor) -> Tensor:
    """r[t] = p[t] (r[t - 1] + a[t]) from r = 0, in logarithms: (N, T) float64 both."""
    product = p.cumsum(dim=1)
    return product + (a - (product - p)).logcumsumexp(dim=1)
