"""What the judges of lips and sound are taught from, once the rest is learnt: whether looking helps, whether hearing does.

    model + rows -> pairs: each sound with its own mouth  ->  projections that tell it from the others'
                 -> samples: a sound, several sights, the word errors by sound, by sight and by both  ->  verdicts
Nothing else learns here, so every sound, sight and text is made once; the judges then pass over them many times in a minute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.augment import make_unreadable
from avsr.batch import Batch, collate
from avsr.cache import Cached, read_entry
from avsr.checkpoint import Checkpoint
from avsr.config import Config, ReliabilityConfig
from avsr.corrupt import FRAME_MS, Corruption, corrupt, fitted, occlude
from avsr.dataset import Examples, ExampleSpec, ManifestRow
from avsr.errors import BadConfig
from avsr.losses import remembered
from avsr.metrics import word_errors
from avsr.models.avsr import AVSR, Dims, Memory
from avsr.models.decoder import Cache
from avsr.models.fusion import TEMPERATURE, ReliabilityEstimator
from avsr.rates import FEATURE_RATE, MEMORY_PER_FRAME
from avsr.recogniser import batch_video
from avsr.runtime import Progress, no_progress
from avsr.text import normalise, target_tokens

P_FOREIGN, P_RUINED = 0.3, 0.1                              # of sights: another's mouth; one of which nothing can be read
FAMILIAR_ROWS, AT_ONCE = 512, 16                            # utterances
GROUP, ATTUNED, DROPOUT, WEIGHT_DECAY = 128, 48, 0.1, 0.05      # sights, pairs
DAMAGE = {"occlusion": (0.02, 0.6), "blur": (1.0, 8.0), "lowres": (6.0, 32.0), "dropped": (0.1, 0.9), "shift": (-280.0, 280.0)}


@dataclass(frozen=True)
class ReliabilitySample:
    """One sound with K sights. audio (S, D) and video (K, S, D) float16, as the judges take them; seen (K, S) bool.

    by_sound (), by_sight (K,), by_both (K,): word errors as a share of the words, at most 1."""

    audio: Tensor
    video: Tensor
    seen: Tensor
    by_sound: Tensor
    by_sight: Tensor
    by_both: Tensor


@dataclass(frozen=True)
class Pair:
    """A sound and its own mouth, a moment for each frame: audio (T, D), video (T, D) float16, seen (T,) bool."""

    audio: Tensor
    video: Tensor
    seen: Tensor


def can_be_judged(dims: Dims, config: Config) -> None:
    """Raises BadConfig where the config wants judges to learn that the network does not have, or that cannot learn so."""
    if config.reliability.variants and not dims.n_reliability:
        raise BadConfig(f"{config.name}: reliability.variants is {config.reliability.variants}, but there is no judge to learn.  Set "
                        "model.dims.n_reliability.")
    if config.reliability.variants and dims.n_fusion_layers:
        raise BadConfig(f"{config.name}: reliability.variants is {config.reliability.variants}, but with {dims.n_fusion_layers} fusion "
                        "layers a sound is another with every sight.  Set model.dims.n_fusion_layers or reliability.variants to 0.")


def judge(checkpoint: Checkpoint, rows: Sequence[ManifestRow], examples: Examples, settings: ReliabilityConfig, sounds: Path | None,
          *, seed: int, progress: Progress = no_progress) -> int:
    """Let the judges of a network learn from what the rest of it has learnt; returns from how many samples.

    sounds: a folder of encoded sounds to use and to add to, see losses.remembered.
    """
    model = checkpoint.model.eval()
    rows = [row for row in rows if row.utterance.cache.modality == "av"]
    believed, known, taught = [row for row in rows if row.believed], [], []
    for pair in pairs(checkpoint, believed, examples, sounds):
        known.append(pair)
        progress("judges: encoding", len(known), len(believed), "utterances")
    for lesson in samples(checkpoint, rows, examples, settings, sounds, seed=seed):
        taught.append(lesson)
        progress("judges: making samples", len(taught), min(len(rows), settings.rows), "utterances")
    progress("judges: learning", 0, None, None)
    for one in (model.reliability, model.heed):
        if one is not None and known:
            pretrain_contrastively(one, known, settings, seed=seed)
    if taught:
        fit(model, taught, settings, seed=seed)
    return len(taught)


def balanced(rows: Sequence[ManifestRow], n_rows: int, rng: np.random.Generator) -> list[ManifestRow]:
    """At most so many rows in random order, from each speaker as many as from any other as far as there are."""
    turn: Counter[str | None] = Counter()
    placed = []
    for row in (rows[i] for i in rng.permutation(len(rows))):
        placed.append((turn[row.utterance.speaker], row))
        turn[row.utterance.speaker] += 1
    chosen = [row for _, row in sorted(placed, key=lambda one: one[0])[:n_rows]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


@torch.no_grad()
def samples(checkpoint: Checkpoint, rows: Sequence[ManifestRow], examples: Examples, settings: ReliabilityConfig, sounds: Path | None,
            *, seed: int) -> Iterator[ReliabilitySample]:
    """Lessons of rows, which have sound and sight: with their own mouth and `settings.sights` others, damaged or foreign."""
    rng = np.random.default_rng(seed)
    tokenizer, pad = checkpoint.tokenizer, checkpoint.pad_seconds
    for row in balanced(rows, settings.rows, rng):
        own = read_entry(row.base, row.utterance.cache)
        sights = [own]
        for _ in range(settings.sights):
            other = rows[int(rng.integers(len(rows)))] if rng.random() < P_FOREIGN else row
            sights.append(damaged(_instead(own, other) if other is not row else own, rng))
        batch = collate([examples.make(row, ExampleSpec("a", sound=0), rng)], tokenizer.prompt(None), tokenizer.end,
                        None if pad is None else pad * FEATURE_RATE)
        yield _lesson(checkpoint, batch, sights, row.utterance.text, sounds)


@torch.inference_mode()
def fit_ood(checkpoint: Checkpoint, rows: Sequence[ManifestRow], *, seed: int, progress: Progress = no_progress) -> None:
    """Show the judge of the lips the mouths of up to 512 training rows, so that it knows strangers (models.fusion.OODDetector).

    Each as it is, and once more partly covered, which must not make a stranger of somebody known."""
    model, rng = checkpoint.model.eval(), np.random.default_rng(seed)
    familiar, first = model.reliability.familiar, next(model.parameters())
    rows = balanced([row for row in rows if row.believed and "v" in row.utterance.cache.modality], FAMILIAR_ROWS, rng)
    if len(rows) < 2 * len(familiar.directions):
        return                                              # too few to tell what is usual: all stays familiar
    means: list[list[Tensor]] = [[], []]
    for start in range(0, len(rows), AT_ONCE):
        progress("judges: known mouths", start, len(rows), "utterances")
        entries = [read_entry(row.base, row.utterance.cache) for row in rows[start:start + AT_ONCE]]
        covered = [replace(one, images=occlude(one.images, rng.uniform(*DAMAGE["occlusion"]), rng)) for one in entries]
        for found, sights in zip(means, (entries, covered), strict=True):
            images, seen = batch_video(sights)
            seen = seen.to(first.device)
            found.append(familiar.pool(model.video.look(images.to(first), seen), seen))
    familiar.learn(*(torch.cat(found) for found in means))


def damaged(sight: Cached, rng: np.random.Generator) -> Cached:
    """A mouth as it may come to us: as it is, damaged in a way and an amount that chance decides, or beyond reading."""
    if rng.random() < P_RUINED:
        return replace(sight, images=make_unreadable(sight.images, rng))
    kind = str(rng.choice(["none", *DAMAGE]))
    if kind == "none":
        return sight
    amount = float(rng.uniform(*DAMAGE[kind]))
    if kind == "shift":
        amount = float(round(amount / FRAME_MS) * FRAME_MS)
    images, missing = corrupt(sight.images, sight.missing, Corruption(kind, amount), rng)
    return replace(sight, images=images, missing=missing)


def _instead(own: Cached, row: ManifestRow) -> Cached:
    """The mouth of a row, as long as one's own."""
    theirs = read_entry(row.base, row.utterance.cache)
    images, missing = fitted((theirs.images, theirs.missing), len(own.images))
    return replace(theirs, images=images, missing=missing)


