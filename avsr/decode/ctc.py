"""The CTC prefix scorer: how likely it is that an utterance's text begins with the tokens written so far.

    CTC log-probabilities (B, T, V) -> scores of next tokens, given every hypothesis's prefix
This is the label-synchronous prefix score of hybrid CTC/attention decoding (Watanabe et al. 2017, Algorithm 2; Graves 2012),
for all hypotheses and candidates of all utterances at once, without a loop over frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from avsr.models.blocks import length_mask

LOG_ZERO = -1e10                                            # in place of log 0, so that differences exist
MIN_LOG_PROB = -1e3                                         # of a frame: sums of it stay exact to 1e-9 in float64


class CTCPrefixScorer:
    """log p(prefix and token ...) - log p(prefix ...), or for the end log p(exactly the prefix) - log p(prefix ...).

    Of each hypothesis it keeps the two forward variables of CTC: log-probabilities that by frame t exactly the prefix was
    emitted, its last token at t (`nonblank`), or a blank at t (`blank_last`). A candidate's score is a sum over frames of the
    parent's variables, so only surviving hypotheses need variables of their own, which follow a linear recursion over frames,
        r[t] = p[t] (r[t - 1] + a[t])   =>   r[t] = P[t] sum_(s <= t) a[s] / P[s - 1],   P = cumulative product of p,
    which in logarithms is one running log-sum; float64 carries it (P reaches e^-3000 within 30 s).
    """

    def __init__(self, log_probs: Tensor, lengths: Tensor | None = None, *, end: int, blank: int = 0, weight: float = 0.1):
        """log_probs (B, T, V) float, of the decoder's tokens; lengths (B,) frames that count, None for all of them."""
        batch, n_frames, self.n_vocab = log_probs.shape
        if lengths is None:
            lengths = torch.full((batch,), n_frames, device=log_probs.device)
        self.mask = length_mask(lengths, n_frames)                               # (B, T)
        self.last_frame = lengths - 1
        padded = log_probs.float().clamp_min(MIN_LOG_PROB).masked_fill(~self.mask[:, :, None], 0.0)
        self.by_token = padded.transpose(1, 2).reshape(-1, n_frames)             # (B * V, T): a candidate's row is one piece
        self.blank_log_probs = padded[:, :, blank].double()                      # (B, T)
        self.end, self.blank, self.weight = end, blank, weight
        self.utterances = torch.arange(batch, device=log_probs.device)           # indices above of those still searched
        self.n_tokens: int | None = None

    def score_partial(self, tokens: Tensor, candidates: Tensor) -> Tensor:
        """See PartialScorer. To be called once for each token that is added: (N, C) float64."""
        if self.n_tokens is None:
            self._initialise(len(tokens))
        else:
            assert tokens.shape[1] == self.n_tokens + 1, "to be called for every token, in order"
            self._advance(tokens[:, -1])
        self.n_tokens = tokens.shape[1]
        utterance = self._utterance_of_rows(len(tokens))
        either = torch.logaddexp(self.nonblank, self.blank_last)
        before = self._previous_frame(either).masked_fill(~self.mask[utterance], -torch.inf)
        peak = before.amax(dim=1, keepdim=True).clamp_min(LOG_ZERO)              # what is far below it adds nothing: float32
        near = (before - peak).float()
        rows = self.by_token[(utterance[:, None] * self.n_vocab + candidates).flatten()].view(*candidates.shape, -1)
        scores = (near[:, None] + rows).logsumexp(dim=2).double() + peak
        if self.token is not None:                          # a token that is repeated needs a blank between
            repeated = self._sum(self._previous_frame(self.blank_last), self._log_probs(utterance, self.token), utterance)
            scores = torch.where(candidates == self.token[:, None], repeated[:, None], scores)
        whole = either.gather(1, self.last_frame[utterance][:, None])
        scores = torch.where(candidates == self.end, whole, scores).clamp_min(LOG_ZERO) - self.prefix[:, None]
        return scores.masked_fill(candidates == self.blank, LOG_ZERO)     # not -inf, which a weight of 0 makes NaN

    def select(self, rows: Tensor, utterances: Tensor | None) -> None:
        """See Scorer."""
        self.nonblank, self.blank_last, self.prefix = self.nonblank[rows], self.blank_last[rows], self.prefix[rows]
        self.token = None if self.token is None else self.token[rows]
        if utterances is not None:
            self.utterances = self.utterances[utterances]

    def _initialise(self, n_rows: int) -> None:
        """The variables of the empty prefix: only blanks so far, and before the first frame that is certain."""
        self.blank_last = self.blank_log_probs.cumsum(dim=1)[self._utterance_of_rows(n_rows)]
        self.nonblank = torch.full_like(self.blank_last, -torch.inf)
        self.prefix = self.blank_last.new_zeros(n_rows)
        self.token: Tensor | None = None

    def _advance(self, chosen: Tensor) -> None:
        """Update the variables of each hypothesis by the token (N,) that was added to it."""
        utterance = self._utterance_of_rows(len(chosen))
        emitted, blank = self._log_probs(utterance, chosen), self.blank_log_probs[utterance]
        ready = torch.logaddexp(self.nonblank, self.blank_last)
        if self.token is not None:
            ready = torch.where((chosen == self.token)[:, None], self.blank_last, ready)
        ready = self._previous_frame(ready)
        self.prefix = self._sum(ready, emitted, utterance).clamp_min(LOG_ZERO)
        self.token = chosen
        self.nonblank = _recursion(ready, emitted)
        self.blank_last = _recursion(self._previous_frame(self.nonblank), blank)

    def _previous_frame(self, x: Tensor) -> Tensor:
        """x (N, T) one frame earlier. Before the first frame only the empty prefix is possible, and certain."""
        return F.pad(x[:, :-1], (1, 0), value=0.0 if self.token is None else -torch.inf)

    def _sum(self, ready: Tensor, emitted: Tensor, utterance: Tensor) -> Tensor:
        """The log-sum over the frames of an utterance: (N, T) twice -> (N,)."""
        return (ready + emitted).masked_fill(~self.mask[utterance], -torch.inf).logsumexp(dim=1)

    def _utterance_of_rows(self, n_rows: int) -> Tensor:
        """The index of each row's utterance (N,)."""
        return self.utterances.repeat_interleave(n_rows // len(self.utterances))

    def _log_probs(self, utterance: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities of a token at each frame: (N,) -> (N, T) float64."""
        return self.by_token[utterance * self.n_vocab + tokens].double()


def _recursion(a: Tensor, p: Tensor) -> Tensor:
    """r[t] = p[t] (r[t - 1] + a[t]) from r = 0, in logarithms: (N, T) float64 both."""
    product = p.cumsum(dim=1)
    return product + (a - (product - p)).logcumsumexp(dim=1)