def _lesson(checkpoint: Checkpoint, batch: Batch, sights: Sequence[Cached], text: str, sounds: Path | None) -> ReliabilitySample:
    model = checkpoint.model
    first = next(model.parameters())
    batch = batch.to(first.device)
    images, seen = (one.to(first.device) for one in batch_video(sights))
    video = model.video(model.video.look(images.to(first), seen), seen)
    mask = seen.repeat_interleave(MEMORY_PER_FRAME, dim=1)
    heard = remembered(model, batch, sounds)
    if heard is None:
        heard = model.encode_audio(batch.mel, batch.mel_lengths)
    sound = Memory(model.audio.norm(heard), None)
    sight = Memory(None, model.video.norm(video), None, mask)
    hearing, looking, both = model.start(sound), model.start(sight), model.start(sight)
    both.audio = [tuple(one.expand(len(sights), -1, -1, -1) for one in pair) for pair in hearing.audio]
    n_moments = min(heard.shape[1], mask.shape[1])
    return ReliabilitySample(heard[0, :n_moments].half().cpu(), video[:, :n_moments].half().cpu(), mask[:, :n_moments].cpu(),
                  _errors(checkpoint, hearing, text)[0], _errors(checkpoint, looking, text), _errors(checkpoint, both, text))


def _errors(checkpoint: Checkpoint, cache: Cache, text: str) -> Tensor:
    """Word errors of each of a cache's utterances (N,), all of which say `text`, as a share of its words, at most 1: what it
    writes by greedy search, cut off at twice as many tokens as the text has."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    n, device = len((cache.audio or cache.video)[0][0]), model.decoder.positions.device
    prompt, most = tokenizer.prompt(None), 2 * len(target_tokens(tokenizer, text)) + 4
    tokens, ended = torch.tensor([prompt] * n, device=device), torch.zeros(n, dtype=torch.bool, device=device)
    written = []
    while len(written) < most and not ended.all():
        logits = model.step(tokens, cache)
        logits[:, list(checkpoint.suppress + (() if written else checkpoint.suppress_begin))] = -torch.inf
        best = logits[:, :tokenizer.end + 1].argmax(dim=1)
        ended |= best == tokenizer.end
        written.append(best.masked_fill(ended, tokenizer.end))
        tokens = written[-1][:, None]
    reference, out = normalise(text), []
    for row in torch.stack(written, dim=1).tolist():
        score = word_errors(reference, normalise(tokenizer.decode([token for token in row if token != tokenizer.end])))
        out.append(min(1.0, score.errors / max(1, score.words)))
    return torch.tensor(out)


@torch.no_grad()
def pairs(checkpoint: Checkpoint, rows: Sequence[ManifestRow], examples: Examples, sounds: Path | None) -> Iterator[Pair]:
    """Each row's sound with its own mouth; rows have both and are to be believed."""
    model, tokenizer, pad = checkpoint.model, checkpoint.tokenizer, checkpoint.pad_seconds
    first = next(model.parameters())
    for row in rows:
        images, seen = (one.to(first.device) for one in batch_video([read_entry(row.base, row.utterance.cache)]))
        video = model.video(model.video.look(images.to(first), seen), seen)[0, ::MEMORY_PER_FRAME]
        batch = collate([examples.make(row, ExampleSpec("a", sound=0), np.random.default_rng(0))], tokenizer.prompt(None),
                        tokenizer.end, None if pad is None else pad * FEATURE_RATE).to(first.device)
        heard = remembered(model, batch, sounds)
        heard = (model.encode_audio(batch.mel, batch.mel_lengths) if heard is None else heard)[0, ::MEMORY_PER_FRAME]
        n = min(len(heard), len(video))
        yield Pair(heard[:n].half().cpu(), video[:n].half().cpu(), seen[0, :n].cpu())


def pretrain_contrastively(judge: ReliabilityEstimator, known: Sequence[Pair], settings: ReliabilityConfig, *, seed: int) -> None:
    """Let a judge's projections find each sound's own mouth among a group's, and the other way round (InfoNCE; van den Oord et
    al. 2018; CLIP's symmetric form). Of dubbing, word errors would tell too little."""
    device, rng, pad = judge.judge[0].weight.device, np.random.default_rng(seed), torch.nn.utils.rnn.pad_sequence

    def loss() -> Tensor:
        chosen = [known[i] for i in rng.choice(len(known), min(ATTUNED, len(known)), replace=False)]
        audio, video, seen = (pad([getattr(one, name) for one in chosen], batch_first=True).to(device)
                              for name in ("audio", "video", "seen"))
        heard, mouths = (project(F.dropout(one.float(), DROPOUT))
                         for project, one in ((judge.audio, audio), (judge.video, video)))
        agree = _agreements(heard, mouths, seen, judge.lags(MEMORY_PER_FRAME))
        own = torch.arange(len(chosen), device=device)
        return (F.cross_entropy(agree / TEMPERATURE, own) + F.cross_entropy(agree.T / TEMPERATURE, own)) / 2

    _minimise(loss, [*judge.audio.parameters(), *judge.video.parameters()], settings.lr, settings.contrastive_steps, seed)


def _agreements(heard: Tensor, mouths: Tensor, seen: Tensor, lags: range) -> Tensor:
    """models.fusion.agreement of every sound (N, S, H) with every mouth (M, S, H), seen (M, S), by matrix products: (N, M)."""
    heard, mouths = F.normalize(heard, dim=-1), F.normalize(mouths, dim=-1) * seen[..., None]
    n, found = seen.shape[1], []
    for lag in (lag for lag in lags if abs(lag) < n):
        early, late = max(lag, 0), max(-lag, 0)
        total = heard[:, early:n - late].flatten(1) @ mouths[:, late:n - early].flatten(1).T
        found.append(total / seen[:, late:n - early].sum(dim=1).clamp_min(1))
    return torch.stack(found).amax(dim=0)


def fit(model: AVSR, taught: Sequence[ReliabilitySample], settings: ReliabilityConfig, *, seed: int) -> None:
    """Fit the verdicts of the judges of lips and of sound, as far as the network has them.

    A wrong choice counts by what it costs: cross-entropy weighted with the word errors between the two ways. The lips are to be
    believed where the better one of sight and both has fewer errors than sound, the sound to be heeded where both have fewer
    than sight and the lips are to be believed.
    """
    seeing = [torch.minimum(one.by_sight, one.by_both) for one in taught]
    helps = torch.cat([one.by_sound - best for one, best in zip(taught, seeing, strict=True)]) - settings.margin
    hears = torch.cat([one.by_sight - one.by_both for one in taught]) * (helps > 0)
    for judge, gain in ((model.reliability, helps), (model.heed, hears)):
        if judge is not None:
            _give_verdicts(judge, taught, gain, settings, seed)


def _give_verdicts(judge: ReliabilityEstimator, taught: Sequence[ReliabilitySample], gain: Tensor, settings: ReliabilityConfig, seed: int) -> None:
    """gain (sights of all samples,): word errors saved by a yes."""
    device = judge.judge[0].weight.device
    with torch.no_grad():
        evidence = torch.cat([_evidence(judge, one, device) for one in taught])
    gain, rng = gain.to(device), np.random.default_rng(seed)

    def loss() -> Tensor:
        some = torch.from_numpy(rng.integers(0, len(gain), GROUP)).to(device)
        logits = judge.judge(F.dropout(evidence[some], DROPOUT))[:, 0]
        cost = F.binary_cross_entropy_with_logits(logits, (gain[some] > 0).float(), reduction="none")
        return (cost * gain[some].abs()).mean()

    _minimise(loss, list(judge.judge.parameters()), settings.lr, settings.steps, seed)


def _evidence(judge: ReliabilityEstimator, one: ReliabilitySample, device: torch.device) -> Tensor:
    """(K, 2H + 1)."""
    audio, video, seen = one.audio.to(device).float()[None], one.video.to(device).float(), one.seen.to(device)
    return judge.evidence(judge.audio(audio).expand(len(video), -1, -1), judge.video(video), None, seen)


def _minimise(loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter], lr: float, n_steps: int, seed: int) -> None:
    """AdamW on these parameters, whether they learn otherwise or not."""
    learning = [one.requires_grad for one in parameters]
    torch.manual_seed(seed)                                 # of dropout
    with torch.enable_grad():
        for one in parameters:
            one.requires_grad_(True)
        optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=n_steps)
        for _ in range(n_steps):
            optimiser.zero_grad(set_to_none=True)
            loss().backward()
            optimiser.step()
            schedule.step()
    for one, before in zip(parameters, learning, strict=True):
        one.requires_grad_(before)
